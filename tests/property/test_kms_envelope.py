"""
Laws of sealed values: what is sealed opens; with one bit changed, or for others, it does not.
"""

from __future__ import annotations

import pytest

pytest.importorskip("cryptography")

from hypothesis import given
from hypothesis import strategies as st

from tests.support.cobblestone import cobblestone_open, cobblestone_seal
from tests.support.envelope_reference import reference_tail
from twh_platform.errors import DecryptionError
from twh_platform.kms import WrappedKey
from twh_platform.kms._envelope import (
    HEADER_BYTES,
    Suite,
    bound_tail,
    encode_inline,
    from_text,
    parse,
    parse_head,
    to_text,
)
from twh_platform.kms._stream import OpeningStream, SealingStream
from twh_platform.kms._suites import (
    Cobblestone256Decryptor,
    Cobblestone256Encryptor,
    Keys,
)

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
DATA_KEY, ID = bytes(range(32)), b"0123456789abcdef"

suites = st.sampled_from(Suite)
plaintexts = st.binary(max_size=200) | st.integers(16_300, 33_000).map(lambda size: b"x" * size)
tenant_ids = st.text(ALPHABET, min_size=1, max_size=64)
texts = st.text(st.characters(codec="ascii"), max_size=20)
contexts = st.dictionaries(texts.filter(bool), texts, max_size=5)
wrapped_keys = st.builds(
    WrappedKey,
    provider=st.sampled_from(["local", "vault", "aws"]),
    key_ref=st.text(st.characters(codec="utf-8"), min_size=1, max_size=512),
    key_version=st.integers(0, 2**32 - 1),
    ciphertext=st.binary(min_size=1, max_size=1024),
)
inlines = st.lists(wrapped_keys, max_size=4)


def keys_of(tenant_id="acme"):
    """The keys of a tenant."""
    return Keys(DATA_KEY, tenant_id=tenant_id, data_key_id=ID)


def opens(sealed, keys, tail):
    """Whether it opens; the only way that it may not is the one refusal."""
    try:
        keys.open(parse(sealed), tail)
    except DecryptionError:
        return False
    return True


@given(suites, plaintexts, tenant_ids, contexts, inlines)
def test_what_is_sealed_opens(suite, plaintext, tenant_id, context, inline):
    """As bytes and as text, by reference and with its keys."""
    keys, tail = keys_of(tenant_id), bound_tail(tenant_id, context)
    sealed = keys.seal(plaintext, tail, suite, inline=inline)

    parsed = parse(from_text(to_text(sealed)))
    assert keys.open(parsed, tail) == plaintext
    assert (parsed.suite, parsed.data_key_id, list(parsed.inline)) == (suite, ID, inline)


@given(suites, plaintexts, st.data())
def test_one_changed_bit_never_opens(suite, plaintext, data):
    """Wherever the bit is."""
    keys, tail = keys_of(), bound_tail("acme", {})
    sealed = bytearray(keys.seal(plaintext, tail, suite))
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[bit // 8] ^= 1 << bit % 8

    assert not opens(bytes(sealed), keys, tail)


@given(suites, tenant_ids, contexts, tenant_ids, contexts)
def test_it_opens_for_its_tenant_and_context_alone(suite, tenant_id, context, other, others):
    """Two that differ in anything have nothing in common."""
    sealed = keys_of(tenant_id).seal(b"x", bound_tail(tenant_id, context), suite)
    same = (tenant_id, context) == (other, others)

    assert opens(sealed, keys_of(other), bound_tail(other, others)) is same


@given(tenant_ids, contexts)
def test_what_is_bound_is_as_the_page_says(tenant_id, context):
    """The second implementation binds the same."""
    assert bound_tail(tenant_id, context) == reference_tail(tenant_id, context)


hostile = st.binary(max_size=300) | st.builds(
    lambda suite, flags, rest: bytes([1, suite, flags]) + rest,
    st.integers(0, 4),
    st.integers(0, 2),
    st.binary(max_size=300),
)


@given(hostile)
def test_the_parser_answers_whatever_it_is_given(data):
    """An envelope, or the one refusal; and what it took can be written again."""
    try:
        parsed = parse(data)
    except DecryptionError:
        return
    middle = encode_inline(parsed.inline) if parsed.inline else b""
    start = bytes([1, parsed.suite, bool(parsed.inline)]) + parsed.data_key_id
    assert start + middle + data[parsed.offset :] == data


@given(hostile)
def test_more_bytes_never_change_what_a_start_said(data):
    """A start is refused only if no whole begins so, and is never taken back."""
    answers = []
    for size in range(len(data) + 1):
        try:
            answers.append(parse_head(data[:size]))
        except DecryptionError:
            answers.append("refused")
    kinds = [answer if answer in (None, "refused") else answer[:3] for answer in answers]
    first = next((kind for kind in kinds if kind is not None), None)

    assert kinds == [None] * kinds.count(None) + [first] * (len(kinds) - kinds.count(None))


@given(st.text(max_size=50) | st.text(ALPHABET, max_size=50).map(lambda text: "tw1." + text))
def test_text_is_read_in_one_form_or_refused(text):
    """Whatever is read is written the same."""
    try:
        sealed = from_text(text)
    except DecryptionError:
        return
    assert to_text(sealed) == text


@given(st.lists(st.binary(max_size=40_000), max_size=5), st.integers(1, 20_000))
def test_streams_agree_with_the_atomic_api(pieces, size):
    """However the pieces fall, on the way in and on the way out."""
    sealing, opening = (kind(keys_of(), b"tail") for kind in (SealingStream, OpeningStream))
    sealed = b"".join(map(sealing.update, pieces)) + sealing.finish()
    cut = [sealed[at : at + size] for at in range(0, len(sealed), size)]

    assert b"".join(map(opening.update, cut)) + opening.finish() == b"".join(pieces)
    assert keys_of().open(parse(sealed), b"tail") == b"".join(pieces)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=100), plaintexts, st.data())
def test_cobblestone_is_what_a_second_implementation_makes_of_it(key, context, plaintext, data):
    """Each opens what the other sealed."""
    encryptor = Cobblestone256Encryptor(key, context)
    ours = encryptor.update(plaintext) + encryptor.finalize()
    theirs = cobblestone_seal(
        key, context, plaintext, data.draw(st.binary(min_size=24, max_size=24))
    )
    decryptor = Cobblestone256Decryptor(key, context)

    assert cobblestone_open(key, context, ours) == plaintext
    assert decryptor.update(theirs) + decryptor.finalize() == plaintext
    assert cobblestone_seal(key, context, plaintext, ours[:24]) == ours
    assert HEADER_BYTES == 19
