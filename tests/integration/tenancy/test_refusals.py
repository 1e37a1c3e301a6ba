"""
Errors of every stack have the same meaning for a client.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from tests.integration.tenancy._stacks import STACKS, Checkout
from twh_platform.tenancy import Tenant, bind_tenant, unbind_tenant
from twh_platform.tenancy.postgres import refusal_of, sqlstate_of

A = Tenant(id="a")

# A statement of tenant a, its SQLSTATE, and the code of the answer.
MEANINGS: dict[str, tuple[str, str, str | None]] = {
    "another's row": ("INSERT INTO things VALUES ('b', 77)", "42501", "tenant_refused"),
    "no grant": ("TRUNCATE things", "42501", "tenant_refused"),
    "out of time": ("SET LOCAL statement_timeout = 1; SELECT pg_sleep(9)", "57014", "away"),
    "a key that exists": ("INSERT INTO things VALUES ('a', 1)", "23505", None),
    "a mistake": ("SELECT no_such_column", "42703", None),
}


@pytest.fixture(params=STACKS)
async def checkout(request: pytest.FixtureRequest, dsn: str) -> AsyncIterator[Checkout]:
    """
    Lends the one tenant connection of a stack.
    """
    async with STACKS[request.param](dsn) as checkout:
        yield checkout


async def caught_from(checkout: Checkout, *statements: str) -> Any:
    """
    The error that the last of some statements ends with.
    """
    async with checkout() as session:
        for sql in statements[:-1]:
            await session.fetch(sql)
        with pytest.raises(Exception) as caught:  # noqa: PT011 -- each driver has its own
            await session.fetch(statements[-1])
        await session.rollback()
    return caught.value


def code_of(error: BaseException) -> str | None:
    """
    The code of the uniform answer, or None.
    """
    problem = refusal_of(error)
    return problem.code if problem else None


@pytest.mark.parametrize("name", MEANINGS)
async def test_an_error_has_its_meaning(name, checkout):
    """What a driver raises is answered by its SQLSTATE."""
    sql, state, code = MEANINGS[name]
    with bind_tenant(A):
        error = await caught_from(checkout, *sql.split("; "))

    assert sqlstate_of(error) == state
    assert code_of(error) == ("backend_unavailable" if code == "away" else code)


async def test_no_tenant_is_a_fault_of_ours(checkout):
    """A handler without a tenant is no fault of the client's."""
    with unbind_tenant():
        error = await caught_from(checkout, "SELECT name FROM things")

    assert (sqlstate_of(error), code_of(error)) == ("TW001", "internal_error")


async def test_a_lost_connection_is_no_answer(checkout, admin: psycopg.Connection):
    """A session that the server ended may be had again."""
    error: Any = None
    with bind_tenant(A):
        try:
            async with checkout() as session:
                ((pid,),) = await session.fetch("SELECT pg_backend_pid()")
                admin.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
                await session.fetch("SELECT 1")
        except Exception as one:  # noqa: BLE001 -- each driver has its own, here or on leaving
            error = one

    assert code_of(error) == "backend_unavailable"
