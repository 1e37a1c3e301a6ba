"""
The binding costs no turn between client and server.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator

import pytest

from tests.integration.tenancy._stacks import FOLDED, Checkout, done
from tests.support.proxy import CountingProxy
from twh_platform.tenancy import Tenant, bind_tenant
from twh_platform.testing import PostgresServer

TENANTS = [Tenant(id="a"), Tenant(id="b")]


@pytest.fixture(scope="module")
def proxy(server: PostgresServer) -> Iterator[CountingProxy]:
    """
    Counts turns; the delay lets what is sent without waiting be one of them.
    """
    with CountingProxy(server.host, server.port, round_trip=0.004) as proxy:
        yield proxy


async def two_queries(checkout: Checkout) -> None:
    """
    A transaction of two queries.
    """
    async with checkout() as session:
        await session.fetch("SELECT 1")
        await session.fetch("SELECT 1")
        await session.commit()


async def two_transactions(checkout: Checkout) -> None:
    """
    A commit in the middle, and a rollback at the end.
    """
    async with checkout() as session:
        await session.fetch("SELECT 1")
        await session.commit()
        await session.fetch("SELECT 1")
        await session.rollback()


async def savepoint(checkout: Checkout) -> None:
    """
    A savepoint in a transaction.
    """
    async with checkout() as session:
        await session.fetch("SAVEPOINT s")
        await session.fetch("ROLLBACK TO SAVEPOINT s")
        await session.commit()


Work = Callable[[Checkout], Awaitable[None]]


async def turns(name: str, dsn: str, proxy: CountingProxy, work: Work, *, bound: bool) -> int:
    """
    Count the turns of eight rounds, the tenant changing each time.
    """
    through = re.sub(r"@[^/]*", f"@127.0.0.1:{proxy.port}", dsn, count=1)
    async with FOLDED[name](through, bound=bound) as checkout:
        for _ in range(2):
            await work(checkout)
        with proxy.counting() as seen:
            for number in range(8):
                with bind_tenant(TENANTS[number % 2]):
                    await work(checkout)
    return seen.client


@pytest.mark.parametrize("work", [two_queries, two_transactions, savepoint])
@pytest.mark.parametrize("name", FOLDED)
async def test_turns(name: str, dsn: str, proxy: CountingProxy, work: Work) -> None:
    """
    As many turns as the plain driver, also when the tenant changes.
    """
    ours = await turns(name, dsn, proxy, work, bound=True)

    assert ours == await turns(name, dsn, proxy, work, bound=False)


async def pipeline(checkout: Checkout) -> None:
    """
    A pipeline of psycopg with a transaction in it.
    """
    async with checkout() as session:
        with session.driver.pipeline(), session.driver.transaction():
            for _ in range(3):
                session.driver.execute("SELECT 1")


async def executemany(checkout: Checkout) -> None:
    """
    Many rows in one call, which psycopg pipelines and asyncpg batches.
    """
    async with checkout() as session:
        await session.fetch("CREATE TEMP TABLE IF NOT EXISTS numbers (n int)")
        holder = session.driver
        if hasattr(holder, "cursor") and not hasattr(holder, "fetchrow"):
            cursor = holder.cursor()
            await done(cursor.executemany("INSERT INTO numbers VALUES (%s)", [(1,), (2,)]))
        else:
            await holder.executemany("INSERT INTO numbers VALUES ($1)", [(1,), (2,)])
        await session.rollback()


async def test_turns_of_a_pipeline(dsn: str, proxy: CountingProxy) -> None:
    """
    BEGIN and the binding are queued together.
    """
    ours = await turns("psycopg", dsn, proxy, pipeline, bound=True)

    assert ours == await turns("psycopg", dsn, proxy, pipeline, bound=False)


@pytest.mark.parametrize("name", ["psycopg", "psycopg-async", "asyncpg"])
async def test_turns_of_executemany(name: str, dsn: str, proxy: CountingProxy) -> None:
    """
    Batches take no turn more.
    """
    ours = await turns(name, dsn, proxy, executemany, bound=True)

    assert ours == await turns(name, dsn, proxy, executemany, bound=False)


async def test_autocommit_pays_on_a_switch(dsn: str, proxy: CountingProxy) -> None:
    """
    Outside a transaction a change of tenant costs one turn, staying none.
    """
    through = re.sub(r"@[^/]*", f"@127.0.0.1:{proxy.port}", dsn, count=1)
    async with FOLDED["psycopg"](through) as checkout, checkout() as session:
        counts = []
        for number in (0, 0, 1):
            with bind_tenant(TENANTS[number]), proxy.counting() as seen:
                await session.alone("SELECT 1")
            counts.append(seen.client)

    assert counts == [2, 1, 2]
