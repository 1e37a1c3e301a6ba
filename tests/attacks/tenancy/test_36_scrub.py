"""
Attack 36, on the scrub itself: what a tenant leaves so that the scrub fails, waits or serves it.

The control is the scrub, or the connection, in the form that fell for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import asyncpg
import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from tests.attacks._sealed import WORKSHOP
from tests.attacks._shop import APP, A, B, run, secrets
from tests.attacks.tenancy.test_34_pool_residue import POOLS, REFUSED, told
from twh_platform.errors import TenantError
from twh_platform.tenancy import bind_tenant
from twh_platform.tenancy.postgres import _binding
from twh_platform.tenancy.postgres.asyncpg import connect as connect_asyncpg
from twh_platform.tenancy.postgres.psycopg import AsyncTenantConnection, TenantConnection
from twh_platform.tenancy.postgres.sqlalchemy import bind_engine

ALL = "SELECT body FROM orders"
LOOT = "SELECT body FROM loot"
TOLD = (*REFUSED, asyncpg.InterfaceError, SQLAlchemyError, TenantError)


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


async def refusals(checkout: Any, sql: str, way: str = "fetch") -> int:
    """Count how often b, asking three times more, is refused after the first time."""
    refused = []
    for _ in range(4):
        with bind_tenant(B), contextlib.suppress(*TOLD):
            refused.append(True)
            async with checkout() as session:
                await getattr(session, way)(sql)
            refused[-1] = False
    return sum(refused[1:])


HOSTAGE = (
    "CREATE DOMAIN pg_temp.stuck AS integer",
    "CREATE TABLE mine.hostage (kept pg_temp.stuck)",
)


begin_message = _binding.TransactionBinding.begin_message


def silent_begin(binding: _binding.TransactionBinding, begin: str) -> str:
    """The control: the driver is not told that there is a scrub in it, so it goes on."""
    message = begin_message(binding, begin)
    binding.scrubbing = False
    return message


@pytest.mark.parametrize("form", POOLS)
async def test_36_makes_the_scrub_fail_for_ever(shop, twh_attack, form, monkeypatch):
    """What the scrub drops takes a column of a table along that another session has locked."""
    attack = twh_attack(number=36, title="makes the scrub of a connection fail", form=form)
    shop.plant(f"{WORKSHOP}; ALTER ROLE {APP} SET lock_timeout = '100ms'")

    async def refused() -> int:
        async with POOLS[form](shop.database.dsn(user=APP)) as checkout:
            with bind_tenant(A):
                async with checkout() as session:
                    await work(session, *HOSTAGE)
            with shop.connect() as elsewhere:
                run(elsewhere, "LOCK TABLE mine.hostage")
                return await refusals(checkout, ALL)

    attack.ours(await refused())
    monkeypatch.setattr(_binding.TransactionBinding, "begin_message", silent_begin)
    shop.plant("DROP TABLE mine.hostage")
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
                failed += await refusals(checkout, NEWS, WAYS[form])
        return failed

    attack.control(await refused(bound=False))
    attack.ours(await refused(bound=True))


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


@contextlib.asynccontextmanager
async def engine_of(dsn: str, driver: str) -> AsyncIterator[Any]:
    """An engine that binds."""
    url = dsn.replace("postgresql", f"postgresql+{driver}", 1)
    engine = bind_engine(create_async_engine(url))
    try:
        yield engine
    finally:
        await engine.dispose()


async def by_sqlalchemy(dsn: str, driver: str = "psycopg") -> None:
    """Write, and tolerate an error in a savepoint."""
    async with engine_of(dsn, driver) as engine, engine.begin() as connection:
        await connection.execute(text(WRITE))
        with contextlib.suppress(DBAPIError):
            async with connection.begin_nested():
                await connection.execute(text(LOSE))


BLOCKS: dict[str, Callable[[str], Awaitable[None]]] = {
    "psycopg": by_psycopg,
    "psycopg, async": by_async_psycopg,
    "asyncpg": by_asyncpg,
    "SQLAlchemy, psycopg": by_sqlalchemy,
    "SQLAlchemy, asyncpg": partial(by_sqlalchemy, driver="asyncpg"),
}


@pytest.mark.parametrize("form", BLOCKS)
async def test_36_loses_what_the_next_one_writes(shop, twh_attack, form):
    """Whoever is told of no error has their work in the database."""
    attack = twh_attack(
        number=36, title="has work lost that its writer takes for committed", form=form
    )

    async def lost(write: Callable[[str], Awaitable[None]]) -> int:
        with bind_tenant(B), contextlib.suppress(*TOLD):
            await write(shop.database.dsn(user=APP))
            return not run(shop.admin, "DELETE FROM orders WHERE id = 9 RETURNING id")
        return 0

    attack.control(await lost(partial(by_psycopg, kind=Impatient)))
    attack.ours(await lost(BLOCKS[form]))
