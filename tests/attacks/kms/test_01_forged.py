"""
Attacks 1, 4 and 7 to 11: values that nobody sealed, and sealed ones that were altered.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from tests.attacks.kms._house import ROW, House, opened_by
from tests.attacks.kms._sdk import static_sdk
from tests.support.envelope_reference import reference_keys
from tests.support.gcm_collision import colliding_ciphertext, texts_of_one_tag
from twh_platform.errors import DecryptionError
from twh_platform.kms import Suite, from_text, parse, to_text
from twh_platform.kms._envelope import bound_tail, header_of, replace_inline
from twh_platform.kms._suites import Keys

ONE, OTHER, ID = bytes(range(32)), b"k" * 32, b"0123456789abcdef"
NONCE = b"n" * 12
TAIL = bound_tail("acme", ROW)


def keys_of(data_key=ONE):
    """The keys of a data key that the attacker holds."""
    return Keys(data_key, tenant_id="acme", data_key_id=ID)


def opened_with(sealed, data_key=ONE, tail=TAIL):
    """What it opens to with a data key: one plaintext, or none."""
    return opened_by(lambda: keys_of(data_key).open(parse(sealed), tail))


@pytest.mark.parametrize("commitment", ["of the one", "of the other", "of nobody"])
def test_01_crafts_a_value_for_two_keys(commitment, twh_attack):
    """No envelope opens under two data keys, whosever commitment stands in it."""
    attack = twh_attack(number=1, title="crafts one value that two keys open", form=commitment)
    made = [reference_keys(key, Suite.FIELD, ID, "acme") for key in (ONE, OTHER)]
    header = header_of(Suite.FIELD, ID)
    crafted = colliding_ciphertext(made[0][:32], made[1][:32], NONCE, header + TAIL)
    naive = {AESGCM(key[:32]).decrypt(NONCE, crafted, header + TAIL) for key in made}
    attack.control(len(naive) - 1)

    written = {"of the one": made[0][32:], "of the other": made[1][32:]}.get(commitment, NONCE * 3)
    sealed = header + written[:32] + NONCE + crafted
    opened = [*opened_with(sealed, ONE), *opened_with(sealed, OTHER)]
    attack.ours(max(0, len(opened) - 1))


@pytest.mark.parametrize("suite", Suite)
def test_04_flips_each_bit_of_the_header(suite, encryption_sdk, twh_attack):
    """Every altered header gives the one refusal: nothing is opened, nothing is told."""
    attack = twh_attack(
        number=4, title="learns from the answers to altered headers", form=suite.name
    )
    sdk = static_sdk(encryption_sdk)
    message = sdk.seal(b"secret")
    told = answers(sdk.open, [flipped(message, bit) for bit in range(8 * 19)])
    attack.control(len(told) - 1)

    house = House()
    sealed = house.seal(b"secret", suite=suite)
    altered = [flipped(sealed, bit) for bit in range(8 * 19)]
    told = answers(house.open, [*altered, *(sealed[:size] for size in range(19))])
    attack.ours(len(told) - 1)
    assert set(told) == {repr(DecryptionError())}


def flipped(message, bit):
    """The message with one bit changed."""
    altered = bytearray(message)
    altered[bit // 8] ^= 1 << bit % 8
    return bytes(altered)


def answers(act, attempts):
    """The different answers that were got: what was raised, or what was opened."""
    told = set()
    for attempt in attempts:
        try:
            told.add(f"opened {act(attempt)}")
        except Exception as error:  # noqa: BLE001 -- of whatever kind: kinds are what is counted
            told.add(repr(error))
    return told


@pytest.mark.parametrize("made", Suite)
def test_07_lowers_the_suite_or_the_version(made, twh_attack):
    """A header that says otherwise than it was sealed opens nothing."""
    attack = twh_attack(number=7, title="has a value opened as another kind", form=made.name)
    by_header = {1: naive_gcm, 2: naive_ctr}
    value = b"\x01" + NONCE + AESGCM(ONE).encrypt(NONCE, b"pay 100", b"")
    lowered = bytes([2]) + value[1:17] + bytes([value[17] ^ 8]) + value[18:]
    changed = by_header[lowered[0]](lowered[1:13], lowered[13:])
    attack.control(changed[:7] == b"pay 900")

    sealed = keys_of().seal(b"pay 100", TAIL, made)
    opened = []
    for version in (0, 1, 2, 255):
        for suite in range(256):
            for flags in (0, 1, 2, 128):
                if (version, suite, flags) != (1, made, 0):
                    start = bytes([version, suite, flags])
                    opened += opened_with(start + sealed[3:])
    attack.ours(opened)


def naive_gcm(nonce, body):
    """One of two suites, which share a key."""
    return AESGCM(ONE).decrypt(nonce, body, b"")


def naive_ctr(nonce, body):
    """The older of them, as clients for object stores kept it, without a tag."""
    decryptor = Cipher(AES(ONE), CTR(nonce + b"\0\0\0\x02")).decryptor()
    return decryptor.update(body)


@pytest.mark.parametrize("where", ["in the envelope", "in the store"])
def test_08_swaps_the_wrapped_key(where, tink, twh_attack):
    """The wrapped key of another value does not open this one, though both are the tenant's."""
    attack = twh_attack(
        number=8, title="swaps the wrapped key for another of the tenant's", form=where
    )
    both = [tink_key(), tink_key()]
    crafted = NONCE + colliding_ciphertext(both[0].key_value, both[1].key_value, NONCE)
    remote = Remote()
    naive = tink.aead.KmsEnvelopeAead(tink.aead.aead_key_templates.AES256_GCM, remote)
    read = {naive.decrypt(tink_envelope(remote, one) + crafted, b"") for one in both}
    attack.control(len(read) - 1)

    house, opened = House(), 0
    sealed = {suite: house.seal(suite=suite, inline=where == "in the envelope") for suite in Suite}
    records = {suite: house.key_of(suite=suite).record for suite in Suite}
    for suite, one in sealed.items():
        (forged,) = house.service.wrap([(OTHER, records[suite].context)])
        others = [records[another].wrapped for another in Suite if another != suite]
        for wrapped in [forged, *others]:
            opened += house.opens(swapped(house, one, wrapped))
        assert house.opens(swapped(house, one, records[suite].wrapped))
    attack.ours(opened)


def swapped(house, sealed, wrapped):
    """The envelope, with another wrapped key where its own is kept."""
    house.cipher.clear()
    parsed = parse(sealed)
    if parsed.inline:
        return replace_inline(sealed, [wrapped])
    record = house.store.get("acme", parsed.data_key_id)
    house.store.replace(replace(record, wrapped=wrapped), revision=record.revision)
    return sealed


class Remote:
    """A key service as Tink takes one, which wraps with what it is given."""

    def __init__(self):
        self._key = AESGCM(ONE)

    def encrypt(self, plaintext, associated_data):
        """Wrap."""
        nonce = os.urandom(12)
        return nonce + self._key.encrypt(nonce, plaintext, associated_data)

    def decrypt(self, ciphertext, associated_data):
        """Unwrap."""
        return self._key.decrypt(ciphertext[:12], ciphertext[12:], associated_data)


def tink_key():
    """A data key of Tink's, as the attacker makes one."""
    from tink.proto import aes_gcm_pb2

    return aes_gcm_pb2.AesGcmKey(version=0, key_value=os.urandom(32))


def tink_envelope(remote, key):
    """The start of an envelope of Tink's: a wrapped data key."""
    wrapped = remote.encrypt(key.SerializeToString(), b"")
    return len(wrapped).to_bytes(4, "big") + wrapped


def crafted_rows(suite):
    """What a holder of the data key computes: AES-GCM's key, its AAD for two rows with one tag."""
    header, material = header_of(suite, ID), reference_keys(ONE, suite, ID, "acme")[:32]
    rows = texts_of_one_tag(material, lambda row: header + bound_tail("acme", {"row": row}))
    assert rows[0] != rows[1]
    return AESGCM(material), header, [bound_tail("acme", {"row": row}) for row in rows]


def test_09_crafts_a_value_for_two_rows(twh_attack):
    """In suite 2 the context is part of the key: two contexts have nothing in common."""
    attack = twh_attack(number=9, title="makes one value that opens in two rows")
    naive, header, tails = crafted_rows(Suite.STREAM)
    crafted = naive.encrypt(NONCE, b"pay", header + tails[0])
    attack.control(naive.decrypt(NONCE, crafted, header + tails[1]) == b"pay")

    sealed = keys_of().seal(b"pay", tails[0], Suite.STREAM)
    assert opened_with(sealed, tail=tails[0]) == [b"pay"]
    attack.ours(opened_with(sealed, tail=tails[1]))


def test_09_crafts_a_value_of_suite_1_for_two_rows(twh_attack):
    """Suite 1 commits to the key alone: its holder finds contexts that open one value."""
    attack = twh_attack(
        number=9,
        title="makes one value of suite 1 that opens in two rows, holding the data key",
        kind="residual",
    )
    _, _, tails = crafted_rows(Suite.FIELD)
    sealed = keys_of().seal(b"pay", tails[0], Suite.FIELD)
    opened = [*opened_with(sealed, tail=tails[0]), *opened_with(sealed, tail=tails[1])]
    attack.ours(len(opened) - 1)


def test_10_writes_the_text_another_way(twh_attack):
    """There is one text for an envelope."""
    attack = twh_attack(number=10, title="writes one value in many ways", form="text")
    naive = Fernet(Fernet.generate_key())
    attack.control(sum(opens_by_fernet(naive, one) for one in respelt(naive.encrypt(b"x"))))

    house = House()
    text = to_text(house.seal(suite=Suite.FIELD)).encode()
    ways = [one.decode() for one in respelt(text)]
    opened = [opened_by(lambda way=way: house.open(from_text(way))) for way in ways]
    attack.ours(sum(map(len, opened)))
    assert house.opens(from_text(text.decode()))


def respelt(text):
    """The same base64 with what a lenient decoder passes over."""
    bare = text.rstrip(b"=")
    padding = text[len(bare) :]
    yield from (text + b"\n", b" " + text, text + b"=", text + b"====", text + b"==\0")
    yield from (text[:9] + b"!!" + text[9:], text[:20] + b"\r\n" + text[20:])
    # Its last character has 4 bits that stand for nothing.
    assert bare[-1:] in {b"A", b"Q", b"g", b"w"}
    yield bare[:-1] + bytes([bare[-1] + 1]) + padding


def opens_by_fernet(fernet, token):
    """Whether Fernet takes it."""
    try:
        return bool(fernet.decrypt(token))
    except InvalidToken:
        return False


def entry(*, provider=1, ref=b"acme", version=1, wrapped=b"w", size=None):
    """One wrapped key of an envelope's list, written by hand."""
    start = bytes([provider]) + len(ref).to_bytes(2, "big") + ref + version.to_bytes(4, "big")
    return start + (len(wrapped) if size is None else size).to_bytes(2, "big") + wrapped


LISTS = {
    "no key": b"\x00",
    "five keys": b"\x05" + 5 * entry(),
    "255 keys": b"\xff" + 255 * entry(),
    "a key of 1025 bytes": b"\x01" + entry(wrapped=b"w" * 1025),
    "an empty key": b"\x01" + entry(wrapped=b""),
    "a key without a name": b"\x01" + entry(ref=b""),
    "a name of 513 characters": b"\x01" + entry(ref=b"k" * 513),
    "a name that is no text": b"\x01" + entry(ref=b"\xff\xfe"),
    "an unknown key service": b"\x01" + entry(provider=4),
    "a length beyond the end": b"\x01" + entry(size=65_535),
    "fewer keys than it says": b"\x02" + entry(),
}


@pytest.mark.parametrize("form", [*LISTS, "trailing bytes", "unknown flags"])
def test_10_writes_another_header(form, twh_attack):
    """Counts, lengths and flags are checked before they are believed."""
    attack = twh_attack(number=10, title="has a header of its own making believed", form=form)
    house = House()
    plain, sealed = house.seal(inline=False), house.seal(inline=True)
    offset = parse(sealed).offset
    crafted = {
        "trailing bytes": plain + b"\x00",
        "unknown flags": plain[:2] + b"\x02" + plain[3:],
    }.get(form) or sealed[:19] + LISTS[form] + sealed[offset:]
    attack.control(naive_parse(crafted))

    asked = house.service.asked
    attack.ours(house.opens(crafted) + house.service.asked - asked)
    assert house.opens(sealed)


def naive_parse(sealed):
    """How much of it a reader takes that looks only where it has to."""
    if not sealed[2] & 1:
        return 1
    count, at, taken = sealed[19], 20, 1
    for _ in range(count):
        size = int.from_bytes(sealed[at + 1 : at + 3], "big")
        at += 3 + size + 4
        at += 2 + int.from_bytes(sealed[at : at + 2], "big")
        taken += 1
    return taken


@pytest.mark.parametrize("size", [8, 11, 13, 16, 64])
def test_11_brings_a_nonce_of_another_length(size, twh_attack):
    """A nonce has 12 bytes, because nothing else has room."""
    attack = twh_attack(
        number=11, title="brings a nonce that is not 12 bytes long", form=f"{size} bytes"
    )
    nonce = b"n" * size
    naive = bytes([size]) + nonce + AESGCM(ONE).encrypt(nonce, b"pay", TAIL)
    got = AESGCM(ONE).decrypt(naive[1 : 1 + naive[0]], naive[1 + naive[0] :], TAIL)
    attack.control(got == b"pay")

    material = reference_keys(ONE, Suite.FIELD, ID, "acme")
    header = header_of(Suite.FIELD, ID)
    body = nonce + AESGCM(material[:32]).encrypt(nonce, b"pay", header + TAIL)
    attack.ours(opened_with(header + material[32:] + body))
    assert opened_with(keys_of().seal(b"pay", TAIL, Suite.FIELD)) == [b"pay"]
