"""
What the database refuses, or the binding in front of it, is announced: once, on every stack.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict, fields
from typing import Any

import pytest

from tests.integration.tenancy._stacks import STACKS, Checkout
from tests.support.tenancy import heard
from twh_platform.errors import TenantMismatchError
from twh_platform.tenancy import Tenant, TenantViolation, bind_tenant, unbind_tenant
from twh_platform.tenancy.postgres import TenantTable, seal_sql, tenant_sql

from .conftest import APP, OWNER

A, B = Tenant(id="a"), Tenant(id="b")
NAMES = "SELECT name FROM things"
OTHERS_ROW = "INSERT INTO things VALUES ('b', 77, 'secret words')"

# The statement, who sends it, and what is to be told of that.
REFUSED: dict[str, tuple[str, Tenant | None, TenantViolation]] = {
    "unbound": (
        NAMES,
        None,
        TenantViolation(code="tenant_unbound", tenant_id=None, sqlstate="TW001"),
    ),
    "malformed": (
        "SELECT count(*) FROM numbered",
        Tenant(id="07"),
        TenantViolation(code="tenant_id_malformed", tenant_id="07", sqlstate="TW002"),
    ),
    "another's row": (
        OTHERS_ROW,
        A,
        TenantViolation(code="tenant_row_refused", tenant_id="a", sqlstate="42501"),
    ),
    "no grant": (
        "TRUNCATE things",
        A,
        TenantViolation(code="tenant_row_refused", tenant_id="a", sqlstate="42501"),
    ),
}


@pytest.fixture(scope="module", autouse=True)
def numbered(database) -> None:
    """
    A table of tenants with numbers.
    """
    tables = tenant_sql([TenantTable(name="numbered", column_type="integer")], role=APP)
    database.execute(f"CREATE TABLE numbered (tenant_id integer); {tables}", user=OWNER)
    database.execute("INSERT INTO numbered VALUES (7)")


@pytest.fixture(params=STACKS)
async def checkout(request: pytest.FixtureRequest, dsn: str) -> AsyncIterator[Checkout]:
    """
    Lends the one tenant connection of a stack.
    """
    async with STACKS[request.param](dsn) as checkout:
        yield checkout


def bound(tenant: Tenant | None) -> Any:
    """
    A scope of a tenant, or of none.
    """
    return unbind_tenant() if tenant is None else bind_tenant(tenant)


@pytest.mark.parametrize("name", REFUSED)
async def test_a_refusal_is_announced_once(name, checkout):
    """The code, the tenant and the SQLSTATE are told, once, and no more."""
    sql, tenant, expected = REFUSED[name]
    with bound(tenant), heard(TenantViolation) as told:
        async with checkout() as session:
            with pytest.raises(Exception):  # noqa: B017, PT011 -- each driver has its own
                await session.fetch(sql)
            await session.rollback()

    assert told == [expected]


async def test_outside_a_transaction_too(checkout):
    """A statement that no tenant was bound to is told, whoever is current."""
    with bind_tenant(A), heard(TenantViolation) as told:
        async with checkout() as session:
            with pytest.raises(Exception):  # noqa: B017, PT011 -- each driver has its own
                await session.alone(NAMES)

    assert told == [TenantViolation(code="tenant_unbound", tenant_id="a", sqlstate="TW001")]


async def test_a_switch_in_a_transaction_is_announced(checkout):
    """The binding tells who came into another tenant's transaction."""
    async with checkout() as session:
        with bind_tenant(A):
            await session.fetch(NAMES)
        refused = pytest.raises(TenantMismatchError)
        with bind_tenant(B), heard(TenantViolation) as told, refused:
            await session.fetch(NAMES)
        with bind_tenant(A):
            await session.rollback()

    expected = TenantViolation(code="tenant_switched_in_transaction", tenant_id="b", sqlstate="")
    assert told == [expected]


async def test_each_of_several_is_announced(checkout):
    """A second refusal is no echo of the first."""
    with bind_tenant(A), heard(TenantViolation) as told:
        async with checkout() as session:
            for _ in range(2):
                with pytest.raises(Exception):  # noqa: B017, PT011 -- each driver has its own
                    await session.fetch(OTHERS_ROW)
                await session.rollback()

    assert [one.sqlstate for one in told] == ["42501", "42501"]


async def test_other_errors_are_not_announced(checkout):
    """A mistake in a statement is nobody's violation."""
    with bind_tenant(A), heard(TenantViolation) as told:
        async with checkout() as session:
            for sql in ("SELECT 1 / 0", "SELECT no_such_column", f"{OTHERS_ROW} oops"):
                with pytest.raises(Exception):  # noqa: B017, PT011 -- each driver has its own
                    await session.fetch(sql)
                await session.rollback()

    assert told == []


async def test_nothing_of_a_row_is_told(checkout):
    """What was to be written, and where, is not in the announcement."""
    with bind_tenant(A), heard(TenantViolation) as told:
        async with checkout() as session:
            with pytest.raises(Exception):  # noqa: B017, PT011 -- each driver has its own
                await session.fetch(OTHERS_ROW)
            await session.rollback()

    assert [field.name for field in fields(told[0])] == ["code", "tenant_id", "sqlstate"]
    assert not {"secret", "things", "77"} & set(" ".join(asdict(told[0]).values()).split())


async def test_a_token_that_is_not_believed_is_announced(checkout, database):
    """In a sealed database a tenant without a seal is refused, and that is told."""
    database.execute(seal_sql(), user=OWNER)
    try:
        with bind_tenant(A), heard(TenantViolation) as told:
            async with checkout() as session:
                with pytest.raises(Exception):  # noqa: B017, PT011 -- each driver has its own
                    await session.fetch(NAMES)
                await session.rollback()
    finally:
        database.execute(UNSEAL, user=OWNER)

    assert told == [TenantViolation(code="tenant_seal_invalid", tenant_id="a", sqlstate="TW003")]


UNSEAL = """
DROP TABLE twh.seal_keys;
CREATE OR REPLACE FUNCTION twh.current_tenant() RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN coalesce(nullif(pg_catalog.current_setting('twh.tenant_id', true), ''),
        twh.raise_no_tenant());
"""
