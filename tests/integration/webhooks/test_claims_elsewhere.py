"""
Claims in transactions of SQLAlchemy and asyncpg.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

pytest.importorskip("psycopg_pool")
pytest.importorskip("sqlalchemy")
pytest.importorskip("asyncpg")

from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from tests.support.postgres_webhooks import APP, webhooks_database
from twh_platform.errors import WebhookError
from twh_platform.tenancy import Tenant, bind_tenant
from twh_platform.tenancy.postgres import asyncpg as tenant_asyncpg
from twh_platform.tenancy.postgres.sqlalchemy import bind_engine
from twh_platform.webhooks import Delivery
from twh_platform.webhooks.postgres import asyncpg as in_asyncpg
from twh_platform.webhooks.postgres import sqlalchemy as in_sqlalchemy

PAY = "INSERT INTO twh.payments (event) VALUES ('paid')"


@pytest.fixture
def dsn(request) -> str:
    """Where the application logs in."""
    return webhooks_database(request).dsn(user=APP)


@pytest.fixture(autouse=True)
def acme() -> Iterator[None]:
    """The tenant whose turn it is."""
    with bind_tenant(Tenant(id="acme")):
        yield


@pytest.fixture
def delivery() -> Delivery:
    """A webhook that was verified."""
    return Delivery(key=secrets.token_bytes(32), fingerprint=secrets.token_bytes(32))


def url_of(dsn: str, driver: str) -> str:
    """The address as SQLAlchemy writes it."""
    return dsn.replace("postgresql://", f"postgresql+{driver}://", 1)


def test_a_session(dsn, delivery):
    """What was rolled back is claimed again; what was committed is a replay."""
    engine = bind_engine(create_engine(url_of(dsn, "psycopg"), poolclass=NullPool))
    with Session(engine) as session:
        in_sqlalchemy.claim_in(session, delivery)
        session.rollback()
        in_sqlalchemy.claim_in(session, delivery)
        session.execute(text(PAY))
        session.commit()
        with pytest.raises(WebhookError) as again:
            in_sqlalchemy.claim_in(session, delivery)
        paid = session.scalar(text("SELECT count(*) FROM twh.payments"))
        purged = in_sqlalchemy.purge_in(session)

    assert (again.value.code, paid, purged) == ("replayed", 1, 0)


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_an_async_session(dsn, delivery, driver):
    """The same on both drivers."""
    engine = bind_engine(create_async_engine(url_of(dsn, driver), poolclass=NullPool))
    async with AsyncSession(engine) as session:
        await in_sqlalchemy.claim_in_async(session, delivery)
        await session.rollback()
        await in_sqlalchemy.claim_in_async(session, delivery)
        await session.commit()
        with pytest.raises(WebhookError) as again:
            await in_sqlalchemy.claim_in_async(session, delivery)
        purged = await in_sqlalchemy.purge_in_async(session)

    assert (again.value.code, purged) == ("replayed", 0)


async def test_asyncpg(dsn, delivery):
    """A rollback gives the claim back; a commit keeps it."""
    connection = await tenant_asyncpg.connect(dsn)
    undone = connection.transaction()
    await undone.start()
    await in_asyncpg.claim_in(connection, delivery)
    await undone.rollback()
    async with connection.transaction():
        await in_asyncpg.claim_in(connection, delivery)
    with pytest.raises(WebhookError) as again:
        async with connection.transaction():
            await in_asyncpg.claim_in(connection, delivery)
    async with connection.transaction():
        purged = await in_asyncpg.purge_in(connection)
    await connection.close()

    assert (again.value.code, purged) == ("replayed", 0)
