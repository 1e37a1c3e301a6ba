"""
The store of data keys on a real PostgreSQL: its tenants, its races, its errors.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from tests.integration.kms._house import ACME, MADE, OTHER, record
from tests.support.postgres_keys import APP, KEEPER
from twh_platform import bind_tenant
from twh_platform.errors import (
    KeyAccessDeniedError,
    KeyDestroyedError,
    KeyServiceError,
    KeyServiceUnavailableError,
    NoCurrentTenantError,
    TenantMismatchError,
)
from twh_platform.kms._data_keys import DataKeyState
from twh_platform.kms.postgres.data_keys import PostgresDataKeyStore
from twh_platform.tenancy.postgres.psycopg import TenantConnection


def test_a_data_key_comes_back_as_it_went_in(house, acme):
    """All of its fields, with times in UTC."""
    store = house.store()
    added = store.add(record(not_after=MADE.replace(year=2032)))

    assert store.get(ACME.id, added.data_key_id) == added
    assert store.get(ACME.id, bytes(16)) is None
    assert store.page(ACME.id) == [added]


def test_of_many_who_share_at_once_all_get_one(house, acme):
    """Twenty processes add a shared key in the same moment; one is kept."""
    store = house.store(now=lambda: MADE)
    with ThreadPoolExecutor(20) as pool:
        adding = [pool.submit(house.as_tenant(store.add, record(shared=True))) for _ in range(20)]
        got = {one.result().data_key_id for one in adding}

    assert len(got) == 1
    assert [one.data_key_id for one in store.page(ACME.id)] == list(got)
    assert store.current(ACME.id, "data").data_key_id in got


def test_of_many_who_replace_one_wins(house, acme):
    """The others are told, and may read again."""
    store = house.store()
    kept = store.add(record())
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda _: house_replace(store, kept), range(8)))

    assert sorted(told) == [False] * 7 + [True]
    assert store.get(ACME.id, kept.data_key_id).revision == kept.revision + 1


def house_replace(store, kept) -> bool:
    """Replace what was read, in the tenant's name."""
    with bind_tenant(ACME):
        return store.replace(kept, revision=kept.revision)


def test_the_keys_of_a_shredded_tenant_are_tombstones(house, acme):
    """No wrapped bytes, no new keys, and another tenant's are as they were."""
    store = house.store()
    kept = store.add(record())
    with bind_tenant(OTHER):
        others = store.add(record(OTHER))
    assert (house.store(KEEPER).destroy(ACME.id), house.store(KEEPER).destroy(ACME.id)) == (1, 0)

    left = store.get(ACME.id, kept.data_key_id)
    assert (left.state, left.wrapped.ciphertext) == (DataKeyState.DESTROYED, b"\0")
    assert (store.page(ACME.id), store.shredded(ACME.id)) == ([], True)
    assert store.replace(replace(kept, state=DataKeyState.ACTIVE), revision=left.revision) is False
    with pytest.raises(KeyDestroyedError, match="acme") as caught:
        store.add(record())
    assert caught.value.code == "tenant_shredded"
    with bind_tenant(OTHER):
        assert (store.page(OTHER.id), store.shredded(OTHER.id)) == ([others], False)


def test_an_id_is_kept_once(house, acme):
    """A second key of it is refused, and the first one stays."""
    store = house.store()
    kept = store.add(record())
    with pytest.raises(KeyServiceError) as caught:
        store.add(record(data_key_id=kept.data_key_id))

    assert caught.value.code == "data_key_exists"
    assert store.page(ACME.id) == [kept]


def test_another_tenants_keys_are_not_asked_for(house):
    """The store refuses before it sends anything; without a tenant too."""
    store = house.store()
    with bind_tenant(OTHER):
        for call in (
            lambda: store.add(record()),
            lambda: store.get(ACME.id, bytes(16)),
            lambda: store.current(ACME.id, "data"),
            lambda: store.replace(record(), revision=1),
            lambda: store.page(ACME.id),
            lambda: store.destroy(ACME.id),
            lambda: store.shredded(ACME.id),
        ):
            with pytest.raises(TenantMismatchError):
                call()
    with pytest.raises(NoCurrentTenantError):
        store.page(ACME.id)


def test_the_applications_role_shreds_nobody_and_lists_no_tenants(house, acme):
    """Control: the administrator and the auditor do."""
    house.store().add(record())
    plain = PostgresDataKeyStore(lambda: house.connect(APP))
    held = PostgresDataKeyStore(lambda: house.connect(APP), auditors=lambda: house.connect(APP))
    for call in (lambda: plain.destroy(ACME.id), plain.tenants, held.tenants):
        with pytest.raises(KeyAccessDeniedError) as caught:
            call()
        assert caught.value.code == "data_key_store_denied"

    assert house.store(KEEPER).tenants() == ["acme"]
    assert house.store(KEEPER).destroy(ACME.id) == 1


def test_tenants_are_listed_in_the_order_of_their_bytes(house):
    """From one page to the next; whoever has no key is not among them."""
    for tenant in ("b", "A", "a", "-", "_"):
        one = replace(ACME, id=tenant)
        with bind_tenant(one):
            house.store().add(record(one))
    with bind_tenant(OTHER):
        house.store(KEEPER).destroy(OTHER.id)
    store = house.store()

    assert store.tenants() == ["-", "A", "_", "a", "b"]
    assert store.tenants(after="A", limit=2) == ["_", "a"]


def test_a_pool_is_shared_by_tenants(house):
    """On one connection, one after the other; each sees its own."""
    kind = TenantConnection if house.seal is None else TenantConnection.using(seal=house.seal)
    with ConnectionPool(house.dsn(), connection_class=kind, min_size=1, max_size=1) as pool:
        store = PostgresDataKeyStore(pool.connection)
        for tenant in (ACME, OTHER):
            with bind_tenant(tenant):
                store.add(record(tenant))
        with bind_tenant(ACME):
            seen = {one.tenant_id for one in store.page(ACME.id)}

    assert seen == {"acme"}


def test_a_store_that_cannot_be_reached_says_so(house, acme):
    """Retryable, and without the server's text."""

    def nowhere() -> contextlib.AbstractContextManager[psycopg.Connection]:
        return TenantConnection.connect("postgresql://x:hunter2@127.0.0.1:9/none")

    with pytest.raises(KeyServiceUnavailableError) as caught:
        PostgresDataKeyStore(nowhere).current(ACME.id, "data")

    assert caught.value.code == "data_key_store_unavailable"
    assert caught.value.retryable
    assert not {"hunter2", "127.0.0.1"} & set(str(caught.value).split())
