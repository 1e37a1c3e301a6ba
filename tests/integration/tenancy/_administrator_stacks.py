"""
Every way to reach PostgreSQL as the administrators' login, as `_stacks` has them for tenants.

Each is opened by the test, inside or outside of `administrator`, and lends
sessions on one connection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import asyncpg
import psycopg_pool
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from tests.integration.tenancy._stacks import (
    AsyncpgSession,
    Checkout,
    PsycopgSession,
    Session,
    SqlalchemySession,
    Stack,
)
from twh_platform.tenancy.postgres import _psycopg_public as public
from twh_platform.tenancy.postgres import asyncpg as ours_asyncpg
from twh_platform.tenancy.postgres import psycopg as ours_psycopg
from twh_platform.tenancy.postgres.sqlalchemy import bind_administrator_engine


@asynccontextmanager
async def _lend(session: Session) -> AsyncIterator[Session]:
    try:
        yield session
    finally:
        await session.rollback()


@asynccontextmanager
async def psycopg_connection(dsn: str, *, module: Any = ours_psycopg) -> AsyncIterator[Checkout]:
    """
    A psycopg connection.
    """
    with module.AdministratorConnection.connect(dsn) as connection:
        yield partial(_lend, PsycopgSession(connection))


@asynccontextmanager
async def psycopg_async_connection(
    dsn: str, *, module: Any = ours_psycopg
) -> AsyncIterator[Checkout]:
    """
    An async psycopg connection.
    """
    async with await module.AsyncAdministratorConnection.connect(dsn) as connection:
        yield partial(_lend, PsycopgSession(connection))


@asynccontextmanager
async def psycopg_pool_async(dsn: str) -> AsyncIterator[Checkout]:
    """
    An async pool of psycopg_pool.
    """
    kind = ours_psycopg.AsyncAdministratorConnection
    async with psycopg_pool.AsyncConnectionPool(
        dsn, connection_class=kind, min_size=1, max_size=1, open=False
    ) as pool:

        @asynccontextmanager
        async def checkout() -> AsyncIterator[Session]:
            async with pool.connection() as connection:
                yield PsycopgSession(connection)

        yield checkout


@asynccontextmanager
async def asyncpg_connection(dsn: str) -> AsyncIterator[Checkout]:
    """
    An asyncpg connection.
    """
    kind = ours_asyncpg.AdministratorConnection
    connection = await asyncpg.connect(dsn, connection_class=kind)
    try:
        yield partial(_lend, AsyncpgSession(connection))
    finally:
        await connection.close()


@asynccontextmanager
async def asyncpg_pool(dsn: str) -> AsyncIterator[Checkout]:
    """
    A pool of asyncpg.
    """
    kind = ours_asyncpg.AdministratorConnection
    async with asyncpg.create_pool(dsn, connection_class=kind, min_size=1, max_size=1) as pool:

        @asynccontextmanager
        async def checkout() -> AsyncIterator[Session]:
            async with pool.acquire() as connection, _lend(AsyncpgSession(connection)) as session:
                yield session

        yield checkout


@asynccontextmanager
async def sqlalchemy_sync(dsn: str) -> AsyncIterator[Checkout]:
    """
    An SQLAlchemy engine on psycopg.
    """
    url = dsn.replace("postgresql://", "postgresql+psycopg://", 1)
    engine = bind_administrator_engine(create_engine(url, pool_size=1, max_overflow=0))

    @asynccontextmanager
    async def checkout() -> AsyncIterator[Session]:
        with engine.connect() as connection:
            yield SqlalchemySession(connection, connection.connection.driver_connection)

    yield checkout
    engine.dispose()


@asynccontextmanager
async def sqlalchemy_async(dsn: str, *, driver: str) -> AsyncIterator[Checkout]:
    """
    An async SQLAlchemy engine.
    """
    url = dsn.replace("postgresql://", f"postgresql+{driver}://", 1)
    engine = bind_administrator_engine(create_async_engine(url, pool_size=1, max_overflow=0))

    @asynccontextmanager
    async def checkout() -> AsyncIterator[Session]:
        async with engine.connect() as connection:
            raw = await connection.get_raw_connection()
            yield SqlalchemySession(connection, raw.driver_connection)

    yield checkout
    await engine.dispose()


STACKS: dict[str, Stack] = {
    "psycopg": psycopg_connection,
    "psycopg-async": psycopg_async_connection,
    "psycopg_pool-async": psycopg_pool_async,
    "psycopg-public": partial(psycopg_connection, module=public),
    "psycopg-public-async": partial(psycopg_async_connection, module=public),
    "asyncpg": asyncpg_connection,
    "asyncpg.Pool": asyncpg_pool,
    "sqlalchemy-psycopg": sqlalchemy_sync,
    "sqlalchemy-psycopg-async": partial(sqlalchemy_async, driver="psycopg"),
    "sqlalchemy-asyncpg": partial(sqlalchemy_async, driver="asyncpg"),
}
