"""
Attack 14: streams that were cut or put together anew.
"""

from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.attacks.kms._house import ACME, ROW, House
from twh_platform import bind_tenant
from twh_platform.errors import DecryptionError

CHUNK, HEAD = 16_384 + 16, 19 + 24 + 32
PLAINTEXT = b"".join(number.to_bytes(4, "big") for number in range(20_000))
# By form: which of the chunks 0 to 4 of the first stream come; 5 is the first of another.
ORDERS = {
    "cut": [0, 1, 2],
    "cut before the last": [0, 1, 2, 3],
    "emptied": [],
    "reordered": [1, 0, 2, 3, 4],
    "dropped": [0, 2, 3, 4],
    "doubled": [0, 0, 1, 2, 3, 4],
    "ended twice": [0, 1, 2, 3, 4, 4],
    "ended early": [0, 4],
    "mixed": [5, 1, 2, 3, 4],
}


class Naive:
    """Chunks of AES-GCM, each with a nonce of its own before it."""

    def __init__(self):
        self._key, self._next = AESGCM(bytes(32)), 0

    def seal(self, plaintext):
        """The chunks."""
        for at in range(0, len(plaintext), 16_384):
            self._next += 1
            nonce = self._next.to_bytes(12, "big")
            yield nonce + self._key.encrypt(nonce, plaintext[at : at + 16_384], None)

    def whole(self, chunks):
        """Whether it takes them as a whole stream."""
        try:
            return b"".join(self._key.decrypt(one[:12], one[12:], None) for one in chunks) != b"x"
        except InvalidTag:
            return False


@pytest.mark.parametrize("form", ORDERS)
def test_14_rearranges_a_stream(form, twh_attack):
    """At its end a stream is whole, each chunk in its place, or it is refused."""
    attack = twh_attack(number=14, title="cuts a stream, or puts it together anew", form=form)
    naive = Naive()
    chunks = [*naive.seal(PLAINTEXT), next(naive.seal(PLAINTEXT))]
    attack.control(naive.whole([chunks[number] for number in ORDERS[form]]))

    house = House()
    sealed, other = house.seal(PLAINTEXT), house.seal(PLAINTEXT)
    chunks = [sealed[at : at + CHUNK] for at in range(HEAD, len(sealed), CHUNK)]
    chunks.append(other[HEAD : HEAD + CHUNK])
    crafted = [sealed[:HEAD], *[chunks[number] for number in ORDERS[form]]]
    out, is_whole = released(house, crafted)
    attack.ours(house.opens(b"".join(crafted)) + is_whole)
    assert PLAINTEXT.startswith(out)
    assert released(house, [sealed]) == (PLAINTEXT, True)


def released(house, pieces):
    """What came out of a stream, and whether its end was."""
    out = []
    try:
        with bind_tenant(ACME):
            out.extend(house.cipher.open_stream(pieces, ROW))
    except DecryptionError:
        return b"".join(out), False
    return b"".join(out), True


@pytest.mark.parametrize("trailing", [b"\x00", b"x" * 16, b"x" * CHUNK])
def test_14_adds_to_a_stream(trailing, twh_attack):
    """Nothing stands behind the last chunk."""
    form = f"{len(trailing)} bytes"
    attack = twh_attack(number=14, title="adds to a stream what nobody sealed", form=form)
    naive = Naive()
    chunks, more = list(naive.seal(PLAINTEXT)), next(naive.seal(b"and pay the attacker"))
    attack.control(naive.whole([*chunks, more]))

    house = House()
    crafted = house.seal(PLAINTEXT) + trailing
    attack.ours(house.opens(crafted) + released(house, [crafted])[1])


def test_14_has_the_beginning_used(twh_attack):
    """Pieces come out before the end is known: they are authentic, and may be all there is."""
    attack = twh_attack(
        number=14, title="cuts a stream whose pieces are used as they come", kind="residual"
    )
    house = House()
    cut = house.seal(PLAINTEXT)[: HEAD + 3 * CHUNK]
    out, is_whole = released(house, [cut])

    attack.ours(len(out) // 16_384)
    assert not is_whole
    assert PLAINTEXT.startswith(out)
