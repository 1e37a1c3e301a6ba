"""
Every way to reach the pooler: the stacks of the storms, and those that block.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from sqlalchemy import create_engine

from tests.integration.tenancy._stacks import (
    Checkout,
    PsycopgSession,
    Session,
    SqlalchemySession,
    lend,
)
from tests.integration.tenancy._storm import NONE, STACKS, Options, Stack
from twh_platform.tenancy.postgres.psycopg import TenantConnection
from twh_platform.tenancy.postgres.sqlalchemy import bind_engine

__all__ = ["EVERY", "OPTIONS"]

# asyncpg's own pool connects without asking us.
OPTIONS: dict[str, Mapping[str, Any]] = {"asyncpg.Pool": {"statement_cache_size": 0}}


@asynccontextmanager
async def psycopg_blocking(
    dsn: str, *, options: Options = NONE, **settings: Any
) -> AsyncIterator[Checkout]:
    """
    A connection of psycopg that is not async.
    """
    with TenantConnection.using(**settings).connect(dsn, **options) as connection:
        yield partial(lend, PsycopgSession(connection))


@asynccontextmanager
async def sqlalchemy_blocking(
    dsn: str, *, options: Options = NONE, **settings: Any
) -> AsyncIterator[Checkout]:
    """
    An engine of SQLAlchemy that is not async.
    """
    url = dsn.replace("postgresql://", "postgresql+psycopg://", 1)
    engine = bind_engine(create_engine(url, connect_args=dict(options)), **settings)

    @asynccontextmanager
    async def checkout() -> AsyncIterator[Session]:
        with engine.connect() as connection:
            yield SqlalchemySession(connection, connection.connection.driver_connection)

    yield checkout
    engine.dispose()


EVERY: dict[str, Stack] = {
    **STACKS,
    "psycopg, blocking": psycopg_blocking,
    "SQLAlchemy + psycopg, blocking": sqlalchemy_blocking,
}
