"""
Engines of SQLAlchemy that are watched.
"""

# ruff: noqa: E402 -- after the look for the extra
from __future__ import annotations

import asyncio

import pytest

sqlalchemy = pytest.importorskip("sqlalchemy")
pytest.importorskip("psycopg")
pytest.importorskip("asyncpg")

from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import create_async_engine

from tests.integration.telemetry._databases import *  # noqa: F403 -- fixtures
from tests.integration.telemetry._databases import CANARY
from twh_platform.telemetry.sqlalchemy import watch_engine
from twh_platform.tenancy.postgres.sqlalchemy import bind_engine

SELECT = text(f"SELECT name, '{CANARY}' FROM things WHERE id = :id OR name = :name")
VALUES = {"id": 1, "name": CANARY}
BROKEN = text(f"INSERT INTO things VALUES ('a', CAST('{CANARY}' AS int), :name)")


def url(dsn, driver):
    """The address for a driver."""
    return dsn.replace("postgresql://", f"postgresql+{driver}://", 1)


@pytest.fixture
def engine(dsn, watched):
    """A tenant engine that is watched."""
    engine = bind_engine(create_engine(url(dsn, "psycopg"), pool_size=1, max_overflow=1))
    yield watch_engine(engine, watched.calls)
    engine.dispose()


@pytest.fixture(params=["psycopg", "asyncpg"])
async def async_engine(request, dsn, watched):
    """An async one, of both drivers."""
    engine = watch_engine(create_async_engine(url(dsn, request.param)), watched.calls)
    yield bind_engine(engine)
    await engine.dispose()


def test_a_statement_is_one_call(engine, watched, acme):
    """It has its keyword, its table and its tenant, and no value."""
    with engine.begin() as connection:
        assert len(connection.execute(SELECT, VALUES).all()) == 1

    assert watched.counted("SELECT") >= 1
    span = watched.spans.made[-2]
    assert (span.name, span.has_ended, span.error) == ("SELECT", True, None)
    assert span.attributes["tenant.id"] == "a"
    assert span.attributes["server.address"] == engine.url.host
    assert not watched.keeps(CANARY)


def test_an_orm_statement_has_its_table(engine, watched, acme):
    """What SQLAlchemy writes itself can be read."""
    things = sqlalchemy.table("things", sqlalchemy.column("name"))
    with engine.begin() as connection:
        connection.execute(sqlalchemy.select(things).where(things.c.name == CANARY))

    assert watched.spans.made[-2].name == "SELECT things"
    assert not watched.keeps(CANARY)


def test_a_failure_tells_its_type(engine, watched, acme):
    """The text of a database's error, which has values, is nowhere."""
    with pytest.raises(DBAPIError, match=CANARY), engine.begin() as connection:
        connection.execute(BROKEN, {"name": CANARY})

    assert watched.counted("INSERT", "psycopg.errors.InvalidTextRepresentation") == 1
    assert watched.spans.made[-2].error == "psycopg.errors.InvalidTextRepresentation"
    assert not watched.keeps(CANARY)


def test_the_end_of_a_transaction_is_a_call(engine, watched, acme):
    """There is one COMMIT or ROLLBACK each, however often the pool rolls back besides."""
    with engine.begin() as connection:
        connection.execute(SELECT, VALUES)
    with engine.connect() as connection:
        connection.execute(SELECT, VALUES)

    assert (watched.counted("COMMIT"), watched.counted("ROLLBACK")) == (1, 1)
    assert watched.spans.names[-4:] == ["SELECT", "COMMIT", "SELECT", "ROLLBACK"]
    assert watched.spans.made[-1].attributes["tenant.id"] == "a"


async def test_nothing_ends_where_nothing_has_begun(async_engine, watched, acme):
    """In autocommit there is no transaction, whatever SQLAlchemy calls it."""
    sent = async_engine.execution_options(isolation_level="AUTOCOMMIT")
    async with sent.connect() as connection:
        await connection.execute(text("SELECT 1"))
        await connection.commit()

    assert watched.counted("SELECT") >= 1
    assert (watched.counted("COMMIT"), watched.counted("ROLLBACK")) == (0, 0)


def test_a_commit_that_fails_tells_its_type(engine, watched, acme):
    """A constraint that is checked at the end fails there."""
    twice = """
    CREATE TEMP TABLE later (id int UNIQUE DEFERRABLE INITIALLY DEFERRED);
    INSERT INTO later VALUES (1), (1)
    """
    with pytest.raises(DBAPIError), engine.begin() as connection:
        connection.execute(text(twice))

    assert watched.counted("COMMIT", "psycopg.errors.UniqueViolation") == 1


async def test_an_async_engine_is_watched(async_engine, watched, acme):
    """Both drivers tell the same."""
    async with async_engine.begin() as connection:
        await connection.execute(SELECT, VALUES)
    with pytest.raises(DBAPIError):
        async with async_engine.begin() as connection:
            await connection.execute(BROKEN, {"name": CANARY})

    assert watched.counted("SELECT") >= 1
    assert 'db_operation_name="INSERT",error_type=""' not in watched.page
    assert watched.spans.made[-2].error
    assert not watched.spans.made[-1].error
    assert watched.spans.made[-2].attributes["tenant.id"] == "a"
    assert not watched.keeps(CANARY)


async def test_a_cancelled_statement_is_told_apart(async_engine, watched, acme):
    """What ran for somebody who left is no error."""
    with pytest.raises(TimeoutError):
        async with async_engine.connect() as connection, asyncio.timeout(0.3):
            await connection.execute(text("SELECT pg_sleep(20)"))

    assert watched.counted("SELECT", "cancelled") == 1


def test_many_rows_are_one_call(engine, watched, acme):
    """Of executemany it is told how many they were."""
    rows = [{"id": number, "name": CANARY} for number in range(10, 15)]
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO things VALUES ('a', :id, :name)"), rows)

    assert watched.counted("INSERT") == 1
    assert watched.spans.made[-2].attributes["db.operation.batch.size"] == 5


def test_the_pool_is_on_the_page(engine, watched, acme):
    """Connections in use and idle, waiting and use."""
    with engine.connect():
        assert 'pool_name="default",db_client_connection_state="used"} 1' in watched.page

    page = watched.page
    assert 'pool_name="default",db_client_connection_state="used"} 0' in page
    assert 'pool_name="default",db_client_connection_state="idle"} 1' in page
    assert 'db_client_connection_max{db_client_connection_pool_name="default"} 2' in page
    assert 'wait_time_seconds_count{db_client_connection_pool_name="default"} 1' in page
    assert 'use_time_seconds_count{db_client_connection_pool_name="default"} 1' in page


def test_the_pool_after_a_disposal_is_watched(engine, watched, acme):
    """Disposal makes a new pool."""
    with engine.connect():
        pass
    engine.dispose()

    with engine.connect():
        assert 'wait_time_seconds_count{db_client_connection_pool_name="default"} 2' in watched.page
        assert 'pool_name="default",db_client_connection_state="used"} 1' in watched.page


def test_an_empty_pool_is_counted(dsn, watched, acme):
    """Nobody gets a connection in time."""
    engine = create_engine(url(dsn, "psycopg"), pool_size=1, max_overflow=0, pool_timeout=0.01)
    watch_engine(engine, watched.calls, pool="small")

    with engine.connect(), pytest.raises(PoolTimeoutError):
        engine.connect()
    engine.dispose()

    assert 'timeouts_total{db_client_connection_pool_name="small"} 1' in watched.page


def test_watching_twice_counts_once(engine, watched, acme):
    """Said again, it changes nothing."""
    watch_engine(engine, watched.calls)
    with engine.begin() as connection:
        connection.execute(text("UPDATE things SET name = 'x'"))

    assert watched.counted("UPDATE") == 1
    assert 'wait_time_seconds_count{db_client_connection_pool_name="default"} 1' in watched.page


def test_a_pool_that_was_disposed_of_is_not_counted(engine, watched, acme):
    """The next one stands in its place."""
    seen = set()
    for _ in range(3):
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        seen |= {line for line in watched.page.splitlines() if "connection_max{" in line}
        engine.dispose()

    assert len(seen) == 1


def test_a_dialect_takes_what_it_took_before(engine, watched):
    """By name, too, and a connection of the driver itself."""
    raw = engine.raw_connection()
    driver, cursor = raw.driver_connection, raw.cursor()
    dialect = engine.dialect

    dialect.do_execute(cursor, "SELECT 1", parameters=(), context=None)
    dialect.do_begin(driver)
    dialect.do_commit(driver)
    raw.close()

    assert watched.counted("SELECT") >= 1
    assert watched.counted("COMMIT") == 0


def test_an_unreachable_server_is_the_callers_problem(watched):
    """Connecting fails as without us, and no call was made."""
    engine = watch_engine(create_engine("postgresql+psycopg://x@127.0.0.1:1/x"), watched.calls)

    with pytest.raises(DBAPIError):
        engine.connect()

    assert not watched.spans.made


def test_engines_of_one_dialect_are_watched_once(engine, watched, acme):
    """An engine with other execution options sends through the same dialect."""
    other = watch_engine(engine.execution_options(logging_token="other"), watched.calls)
    with other.begin() as connection:
        connection.execute(text("UPDATE things SET name = 'x'"))
    with engine.begin() as connection:
        connection.execute(text("UPDATE things SET name = 'y'"))

    assert watched.counted("UPDATE") == 2


def test_an_engine_looks_for_no_events_because_it_is_watched(watched):
    """Which it would do for all of them, at a cost, once somebody listens to one."""
    engine, heard = create_engine("sqlite://"), create_engine("sqlite://")
    sqlalchemy.event.listen(heard, "begin", lambda connection: None)
    watch_engine(engine, watched.calls)

    assert heard._has_events
    assert not engine._has_events
