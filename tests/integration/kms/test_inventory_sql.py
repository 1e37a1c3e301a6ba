"""
The inventory in SQL says the same as the inventory in Python.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("cryptography")
pytest.importorskip("psycopg")

import psycopg

from tests.integration.kms._house import House, built
from tests.support.postgres_keys import APP, KEEPER, OWNER
from twh_platform import Tenant, bind_tenant
from twh_platform.kms import Keyset, LocalKeyService, Suite, TenantCipher, WrappedKey
from twh_platform.kms._envelope import encode_inline, header_of
from twh_platform.kms.lifecycle import inventory_sql, rewrap, sealed_uses
from twh_platform.testing import PostgresServer

TENANTS = ("acme", "globex")


@pytest.fixture(scope="module")
def house(twh_postgres: PostgresServer) -> Iterator[House]:
    """
    A house of keys, with a table of sealed values.
    """
    with built(twh_postgres) as house:
        house.database.execute(
            f"CREATE TABLE items (tenant_id text, n serial, sealed bytea); "
            f"GRANT ALL ON items TO {APP}",
            user=OWNER,
        )
        yield house


class World:
    """
    Sealed values of two tenants, under two versions, in the table.
    """

    def __init__(self, house: House) -> None:
        self.house, self.store = house, house.store(APP)
        house.database.execute("TRUNCATE items, twh.data_keys, twh.key_tenants")
        self.service = LocalKeyService(Keyset.new())
        self.values: dict[str, list[bytes]] = {one: [] for one in TENANTS}
        for tenant_id in TENANTS:
            self._seal(tenant_id)
            self.service.rotate(tenant_id)
            self._seal(tenant_id)

    def _seal(self, tenant_id: str) -> None:
        cipher = TenantCipher(self.service, self.store)
        with bind_tenant(Tenant(id=tenant_id)):
            for suite in (Suite.FIELD, Suite.STREAM, Suite.DETERMINISTIC):
                self.put(tenant_id, cipher.seal(b"x", {}, suite=suite))
            self.put(tenant_id, cipher.seal(b"x", {}, inline=True))

    def put(self, tenant_id: str, value: bytes | None) -> None:
        """
        Have a value in the table, and here.
        """
        with psycopg.connect(self.house.database.dsn()) as connection:
            sql = "INSERT INTO items (tenant_id, sealed) VALUES (%s, %s)"
            connection.execute(sql, (tenant_id, value))
        if value is not None:
            self.values[tenant_id].append(value)

    def in_sql(self) -> Counter[Any]:
        """
        What PostgreSQL counts.
        """
        with psycopg.connect(self.house.database.dsn()) as connection:
            rows = connection.execute(inventory_sql("items", "sealed").encode()).fetchall()
        return Counter({tuple(row[:-1]): row[-1] for row in rows})

    def in_python(self) -> Counter[Any]:
        """
        What the same values are counted as here.
        """
        found: Counter[Any] = Counter()
        for tenant_id, values in self.values.items():
            for one in sealed_uses(values, self.store, tenant_id):
                inline = one.inline if one.suite else None
                key = (one.provider, one.key_ref, one.key_version)
                found[tenant_id, one.suite, inline, *key] += one.values
        return found


@pytest.fixture
def world(house: House) -> World:
    """
    The table, filled.
    """
    return World(house)


def test_it_counts_by_suite_and_version(world):
    """By reference, and with wrapped keys of their own."""
    found = world.in_sql()

    assert found == world.in_python()
    assert sum(found.values()) == 16
    assert {key[-1] for key in found} == {1, 2}


def test_after_a_rewrap_only_values_with_keys_of_their_own_are_left(world):
    """By reference everything is under the newest version, and not a value was touched."""
    rewrap(world.service, world.house.store(KEEPER), tenants=TENANTS)

    old = {key for key in world.in_sql() if key[-1] == 1}

    assert {key[2] for key in old} == {True}
    assert world.in_sql() == world.in_python()


STRANGE = [
    b"",
    b"\x01",
    b"\x01\x02\x00" + bytes(15),
    b"\x02\x02\x00" + bytes(16),
    b"\x01\x04\x00" + bytes(16),
    b"\x01\x02\x02" + bytes(16),
    b"GB29 NWBK 6016 1331 9268 19 and more",
]


@pytest.mark.parametrize("value", STRANGE)
def test_what_is_no_envelope_is_counted_as_that(value, world):
    """No value makes the query fail, and plaintext that was left over is seen."""
    world.put("acme", value)
    world.put("acme", None)

    found = world.in_sql()

    assert found["acme", None, None, None, None, None] == 1
    assert found == world.in_python()


def test_several_keys_of_its_own_count_each(world):
    """One, and four: each is read where the one before it ends."""
    keys = [
        WrappedKey(provider=name, key_ref=ref, key_version=version, ciphertext=b"x" * size)
        for name, ref, version, size in (
            ("local", "k", 1, 1),
            ("vault", "twh-e", 2**31 + 5, 90),
            ("aws", "arn:" + "x" * 400, 0, 1024),
            ("vault", "z", 3, 255),
        )
    ]
    for some in (keys[:1], keys):
        head = header_of(Suite.STREAM, bytes(16), inline=True) + encode_inline(some)
        world.put("acme", head + bytes(100))

    assert world.in_sql() == world.in_python()


@pytest.mark.parametrize("cut", range(1, 30, 3))
def test_a_list_of_keys_that_is_cut_off_does_no_harm(cut, world):
    """The query ends, whatever the lengths in it say."""
    key = WrappedKey(provider="vault", key_ref="twh-a", key_version=3, ciphertext=b"x" * 20)
    head = header_of(Suite.STREAM, bytes(16), inline=True) + encode_inline([key])

    world.put("acme", head[:-cut])
    world.put("acme", head.replace(b"twh-a", b"\xff\xfe\x00\\\x80"))

    assert sum(world.in_sql().values()) >= 16


def test_values_of_a_destroyed_data_key_have_no_version(world):
    """After a shred the values by reference are told as lost."""
    world.house.database.execute(
        "UPDATE twh.data_keys SET state = 'destroyed', wrapped = '\\x00', revision = revision + 1"
    )

    by_reference = {key for key in world.in_sql() if key[2] is False}

    assert {key[3] for key in by_reference} == {None}
    assert world.in_sql() == world.in_python()
