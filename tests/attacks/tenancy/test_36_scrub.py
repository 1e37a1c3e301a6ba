"""
Attack 36, on the scrub itself: what a tenant leaves so that the scrub fails, waits or serves it.

The control is the scrub, or the connection, in the form that fell for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.attacks._shop import APP, A, B, run, secrets
from tests.attacks.tenancy.test_34_pool_residue import POOLS, REFUSED, told
from twh_platform.tenancy import bind_tenant
from twh_platform.tenancy.postgres import _binding
from twh_platform.tenancy.postgres.asyncpg import connect as connect_asyncpg
from twh_platform.tenancy.postgres.psycopg import AsyncTenantConnection, TenantConnection
from twh_platform.tenancy.postgres.sqlalchemy import bind_engine

ALL = "SELECT body FROM orders"
LOOT = "SELECT body FROM loot"


async def work(session: Any, *statements: str) -> None:
    """Carry statements out, and commit."""
    for sql in statements:
        await session.fetch(sql)
    await session.commit()


def plant_scrub(monkeypatch: pytest.MonkeyPatch, ours: str, naive: str) -> None:
    """Let connections that are made from now on scrub as the control does."""
    assert ours in _binding._SCRUB
    monkeypatch.setattr(_binding, "_SCRUB", _binding._SCRUB.replace(ours, naive))


# A cast to their own type runs their code; theirs is a domain over the real one.
TRAP = (
    "PREPARE bait AS SELECT 1",
    """
    CREATE FUNCTION pg_temp.sprung(taken pg_catalog.text) RETURNS boolean LANGUAGE plpgsql AS $$
    DECLARE
        known pg_catalog.text;
    BEGIN
        FOR known IN SELECT name FROM pg_catalog.pg_prepared_statements
            WHERE NOT from_sql AND statement = 'SELECT body FROM orders' AND taken = 'bait'
        LOOP
            EXECUTE pg_catalog.format('DEALLOCATE %I', known);
            EXECUTE pg_catalog.format('PREPARE %I AS WITH taken AS (INSERT INTO public.loot'
                ' SELECT body FROM public.orders) SELECT body FROM public.orders', known);
        END LOOP;
        RETURN true;
    END
    $$
    """,
    "CREATE DOMAIN pg_temp.text AS pg_catalog.text CHECK (pg_temp.sprung(VALUE))",
)


@pytest.mark.parametrize("form", POOLS)
async def test_36_has_the_scrub_run_its_code(shop, twh_attack, form, monkeypatch):
    """The code replaces what the driver had prepared, when the scrub has looked at it."""
    attack = twh_attack(number=36, title="has the scrub run code of its own", form=form)
    shop.plant(f"CREATE TABLE loot (body text); GRANT SELECT, INSERT ON loot TO {APP}")

    async def stolen() -> int:
        async with POOLS[form](shop.database.dsn(user=APP)) as checkout:
            for tenant, statements in ((A, [ALL] * 7), (A, TRAP), (B, [ALL])):
                with bind_tenant(tenant):
                    async with checkout() as session:
                        await work(session, *statements)
            with bind_tenant(A):
                async with checkout() as session:
                    return secrets(await told(session, LOOT))

    attack.ours(await stolen())
    plant_scrub(monkeypatch, "made pg_catalog.text", "made text")
    attack.control(await stolen())


TRIES = 3


async def refusals(checkout: Any, sql: str) -> int:
    """Count how often b, asking some times, is refused after the first time."""
    refused = 0
    for _ in range(TRIES + 1):
        with bind_tenant(B):
            async with checkout() as session:
                refused += not await told(session, sql)
    return max(0, refused - 1)


@pytest.mark.parametrize("form", POOLS)
async def test_36_makes_the_scrub_fail_for_ever(shop, twh_attack, form, monkeypatch):
    """A lock on its temporary table, held elsewhere, fails the scrub each time it is tried."""
    attack = twh_attack(number=36, title="makes the scrub of a connection fail", form=form)
    shop.plant(f"ALTER ROLE {APP} SET lock_timeout = '100ms'")
    leave = ("CREATE TEMP TABLE mine ()", "SELECT pg_my_temp_schema()::regnamespace::text")

    async def refused() -> int:
        async with POOLS[form](shop.database.dsn(user=APP)) as checkout:
            with bind_tenant(A):
                async with checkout() as session:
                    [[schema]] = [await session.fetch(one) for one in leave][-1]
                    await session.commit()
            with shop.connect() as elsewhere:
                run(elsewhere, f"LOCK TABLE {schema}.mine")
                return await refusals(checkout, ALL)

    attack.ours(await refused())
    # Nobody hears that it was the scrub which failed, so the connection is kept.
    ignored = property(lambda _: False, lambda *_: None)
    monkeypatch.setattr(_binding.TransactionBinding, "scrubbing", ignored)
    attack.control(await refused())


WAITS = (
    "SET default_transaction_isolation = 'serializable'",
    "SET default_transaction_read_only = on",
    "SET default_transaction_deferrable = on",
)


@pytest.mark.parametrize("form", POOLS)
async def test_36_makes_the_scrub_wait(shop, twh_attack, form, monkeypatch):
    """Such a transaction waits until no other writes; the control is cut off while it does."""
    attack = twh_attack(number=36, title="makes the scrub wait for its own transaction", form=form)
    shop.plant(f"ALTER ROLE {APP} SET statement_timeout = '1s'")

    async def kept_waiting() -> int:
        async with POOLS[form](shop.database.dsn(user=APP)) as checkout:
            with bind_tenant(A):
                async with checkout() as session:
                    await work(session, *WAITS)
            with shop.connect() as elsewhere, bind_tenant(B):
                elsewhere.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
                run(elsewhere, "SELECT pg_current_xact_id()")
                async with checkout() as session:
                    return not await told(session, ALL)

    attack.ours(await kept_waiting())
    plant_scrub(monkeypatch, "BEGIN ISOLATION LEVEL READ COMMITTED", "BEGIN")
    attack.control(await kept_waiting())


NEWS = "SELECT 'news'::text AS told"
WAYS = {"in transactions": "fetch", "outside of them": "alone"}


@pytest.mark.parametrize("form", WAYS)
async def test_36_breaks_a_statement_for_ever(shop, twh_attack, form):
    """The driver asks for what is gone, each time, unless its connection is given up."""
    attack = twh_attack(
        number=36, title="takes a statement away that the driver prepared", form=form
    )
    drop = "DO $$ BEGIN DEALLOCATE ALL; END $$"

    async def refused(*, bound: bool) -> int:
        failed = 0
        for stack in POOLS.values():
            async with stack(shop.database.dsn(user=APP), bound=bound) as checkout:
                for tenant, statements in ((B, [NEWS] * 7), (A, [drop])):
                    with bind_tenant(tenant):
                        async with checkout() as session:
                            for sql in statements:
                                await getattr(session, WAYS[form])(sql)
                            await session.commit()
                failed += await refused_later(checkout, WAYS[form])
        return failed

    attack.control(await refused(bound=False))
    attack.ours(await refused(bound=True))


async def refused_later(checkout: Any, way: str) -> int:
    """Count how often b is refused the news after the first time."""
    refused = 0
    for again in range(TRIES + 1):
        with bind_tenant(B), contextlib.suppress(*REFUSED, asyncpg.InterfaceError):
            refused += again > 0
            async with checkout() as session:
                refused -= again > 0 and bool(await getattr(session, way)(NEWS))
    return refused


WRITE = "INSERT INTO orders (id, body) VALUES (9, 'b has paid')"
LOSE = "EXECUTE nothing_that_is_prepared"


class Impatient(TenantConnection):
    """The control: it ends at once, also a transaction that could still be committed."""

    def _give_up(self) -> None:
        self.pgconn.finish()


async def by_psycopg(dsn: str, kind: Any = TenantConnection) -> None:
    """Write, and tolerate an error in a savepoint."""
    with kind.connect(dsn) as connection, connection.transaction():
        connection.execute(WRITE)
        with contextlib.suppress(psycopg.Error), connection.transaction():
            connection.execute(LOSE)


async def by_async_psycopg(dsn: str) -> None:
    """Write, and tolerate an error in a savepoint."""
    async with await AsyncTenantConnection.connect(dsn) as connection, connection.transaction():
        await connection.execute(WRITE)
        with contextlib.suppress(psycopg.Error):
            async with connection.transaction():
                await connection.execute(LOSE)


async def by_asyncpg(dsn: str) -> None:
    """Write, and tolerate an error in a savepoint."""
    connection = await connect_asyncpg(dsn)
    async with connection.transaction():
        await connection.execute(WRITE)
        with contextlib.suppress(asyncpg.PostgresError):
            async with connection.transaction():
                await connection.execute(LOSE)
    await connection.close()
