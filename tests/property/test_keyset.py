"""
Laws of keysets: whatever happens to one, and to what it wrapped.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("cryptography")

from hypothesis import given
from hypothesis import strategies as st

from twh_platform.errors import ConfigurationError, DecryptionError, KeyServiceError
from twh_platform.kms import KeyContext, Keyset, KeyState, LocalKeyService
from twh_platform.kms._keyset_document import decode_keyset, encode_keyset

KEYSET = Keyset.new().created("acme", "globex").rotated("acme").destroyed("globex")
DOCUMENT = encode_keyset(KEYSET)

CONTEXTS = st.builds(
    KeyContext,
    tenant_id=st.text("ab-_", min_size=1, max_size=3),
    purpose=st.text("ab", min_size=1, max_size=3),
    data_key_id=st.binary(min_size=16, max_size=16),
)
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["create", "rotate", "disable", "enable", "destroy"]),
        st.sampled_from(["a", "b"]),
    ),
    max_size=20,
)


@given(CONTEXTS, CONTEXTS, st.binary(min_size=32, max_size=32))
def test_what_is_wrapped_opens_in_its_context_alone(bound, other, key):
    """The same context gives the key back; any other gives nothing."""
    service = LocalKeyService(Keyset.new())
    wrapped, _ = service.wrap([(key, bound), (key, other)])
    same, foreign = service.unwrap([(wrapped, bound), (wrapped, other)])

    assert same == key
    assert foreign == key if bound == other else isinstance(foreign, DecryptionError)


@given(st.integers(0, 77 * 8 - 1))
def test_one_flipped_bit_opens_nothing(bit):
    """Wherever it is."""
    service = LocalKeyService(KEYSET)
    bound = KeyContext(tenant_id="acme", purpose="data", data_key_id=bytes(16))
    (key,) = service.generate([bound])
    changed = bytearray(key.wrapped.ciphertext)
    changed[bit // 8] ^= 1 << bit % 8
    (result,) = service.unwrap([(replace(key.wrapped, ciphertext=bytes(changed)), bound)])

    assert isinstance(result, DecryptionError)


@given(CHANGES)
def test_what_was_destroyed_stays_destroyed(changes):
    """Versions never fall, and no sequence of calls revives a key."""
    service, gone, versions = LocalKeyService(Keyset.new()), set(), {}
    for call, tenant in changes:
        try:
            info = getattr(service, call)(tenant)
        except KeyServiceError:
            continue
        assert info.version >= versions.get(tenant, 0)
        assert (info.state is KeyState.DESTROYED) == (tenant in gone or call == "destroy")
        versions[tenant] = info.version
        gone |= {tenant} if call == "destroy" else set()
    kept = service._source.current()

    assert decode_keyset(encode_keyset(kept)) == kept
    assert all(not kept.key(tenant).versions for tenant in gone)


@given(st.integers(0, len(DOCUMENT) - 1), st.binary(max_size=3), st.integers(0, 3))
def test_a_damaged_document_is_refused_or_the_same(at, put, taken):
    """Whatever is changed in the text of a keyset, it is no other keyset."""
    changed = DOCUMENT[:at] + put + DOCUMENT[at + taken :]
    try:
        found = decode_keyset(changed)
    except ConfigurationError:
        return
    assert found == KEYSET
