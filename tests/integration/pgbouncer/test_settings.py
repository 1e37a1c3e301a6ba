"""
What each driver needs to be told behind PgBouncer, and what happens if it is not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from tests.integration.pgbouncer._holding import holding
from tests.integration.pgbouncer.conftest import APP, House
from tests.support.pgbouncer import PgBouncer
from twh_platform.errors import TenantMismatchError
from twh_platform.tenancy import Tenant, bind_tenant
from twh_platform.tenancy.postgres import asyncpg as tenant_asyncpg
from twh_platform.tenancy.postgres import psycopg as tenant_psycopg
from twh_platform.tenancy.postgres.sqlalchemy import bind_engine
from twh_platform.testing import PostgresServer

A = Tenant(id="a")
PROCESS = "SELECT pg_backend_pid()"
SAID = "SELECT current_setting('application_name'), current_setting('TimeZone')"


def select_often(dsn: str, *, pooled: bool) -> None:
    """
    Select so often over two connections that psycopg prepares.
    """
    kind = tenant_psycopg.TenantConnection.using(pooled=pooled)
    with kind.connect(dsn) as one, kind.connect(dsn) as other, bind_tenant(A):
        for connection in (one, other) * 8:
            connection.execute("SELECT name FROM parcels")
            connection.commit()


def test_psycopg(hut: House) -> None:
    """
    Statements that psycopg prepares clash; with `pooled=True` it prepares none.
    """
    with pytest.raises(psycopg.errors.DuplicatePreparedStatement):
        select_often(hut.dsn, pooled=False)

    select_often(hut.dsn, pooled=True)


async def select_elsewhere(house: House, **settings: Any) -> None:
    """
    Select twice with asyncpg, the second time in another server session.
    """
    kind = tenant_asyncpg.TenantConnection.using(seal=house.seal, pooled=True)
    connection = await asyncpg.connect(house.dsn, connection_class=kind, **settings)
    async with closing(connection):
        with bind_tenant(A):
            async with connection.transaction():
                await connection.fetch("SELECT name FROM parcels")
                process = await connection.fetchval(PROCESS)
            with holding(house, process):
                async with connection.transaction():
                    await connection.fetch("SELECT name FROM parcels")
                    assert await connection.fetchval(PROCESS) != process


@asynccontextmanager
async def closing(connection: Any) -> AsyncIterator[None]:
    """
    Close it, whatever happened.
    """
    try:
        yield
    finally:
        await connection.close()


async def test_asyncpg(house: House) -> None:
    """
    A statement that asyncpg keeps is missing in the next session; without a cache none is kept.
    """
    with pytest.raises(asyncpg.InvalidSQLStatementNameError, match="statement_cache_size"):
        await select_elsewhere(house)

    await select_elsewhere(house, statement_cache_size=0)


async def test_asyncpg_connect(house: House) -> None:
    """
    Our own `connect` leaves the cache out for a pooled class.
    """
    kind = tenant_asyncpg.TenantConnection.using(pooled=True)
    connection = await tenant_asyncpg.connect(house.dsn, connection_class=kind)

    assert connection._config.statement_cache_size == 0
    await connection.close()


async def select_by_engine(house: House, *, pooled: bool) -> None:
    """
    The same through SQLAlchemy, with a type that asyncpg has to ask for.
    """
    engine = create_async_engine(house.dsn.replace("postgresql:", "postgresql+asyncpg:"))
    bind_engine(engine, seal=house.seal, pooled=pooled)
    statements = ["SELECT name FROM parcels", "SELECT 'calm'::mood"]
    try:
        with bind_tenant(A):
            async with engine.connect() as connection:
                process = (await connection.execute(text(PROCESS))).scalar_one()
                for statement in statements:
                    await connection.execute(text(statement))
                await connection.commit()
                with holding(house, process):
                    for statement in statements:
                        await connection.execute(text(statement))
                    await connection.commit()
    finally:
        await engine.dispose()


async def test_sqlalchemy_asyncpg(house: House) -> None:
    """
    SQLAlchemy's statements are missing in the next session; pooled ones have no name to miss.
    """
    with pytest.raises(DBAPIError, match=r"prepared statement .* does not exist"):
        await select_by_engine(house, pooled=False)
    before = sum(prepared for *_, prepared in house.look())

    await select_by_engine(house, pooled=True)
    assert sum(prepared for *_, prepared in house.look()) <= before


def test_startup_options(hut: House) -> None:
    """
    Settings in `options` are refused.
    """
    with pytest.raises(psycopg.OperationalError, match="unsupported startup parameter"):
        tenant_psycopg.TenantConnection.connect(hut.dsn, options="-c lock_timeout=2s")


def test_ignored_startup_options(hut: House, server: PostgresServer) -> None:
    """
    A pooler that is told to ignore them ignores them; those of the role are in force.
    """
    settings = {"ignore_startup_parameters": "options"}
    server.execute(f"ALTER ROLE {APP} SET idle_in_transaction_session_timeout = '9min'")
    with PgBouncer(server, users=[APP], settings=settings) as pooler:
        dsn = pooler.dsn(hut.database.name, user=APP)
        kind = tenant_psycopg.TenantConnection.using(pooled=True)
        with kind.connect(dsn, options="-c lock_timeout=2s") as connection:
            assert connection.execute("SHOW lock_timeout").fetchall() == [("0",)]
            shown = connection.execute("SHOW idle_in_transaction_session_timeout").fetchall()
    server.execute(f"ALTER ROLE {APP} RESET idle_in_transaction_session_timeout")

    assert shown == [("9min",)]


def test_startup_settings_stay(hut: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The scrub leaves a client the settings that it gave when it connected.
    """
    monkeypatch.setenv("PGTZ", "Asia/Tokyo")
    kind = tenant_psycopg.TenantConnection.using(pooled=True)
    with kind.connect(hut.dsn, application_name="'; a \\ b") as ours, bind_tenant(A):
        for _ in range(2):
            assert ours.execute(SAID).fetchall() == [("'; a \\ b", "Asia/Tokyo")]
            ours.commit()

        ours.execute("RESET ALL")  # what the scrub alone would do
        assert ours.execute(SAID).fetchall() == [("", "UTC")]


def test_startup_settings_stay_in_a_pipeline(hut: House) -> None:
    """
    The same where the statements of the scrub go out one by one.
    """
    kind = tenant_psycopg.TenantConnection.using(pooled=True)
    with (
        kind.connect(hut.dsn, application_name="one; two") as ours,
        bind_tenant(A),
        ours.pipeline(),
    ):
        assert ours.execute(SAID).fetchall() == [("one; two", "UTC")]


async def test_startup_settings_of_asyncpg_stay(hut: House) -> None:
    """
    The same for asyncpg.
    """
    connection = await tenant_asyncpg.connect(
        hut.dsn,
        connection_class=tenant_asyncpg.TenantConnection.using(pooled=True),
        server_settings={"application_name": "shop", "timezone": "Asia/Tokyo"},
    )
    async with connection.transaction():
        rows = [tuple(row) for row in await connection.fetch(SAID)]
    await connection.close()

    assert rows == [("shop", "Asia/Tokyo")]


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_a_connection_is_pinged_in_a_transaction(hut: House, driver: str) -> None:
    """
    The ping of a pool is not refused, though a statement outside of a transaction is.
    """
    url = hut.dsn.replace("postgresql://", f"postgresql+{driver}://")
    engine = bind_engine(create_async_engine(url, pool_pre_ping=True), seal=hut.seal, pooled=True)
    try:
        for _ in range(3):
            with bind_tenant(A):
                async with engine.begin() as connection:
                    assert (await connection.execute(text("SELECT 1"))).scalar_one() == 1
        async with engine.connect() as connection:
            free = await connection.execution_options(isolation_level="AUTOCOMMIT")
            with bind_tenant(A), pytest.raises(TenantMismatchError):
                await free.execute(text("SELECT name FROM parcels"))
    finally:
        await engine.dispose()
