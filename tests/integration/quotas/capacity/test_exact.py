"""
Gate G7: levels are exact under racers, killed clients and rolled-back work.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from tests.integration.quotas.capacity._lines import LINES, Line
from tests.integration.quotas.capacity.conftest import ACME, COUNTS, OWNER, House, rule
from tests.support.pgbouncer import PgBouncer, require_pgbouncer
from tests.support.tenancy import heard
from twh_platform import bind_tenant
from twh_platform.errors import QuotaExceededError
from twh_platform.quotas._announcements import CapacityDrift
from twh_platform.tenancy.postgres import write_seal_key

RACERS, LIMIT = 64, 40
ITEMS = rule(LIMIT)
INSERT = "INSERT INTO items (body) VALUES ('x')"
Race = Callable[[Line], Coroutine[Any, Any, Any]]


def race(open_line: Callable[[], Any], run: Race, racers: int = RACERS) -> list[Any]:
    """Run all at once, each on a connection and in a thread of its own; give what came of each."""
    start = threading.Barrier(racers)

    async def racer() -> Any:
        with bind_tenant(ACME):
            async with open_line() as line:
                await asyncio.to_thread(start.wait, 60)
                try:
                    return await run(line)
                except Exception as error:  # noqa: BLE001 -- it is the outcome
                    return error

    with ThreadPoolExecutor(racers) as threads:
        return list(threads.map(lambda _: asyncio.run(racer()), range(racers)))


async def take_and_insert(line: Line) -> str:
    """What a handler does."""
    async with line.transaction():
        await line.take(ITEMS)
        await line.sql(INSERT)
    return "inserted"


async def insert_and_take(line: Line) -> str:
    """The same, the other way round."""
    async with line.transaction():
        await line.sql(INSERT)
        await line.take(ITEMS)
    return "inserted"


async def drift(house: House) -> list[int]:
    """What the reconciler finds."""
    with bind_tenant(ACME):
        async with house.line(user=OWNER) as line, line.transaction():
            return [one.drift for one in await line.reconcile({"items": COUNTS["items"]})]


@pytest.mark.parametrize(
    ("name", "way"),
    [*((name, take_and_insert) for name in LINES), ("asyncpg", insert_and_take)],
)
def test_racers_at_the_limit_are_admitted_exactly(name, way, house):
    """Of sixty-four at once as many get in as there are places; the rest are refused."""
    outcomes = race(lambda: house.line(name), way)

    refused = [one for one in outcomes if isinstance(one, QuotaExceededError)]
    assert (outcomes.count("inserted"), len(refused)) == (LIMIT, RACERS - LIMIT)
    assert (house.rows(), house.level()) == (LIMIT, LIMIT)
    assert asyncio.run(drift(house)) == [0]


def test_counting_rows_before_the_insert_admits_too_many(house):
    """Control: the naive way lets everybody in who counted before the others committed."""
    counted = threading.Barrier(RACERS)

    async def naive(line: Line) -> str:
        async with line.transaction():
            ((there,),) = await line.sql(COUNTS["items"])
            await asyncio.to_thread(counted.wait, 60)
            if there < LIMIT:
                await line.sql(INSERT)
        return "inserted"

    race(lambda: house.line("psycopg-async"), naive)

    assert house.rows() == RACERS > LIMIT


@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
def test_stricter_isolation_is_as_exact(isolation, house):
    """Who cannot be serialised is told by the database, tries again, and is counted once."""

    async def persistent(line: Line) -> str:
        while True:
            try:
                async with line.transaction():
                    await line.sql(f"SET TRANSACTION ISOLATION LEVEL {isolation}")
                    await line.take(ITEMS)
                    await line.sql(INSERT)
            except psycopg.errors.SerializationFailure:
                continue
            return "inserted"

    outcomes = race(lambda: house.line("psycopg-async"), persistent, 48)

    assert outcomes.count("inserted") == LIMIT
    assert sum(isinstance(one, QuotaExceededError) for one in outcomes) == 48 - LIMIT
    assert (house.rows(), house.level()) == (LIMIT, LIMIT)


def test_racers_through_a_pooler_are_admitted_exactly(house, server):
    """Transaction mode, four server sessions for sixty-four clients."""
    require_pgbouncer()
    with PgBouncer(server, users=["twh_test_app"], pool_size=4) as pooler:
        dsn = pooler.dsn(house.database.name, user="twh_test_app")
        for name in ("psycopg-async", "asyncpg", "sqlalchemy-asyncpg"):
            house.database.execute("TRUNCATE items, twh.quota_levels")
            outcomes = race(
                lambda name=name: LINES[name](dsn, seal=house.seal, pooled=True), take_and_insert
            )
            assert outcomes.count("inserted") == house.rows() == house.level() == LIMIT


def test_racers_over_several_rules_neither_deadlock_nor_charge_in_part(house):
    """Named in any order, rules are locked in one; who is refused has moved none."""
    rules = [rule(LIMIT, f"rule{at}") for at in range(4)]
    order = iter([rules, rules[::-1]] * RACERS)

    async def several(line: Line) -> str:
        async with line.transaction():
            await line.take_all(dict.fromkeys(next(order), 1))
            await line.sql(INSERT)
        return "inserted"

    outcomes = race(lambda: house.line("asyncpg"), several)

    assert {type(one) for one in outcomes} == {str, QuotaExceededError}
    levels = [house.level(one.name) for one in rules]
    assert [*levels, house.rows()] == [LIMIT] * 5


def test_some_commit_some_roll_back_some_give_back(house):
    """Whatever becomes of the transactions, the level is the number of rows."""
    turn = iter(range(RACERS))

    async def one_of_four(line: Line) -> None:
        at = next(turn) % 4
        with suppress(ZeroDivisionError):
            async with line.transaction():
                await take_and_insert(line)  # in a savepoint
                if at == 1:
                    1 / 0  # noqa: B018
                with suppress(ZeroDivisionError):
                    async with line.transaction():
                        await line.take(ITEMS, cost=2)
                        await line.sql(f"{INSERT}, ('y')")
                        if at == 2:
                            1 / 0  # noqa: B018
                if at == 3:
                    await line.sql("DELETE FROM items WHERE id = (SELECT id FROM items LIMIT 1)")
                    await line.give_back(ITEMS)

    race(lambda: house.line("psycopg-async"), one_of_four)

    assert house.rows() == house.level() > 0
    assert asyncio.run(drift(house)) == [0]


async def test_a_backend_that_is_terminated_gives_back(open_line, acme, house):
    """The server ends the session in mid-transaction: nothing was taken."""
    full = rule(1)
    with suppress(Exception):
        async with open_line() as line, line.transaction():
            await line.take(full)
            ((pid,),) = await line.sql("SELECT pg_backend_pid()")
            house.look(f"SELECT pg_terminate_backend({pid}, 10000)")
            await line.sql("SELECT 1")

    assert house.level() == 0
    async with open_line() as line, line.transaction():
        assert (await line.take(full)).after == 1


_CLIENT = """
import os, sys, time
from twh_platform import Tenant, bind_tenant
from twh_platform.quotas._rules import Capacity
from twh_platform.quotas.postgres.psycopg import PostgresCapacity
from twh_platform.tenancy.postgres import Seal
from twh_platform.tenancy.postgres.psycopg import TenantConnection
dsn, key = sys.argv[1:]
seal = Seal.from_file(key) if key else None
with bind_tenant(Tenant(id="acme")), TenantConnection.using(seal=seal).connect(dsn) as connection:
    PostgresCapacity().take(connection, Capacity(name="items", limit=1))
    connection.execute("INSERT INTO items DEFAULT VALUES")
    print("taken", flush=True)
    time.sleep(600)
"""


async def test_a_client_that_is_killed_gives_back(house, acme, tmp_path):
    """A process that is gone in mid-transaction leaves its place to the one who waits."""
    key = ""
    if house.seal is not None:
        write_seal_key(tmp_path / "key", house.seal._key)
        key = str(tmp_path / "key")
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _CLIENT, house.dsn(), key, stdout=asyncio.subprocess.PIPE
    )
    assert client.stdout is not None
    async with house.line("asyncpg") as line, line.transaction():
        assert await client.stdout.readline() == b"taken\n"
        waiting = asyncio.create_task(line.take(rule(1)))
        await asyncio.to_thread(house.until, "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted")
        client.kill()
        taken = await asyncio.wait_for(waiting, 30)
    await client.wait()

    assert (taken.before, taken.after) == (0, 1)
    assert (house.level(), house.rows()) == (1, 0)


async def test_a_take_that_is_cancelled_takes_nothing(house, acme):
    """A request that is given up while it waits leaves no trace."""
    lines = house.line("asyncpg"), house.line("asyncpg")
    async with lines[0] as first, first.transaction(), lines[1] as second:
        await first.take(ITEMS)
        with suppress(TimeoutError):
            async with second.transaction():
                await asyncio.wait_for(second.take(ITEMS), 0.2)

    assert house.level() == 1


def test_a_thousand_givers_and_takers_leave_no_drift(house):
    """Those who insert and those who delete meet at the limit for a while."""
    with heard(CapacityDrift) as told:

        async def busy(line: Line) -> None:
            for at in range(30):
                with suppress(QuotaExceededError):
                    await take_and_insert(line)
                if at % 2:
                    async with line.transaction():
                        await line.take(ITEMS, cost=0)  # the level first, then the row
                        gone = await line.sql(
                            "DELETE FROM items WHERE id IN (SELECT id FROM items LIMIT 1) "
                            "RETURNING id"
                        )
                        await line.give_back(ITEMS, amount=len(gone))

        outcomes = race(lambda: house.line("asyncpg"), busy, 16)

    assert (outcomes, told) == ([None] * 16, [])
    assert 0 < house.rows() == house.level() <= LIMIT
