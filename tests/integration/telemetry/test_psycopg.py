"""
Connections and pools of psycopg that are watched.
"""

# ruff: noqa: E402 -- after the look for the extra
from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

psycopg = pytest.importorskip("psycopg")
psycopg_pool = pytest.importorskip("psycopg_pool")

from psycopg import sql
from psycopg.pq import TransactionStatus

from tests.integration.telemetry._databases import *  # noqa: F403 -- fixtures
from tests.integration.telemetry._databases import CANARY
from twh_platform.telemetry import ClientCalls, Registry
from twh_platform.telemetry.psycopg import watch_connection, watch_pool
from twh_platform.tenancy.postgres._psycopg_steps import carry_out, carry_out_async
from twh_platform.tenancy.postgres._steps import Ask
from twh_platform.tenancy.postgres.psycopg import AsyncTenantConnection, TenantConnection

SELECT = f"SELECT name, '{CANARY}' FROM things WHERE name = %s"
BROKEN = f"INSERT INTO things VALUES ('a', CAST('{CANARY}' AS int), %s)"
WRONG = "psycopg.errors.InvalidTextRepresentation"


def steps_of(ask):
    """One step."""
    yield ask


@pytest.fixture
def pool(dsn, watched):
    """A pool of tenant connections that is watched."""
    pool = psycopg_pool.ConnectionPool(
        dsn, connection_class=TenantConnection, min_size=1, max_size=1, open=False, timeout=0.05
    )
    with watch_pool(pool, watched.calls):
        pool.wait()
        yield pool


@pytest.fixture
async def async_pool(dsn, watched):
    """An async one."""
    pool = psycopg_pool.AsyncConnectionPool(
        dsn, connection_class=AsyncTenantConnection, min_size=1, max_size=1, open=False
    )
    async with watch_pool(pool, watched.calls):
        yield pool


@pytest.fixture
def connection(dsn, watched):
    """A tenant connection that is watched."""
    with TenantConnection.connect(dsn) as connection:
        yield watch_connection(connection, watched.calls)


def test_a_statement_is_one_call(connection, watched, acme):
    """It has its keyword, its place and its tenant, and no value."""
    connection.execute(SELECT, (CANARY,))

    assert watched.counted("SELECT") == 1
    span = watched.spans.made[0]
    assert (span.name, span.has_ended, span.error) == ("SELECT", True, None)
    assert span.attributes["tenant.id"] == "a"
    assert span.attributes["db.namespace"] == connection.info.dbname
    assert not watched.keeps(CANARY)


def test_a_failure_tells_its_type(connection, watched, acme):
    """The text of a database's error, which has values, is nowhere."""
    with pytest.raises(psycopg.DataError, match=CANARY):
        connection.execute(BROKEN, (CANARY,))

    assert watched.counted("INSERT", WRONG) == 1
    assert watched.spans.made[0].error == WRONG
    assert watched.spans.made[0].attributes["db.response.status_code"] == "22P02"
    assert not watched.keeps(CANARY)


def test_every_way_to_send_is_watched(connection, watched, acme):
    """Many rows, a stream, COPY and a cursor of the server's."""
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO things VALUES ('a', %s, %s)", [(8, CANARY), (9, CANARY)])
        assert len(list(cursor.stream("SELECT id FROM things"))) == 4
        with cursor.copy("COPY things TO STDOUT") as copy:
            assert CANARY.encode() in b"".join(map(bytes, copy))
    with connection.cursor(name="far") as cursor:
        cursor.execute("TABLE things")

    assert watched.spans.names == ["INSERT things", "SELECT things", "COPY things", "TABLE"]
    assert not watched.keeps(CANARY)


def test_a_stream_that_is_left_early_is_no_error(connection, watched, acme):
    """Its reader has had enough."""
    stream = connection.cursor().stream("SELECT id FROM things")
    next(stream)
    stream.close()

    assert watched.counted("SELECT") == 1


def test_a_composed_statement_has_its_keyword(connection, watched, acme):
    """What is put together with psycopg.sql begins with it."""
    query = sql.SQL("SELECT {} FROM things").format(sql.Literal(CANARY))
    connection.execute(query)

    assert watched.spans.names == ["SELECT"]
    assert not watched.keeps(CANARY)


def test_watching_twice_counts_once(connection, watched, acme):
    """Said again, it changes nothing."""
    watch_connection(connection, watched.calls).execute("SELECT 1")

    assert watched.counted("SELECT") == 1


def test_who_watches_last_is_told(connection, watched, acme):
    """Another watcher takes the place of the first, and nothing fails."""
    other = ClientCalls(Registry())
    watch_connection(connection, other).execute("SELECT 1")
    assert watched.counted("SELECT") == 0

    watch_connection(connection, watched.calls).execute("SELECT 1")
    assert watched.counted("SELECT") == 1


async def test_a_stream_that_is_left_gives_the_connection_back(async_pool, watched, acme):
    """Closed half way, it holds up nobody."""
    async with async_pool.connection() as connection:
        rows = connection.cursor().stream("SELECT generate_series(1, 1000)")
        async with aclosing(rows):
            async for _ in rows:
                break

        assert connection.info.transaction_status != TransactionStatus.ACTIVE
        await connection.rollback()
        assert await (await connection.execute("SELECT 2")).fetchone() == (2,)


def test_a_cursor_stays_what_it_was(dsn, watched, acme):
    """A factory of somebody's own, and rows of a kind, go on."""
    with psycopg.Connection.connect(
        dsn, cursor_factory=psycopg.ClientCursor, row_factory=psycopg.rows.dict_row
    ) as connection:
        cursor = watch_connection(connection, watched.calls).execute("SELECT 1 AS one")

        assert isinstance(cursor, psycopg.ClientCursor)
        assert cursor.fetchone() == {"one": 1}


def test_a_pool_is_watched(pool, watched, acme):
    """Its connections, waiting and use."""
    with pool.connection() as connection:
        connection.execute(SELECT, (CANARY,))
        assert 'pool_name="default",db_client_connection_state="used"} 1' in watched.page
        with pytest.raises(psycopg_pool.PoolTimeout), pool.connection():
            pass

    page = watched.page
    assert watched.counted("SELECT") == 1
    assert 'pool_name="default",db_client_connection_state="idle"} 1' in page
    assert 'wait_time_seconds_count{db_client_connection_pool_name="default"} 1' in page
    assert 'use_time_seconds_count{db_client_connection_pool_name="default"} 1' in page
    assert 'timeouts_total{db_client_connection_pool_name="default"} 1' in page


async def test_an_async_pool_is_watched(async_pool, watched, acme):
    """The same, with every way to send."""
    async with async_pool.connection() as connection:
        await connection.execute(SELECT, (CANARY,))
        async with connection.cursor() as cursor:
            await cursor.executemany("INSERT INTO things VALUES ('a', 8, %s)", [(CANARY,)])
            assert len([row async for row in cursor.stream("SELECT id FROM things")]) == 3
            async with cursor.copy("COPY things TO STDOUT") as copy:
                assert [row async for row in copy]
    with pytest.raises(psycopg.DataError):
        async with async_pool.connection() as connection:
            await connection.execute(BROKEN, (CANARY,))

    names = ["SELECT", "INSERT things", "SELECT things", "COPY things", "INSERT things"]
    assert watched.spans.names == names
    assert watched.counted("INSERT", WRONG) == 1
    assert 'use_time_seconds_count{db_client_connection_pool_name="default"} 2' in watched.page
    assert not watched.keeps(CANARY)


async def test_a_cancelled_statement_is_told_apart(async_pool, watched, acme):
    """What ran for somebody who left is no error."""
    with pytest.raises(TimeoutError):
        async with async_pool.connection() as connection, asyncio.timeout(0.1):
            await connection.execute("SELECT pg_sleep(20)")

    assert watched.counted("SELECT", "cancelled") == 1
    assert watched.spans.made[0].error is None


def test_what_the_platform_asks_itself_is_watched(connection, watched, acme):
    """Its cursors are made past the factories: without our word for it they are not seen."""
    asked = Ask("SELECT name FROM things WHERE id = $1", (1,))
    with TenantConnection.connect(connection.info.dsn) as unwatched:
        carry_out(steps_of(asked), unwatched)
        with psycopg.RawCursor(connection) as bare:
            bare.execute(asked.sql, asked.parameters)
    assert watched.counted("SELECT") == 0

    carry_out(steps_of(asked), connection)
    assert watched.counted("SELECT") == 1
    assert watched.spans.made[-1].name == "SELECT things"
    assert watched.spans.made[-1].attributes["tenant.id"] == "a"


async def test_what_the_platform_awaits_itself_is_watched(async_pool, watched, acme):
    """On async connections too."""
    asked = Ask("SELECT name FROM things WHERE id = $1", (1,))
    async with async_pool.connection() as connection:
        await carry_out_async(steps_of(asked), connection)

    assert watched.counted("SELECT") == 1
