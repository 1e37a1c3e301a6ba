"""
What one tenant leaves in a session, the next one does not find.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import asyncpg
import psycopg
import pytest
from sqlalchemy.exc import DBAPIError

from tests.integration.tenancy._stacks import STACKS, Rows, Session
from twh_platform.tenancy import Tenant, bind_tenant

A, B = Tenant(id="a"), Tenant(id="b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Residue:
    """
    Something that outlives a transaction.

    Args:
        leave: The statement that leaves it.

        probe: The statement that finds it.

        found: What the probe then answers.
    """

    leave: str
    probe: str
    found: Rows


RESIDUES = {
    "cursor WITH HOLD": Residue(
        leave="DECLARE loot CURSOR WITH HOLD FOR SELECT 'of a'",
        probe="FETCH ALL FROM loot",
        found=[("of a",)],
    ),
    "temporary table": Residue(
        leave="CREATE TEMP TABLE loot AS SELECT 'of a' AS name",
        probe="SELECT name FROM loot",
        found=[("of a",)],
    ),
    "shadow of a real table": Residue(
        leave="CREATE TEMP TABLE things AS SELECT 'spoof' AS name",
        probe="SELECT name FROM things",
        found=[("spoof",)],
    ),
    "LISTEN": Residue(
        leave="LISTEN news",
        probe="SELECT pg_listening_channels()",
        found=[("news",)],
    ),
    "advisory lock": Residue(
        leave="SELECT pg_advisory_lock(7)",
        probe="SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        " AND pid = pg_backend_pid()",
        found=[(1,)],
    ),
    "search_path": Residue(
        leave="SET search_path = pg_temp, public",
        probe="SELECT current_setting('search_path')",
        found=[("pg_temp, public",)],
    ),
    "a setting": Residue(
        leave="SET work_mem = '3MB'",
        probe="SELECT current_setting('work_mem')",
        found=[("3MB",)],
    ),
    "SET ROLE": Residue(
        leave="SET ROLE twh_test_mate",
        probe="SELECT current_user::text",
        found=[("twh_test_mate",)],
    ),
    "lastval()": Residue(
        leave="SELECT nextval('tickets')",
        probe="SELECT lastval() > 0",
        found=[(True,)],
    ),
}


@pytest.fixture(params=RESIDUES)
def residue(request: pytest.FixtureRequest) -> Residue:
    """
    One kind of residue.
    """
    return RESIDUES[request.param]


async def found(session: Session, residue: Residue) -> bool:
    """
    Tell whether the session still has it.
    """
    with suppress(psycopg.Error, asyncpg.PostgresError, DBAPIError):
        return await session.fetch(residue.probe) == residue.found
    await session.rollback()
    return False


@pytest.mark.parametrize("stack", STACKS)
async def test_switch_scrubs(stack: str, residue: Residue, dsn: str) -> None:
    """
    The next tenant's transaction finds nothing, nor does one after a ROLLBACK.
    """
    async with STACKS[stack](dsn) as checkout:
        with bind_tenant(A):
            async with checkout() as session:
                await session.fetch(residue.leave)
                await session.commit()
        with bind_tenant(B):
            async with checkout() as session:
                first = await found(session, residue)
                await session.rollback()
                second = await found(session, residue)

    assert (first, second) == (False, False)


@pytest.mark.parametrize("stack", ["psycopg", "psycopg_pool", "asyncpg", "sqlalchemy-asyncpg"])
async def test_plain_connection_leaks(stack: str, residue: Residue, dsn: str) -> None:
    """
    The control: on a plain connection each kind of residue is there.
    """
    async with STACKS[stack](dsn, bound=False) as checkout:
        async with checkout() as session:
            await session.fetch(residue.leave)
            await session.commit()
        async with checkout() as session:
            assert await found(session, residue)


@pytest.mark.parametrize("stack", STACKS)
async def test_own_residue_stays(stack: str, residue: Residue, dsn: str) -> None:
    """
    The tenant that left it finds it again.
    """
    async with STACKS[stack](dsn) as checkout:
        with bind_tenant(A):
            async with checkout() as session:
                await session.fetch(residue.leave)
                await session.commit()

                assert await found(session, residue)


@pytest.mark.parametrize("stack", STACKS)
async def test_residue_of_autocommit(stack: str, residue: Residue, dsn: str) -> None:
    """
    What was left outside a transaction is gone as well, and where nobody began one.
    """
    async with STACKS[stack](dsn) as checkout, checkout() as session:
        with bind_tenant(A):
            await session.alone(residue.leave)
        with bind_tenant(B):
            in_transaction = await found(session, residue)
            await session.rollback()
            await session.alone(residue.leave)
        with suppress(psycopg.Error, asyncpg.PostgresError, DBAPIError):
            assert await session.alone(residue.probe) != residue.found

    assert not in_transaction


@pytest.mark.parametrize("stack", STACKS)
async def test_hostile_settings(stack: str, dsn: str) -> None:
    """
    Settings that would break a BEGIN or the scrub itself do not outlive the tenant.
    """
    hostile = {
        "default_transaction_read_only": "on",
        "default_transaction_isolation": "serializable",
        "default_transaction_deferrable": "on",
        "search_path": "evil, pg_catalog",
        "statement_timeout": "1",
    }
    async with STACKS[stack](dsn) as checkout, checkout() as session:
        for name, value in hostile.items():
            with bind_tenant(A):
                await session.fetch("SELECT 1")
                await session.fetch(f"SET {name} = '{value}'" if "," not in value else _PATH)
                await session.commit()
            with bind_tenant(B):
                assert await session.fetch(f"SELECT current_setting('{name}')") != [(value,)]
                await session.fetch("INSERT INTO things (id) VALUES (7)")
                await session.rollback()


_PATH = "SET search_path = evil, pg_catalog"


MANY_TABLES = (
    "DO $$ BEGIN FOR n IN 1..60 LOOP"
    " EXECUTE 'CREATE TEMP TABLE loot' || n || ' (i int PRIMARY KEY)';"
    " END LOOP; END $$"
)


@pytest.mark.parametrize("stack", ["psycopg", "asyncpg"])
async def test_impatient_settings(stack: str, dsn: str) -> None:
    """
    The last tenant's statement_timeout does not govern the scrub, which may take long.
    """
    async with STACKS[stack](dsn) as checkout, checkout() as session:
        with bind_tenant(A):
            await session.fetch(MANY_TABLES)
            await session.fetch("SET statement_timeout = '1ms'")
            await session.commit()
        with bind_tenant(B):
            assert await session.fetch("SELECT to_regclass('pg_temp.loot1')::text") == [(None,)]
