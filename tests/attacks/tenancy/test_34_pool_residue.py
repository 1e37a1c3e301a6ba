"""
Attacks 34 to 39: what one tenant leaves where the next one works.

Tenants follow each other on the one connection of a pool, on six stacks; the
control is the same pool with plain connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any

import asyncpg
import httpx
import psycopg
import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, make_transient, mapped_column
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

from tests.attacks._shop import APP, MINE, A, B, attempt, run, secrets
from tests.integration.tenancy import _stacks as stacks
from tests.integration.tenancy import _storm as storms
from tests.support.serving import eventually, running
from twh_platform.errors import TenantMismatchError
from twh_platform.tenancy import Tenant, bind_tenant, current_tenant, tenant_key
from twh_platform.tenancy.postgres import TenantTable, install_sql, tenant_sql
from twh_platform.tenancy.postgres.sqlalchemy import TenantSession, bind_engine

POOLS = {
    name: stacks.FOLDED[name] for name in ("psycopg_pool", "psycopg_pool-async", "asyncpg.Pool")
}
POOLS |= {name: one for name, one in stacks.FOLDED.items() if name.startswith("sqlalchemy")}

Rows = list[tuple[Any, ...]]
REFUSED = (psycopg.Error, asyncpg.PostgresError, asyncpg.InterfaceError, DBAPIError)


async def told(session: stacks.Session, sql: str) -> Rows:
    """What a statement answers; nothing if it is refused."""
    try:
        return await session.fetch(sql)
    except REFUSED:
        with suppress(*REFUSED):  # it may have been given up
            await session.rollback()
        return []


async def after_one_another(shop, leave: str, find: str, *, bound: bool) -> list[Rows]:
    """Let b leave something, and a look for it next, on each kind of pool."""
    found = []
    for stack in POOLS.values():
        async with stack(shop.database.dsn(user=APP), bound=bound) as checkout:
            with bind_tenant(B):
                async with checkout() as session:
                    await session.fetch(leave)
                    await session.commit()
            with bind_tenant(A):
                async with checkout() as session:
                    found.append(await told(session, find))
    return found


async def leftovers(shop, attack, leave: str, find: str, seen: Rows) -> None:
    """Count on how many pools a finds what b left, plain and ours."""
    attack.control((await after_one_another(shop, leave, find, bound=False)).count(seen))
    attack.ours((await after_one_another(shop, leave, find, bound=True)).count(seen))


async def test_34_fetches_from_a_cursor_of_the_last_tenant(shop, twh_attack):
    """A cursor WITH HOLD outlives its transaction, and has its rows."""
    attack = twh_attack(number=34, title="fetches from a cursor that the last tenant held open")
    leave = "DECLARE loot CURSOR WITH HOLD FOR SELECT 'secret of b'::text"

    await leftovers(shop, attack, leave, "FETCH ALL FROM loot", [("secret of b",)])


async def test_35_reads_a_temporary_table_of_the_last_tenant(shop, twh_attack):
    """It is there until the session ends, or until it is discarded."""
    attack = twh_attack(number=35, title="reads a temporary table that the last tenant left")
    leave = "CREATE TEMP TABLE loot AS SELECT 'secret of b'::text AS body"

    await leftovers(shop, attack, leave, "SELECT body FROM loot", [("secret of b",)])


async def test_35_puts_a_temporary_table_before_a_real_one(shop, twh_attack):
    """Here it is b who attacks: a reads what b has planted under the table's name."""
    attack = twh_attack(number=35, title="puts a temporary table in front of the real one")
    leave = "CREATE TEMP TABLE orders AS SELECT 'a lie'::text AS body"

    await leftovers(shop, attack, leave, "SELECT body FROM orders", [("a lie",)])


def test_35_makes_temporary_tables_at_all(shop, twh_attack):
    """A role without TEMPORARY leaves none, whatever the pool does."""
    attack = twh_attack(number=35, title="makes a temporary table")
    make = "CREATE TEMP TABLE loot AS SELECT 1; SELECT 'loot'::regclass::text"

    with shop.ours(A) as connection:
        attack.control(attempt(connection, make).count(("loot",)))
    shop.mend("temporary-tables")
    with shop.ours(A) as connection:
        attack.ours(attempt(connection, make).count(("loot",)))


SESSION_STATE = {
    "LISTEN": ("LISTEN news", "SELECT pg_listening_channels()", [("news",)]),
    "advisory lock": (
        "SELECT pg_advisory_lock(7)",
        "SELECT objid::int FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
        [(7,)],
    ),
    "search_path": (
        "SET search_path = elsewhere, public",
        "SELECT current_setting('search_path')",
        [("elsewhere, public",)],
    ),
    "setting": (
        "SELECT set_config('app.note', 'secret of b', false)",
        "SELECT current_setting('app.note', true)",
        [("secret of b",)],
    ),
    "role": (
        "SET ROLE pg_database_owner",
        "SELECT current_user::text",
        [("pg_database_owner",)],
    ),
}


@pytest.mark.parametrize("form", SESSION_STATE)
async def test_36_inherits_the_state_of_the_session(shop, twh_attack, form):
    """What a transaction's end does not take back is scrubbed when the tenant changes."""
    attack = twh_attack(number=36, title="inherits what the last tenant left set", form=form)
    shop.plant(f"CREATE SCHEMA elsewhere; ALTER DATABASE {shop.database.name} OWNER TO {APP}")

    await leftovers(shop, attack, *SESSION_STATE[form])


async def test_36_reads_the_statements_that_others_prepared(shop, twh_attack):
    """What was made by SQL PREPARE keeps its text, with what was written into it."""
    attack = twh_attack(number=36, title="reads statements that the last tenant had prepared")
    leave = "PREPARE loot AS SELECT 'secret of b'"
    find = "SELECT statement FROM pg_prepared_statements WHERE from_sql"

    await leftovers(shop, attack, leave, find, [(leave,)])


TRUTH = "SELECT 'the truth'::text AS told"


async def replace_statement(session: stacks.Session) -> None:
    """Have another statement answer to the name under which the driver prepared one."""
    names = "SELECT name FROM pg_prepared_statements WHERE statement = '{}'"
    for (name,) in await session.fetch(names.format(TRUTH.replace("'", "''"))):
        await session.fetch(f'DEALLOCATE "{name}"')
        await session.fetch(f"PREPARE \"{name}\" AS SELECT 'a lie'::text AS told")


async def test_36_replaces_a_statement_that_the_driver_prepared(shop, twh_attack):
    """B puts a statement of its own in its place, which then runs as whoever comes next."""
    attack = twh_attack(number=36, title="lets a statement of its own run as the next tenant")

    async def fooled(*, bound: bool) -> list[str]:
        found = []
        for name, stack in POOLS.items():
            async with stack(shop.database.dsn(user=APP), bound=bound) as checkout:
                for tenant in (A, B, A):
                    with bind_tenant(tenant):
                        async with checkout() as session:
                            for _ in range(7):  # psycopg prepares at the sixth
                                rows = await told(session, TRUTH)
                            if tenant is B:
                                await replace_statement(session)
                            with suppress(*REFUSED):  # the connection was given up
                                await session.commit()
            found += [name] * (rows == [("a lie",)])
        return found

    attack.control(await fooled(bound=False))
    attack.ours(await fooled(bound=True))


def test_37_rolls_back_the_role_that_isolates(shop, twh_attack):
    """SET SESSION ROLE is undone by a rollback, and the app's own role sees all."""
    attack = twh_attack(number=37, title="reads on after an error took back the role of its tenant")
    role = shop.role("tenant_a")
    shop.plant(
        "CREATE TABLE naive AS SELECT * FROM orders; ALTER TABLE naive ENABLE ROW LEVEL SECURITY;"
        f"ALTER TABLE naive OWNER TO {APP};"
        f"CREATE POLICY own ON naive TO {role} USING (current_user LIKE '%tenant_' || tenant_id);"
        f"GRANT SELECT ON naive TO {role}; GRANT {role} TO {APP}"
    )

    def after_an_error(connection: Any, enter: str, table: str) -> tuple[int, int]:
        run(connection, enter)
        before = len(run(connection, f"SELECT body FROM {table}"))
        attempt(connection, "SELECT 1 / 0")  # it rolls back
        return before, secrets(attempt(connection, f"SELECT body FROM {table}"))

    with shop.connect() as connection:
        before, stolen = after_an_error(connection, f"SET SESSION ROLE {role}", "naive")
        assert before == MINE
        attack.control(stolen)
    with shop.ours(A) as connection:
        before, stolen = after_an_error(connection, "SELECT 1", "orders")
        assert before == MINE
        attack.ours(stolen)


REQUESTS = 400


@pytest.mark.parametrize("form", storms.STACKS)
async def test_38_cancels_at_any_moment(shop, twh_attack, form):
    """Half of the requests are cancelled at random; the control binds in a cursor hook."""
    attack = twh_attack(number=38, title="cancels requests at any await", form=form)
    shop.database.server.create_role(storms.APP)
    isolate = tenant_sql([TenantTable(name="parcels")], role=storms.APP)
    shop.plant(f"{storms.TABLE} {install_sql()}; {isolate}", owner=True)

    naive, prepare = storms.CONTROLS["before_cursor_execute"]
    report = await storms.run(shop.database, naive, prepare, count=REQUESTS)
    attack.control(report.wrong + report.residue)
    report = await storms.run(shop.database, storms.STACKS[form], count=REQUESTS)
    attack.ours(report.wrong + report.residue + report.stuck)
    assert (report.missing, report.errors) == (0, [])
    assert report.cancelled > 0


ALL_OF_NAIVE = "SELECT body FROM naive"
ALL_OF_ORDERS = "SELECT body FROM orders"
Leave = Callable[[stacks.Session], Awaitable[Any]]


async def times_out(session: stacks.Session) -> None:
    """Give the statement less time than it takes."""
    async with asyncio.timeout(0.05):
        await session.fetch("SELECT pg_sleep(60)")


async def closes_a_generator(session: stacks.Session) -> None:
    """Leave a generator that has a transaction open."""

    async def rows() -> AsyncIterator[Any]:
        for row in await session.fetch("SELECT generate_series(1, 9)"):
            yield row

    generator = rows()
    await anext(generator)
    await generator.athrow(GeneratorExit)


async def is_cancelled(session: stacks.Session) -> None:
    """Be cancelled while the server works."""
    task = asyncio.create_task(session.fetch("SELECT pg_sleep(60)"))
    await asyncio.sleep(0.05)
    task.cancel()
    await task


async def fails(session: stacks.Session) -> None:
    """Raise what is not the database's."""
    await session.fetch("SELECT 1")
    raise KeyError


WAYS_OUT = {
    "timeout": times_out,
    "GeneratorExit": closes_a_generator,
    "cancellation": is_cancelled,
    "exception": fails,
}
ASYNC_POOLS = {name: one for name, one in POOLS.items() if "async" in name}


async def left_in_the_middle(shop, way: Leave, *, bound: bool) -> int:
    """Let b leave its work in some way; count what is a's, or nobody's, to see afterwards."""
    read, stolen = (ALL_OF_ORDERS if bound else ALL_OF_NAIVE), 0
    for stack in ASYNC_POOLS.values():
        async with stack(shop.database.dsn(user=APP), bound=bound) as checkout:
            with bind_tenant(B), suppress(Exception, GeneratorExit, asyncio.CancelledError):
                async with checkout() as session:
                    if not bound:
                        await session.fetch("SELECT set_config('app.tenant_id', 'b', false)")
                        await session.commit()
                    await way(session)
            for tenant in (None, A):
                with bind_tenant(tenant):
                    async with checkout() as session:
                        stolen += secrets(await told(session, read))
    return stolen


@pytest.mark.parametrize("form", WAYS_OUT)
async def test_38_leaves_its_work_in_the_middle(shop, twh_attack, form):
    """However a request ends, the next one on the connection has nothing of it."""
    attack = twh_attack(number=38, title="leaves its work in the middle", form=form)
    shop.plant_naive()

    attack.control(await left_in_the_middle(shop, WAYS_OUT[form], bound=False))
    attack.ours(await left_in_the_middle(shop, WAYS_OUT[form], bound=True))


async def test_38_waits_for_a_connection_in_vain(shop, twh_attack):
    """A request that the pool keeps waiting leaves nothing to the one that gets in."""
    attack = twh_attack(number=38, title="gives up waiting for a connection")
    shop.plant_naive()

    async def crowded(*, bound: bool) -> int:
        read, stolen = (ALL_OF_ORDERS if bound else ALL_OF_NAIVE), 0
        for stack in ASYNC_POOLS.values():
            async with stack(shop.database.dsn(user=APP), bound=bound) as checkout:
                with bind_tenant(B):
                    async with checkout() as session:
                        await session.fetch("SELECT set_config('app.tenant_id', 'b', false)")
                        await session.commit()
                        with bind_tenant(A), suppress(TimeoutError):
                            async with asyncio.timeout(0.05), checkout():
                                pytest.fail("there is one connection only")
                for tenant in (None, A):
                    with bind_tenant(tenant):
                        async with checkout() as session:
                            stolen += secrets(await told(session, read))
        return stolen

    attack.control(await crowded(bound=False))
    attack.ours(await crowded(bound=True))


async def test_38_goes_away_in_the_middle_of_an_answer(shop, twh_attack):
    """Over HTTP: b's client hangs up while rows are streamed; the next borrower is nobody."""
    attack = twh_attack(number=38, title="hangs up in the middle of an answer")
    shop.plant_naive()

    async def hang_up(checkout: stacks.Checkout, *, bound: bool) -> int:
        gone = asyncio.Event()

        async def rows() -> AsyncIterator[str]:
            try:
                async with checkout() as session:
                    if not bound:
                        await session.fetch("SELECT set_config('app.tenant_id', 'b', false)")
                        await session.commit()
                    while True:
                        await session.fetch("SELECT 1")
                        yield "row\n"
            finally:
                gone.set()

        async def endpoint(request: Any) -> StreamingResponse:
            with bind_tenant(B):
                return StreamingResponse(rows())

        app = Starlette(routes=[Route("/", endpoint)])
        async with running(app) as port, httpx.AsyncClient() as http:
            async with http.stream("GET", f"http://127.0.0.1:{port}/") as answer:
                await anext(answer.aiter_raw())
            await eventually(lambda: asyncio.sleep(0, gone.is_set()))
        read, stolen = (ALL_OF_ORDERS if bound else ALL_OF_NAIVE), 0
        async with checkout() as session:
            stolen += secrets(await told(session, read))
        return stolen

    for bound, note in ((False, attack.control), (True, attack.ours)):
        async with POOLS["asyncpg.Pool"](shop.database.dsn(user=APP), bound=bound) as checkout:
            note(await hang_up(checkout, bound=bound))


class Base(DeclarativeBase):
    """The declarative base."""


class Order(Base):
    """A row of the shop."""

    __tablename__ = "orders"

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str]


@contextmanager
def tenant_engine(shop) -> Iterator[Engine]:
    """An engine that binds, as ours do: the fault is in the session."""
    engine = create_engine(shop.database.dsn(user=APP, scheme="postgresql+psycopg"))
    try:
        yield bind_engine(engine)
    finally:
        engine.dispose()


def take_from_memory(session: Session, loaded: Order) -> Any:
    """Ask for an object that the session has already."""
    return session.get(Order, ("b", 1))


def refer_to_it(session: Session, loaded: Order) -> Any:
    """Merge what the session has, under a key of one's own."""
    copy = session.merge(loaded)
    make_transient(copy)
    return copy


def list_all(session: Session, loaded: Order) -> Any:
    """Look at all that the session has."""
    return [one.body for one in session]


@pytest.mark.parametrize("form", ["get", "merge", "iterate"])
def test_39_asks_a_session_that_served_another(shop, twh_attack, form):
    """The identity map answers without a word to the database, so no policy is asked."""
    attack = twh_attack(number=39, title="is answered from a session's memory", form=form)
    ask = {"get": take_from_memory, "merge": refer_to_it, "iterate": list_all}[form]

    def told(kind: type[Session]) -> int:
        with tenant_engine(shop) as engine, kind(engine, expire_on_commit=False) as session:
            with bind_tenant(B):
                loaded = session.get(Order, ("b", 1))
                session.commit()
            with bind_tenant(A), suppress(TenantMismatchError):
                found = ask(session, loaded)
                return secrets([getattr(found, "body", found)])
        return 0

    attack.control(told(Session))
    attack.ours(told(TenantSession))


@pytest.mark.parametrize("form", ["add", "merge"])
def test_39_attaches_an_object_of_another(shop, twh_attack, form):
    """An object that b's request left in the process is stored for a."""
    attack = twh_attack(number=39, title="attaches an object of another to its session", form=form)

    def stored(kind: type[Session]) -> int:
        with tenant_engine(shop) as engine:
            with bind_tenant(B), kind(engine) as session:
                loaded = session.get(Order, ("b", 1))
                session.expunge_all()
            with bind_tenant(A), kind(engine) as session, suppress(TenantMismatchError):
                (session.add if form == "add" else session.merge)(loaded)
                return secrets([one.body for one in [*session, *session.new]])
        return 0

    attack.control(stored(Session))
    attack.ours(stored(TenantSession))


def profile_of(user: str) -> str:
    """What a service computes for the current tenant, at some cost."""
    tenant = current_tenant()
    assert tenant is not None
    return f"secret of {tenant.id} for {user}"


def test_39_is_answered_from_a_cache_of_the_process(twh_attack):
    """`lru_cache` knows arguments and no tenant, so the tenant has to be one."""
    attack = twh_attack(number=39, title="is answered from an lru_cache without the tenant")
    naive = lru_cache(profile_of)
    by_key = lru_cache(lambda key, user: profile_of(user))

    def asked(ask: Callable[[str], str]) -> int:
        answers = []
        for tenant in (B, A):
            with bind_tenant(tenant):
                answers.append(ask("root"))
        return answers[1].count("secret of b")

    attack.control(asked(naive))
    attack.ours(asked(lambda user: by_key(tenant_key(user), user)))


KEYS: dict[str, Callable[[str, str], str]] = {
    "no tenant": lambda _, name: f"profile-{name}",
    "delimiter": lambda tenant, name: f"profile-{tenant}-{name}",
}


@pytest.mark.parametrize("form", KEYS)
def test_39_is_answered_from_a_shared_store(twh_attack, form):
    """A key may lack the tenant, or be put together so that two tenants can make it."""
    attack = twh_attack(number=39, title="is answered from a store shared by key", form=form)
    victim = Tenant(id="a-b")

    def stolen(make: Callable[[str, str], str]) -> list[str]:
        with bind_tenant(victim):
            store = {make(victim.id, "root"): "secret of a-b"}
        with bind_tenant(A):
            return [name for name in ("root", "b-root", "b:root") if make(A.id, name) in store]

    attack.control(stolen(KEYS[form]))
    attack.ours(stolen(lambda _, name: tenant_key("profile", name)))
