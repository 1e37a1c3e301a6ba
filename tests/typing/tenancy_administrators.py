"""
Work across tenants as a service author writes it; checked, never run.
"""

from __future__ import annotations

from functools import partial
from typing import assert_type

import asyncpg
import psycopg
import psycopg_pool
from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from twh_platform import subscribe
from twh_platform.errors import AdministratorError, TenantError
from twh_platform.tenancy import (
    AdministratorEntered,
    AdministratorLeft,
    administrator,
    current_administrator,
)
from twh_platform.tenancy.postgres import TenantTable, administrator_sql
from twh_platform.tenancy.postgres import asyncpg as tenant_asyncpg
from twh_platform.tenancy.postgres.psycopg import (
    AdministratorConnection,
    AsyncAdministratorConnection,
)
from twh_platform.tenancy.postgres.sqlalchemy import bind_administrator_engine

TABLES = [TenantTable(name="items")]
assert_type(administrator_sql(TABLES, role="support", privileges=("SELECT", "UPDATE")), str)


def write_down(entered: AdministratorEntered) -> None:
    """
    A record that is called.
    """
    assert_type(entered.access_id, str)


async def write_down_later(entered: AdministratorEntered) -> int:
    """
    A record that is awaited; what it returns does not matter.
    """
    return len(entered.reason)


def statements() -> None:
    """
    Both are named; the access is a value.
    """
    with administrator(actor="ada", reason="ticket 4711", record=write_down) as entered:
        assert_type(entered, AdministratorEntered)
        assert_type(current_administrator(), AdministratorEntered | None)
    recorded = partial(administrator, record=write_down)
    with recorded(actor="ada", reason="ticket 4711"):
        pass


async def awaited() -> None:
    """
    The same in async code.
    """
    async with administrator(actor="ada", reason="why", record=write_down_later) as entered:
        assert_type(entered, AdministratorEntered)


def listens() -> None:
    """
    How it ended.
    """

    def told(left: AdministratorLeft) -> None:
        assert_type(left.duration, float)
        assert_type(left.error, str | None)

    subscribe(AdministratorLeft, told)


def psycopg_connection(dsn: str) -> None:
    """
    An administrators' connection is a psycopg connection.
    """
    with AdministratorConnection.connect(dsn) as connection:
        assert_type(connection, AdministratorConnection)
        plain: psycopg.Connection = connection
        plain.execute("SELECT 1")


def pools(dsn: str) -> psycopg_pool.AsyncConnectionPool[AsyncAdministratorConnection]:
    """
    A pool knows what it lends.
    """
    kind = AsyncAdministratorConnection
    return psycopg_pool.AsyncConnectionPool(dsn, connection_class=kind, open=False)


async def asyncpg_connection(dsn: str) -> None:
    """
    The class is passed on.
    """
    await asyncpg.connect(dsn, connection_class=tenant_asyncpg.AdministratorConnection)


def engines(dsn: str) -> None:
    """
    An engine comes back as what it was.
    """
    assert_type(bind_administrator_engine(create_engine(dsn)), Engine)
    assert_type(bind_administrator_engine(create_async_engine(dsn), pooled=True), AsyncEngine)


def refused() -> None:
    """
    It is one of the errors of tenancy.
    """
    try:
        statements()
    except AdministratorError as error:
        base: TenantError = error
        assert_type(base.code, str)
