"""
Every way to reach PostgreSQL, behind one small interface.

A stack lends sessions, all on one connection, so that tenants follow each
other on it.  Each stack exists twice: with tenant connections, and plain, as a
control.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Protocol

import asyncpg
import psycopg
import psycopg_pool
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

from twh_platform.tenancy.postgres import _psycopg_public as public
from twh_platform.tenancy.postgres import asyncpg as tenant_asyncpg
from twh_platform.tenancy.postgres import psycopg as tenant_psycopg
from twh_platform.tenancy.postgres.sqlalchemy import bind_engine

Rows = list[tuple[Any, ...]]


class Session(Protocol):
    """
    One connection, used by one caller.
    """

    driver: Any

    async def fetch(self, sql: str) -> Rows:
        """
        Run one statement in the open transaction, or in a new one.
        """
        ...

    async def alone(self, sql: str) -> Rows:
        """
        Run one statement outside a transaction.
        """
        ...

    async def commit(self) -> None:
        """
        Commit the open transaction, if there is one.
        """
        ...

    async def rollback(self) -> None:
        """
        Roll the open transaction back, if there is one.
        """
        ...


Checkout = Callable[[], AbstractAsyncContextManager[Session]]


async def done(result: Any) -> Any:
    """
    Give the result of a call that a driver has as sync and as async.
    """
    return await result if inspect.isawaitable(result) else result


class PsycopgSession:
    """
    A psycopg connection, sync or async.
    """

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    async def fetch(self, sql: str) -> Rows:
        cursor = await done(self.driver.execute(sql))
        return await done(cursor.fetchall()) if cursor.description else []

    async def alone(self, sql: str) -> Rows:
        await done(self.driver.set_autocommit(True))
        try:
            return await self.fetch(sql)
        finally:
            await done(self.driver.set_autocommit(False))

    async def commit(self) -> None:
        await done(self.driver.commit())

    async def rollback(self) -> None:
        await done(self.driver.rollback())


class AsyncpgSession:
    """
    An asyncpg connection; like the others, it begins when it is used.
    """

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self._transaction: Any = None

    async def fetch(self, sql: str) -> Rows:
        if self._transaction is None:
            transaction = self.driver.transaction()
            await transaction.start()
            self._transaction = transaction
        return [tuple(row) for row in await self.driver.fetch(sql)]

    async def alone(self, sql: str) -> Rows:
        return [tuple(row) for row in await self.driver.fetch(sql)]

    async def commit(self) -> None:
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            await transaction.commit()

    async def rollback(self) -> None:
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            await transaction.rollback()


class SqlalchemySession:
    """
    A SQLAlchemy connection, sync or async.
    """

    def __init__(self, connection: Any, driver: Any) -> None:
        self.connection = connection
        self.driver = driver

    async def fetch(self, sql: str) -> Rows:
        result = await done(self.connection.execute(text(sql)))
        return [tuple(row) for row in result] if result.returns_rows else []

    async def alone(self, sql: str) -> Rows:
        await done(self.connection.execution_options(isolation_level="AUTOCOMMIT"))
        try:
            return await self.fetch(sql)
        finally:
            await self.rollback()
            default = self.connection.default_isolation_level
            await done(self.connection.execution_options(isolation_level=default))

    async def commit(self) -> None:
        await done(self.connection.commit())

    async def rollback(self) -> None:
        await done(self.connection.rollback())


@asynccontextmanager
async def lend(session: Session) -> AsyncIterator[Session]:
    """
    Lend a session, and roll back what is left open.
    """
    try:
        yield session
    finally:
        await session.rollback()


@asynccontextmanager
async def psycopg_connection(
    dsn: str, *, bound: bool = True, module: Any = tenant_psycopg
) -> AsyncIterator[Checkout]:
    """
    A psycopg connection.
    """
    kind: Any = module.TenantConnection if bound else psycopg.Connection
    with kind.connect(dsn) as connection:
        yield partial(lend, PsycopgSession(connection))


@asynccontextmanager
async def psycopg_async_connection(
    dsn: str, *, bound: bool = True, module: Any = tenant_psycopg
) -> AsyncIterator[Checkout]:
    """
    An async psycopg connection.
    """
    kind: Any = module.AsyncTenantConnection if bound else psycopg.AsyncConnection
    async with await kind.connect(dsn) as connection:
        yield partial(lend, PsycopgSession(connection))


@asynccontextmanager
async def psycopg_pool_sync(dsn: str, *, bound: bool = True) -> AsyncIterator[Checkout]:
    """
    A pool of psycopg_pool.
    """
    kind: Any = tenant_psycopg.TenantConnection if bound else psycopg.Connection

    with psycopg_pool.ConnectionPool(
        dsn, connection_class=kind, min_size=1, max_size=1, open=False
    ) as pool:

        @asynccontextmanager
        async def checkout() -> AsyncIterator[Session]:
            with pool.connection() as connection:
                yield PsycopgSession(connection)

        yield checkout


@asynccontextmanager
async def psycopg_pool_async(dsn: str, *, bound: bool = True) -> AsyncIterator[Checkout]:
    """
    An async pool of psycopg_pool.
    """
    kind: Any = tenant_psycopg.AsyncTenantConnection if bound else psycopg.AsyncConnection

    async with psycopg_pool.AsyncConnectionPool(
        dsn, connection_class=kind, min_size=1, max_size=1, open=False
    ) as pool:

        @asynccontextmanager
        async def checkout() -> AsyncIterator[Session]:
            async with pool.connection() as connection:
                yield PsycopgSession(connection)

        yield checkout


@asynccontextmanager
async def asyncpg_connection(dsn: str, *, bound: bool = True) -> AsyncIterator[Checkout]:
    """
    An asyncpg connection.
    """
    connection = await (tenant_asyncpg.connect if bound else asyncpg.connect)(dsn)
    try:
        yield partial(lend, AsyncpgSession(connection))
    finally:
        await connection.close()


@asynccontextmanager
async def asyncpg_pool(dsn: str, *, bound: bool = True) -> AsyncIterator[Checkout]:
    """
    A pool of asyncpg; the plain one resets nothing either.
    """
    kind: Any = tenant_asyncpg.TenantConnection if bound else asyncpg.Connection

    async with asyncpg.create_pool(
        dsn, connection_class=kind, min_size=1, max_size=1, reset=_reset_nothing
    ) as pool:

        @asynccontextmanager
        async def checkout() -> AsyncIterator[Session]:
            async with pool.acquire() as connection, lend(AsyncpgSession(connection)) as session:
                yield session

        yield checkout


async def _reset_nothing(_connection: Any) -> None:
    pass


@asynccontextmanager
async def asyncpg_late(dsn: str, *, bound: bool = True) -> AsyncIterator[Checkout]:
    """
    An asyncpg connection whose BEGIN goes out in a way that folding does not see.
    """
    async with asyncpg_connection(dsn, bound=bound) as checkout, checkout() as session:
        connection = session.driver
        if bound:
            guarded = connection._protocol
            guarded.query = partial(_extended_query, connection, guarded.query)
        yield checkout


async def _extended_query(connection: Any, query: Any, sql: str, *timeout: Any) -> Any:
    if not sql.startswith("BEGIN"):
        return await query(sql, *timeout)
    return await connection._execute(sql.rstrip(";"), (), 0, *timeout)


@asynccontextmanager
async def sqlalchemy_sync(dsn: str, *, bound: bool = True) -> AsyncIterator[Checkout]:
    """
    An SQLAlchemy engine on psycopg.
    """
    engine = create_engine(_with_driver(dsn, "psycopg"), pool_size=1, max_overflow=0)
    if bound:
        bind_engine(engine)

    @asynccontextmanager
    async def checkout() -> AsyncIterator[Session]:
        with engine.connect() as connection:
            driver = connection.connection.driver_connection
            yield SqlalchemySession(connection, driver)

    yield checkout
    engine.dispose()


@asynccontextmanager
async def sqlalchemy_async(dsn: str, *, driver: str, bound: bool = True) -> AsyncIterator[Checkout]:
    """
    An async SQLAlchemy engine.
    """
    engine = create_async_engine(_with_driver(dsn, driver), pool_size=1, max_overflow=0)
    if bound:
        bind_engine(engine)

    @asynccontextmanager
    async def checkout() -> AsyncIterator[Session]:
        async with engine.connect() as connection:
            raw = await connection.get_raw_connection()
            yield SqlalchemySession(connection, raw.driver_connection)

    yield checkout
    await engine.dispose()


def _with_driver(dsn: str, driver: str) -> str:
    return dsn.replace("postgresql://", f"postgresql+{driver}://", 1)


Stack = Callable[..., AbstractAsyncContextManager[Checkout]]

# Those that promise to need no turn more than the plain driver.
FOLDED: dict[str, Stack] = {
    "psycopg": psycopg_connection,
    "psycopg-async": psycopg_async_connection,
    "psycopg_pool": psycopg_pool_sync,
    "psycopg_pool-async": psycopg_pool_async,
    "asyncpg": asyncpg_connection,
    "asyncpg.Pool": asyncpg_pool,
    "sqlalchemy-psycopg": sqlalchemy_sync,
    "sqlalchemy-psycopg-async": partial(sqlalchemy_async, driver="psycopg"),
    "sqlalchemy-asyncpg": partial(sqlalchemy_async, driver="asyncpg"),
}

STACKS: dict[str, Stack] = {
    **FOLDED,
    "psycopg-public": partial(psycopg_connection, module=public),
    "psycopg-public-async": partial(psycopg_async_connection, module=public),
    "asyncpg-late": asyncpg_late,
}
