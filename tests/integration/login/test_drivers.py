"""
Every driver's `verify_login` asks the same and says the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import psycopg
import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from tests.support.login_plants import APP
from twh_platform.errors import BackendUnavailableError, UnsafeLoginError
from twh_platform.tenancy import Tenant, bind_tenant
from twh_platform.tenancy.postgres import Seal, SealKey, VerifiedLogin
from twh_platform.tenancy.postgres import asyncpg as for_asyncpg
from twh_platform.tenancy.postgres import psycopg as for_psycopg
from twh_platform.tenancy.postgres import sqlalchemy as for_sqlalchemy

SEAL = Seal(SealKey(id="0000", secret=bytes(32)))

Look = Callable[..., Awaitable[VerifiedLogin]]


async def psycopg_sync(database, user=APP, **options) -> VerifiedLogin:
    """A tenant connection, in a transaction that it opens."""
    kind = for_psycopg.TenantConnection.using(seal=SEAL)
    with kind.connect(database.dsn(user=user)) as connection:
        return for_psycopg.verify_login(connection, **options)


async def psycopg_async(database, user=APP, **options) -> VerifiedLogin:
    """An asynchronous one that commits by itself."""
    kind = for_psycopg.AsyncTenantConnection.using(seal=SEAL)
    async with await kind.connect(database.dsn(user=user), autocommit=True) as connection:
        return await for_psycopg.verify_login_async(connection, **options)


async def psycopg_plain(database, user=APP, **options) -> VerifiedLogin:
    """A connection that binds nothing."""
    with psycopg.connect(database.dsn(user=user)) as connection:
        return for_psycopg.verify_login(connection, **options)


async def asyncpg_tenant(database, user=APP, **options) -> VerifiedLogin:
    """A tenant connection of asyncpg."""
    kind = for_asyncpg.TenantConnection.using(seal=SEAL)
    connection = await for_asyncpg.connect(database.dsn(user=user), connection_class=kind)
    try:
        return await for_asyncpg.verify_login(connection, **options)
    finally:
        await connection.close()


async def asyncpg_plain(database, user=APP, **options) -> VerifiedLogin:
    """A connection of asyncpg that binds nothing."""
    connection = await asyncpg.connect(database.dsn(user=user))
    try:
        return await for_asyncpg.verify_login(connection, **options)
    finally:
        await connection.close()


async def sqlalchemy_sync(database, user=APP, **options) -> VerifiedLogin:
    """An engine."""
    engine = create_engine(database.dsn(user=user, scheme="postgresql+psycopg"))
    try:
        return for_sqlalchemy.verify_login(for_sqlalchemy.bind_engine(engine, seal=SEAL), **options)
    finally:
        engine.dispose()


def sqlalchemy_async(scheme: str) -> Look:
    """An asynchronous engine of a driver."""

    async def look(database, user=APP, **options) -> VerifiedLogin:
        engine = create_async_engine(database.dsn(user=user, scheme=scheme))
        try:
            return await for_sqlalchemy.verify_login_async(
                for_sqlalchemy.bind_engine(engine, seal=SEAL), **options
            )
        finally:
            await engine.dispose()

    return look


LOOKS: dict[str, Any] = {
    "psycopg": psycopg_sync,
    "async psycopg": psycopg_async,
    "plain psycopg": psycopg_plain,
    "asyncpg": asyncpg_tenant,
    "plain asyncpg": asyncpg_plain,
    "SQLAlchemy": sqlalchemy_sync,
    "async SQLAlchemy, psycopg": sqlalchemy_async("postgresql+psycopg"),
    "async SQLAlchemy, asyncpg": sqlalchemy_async("postgresql+asyncpg"),
}


@pytest.fixture(params=LOOKS.values(), ids=LOOKS.keys())
def look(request) -> Look:
    """
    Verify a login through one driver.
    """
    return request.param


async def test_a_safe_login_passes(look, sealed):
    """With no tenant bound the login is found good."""
    verified = await look(sealed, sealed=True)

    assert (verified.login, verified.sealed) == (APP, True)


async def test_a_bound_tenant_does_not_matter(look, sealed):
    """Nor does a tenant whose token the database does not believe."""
    with bind_tenant(Tenant(id="acme")):
        assert (await look(sealed)).login == APP


async def test_an_unsafe_login_is_refused(look, sealed):
    """The superuser is refused by every driver, with the same error."""
    with pytest.raises(UnsafeLoginError) as caught:
        await look(sealed, user=sealed.server.superuser)

    assert caught.value.faults[0].code == "login_superuser"


async def test_an_accepted_fault_is_returned(look, plain):
    """A fault that is borne is no error, and not forgotten."""
    verified = await look(plain, sealed=True, accept={"seal_missing"})

    assert [one.code for one in verified.accepted] == ["seal_missing"]


async def test_a_refused_connection_is_no_fault(plain):
    """A server that cannot be reached is told as such by the engine's own connection."""
    missing = plain.dsn(user=APP, scheme="postgresql+psycopg").replace("/plain", "/missing")
    engine = create_engine(missing)
    with pytest.raises(BackendUnavailableError) as caught:
        for_sqlalchemy.verify_login(engine)

    assert caught.value.code == "login_unverified"
