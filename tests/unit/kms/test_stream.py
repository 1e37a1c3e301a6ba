"""
Sealing and opening piece by piece: only what is authentic comes out, and a cut is noticed.
"""

from __future__ import annotations

import pytest

pytest.importorskip("cryptography")

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from twh_platform.errors import ConfigurationError, DecryptionError
from twh_platform.kms import WrappedKey
from twh_platform.kms._envelope import Suite, bound_tail, parse
from twh_platform.kms._stream import OpeningStream, SealingStream
from twh_platform.kms._suites import Keys

KEYS = Keys(bytes(range(32)), tenant_id="acme", data_key_id=b"0123456789abcdef")
TAIL = bound_tail("acme", {"file": "report"})
CHUNK = 16_400
START = 19 + 56
PLAINTEXT = b"".join(number.to_bytes(4, "big") for number in range(20_000))


def pieces_of(data, size):
    """The data in pieces of a size."""
    return [data[at : at + size] for at in range(0, len(data), size)]


def seal_in(pieces):
    """One envelope from pieces."""
    stream = SealingStream(KEYS, TAIL)
    return b"".join([stream.update(piece) for piece in pieces]) + stream.finish()


def open_in(pieces, *, keys=KEYS, tail=TAIL):
    """What came out, and whether the end was reached."""
    stream, out = OpeningStream(keys, tail), b""
    try:
        for piece in pieces:
            out += stream.update(piece)
        return out + stream.finish(), True
    except DecryptionError:
        return out, False


SEALED = seal_in([PLAINTEXT])


@pytest.mark.parametrize("size", [1, 7, 18, 19, 20, 56, 75, 1000, 16_384, 16_400, 100_000])
def test_pieces_of_any_size_make_one_envelope(size):
    """However it is cut up on the way, the same comes out; and the atomic API reads it too."""
    start = PLAINTEXT if size > 50 else PLAINTEXT[:2000]
    sealed = seal_in(pieces_of(start, size))

    assert KEYS.open(parse(sealed), TAIL) == start
    assert open_in(pieces_of(sealed, size)) == (start, True)


@pytest.mark.parametrize("size", [0, 1, 16_383, 16_384, 16_385, 32_768])
def test_the_atomic_api_and_the_stream_read_each_other(size):
    """They are one format, at the edges of a chunk as elsewhere."""
    plaintext = PLAINTEXT[:size]

    assert open_in([KEYS.seal(plaintext, TAIL, Suite.STREAM)]) == (plaintext, True)
    assert KEYS.open(parse(seal_in([plaintext])), TAIL) == plaintext
    assert len(seal_in([])) == len(KEYS.seal(b"", TAIL, Suite.STREAM))


def test_an_envelope_that_carries_its_key_streams():
    """The list of wrapped keys may come in any pieces too."""
    key = WrappedKey(provider="local", key_ref="k" * 300, key_version=1, ciphertext=b"w" * 900)
    sealed = KEYS.seal(PLAINTEXT, TAIL, Suite.STREAM, inline=[key] * 4)

    assert open_in(pieces_of(sealed, 501)) == (PLAINTEXT, True)


def test_chunks_that_know_only_their_place_can_be_cut():
    """Control: numbered AES-GCM chunks without an end open after a cut; ours do not."""
    cipher = AESGCM(bytes(32))
    nonces = [number.to_bytes(12, "big") for number in range(5)]
    chunks = [cipher.encrypt(nonce, b"x" * 16_384, None) for nonce in nonces]
    naive = [cipher.decrypt(*pair, None) for pair in zip(nonces, chunks[:3], strict=False)]

    assert len(b"".join(naive)) == 3 * 16_384
    assert not open_in([SEALED[: START + 3 * CHUNK]])[1]


@pytest.mark.parametrize("chunks", range(5))
@pytest.mark.parametrize("more", [-1, 0, 1, 15, 16, 17])
def test_a_stream_that_was_cut_is_refused_at_its_end(chunks, more):
    """At a boundary or beside it: what came out before is authentic, and not called whole."""
    at = START + CHUNK * chunks + more
    out, whole = open_in(pieces_of(SEALED[:at], 5000))

    assert not whole
    assert PLAINTEXT.startswith(out)
    with pytest.raises(DecryptionError):
        KEYS.open(parse(SEALED[:at]), TAIL)


def rearranged(order):
    """The stream with its chunks in another order."""
    chunks = pieces_of(SEALED[START:], CHUNK)
    return SEALED[:START] + b"".join(chunks[number] for number in order)


@pytest.mark.parametrize(
    ("order", "good"),
    [
        ([1, 0, 2, 3, 4], 0),
        ([0, 2, 1, 3, 4], 1),
        ([0, 1, 3, 4], 2),
        ([1, 2, 3, 4], 0),
        ([0, 0, 1, 2, 3, 4], 1),
        ([0, 1, 2, 3, 3, 4], 4),
        ([0, 1, 2, 3, 4, 4], 4),
        ([0, 1, 2, 4], 3),
        ([4], 0),
        ([0, 1, 2, 3], 4),
    ],
)
def test_chunks_that_were_moved_dropped_or_doubled_are_refused(order, good):
    """Each chunk has its place: no more comes out than what stood where it belongs."""
    assert rearranged(range(5)) == SEALED

    out, whole = open_in(pieces_of(rearranged(order), 7000))
    assert not whole
    assert out == PLAINTEXT[: len(out)]
    assert len(out) <= good * 16_384
    with pytest.raises(DecryptionError):
        KEYS.open(parse(rearranged(order)), TAIL)


@pytest.mark.parametrize("trailing", [b"\x00", b"x" * 16, b"x" * CHUNK, SEALED])
def test_trailing_data_is_refused(trailing):
    """Nothing stands behind the last chunk, not even another stream."""
    out, whole = open_in(pieces_of(SEALED + trailing, 9000))

    assert not whole
    assert PLAINTEXT.startswith(out)


@pytest.mark.parametrize("at", [0, 1, 2, 3, 18, 19, 43, 75, 76, START + CHUNK, len(SEALED) - 1])
def test_one_changed_bit_releases_nothing_of_its_chunk(at):
    """What stands before the changed chunk may come out, and nothing else."""
    changed = SEALED[:at] + bytes([SEALED[at] ^ 1]) + SEALED[at + 1 :]
    out, whole = open_in(pieces_of(changed, 3000))

    assert not whole
    assert len(out) <= max(0, at - START) // CHUNK * 16_384
    assert PLAINTEXT.startswith(out)


def test_a_stream_of_another_tenant_or_context_releases_nothing():
    """The commitment is refused before the first chunk."""
    other = Keys(bytes(range(32)), tenant_id="other", data_key_id=b"0123456789abcdef")

    assert open_in([SEALED], keys=other) == (b"", False)
    assert open_in([SEALED], tail=bound_tail("acme", {"file": "other"})) == (b"", False)


@pytest.mark.parametrize("suite", [Suite.FIELD, Suite.DETERMINISTIC])
def test_other_suites_do_not_stream(suite):
    """They have no chunks: nothing of them could be released before their end."""
    assert open_in([KEYS.seal(b"secret", TAIL, suite)]) == (b"", False)


def test_what_is_no_bytes_changes_nothing():
    """A mistake at the first piece does not cost the envelope its header."""
    sealing, opening = SealingStream(KEYS, TAIL), OpeningStream(KEYS, TAIL)
    for stream in (sealing, opening):
        with pytest.raises(TypeError):
            stream.update("text")

    sealed = sealing.update(memoryview(b"x")) + sealing.update(bytearray(b"y")) + sealing.finish()
    assert opening.update(memoryview(sealed)) + opening.finish() == b"xy"


def test_a_refusal_is_final():
    """After it, good pieces are refused like bad ones."""
    stream = OpeningStream(KEYS, TAIL)
    with pytest.raises(DecryptionError):
        stream.update(b"\x07")

    for act in (lambda: stream.update(SEALED), stream.finish, lambda: stream.update(b"")):
        with pytest.raises(DecryptionError):
            act()


def test_an_end_that_was_refused_stays_refused():
    """Who asks again gets no other answer."""
    stream = OpeningStream(KEYS, TAIL)
    stream.update(SEALED[:-1])

    for _ in range(2):
        with pytest.raises(DecryptionError):
            stream.finish()


def test_what_is_finished_takes_no_more():
    """A stream is one envelope."""
    sealing, opening = SealingStream(KEYS, TAIL), OpeningStream(KEYS, TAIL)
    opening.update(SEALED)
    for stream in (sealing, opening):
        stream.finish()
        for act in (lambda one=stream: one.update(b"x"), stream.finish):
            with pytest.raises(ConfigurationError) as caught:
                act()
            assert caught.value.code == "stream_finished"


def test_another_process_does_not_go_on():
    """A forked child would seal other bytes under the nonces of its parent."""
    stream = SealingStream(KEYS, TAIL)
    start = stream.update(PLAINTEXT)
    stream._process += 1  # as the child sees it; the attacks fork

    for act in (lambda: stream.update(b"x"), stream.finish):
        with pytest.raises(ConfigurationError, match="another process") as caught:
            act()
        assert caught.value.code == "stream_finished"
    stream._process -= 1
    assert open_in([start, stream.finish()]) == (PLAINTEXT, True)


def test_without_its_end_nothing_opens_whole():
    """A sealer that never finished has written a beginning."""
    stream = SealingStream(KEYS, TAIL)
    sealed = stream.update(PLAINTEXT)

    out, whole = open_in([sealed])
    assert not whole
    assert PLAINTEXT.startswith(out)
