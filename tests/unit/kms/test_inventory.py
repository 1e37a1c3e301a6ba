"""
The inventory: exact counts, and no version that is in use is let go.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Any

import pytest

pytest.importorskip("cryptography")

from twh_platform.errors import ConfigurationError, KeyNotFoundError, KeyServiceError
from twh_platform.kms import (
    DataKeyRecord,
    KeyContext,
    Keyset,
    LocalKeyService,
    MemoryDataKeyStore,
    Suite,
    WrappedKey,
    to_text,
)
from twh_platform.kms._envelope import encode_inline, header_of
from twh_platform.kms._service import require_result
from twh_platform.kms.lifecycle import (
    ensure_retirable,
    inventory_sql,
    key_uses,
    remaining,
    rewrap,
    sealed_uses,
    tenants_of,
)


def add(service: LocalKeyService, store: MemoryDataKeyStore, tenant_id: str) -> bytes:
    """
    Add a data key of a tenant; returns its id.
    """
    context = KeyContext(tenant_id=tenant_id, purpose="data", data_key_id=secrets.token_bytes(16))
    record = DataKeyRecord(
        tenant_id=tenant_id,
        data_key_id=context.data_key_id,
        purpose="data",
        wrapped=require_result(service.generate([context])[0]).wrapped,
        shared=False,
        created_at=datetime.now(UTC),
    )
    store.add(record)
    return context.data_key_id


def counted(uses: Any) -> dict[tuple[Any, ...], int]:
    """
    Sealed values by suite, kind and version.
    """
    return {(one.suite, one.inline, one.key_version): one.values for one in uses}


@pytest.fixture
def service() -> LocalKeyService:
    """
    A key service in memory.
    """
    return LocalKeyService(Keyset.new())


@pytest.fixture
def store() -> MemoryDataKeyStore:
    """
    A store in memory.
    """
    return MemoryDataKeyStore()


def test_data_keys_are_counted_by_version(service, store):
    """Two before a rotation and three after it are two and three."""
    for _ in range(2):
        add(service, store, "acme")
    service.rotate("acme")
    for _ in range(3):
        add(service, store, "acme")
    add(service, store, "globex")

    found = {(one.tenant_id, one.key_version): one.data_keys for one in key_uses(store)}

    assert found == {("acme", 1): 2, ("acme", 2): 3, ("globex", 1): 1}
    assert len(key_uses(store, tenants=["globex"])) == 1


def test_what_remains_is_what_an_older_version_wraps(service, store):
    """A rotation makes all of them remain, and a rewrap none."""
    for _ in range(4):
        add(service, store, "acme")
    before = remaining(service, store, "acme")
    service.rotate("acme")

    after = remaining(service, store, "acme")
    rewrap(service, store)

    assert (before, after, remaining(service, store, "acme")) == (0, 4, 0)


def test_a_version_in_use_is_not_retired(service, store):
    """The refusal says how many data keys it is that would be lost."""
    for _ in range(3):
        add(service, store, "acme")
    service.rotate("acme")

    with pytest.raises(KeyServiceError, match="3 data keys") as refused:
        ensure_retirable(service, store, "acme", 1)
    assert refused.value.code == "key_version_in_use"
    rewrap(service, store)
    ensure_retirable(service, store, "acme", 1)


def test_to_retire_a_version_is_to_retire_those_before_it(service, store):
    """Version 2 is not in use, and cannot go while version 1 is."""
    add(service, store, "acme")
    service.rotate("acme")
    service.rotate("acme")

    with pytest.raises(KeyServiceError) as refused:
        ensure_retirable(service, store, "acme", 2)

    assert refused.value.code == "key_version_in_use"


@pytest.mark.parametrize("version", [2, 3])
def test_the_version_that_wraps_is_not_retired(version, service, store):
    """Nothing has to be wrapped by it yet."""
    service.create("acme")
    service.rotate("acme")

    with pytest.raises(KeyServiceError) as refused:
        ensure_retirable(service, store, "acme", version)

    assert refused.value.code == "key_version_current"


def test_a_tenant_without_a_key_is_not_found(service, store):
    """A wrong name is not told that all is well."""
    with pytest.raises(KeyNotFoundError):
        ensure_retirable(service, store, "acne", 1)


def test_destroyed_data_keys_do_not_count(service, store):
    """Of a shredded tenant nothing is in use, and nothing remains."""
    add(service, store, "acme")
    service.rotate("acme")
    store.destroy("acme")
    service.destroy("acme")

    assert key_uses(store) == []
    assert remaining(service, store, "acme") == 0


def test_sealed_values_are_counted_from_their_headers(service, store):
    """Suite, kind and version come from the first bytes and the store, and nothing is opened."""
    old = add(service, store, "acme")
    service.rotate("acme")
    new = add(service, store, "acme")
    values = [
        header_of(Suite.FIELD, old) + b"anything",
        to_text(header_of(Suite.FIELD, old) + b"anything"),
        header_of(Suite.STREAM, new),
    ]

    found = sealed_uses(values, store, "acme")

    assert counted(found) == {(Suite.FIELD, False, 1): 2, (Suite.STREAM, False, 2): 1}
    assert {one.provider for one in found} == {"local"}


def test_a_value_with_keys_of_its_own_counts_for_each(store):
    """Wrapped keys that an envelope carries are read from it, not looked up."""
    keys = [
        WrappedKey(provider="vault", key_ref="twh-a", key_version=7, ciphertext=b"x" * 80),
        WrappedKey(provider="aws", key_ref="arn:aws:kms:1", key_version=0, ciphertext=b"y" * 184),
    ]
    head = header_of(Suite.STREAM, bytes(16), inline=True) + encode_inline(keys)

    found = sealed_uses([head, head], store, "acme")

    assert counted(found) == {(Suite.STREAM, True, 7): 2, (Suite.STREAM, True, 0): 2}


@pytest.mark.parametrize("value", [b"", b"\x01\x02\x00", b"plain text of before", "tw1.", "plain"])
def test_what_is_no_envelope_is_counted_as_that(value, store):
    """Plaintext that was left over is seen."""
    assert counted(sealed_uses([value], store, "acme")) == {(None, False, None): 1}


def test_a_data_key_that_is_gone_is_counted_as_that(service, store):
    """Values of a destroyed data key, and of an unknown one, have no version."""
    known = add(service, store, "acme")
    store.destroy("acme")
    values = [header_of(Suite.STREAM, known), header_of(Suite.STREAM, bytes(16))]

    found = sealed_uses(values, store, "acme")

    assert counted(found) == {(Suite.STREAM, False, None): 2}


def test_another_tenants_data_key_is_unknown(service, store):
    """The count of one tenant looks at nothing of another."""
    foreign = add(service, store, "globex")

    found = sealed_uses([header_of(Suite.STREAM, foreign)], store, "acme")

    assert counted(found) == {(Suite.STREAM, False, None): 1}


def test_tenants_are_paged(service):
    """All tenants come, each once, from any of them on."""

    class Small(MemoryDataKeyStore):
        def tenants(self, *, after: str = "", limit: int = 100) -> list[str]:
            return super().tenants(after=after, limit=min(limit, 2))

    store = Small()
    names = [f"tenant-{number}" for number in range(5)]
    for name in names:
        add(service, store, name)

    assert list(tenants_of(store)) == names
    assert list(tenants_of(store, after="tenant-2")) == names[3:]


@pytest.mark.parametrize("name", ["items; DROP TABLE x", "Items", "a.b.c", "", 'x"y', "x" * 64])
def test_a_name_that_is_none_is_refused(name):
    """The query is put together from names only."""
    with pytest.raises(ConfigurationError) as refused:
        inventory_sql(name, "sealed")

    assert refused.value.code == "inventory_name_invalid"
