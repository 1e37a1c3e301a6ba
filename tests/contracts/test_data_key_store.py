"""
What every store of data keys does.

A store joins by a parameter of `opened`.  Each test works under a tenant of
its own or says whose turn it is, as stores under row-level security ask for.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

pytest.importorskip("cryptography")

from twh_platform.errors import KeyDestroyedError, KeyServiceError
from twh_platform.kms import (
    DataKeyRecord,
    DataKeyState,
    DataKeyStore,
    MemoryDataKeyStore,
    SqliteDataKeyStore,
    WrappedKey,
)
from twh_platform.kms._data_keys import tombstone_of
from twh_platform.tenancy import Tenant, bind_tenant
from twh_platform.testing import ManualClock

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Opened:
    """A store, the wall clock that it goes by, and another that sees the same data keys."""

    store: DataKeyStore
    clock: ManualClock
    again: Callable[[], DataKeyStore]


def _memory(_request: pytest.FixtureRequest, _path: Path) -> Opened:
    clock = ManualClock()
    store = MemoryDataKeyStore(now=clock.utc)
    return Opened(store, clock, lambda: store)


def _sqlite(_request: pytest.FixtureRequest, path: Path) -> Opened:
    clock = ManualClock()
    file = path / "keys.sqlite"
    return Opened(
        SqliteDataKeyStore(file, now=clock.utc),
        clock,
        lambda: SqliteDataKeyStore(file, now=clock.utc),
    )


def _postgres(request: pytest.FixtureRequest, _path: Path) -> Opened:
    pytest.importorskip("psycopg")
    from tests.support.postgres_keys import (
        KEEPER,
        auditor_connections,
        keys_database,
        tenant_connections,
    )
    from twh_platform.kms.postgres.data_keys import PostgresDataKeyStore

    clock, database = ManualClock(), keys_database(request)
    connect, auditors = tenant_connections(database, KEEPER), auditor_connections(database)

    def opened() -> PostgresDataKeyStore:
        return PostgresDataKeyStore(connect, auditors=auditors, now=clock.utc)

    return Opened(opened(), clock, opened)


STORES = {"memory": _memory, "sqlite": _sqlite, "postgres": _postgres}


@pytest.fixture(params=STORES)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    """An empty store."""
    return STORES[request.param](request, tmp_path)


@pytest.fixture
def store(opened: Opened) -> DataKeyStore:
    """The store alone."""
    return opened.store


@pytest.fixture(autouse=True)
def acme() -> Iterator[None]:
    """The tenant whose turn it is, where nothing else is said."""
    with bind_tenant(Tenant(id="acme")):
        yield


def made(opened: Opened, tenant_id: str = "acme", **fields: object) -> DataKeyRecord:
    """A new record; *fields* are not as usual."""
    usual = DataKeyRecord(
        tenant_id=tenant_id,
        data_key_id=os.urandom(16),
        purpose="data",
        wrapped=WrappedKey(
            provider="local", key_ref=tenant_id, key_version=3, ciphertext=os.urandom(60)
        ),
        created_at=opened.clock.utc(),
    )
    return replace(usual, **fields)


class TestDataKeyStore:
    """One store."""

    def test_what_is_added_comes_back_whole(self, opened, store):
        """Every field of a record is kept, to the microsecond."""
        moment = opened.clock.utc() + timedelta(microseconds=123_457)
        record = made(opened, created_at=moment, not_after=moment + DAY, shared=False)

        assert store.add(record) == record
        assert store.get("acme", record.data_key_id) == record

    def test_an_unknown_id_is_none(self, store):
        """What is not there is None, and no error."""
        assert store.get("acme", bytes(16)) is None
        assert store.current("acme", "data") is None

    def test_another_tenant_does_not_see_it(self, opened, store):
        """The id of a data key is nothing to another tenant."""
        record = store.add(made(opened))

        with bind_tenant(Tenant(id="globex")):
            assert store.get("globex", record.data_key_id) is None
            assert store.current("globex", "data") is None
            assert store.page("globex") == []

    def test_an_id_is_added_once(self, opened, store):
        """A taken id is refused, and the first stays as it was."""
        record = store.add(made(opened, shared=False))
        other = replace(record, wrapped=replace(record.wrapped, ciphertext=b"other"))

        with pytest.raises(KeyServiceError) as refused:
            store.add(other)

        assert refused.value.code == "data_key_exists"
        assert store.get("acme", record.data_key_id) == record

    def test_the_current_one_is_the_newest(self, opened, store):
        """After the old one has ended, the one added next is current."""
        old = store.add(made(opened, not_after=opened.clock.utc() + DAY))
        opened.clock.advance(86_400)
        new = store.add(made(opened))

        assert new.data_key_id != old.data_key_id
        assert store.current("acme", "data") == new

    def test_a_shared_one_is_not_added_beside_the_current_one(self, opened, store):
        """Who comes second gets the first one's data key, and its own is not kept."""
        first, second = made(opened), made(opened)

        assert store.add(first) == first
        assert store.add(second) == first
        assert store.get("acme", second.data_key_id) is None

    def test_racers_get_one_shared_data_key(self, opened):
        """Of any number that add at once, all get the same one."""
        stores = [opened.again() for _ in range(4)]
        start = threading.Barrier(8)

        def add(number: int) -> bytes:
            with bind_tenant(Tenant(id="acme")):
                start.wait()
                return stores[number % 4].add(made(opened)).data_key_id

        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(add, range(8)))) == 1

    def test_what_is_not_shared_is_never_current(self, opened, store):
        """A data key of one process is adopted by no other."""
        store.add(made(opened, shared=False))

        assert store.current("acme", "data") is None

    def test_purposes_are_apart(self, opened, store):
        """The current one of a purpose is not that of another."""
        data = store.add(made(opened))
        index = store.add(made(opened, purpose="index"))

        assert store.current("acme", "data") == data
        assert store.current("acme", "index") == index
        assert store.page("acme", purpose="index") == [index]

    def test_the_current_one_ends_on_time(self, opened, store):
        """At `not_after` itself it is current no more."""
        store.add(made(opened, not_after=opened.clock.utc() + DAY))
        opened.clock.advance(86_399)
        before = store.current("acme", "data")
        opened.clock.advance(1)

        assert before is not None
        assert store.current("acme", "data") is None

    def test_a_replaced_one_counts_its_revision(self, opened, store):
        """What is replaced has one revision more, whatever the record says."""
        record = store.add(made(opened))
        changed = replace(record, state=DataKeyState.DECRYPT, revision=77)

        assert store.replace(changed, revision=1)
        assert store.get("acme", record.data_key_id) == replace(changed, revision=2)
        assert store.current("acme", "data") is None

    def test_who_comes_late_does_not_replace(self, opened, store):
        """A change that was made from an older revision is not taken."""
        record = store.add(made(opened))
        store.replace(record, revision=1)

        assert not store.replace(replace(record, state=DataKeyState.DECRYPT), revision=1)
        assert store.get("acme", record.data_key_id).state is DataKeyState.ACTIVE

    def test_of_racers_one_replaces(self, opened, store):
        """Of many changes from one revision, one is taken."""
        record = store.add(made(opened))

        def change(_: int) -> bool:
            with bind_tenant(Tenant(id="acme")):
                return store.replace(record, revision=1)

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(change, range(16))) == 1

    def test_what_is_not_there_is_not_replaced(self, opened, store):
        """Replacing adds nothing."""
        record = made(opened)

        assert not store.replace(record, revision=1)
        assert store.get("acme", record.data_key_id) is None

    def test_pages_go_through_all_by_id(self, opened, store):
        """Page by page come all of the tenant's, once each and in order."""
        ids = sorted(store.add(made(opened, shared=False)).data_key_id for _ in range(5))
        found: list[bytes] = []
        while page := store.page("acme", after=found[-1] if found else b"", limit=2):
            assert len(page) <= 2
            found += [record.data_key_id for record in page]

        assert found == ids

    def test_destroying_overwrites_what_is_wrapped(self, opened, store):
        """Tombstones stay, and nothing of the wrapped keys does."""
        record = store.add(made(opened))

        assert store.destroy("acme") == 1

        tombstone = store.get("acme", record.data_key_id)
        assert tombstone == tombstone_of(record)
        assert record.wrapped.ciphertext not in tombstone.wrapped.ciphertext
        assert store.page("acme") == []
        assert store.current("acme", "data") is None

    def test_destroying_again_changes_nothing(self, opened, store):
        """The second time nothing is left to overwrite."""
        store.add(made(opened))
        store.destroy("acme")

        assert store.destroy("acme") == 0
        assert store.shredded("acme")

    def test_a_shredded_tenant_gets_no_data_key(self, opened, store):
        """What is shredded stays so, also where there was nothing to overwrite."""
        store.destroy("acme")

        with pytest.raises(KeyDestroyedError) as refused:
            store.add(made(opened))

        assert refused.value.code == "tenant_shredded"

    def test_a_destroyed_one_is_not_replaced(self, opened, store):
        """A rewrap that comes after the shredding brings nothing back."""
        record = store.add(made(opened))
        store.destroy("acme")

        assert not store.replace(record, revision=1)
        assert not store.replace(record, revision=2)
        assert store.get("acme", record.data_key_id).state is DataKeyState.DESTROYED

    def test_destroying_leaves_other_tenants_alone(self, opened, store):
        """One tenant's end is nobody else's."""
        store.add(made(opened))
        with bind_tenant(Tenant(id="globex")):
            kept = store.add(made(opened, "globex"))
        store.destroy("acme")

        with bind_tenant(Tenant(id="globex")):
            assert store.get("globex", kept.data_key_id) == kept
            assert not store.shredded("globex")

    def test_tenants_come_in_order(self, opened, store):
        """Jobs go through tenants by the bytes of their ids, shredded ones too."""
        for tenant_id in ("b", "a", "C"):
            with bind_tenant(Tenant(id=tenant_id)):
                store.add(made(opened, tenant_id))
                if tenant_id == "a":
                    store.destroy("a")

        assert store.tenants() == ["C", "a", "b"]
        assert store.tenants(after="C", limit=1) == ["a"]

    def test_a_second_store_sees_the_same(self, opened, store):
        """What one process has added, another finds."""
        record = store.add(made(opened))

        assert opened.again().get("acme", record.data_key_id) == record
        assert opened.again().current("acme", "data") == record
