"""
Tenant connections as a service author opens them; checked, never run.
"""

from __future__ import annotations

from typing import assert_type

import asyncpg
import psycopg
import psycopg_pool
from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from twh_platform.tenancy import Tenant, bind_tenant
from twh_platform.tenancy.postgres import UNBOUND_SQLSTATE, TenantTable, install_sql, tenant_sql
from twh_platform.tenancy.postgres import asyncpg as tenant_asyncpg
from twh_platform.tenancy.postgres.psycopg import AsyncTenantConnection, TenantConnection
from twh_platform.tenancy.postgres.sqlalchemy import bind_engine

ACME = Tenant(id="acme")

TABLES = [
    TenantTable(name="items", keys=[("sku",)], indexes=[("made_at", "id")]),
    TenantTable(name="moves", schema="ledger", column="owner", privileges=["SELECT", "INSERT"]),
    TenantTable(name="legacy", column_type="uuid"),
]
assert_type(install_sql() + tenant_sql(TABLES, role="app"), str)
assert_type(UNBOUND_SQLSTATE, str)


def psycopg_connection(dsn: str) -> None:
    """
    A tenant connection is a psycopg connection.
    """
    with bind_tenant(ACME), TenantConnection.connect(dsn) as connection:
        assert_type(connection, TenantConnection)
        plain: psycopg.Connection = connection
        with plain.transaction():
            plain.execute("SELECT 1")


def psycopg_pools(dsn: str) -> psycopg_pool.ConnectionPool[TenantConnection]:
    """
    A pool knows what it lends.
    """
    return psycopg_pool.ConnectionPool(dsn, connection_class=TenantConnection, open=False)


async def psycopg_async_pool(dsn: str) -> None:
    """
    So does an async one.
    """
    async with (
        psycopg_pool.AsyncConnectionPool(
            dsn, connection_class=AsyncTenantConnection, open=False
        ) as pool,
        pool.connection() as connection,
    ):
        assert_type(connection, AsyncTenantConnection)


async def asyncpg_connections(dsn: str) -> None:
    """
    Connections and pools of asyncpg, which has no types of its own.
    """
    connection = await tenant_asyncpg.connect(dsn)
    assert_type(connection, tenant_asyncpg.TenantConnection)
    async with connection.transaction(isolation="serializable", readonly=True):
        pass
    await asyncpg.create_pool(dsn, connection_class=tenant_asyncpg.TenantConnection)


def engines(dsn: str) -> None:
    """
    An engine comes back as what it was.
    """
    assert_type(bind_engine(create_engine(dsn)), Engine)
    assert_type(bind_engine(create_async_engine(dsn)), AsyncEngine)
