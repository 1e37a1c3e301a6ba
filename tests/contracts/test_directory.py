"""
What every tenant directory does, in memory and in PostgreSQL.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime

import psycopg
import pytest
from psycopg.types.json import Jsonb

from twh_platform.tenancy import (
    CachedTenantDirectory,
    MemoryTenantDirectory,
    Tenant,
    TenantDirectory,
    bind_tenant,
)
from twh_platform.tenancy.postgres.directory import (
    PostgresTenantDirectory,
    directory_pool,
    directory_sql,
)
from twh_platform.testing import PostgresDatabase

Put = Callable[[Tenant], Awaitable[None]]
Subject = tuple[TenantDirectory, Put]

INSERT = """
INSERT INTO twh.tenants (id, tier, status, kind, expires_at, time_zone, attributes)
VALUES (%s, %s, %s, %s, %s, %s, %s)
"""


@pytest.fixture(scope="module")
def database(twh_database: PostgresDatabase) -> PostgresDatabase:
    """A database with the table of tenants."""
    twh_database.server.create_role("twh_test_directory")
    twh_database.execute(directory_sql(role="twh_test_directory"), user="twh_test_owner")
    return twh_database


async def in_memory() -> AsyncIterator[Subject]:
    """The directory in memory."""
    directory = MemoryTenantDirectory()

    async def put(tenant: Tenant) -> None:
        directory.put(tenant)

    yield directory, put


async def in_postgres(database: PostgresDatabase) -> AsyncIterator[Subject]:
    """The directory in PostgreSQL, written by the owner, read by its own role."""
    dsn = database.dsn(user="twh_test_directory")

    async def put(tenant: Tenant) -> None:
        row = (tenant.id, tenant.tier, tenant.status, tenant.kind, tenant.expires_at)
        row += (tenant.time_zone, Jsonb(dict(tenant.attributes)))
        async with await psycopg.AsyncConnection.connect(
            database.dsn(user="twh_test_owner")
        ) as connection:
            await connection.execute(INSERT, row)

    async with directory_pool(dsn) as pool:
        yield PostgresTenantDirectory(pool), put
    database.execute("TRUNCATE twh.tenants", user="twh_test_owner")


@pytest.fixture(params=["memory", "postgres", "cached postgres"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    """A directory and a way to put a tenant into it."""
    if request.param == "memory":
        made = in_memory()
    else:
        made = in_postgres(request.getfixturevalue("database"))
    async for directory, put in made:
        cached = request.param.startswith("cached")
        yield CachedTenantDirectory(directory) if cached else directory, put


FULL = Tenant(
    id="acme-1_A",
    tier="growth",
    status="suspended",
    kind="sandbox",
    expires_at=datetime(2031, 2, 3, 4, 5, 6, 789, tzinfo=UTC),
    time_zone="Europe/Lisbon",
    attributes={"seats": 7, "flags": ["a", None], "name": "Açme ☂"},
)


@pytest.mark.parametrize("tenant", [Tenant(id="plain"), FULL, Tenant(id="a" * 64)])
async def test_a_tenant_comes_back_as_it_went_in(tenant, subject):
    """Every field, whatever its status: serving it is decided elsewhere."""
    directory, put = subject
    await put(tenant)

    assert await directory.get(tenant.id) == tenant


async def test_an_unknown_tenant_is_none(subject):
    """Not an error: the question was answered."""
    directory, _put = subject

    assert await directory.get("nobody") is None


async def test_only_exactly_this_id_is_found(subject):
    """No folding of case, no patterns, no padding."""
    directory, put = subject
    await put(Tenant(id="acme"))

    for near in ("Acme", "ACME", "acm_", "acm", "acme-", "a%"):
        assert await directory.get(near) is None


async def test_the_current_tenant_does_not_matter(subject):
    """A look-up comes before a tenant is known, and sees all of them."""
    directory, put = subject
    await put(Tenant(id="acme"))
    with bind_tenant(Tenant(id="globex")):
        found = await directory.get("acme")

    assert found == Tenant(id="acme")
