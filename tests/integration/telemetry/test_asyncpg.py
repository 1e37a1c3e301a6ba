"""
Connections and pools of asyncpg that are watched.
"""

# ruff: noqa: E402 -- after the look for the extra
from __future__ import annotations

import asyncio

import pytest

asyncpg = pytest.importorskip("asyncpg")
pytest.importorskip("psycopg")

from tests.integration.telemetry._databases import *  # noqa: F403 -- fixtures
from tests.integration.telemetry._databases import CANARY
from tests.support.client_spans import in_request
from twh_platform.telemetry.asyncpg import on_connect, watch_connection, watch_pool
from twh_platform.tenancy.postgres.asyncpg import TenantConnection

SELECT = f"SELECT name, '{CANARY}' FROM things WHERE name = $1"
BROKEN = f"INSERT INTO things VALUES ('a', CAST('{CANARY}' AS int), $1)"
WRONG = "asyncpg.exceptions.InvalidTextRepresentationError"


@pytest.fixture
async def pool(dsn, watched):
    """A pool of tenant connections that is watched."""
    async with asyncpg.create_pool(
        dsn,
        connection_class=TenantConnection,
        min_size=1,
        max_size=2,
        init=on_connect(watched.calls),
    ) as pool:
        yield watch_pool(pool, watched.calls)


async def told():
    """Wait until the loop has told: it does that in its next turn."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_a_query_is_one_call(pool, watched, acme):
    """It has its keyword and its tenant, its transaction too, and no value."""
    with in_request():
        async with pool.acquire() as connection, connection.transaction():
            await connection.fetch(SELECT, CANARY)
        await told()

    assert [watched.counted(one) for one in ("BEGIN", "SELECT", "COMMIT")] == [1, 1, 1]
    span = next(span for span in watched.spans.made if span.name == "SELECT")
    assert span.has_ended
    assert span.attributes["tenant.id"] == "a"
    assert span.attributes["db.namespace"]
    assert not watched.keeps(CANARY)


async def test_a_failure_tells_its_type(pool, watched, acme):
    """The text of a database's error, which has values, is nowhere."""
    with pytest.raises(asyncpg.DataError, match=CANARY):
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute(BROKEN, CANARY)
    await told()

    assert watched.counted("INSERT", WRONG) == 1
    assert watched.counted("ROLLBACK") == 1
    assert not watched.keeps(CANARY)


async def test_many_rows_are_one_call(pool, watched, acme):
    """And a prepared statement is none: asyncpg tells nobody, which we say."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.executemany("INSERT INTO things VALUES ('a', $1, $2)", [(8, CANARY)])
        prepared = await connection.prepare("SELECT id FROM things WHERE name = $1")
        assert await prepared.fetchval(CANARY) == 8
    await told()

    assert watched.counted("INSERT") == 1
    assert watched.counted("SELECT") == 0
    assert not watched.keeps(CANARY)


async def test_the_pool_is_on_the_page(pool, watched, acme):
    """Until it is closed."""
    async with pool.acquire():
        assert 'pool_name="default",db_client_connection_state="used"} 1' in watched.page
    assert 'db_client_connection_max{db_client_connection_pool_name="default"} 2' in watched.page
    await pool.close()

    assert 'pool_name="default",db_client_connection_state' not in watched.page


async def test_watching_twice_counts_once(dsn, watched, acme):
    """Said again, it changes nothing; an init of one's own goes on."""
    seen = []

    async def init(connection):
        seen.append(connection)

    connection = await asyncpg.connect(dsn)
    await on_connect(watched.calls, init)(connection)
    await watch_connection(connection, watched.calls).execute("SELECT 1")
    await told()
    await connection.close()

    assert watched.counted("SELECT") == 1
    assert seen == [connection]
