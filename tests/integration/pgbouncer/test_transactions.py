"""
A client's transactions wander between server sessions, and each is its tenant's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import psycopg
import pytest
from sqlalchemy.exc import DBAPIError

from tests.integration.pgbouncer._every import EVERY, OPTIONS
from tests.integration.pgbouncer._holding import holding
from tests.integration.pgbouncer.conftest import House
from tests.integration.tenancy._stacks import Rows, Session
from tests.integration.tenancy._storm import NONE
from twh_platform.tenancy import Tenant, bind_tenant

A, B = Tenant(id="a"), Tenant(id="b")
NAMES = "SELECT tenant_id, name FROM parcels ORDER BY name"


@asynccontextmanager
async def opened(house: House, name: str) -> AsyncIterator[Session]:
    """
    Lend a session of one stack on an empty table.
    """
    house.database.execute("TRUNCATE parcels")
    stack = EVERY[name]
    options = OPTIONS.get(name, NONE)
    async with (
        stack(house.dsn, seal=house.seal, pooled=True, options=options) as checkout,
        checkout() as session,
    ):
        yield session
        await session.rollback()


async def process_of(session: Session) -> int:
    """
    Tell which server process has the open transaction.
    """
    return (await session.fetch("SELECT pg_backend_pid()"))[0][0]


@pytest.mark.parametrize("name", EVERY)
async def test_session_changes_between_transactions(house: House, name: str) -> None:
    """
    The next transaction is in another server session and has the same tenant.
    """
    async with opened(house, name) as session:
        with bind_tenant(A):
            first = await process_of(session)
            await session.fetch("INSERT INTO parcels (id, name) VALUES (1, 'one')")
            await session.commit()
            with holding(house, first):
                second = await process_of(session)
                rows = await session.fetch(NAMES)
                await session.commit()

    assert first != second
    assert rows == [("a", "one")]


@pytest.mark.parametrize("name", EVERY)
async def test_savepoints_and_errors(house: House, name: str) -> None:
    """
    After ROLLBACK TO and after an error the transaction, and the next one, have the tenant.
    """
    async with opened(house, name) as session:
        with bind_tenant(A):
            await session.fetch("INSERT INTO parcels (id, name) VALUES (1, 'kept')")
            await session.fetch("SAVEPOINT before")
            await session.fetch("INSERT INTO parcels (id, name) VALUES (2, 'lost')")
            with pytest.raises((psycopg.Error, asyncpg.PostgresError, DBAPIError)):
                await session.fetch("SELECT 1 / (id - 1) FROM parcels WHERE id = 1")
            await session.fetch("ROLLBACK TO SAVEPOINT before")
            assert await session.fetch(NAMES) == [("a", "kept")]
            await session.commit()
            assert await session.fetch(NAMES) == [("a", "kept")]
            await session.commit()


@pytest.mark.parametrize("name", EVERY)
async def test_unbound_is_refused(house: House, name: str) -> None:
    """
    Without a tenant there are no rows, whoever had the server session before.
    """
    async with opened(house, name) as session:
        with bind_tenant(B):
            await session.fetch("INSERT INTO parcels (id, name) VALUES (1, 'of b')")
            await session.commit()
        with pytest.raises((psycopg.Error, asyncpg.PostgresError, DBAPIError), match="tenant"):
            await session.fetch(NAMES)
        await session.rollback()
        assert await seen_by(session, A) == []


async def seen_by(session: Session, tenant: Tenant) -> Rows:
    """
    Read in a transaction of this tenant.
    """
    with bind_tenant(tenant):
        rows = await session.fetch(NAMES)
        await session.commit()
    return rows
