"""
The reconciler: it finds what is wrong, puts it right, and is exact while others work.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import psycopg
import pytest

from tests.integration.quotas.capacity._lines import LINES
from tests.integration.quotas.capacity.conftest import (
    ACME,
    APP,
    COUNTS,
    OTHER,
    OWNER,
    RECONCILER,
    rule,
)
from tests.support.tenancy import heard
from twh_platform import bind_tenant
from twh_platform.errors import ConfigurationError, QuotaExceededError
from twh_platform.quotas._announcements import CapacityDrift
from twh_platform.quotas.postgres import CapacityCount
from twh_platform.tenancy.postgres import sqlstate_of

ITEMS, BYTES = rule(1000), rule(10_000, "stored_bytes")
FORGOTTEN = "INSERT INTO items (body) VALUES ('12345'), ('%:x%')"


async def insert(line, rows: int, size: int = 3) -> None:
    """Make rows as a handler should."""
    async with line.transaction():
        await line.take_all({ITEMS: rows, BYTES: rows * size})
        body = "x" * size
        await line.sql(f"INSERT INTO items (body) SELECT '{body}' FROM generate_series(1, {rows})")


@pytest.mark.parametrize("user", [OWNER, RECONCILER])
@pytest.mark.parametrize("name", LINES)
async def test_drift_is_found_told_and_put_right(name, user, house, acme):
    """Rows that nobody counted are counted, and bytes with them."""
    async with house.line() as line:
        await insert(line, 2)
        async with line.transaction():
            await line.sql(FORGOTTEN)
    with heard(CapacityDrift) as told:
        async with house.line(name, user) as line, line.transaction():
            found = await line.reconcile(COUNTS)

    assert found[0] == CapacityCount(tenant_id="acme", rule="items", recorded=2, counted=4)
    assert [(one.rule, one.drift) for one in found] == [("items", -2), ("stored_bytes", -9)]
    assert [(one.rule, one.recorded, one.counted) for one in told] == [
        ("items", 2, 4),
        ("stored_bytes", 6, 15),
    ]
    assert (house.level(), house.level("stored_bytes")) == (4, 15)


async def test_what_is_right_is_left_alone_and_unlocked(house, acme):
    """While one transaction holds a level the reconciler neither waits nor finds drift."""
    async with house.line() as line, house.line(user=OWNER) as owner:
        await insert(line, 2)
        async with line.transaction():
            await line.take(ITEMS)
            await line.sql("INSERT INTO items DEFAULT VALUES")
            async with owner.transaction():
                await owner.sql("SET LOCAL lock_timeout = '1s'")
                found = await owner.reconcile(COUNTS)

    assert [one.drift for one in found] == [0, 0]


async def test_a_level_can_be_looked_at_only(house, acme):
    """Without correction the drift is told and stays."""
    async with house.line(user=OWNER) as owner:
        with heard(CapacityDrift) as told:
            async with owner.transaction():
                await owner.sql(FORGOTTEN)
                await owner.reconcile(COUNTS, correct=False)

    assert [one.found_by for one in told] == ["reconcile"] * 2
    assert house.level() == 0


@pytest.mark.parametrize("name", ["psycopg", "asyncpg"])
async def test_what_is_in_no_database_is_counted_by_a_function(name, house, acme, tmp_path):
    """Files, for example; a driver that is awaited takes a coroutine too."""
    (tmp_path / "a").write_bytes(b"12345")

    def stored(tenant) -> int:
        assert tenant.id == "acme"
        return sum(path.stat().st_size for path in tmp_path.iterdir())

    async def later(tenant) -> int:
        return stored(tenant)

    async with house.line(name, OWNER) as owner, owner.transaction():
        count = later if name == "asyncpg" else stored
        (found,) = await owner.reconcile({"stored_bytes": count})

    assert (found.drift, house.level("stored_bytes")) == (-5, 5)


async def test_each_tenant_is_counted_alone(house):
    """The same login counts one tenant's rows for one, another's for another."""
    async with house.line(user=OWNER) as owner:
        for tenant, rows in ((ACME, 2), (OTHER, 4)):
            with bind_tenant(tenant):
                async with owner.transaction():
                    await owner.sql(FORGOTTEN)
                    if rows == 4:
                        await owner.sql(FORGOTTEN)
        for tenant in (ACME, OTHER):
            with bind_tenant(tenant):
                async with owner.transaction():
                    await owner.reconcile(COUNTS)

    assert [house.level(tenant=one) for one in (ACME, OTHER)] == [2, 4]


async def test_a_login_that_sees_all_tenants_is_refused(house, acme):
    """A superuser would count everybody's rows as one tenant's."""
    async with house.line(user="postgres") as line, line.transaction():
        with pytest.raises(ConfigurationError) as caught:
            await line.reconcile(COUNTS)

    assert caught.value.code == "capacity_login_unheld"


@pytest.mark.parametrize("count", [lambda _tenant: -1, "SELECT -1"])
async def test_a_count_that_is_none_is_refused(count, house, acme):
    """A level is never put below zero."""
    async with house.line(user=OWNER) as owner, owner.transaction():
        with pytest.raises(ConfigurationError):
            await owner.reconcile({"items": count})
        with pytest.raises(ConfigurationError):
            await owner.reconcile({"it'ems": "SELECT 1"})

    assert house.level() == 0


async def test_it_is_exact_while_others_insert_and_delete(house):
    """Planted drift is put right in the middle of traffic, and none is made."""
    stop = asyncio.Event()

    async def traffic(name: str, *, counted: bool) -> None:
        with bind_tenant(ACME):
            async with house.line(name) as line:
                while not stop.is_set():
                    with suppress(QuotaExceededError):
                        await insert(line, 3)
                    async with line.transaction():
                        await line.take_all({ITEMS: 0, BYTES: 0})
                        gone = await line.sql(
                            "DELETE FROM items WHERE id IN (SELECT id FROM items LIMIT 2) "
                            "RETURNING octet_length(body)"
                        )
                        size = sum(one for (one,) in gone)
                        await line.give_back_all({ITEMS: len(gone), BYTES: size})
                    if not counted:
                        async with line.transaction():
                            await line.sql("INSERT INTO items (body) VALUES ('forgotten')")

    async def reconciler() -> list[int]:
        drifts = []
        with bind_tenant(ACME):
            async with house.line("asyncpg", OWNER) as owner:
                for _ in range(40):
                    async with owner.transaction():
                        drifts += [one.drift for one in await owner.reconcile(COUNTS)]
        return drifts

    names = ("asyncpg", "psycopg-async", "sqlalchemy-asyncpg")
    tasks = [asyncio.create_task(traffic(name, counted=False)) for name in names]
    with_forgetters = await reconciler()
    stop.set()
    await asyncio.gather(*tasks)
    await reconciler()
    stop.clear()
    tasks = [asyncio.create_task(traffic(name, counted=True)) for name in names]
    without = await reconciler()
    stop.set()
    await asyncio.gather(*tasks)

    assert any(with_forgetters)
    assert not any(without)
    assert house.level() == house.rows() > 0


async def test_a_repeatable_snapshot_is_right_or_refused(house, acme):
    """What has moved since the snapshot cannot be corrected from it."""
    async with house.line("asyncpg", OWNER) as owner, house.line() as line:
        transaction = owner.work.transaction(isolation="repeatable_read")
        await transaction.start()
        await owner.sql("SELECT 1 FROM items")
        await insert(line, 1)
        async with line.transaction():
            await line.sql(FORGOTTEN)
        first = await owner.reconcile(COUNTS)
        await transaction.rollback()
        transaction = owner.work.transaction(isolation="repeatable_read")
        await transaction.start()
        await owner.sql("SELECT 1 FROM items")
        await insert(line, 1)
        with pytest.raises(Exception, match="could not serialize") as caught:
            await owner.reconcile(COUNTS)
        await transaction.rollback()

    assert [one.drift for one in first] == [0, 0]
    assert sqlstate_of(caught.value) == "40001"
    assert house.level() == 2


async def test_the_application_may_not_put_a_level_right(house, acme):
    """Its login finds drift and cannot correct it."""
    async with house.line(user=APP) as line:
        async with line.transaction():
            await line.sql(FORGOTTEN)
        with pytest.raises(psycopg.Error) as caught:
            await line.reconcile(COUNTS)

    assert sqlstate_of(caught.value) == "42501"
