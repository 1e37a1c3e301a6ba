"""
Every driver behind one small interface: a transaction, a statement, and capacity.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from twh_platform.quotas.postgres import asyncpg as capacity_asyncpg
from twh_platform.quotas.postgres import psycopg as capacity_psycopg
from twh_platform.quotas.postgres import sqlalchemy as capacity_sqlalchemy
from twh_platform.tenancy.postgres import asyncpg as tenant_asyncpg
from twh_platform.tenancy.postgres import psycopg as tenant_psycopg
from twh_platform.tenancy.postgres.sqlalchemy import bind_engine

Rows = list[tuple[Any, ...]]


async def done(result: Any) -> Any:
    """Give the result of a call that a driver has as sync and as async."""
    return await result if inspect.isawaitable(result) else result


class Line:
    """
    One connection of one driver.
    """

    def __init__(self, capacity: Any, work: Any) -> None:
        self.capacity = capacity
        self.work = work

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """A method of the capacity, on this connection."""
        method = getattr(self.capacity, name)

        async def call(*arguments: Any, **options: Any) -> Any:
            return await done(method(self.work, *arguments, **options))

        return call

    async def sql(self, statement: str) -> Rows:
        """Run a statement."""
        if isinstance(self.work, tenant_asyncpg.TenantConnection):
            return [tuple(row) for row in await self.work.fetch(statement)]
        if hasattr(self.work, "pgconn"):
            cursor = await done(self.work.execute(statement))
            return await done(cursor.fetchall()) if cursor.description else []
        result = await done(self.work.execute(text(statement)))
        return [tuple(row) for row in result] if result.returns_rows else []

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """A transaction, or a savepoint within it."""
        if not hasattr(self.work, "begin_nested"):
            return _entered(self.work.transaction())
        if self.work.in_transaction():
            return _entered(self.work.begin_nested())
        return _entered(self.work.begin())


@asynccontextmanager
async def _entered(block: Any) -> AsyncIterator[None]:
    if hasattr(block, "__aenter__"):
        async with block:
            yield
    else:
        with block:
            yield


@asynccontextmanager
async def psycopg_line(dsn: str, **settings: Any) -> AsyncIterator[Line]:
    """A psycopg connection."""
    with tenant_psycopg.TenantConnection.using(**settings).connect(dsn) as connection:
        yield Line(capacity_psycopg.PostgresCapacity(), connection)


@asynccontextmanager
async def psycopg_async_line(dsn: str, **settings: Any) -> AsyncIterator[Line]:
    """An async psycopg connection."""
    kind = tenant_psycopg.AsyncTenantConnection.using(**settings)
    async with await kind.connect(dsn) as connection:
        yield Line(capacity_psycopg.AsyncPostgresCapacity(), connection)


@asynccontextmanager
async def asyncpg_line(dsn: str, **settings: Any) -> AsyncIterator[Line]:
    """An asyncpg connection."""
    kind = tenant_asyncpg.TenantConnection.using(**settings)
    cache = {"statement_cache_size": 0} if settings.get("pooled") else {}
    connection = await tenant_asyncpg.connect(dsn, connection_class=kind, **cache)
    try:
        yield Line(capacity_asyncpg.PostgresCapacity(), connection)
    finally:
        await connection.close()


@asynccontextmanager
async def sqlalchemy_line(dsn: str, *, session: bool, **settings: Any) -> AsyncIterator[Line]:
    """SQLAlchemy on psycopg."""
    engine = bind_engine(create_engine(_on("psycopg", dsn), poolclass=NullPool), **settings)
    with Session(engine) if session else engine.connect() as work:
        yield Line(capacity_sqlalchemy.PostgresCapacity(), work)
    engine.dispose()


@asynccontextmanager
async def sqlalchemy_async_line(
    dsn: str, *, driver: str, session: bool, **settings: Any
) -> AsyncIterator[Line]:
    """SQLAlchemy, async."""
    engine = bind_engine(create_async_engine(_on(driver, dsn), poolclass=NullPool), **settings)
    made: AsyncSession | AsyncConnection = AsyncSession(engine) if session else engine.connect()
    async with made as work:
        yield Line(capacity_sqlalchemy.AsyncPostgresCapacity(), work)
    await engine.dispose()


def _on(driver: str, dsn: str) -> str:
    return dsn.replace("postgresql://", f"postgresql+{driver}://", 1)


LINES: dict[str, Callable[..., AbstractAsyncContextManager[Line]]] = {
    "psycopg": psycopg_line,
    "psycopg-async": psycopg_async_line,
    "asyncpg": asyncpg_line,
    "sqlalchemy-psycopg": partial(sqlalchemy_line, session=False),
    "sqlalchemy-psycopg-async": partial(sqlalchemy_async_line, driver="psycopg", session=False),
    "sqlalchemy-asyncpg": partial(sqlalchemy_async_line, driver="asyncpg", session=False),
    "sqlalchemy-session": partial(sqlalchemy_line, session=True),
    "sqlalchemy-async-session": partial(sqlalchemy_async_line, driver="asyncpg", session=True),
}
