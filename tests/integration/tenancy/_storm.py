"""
A storm of requests that are cancelled anywhere, over every driver.

Twenty tenants share four connections.  About half of the requests are
cancelled, within milliseconds after they got a connection.  Each reads, may
write, may commit or roll back in between, may leave a session setting, and
reads again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import asyncpg
import psycopg
import psycopg_pool
from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine

from tests.integration.tenancy._stacks import (
    AsyncpgSession,
    Checkout,
    PsycopgSession,
    Session,
    SqlalchemySession,
)
from twh_platform.tenancy import Tenant, bind_tenant, current_tenant, require_tenant
from twh_platform.tenancy.postgres import asyncpg as tenant_asyncpg
from twh_platform.tenancy.postgres import psycopg as tenant_psycopg
from twh_platform.tenancy.postgres.sqlalchemy import bind_engine
from twh_platform.testing import PostgresDatabase

APP, OWNER = "twh_test_app", "twh_test_owner"
TENANTS = [Tenant(id=f"t{number:02}") for number in range(20)]
ROWS_EACH, CONNECTIONS, AT_ONCE = 3, 4, 12
REQUESTS, REQUESTS_OF_A_CONTROL = 4000, 800
SEED = 20_261_122
PATIENCE = 0.004  # seconds until the last cancellation

# What asyncpg tells the loop of each transaction that a cancelled request leaves to its pool.
_LEFT_OPEN = "Resetting connection with an active transaction"

READ = "SELECT tenant_id, current_setting('storm.note', true) FROM parcels WHERE name = 'seed'"
TABLE = "CREATE TABLE parcels (tenant_id text, id int, name text, PRIMARY KEY (tenant_id, id));"
UNBOUND = "SELECT nullif(current_setting('twh.tenant_id', true), '')"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """
    What one request does.
    """

    number: int
    tenant: Tenant
    cancelled_after: float | None
    writes: bool
    leaves_note: bool
    between: str | None


@dataclass(slots=True)
class Report:
    """
    What a storm did.
    """

    requests: int = 0
    cancelled: int = 0
    wrong: int = 0
    missing: int = 0
    residue: int = 0
    stuck: int = 0
    errors: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.requests} requests, {self.cancelled} cancelled, {self.wrong} wrong rows, "
            f"{self.missing} times rows missing, {self.residue} residue, {self.stuck} stuck, "
            f"{len(self.errors)} errors"
        )

    def judge(self, rows: list[tuple[Any, ...]]) -> None:
        """
        Count what does not belong to the current tenant, and what is missing.
        """
        tenant_id = require_tenant().id
        self.wrong += sum(row[0] != tenant_id for row in rows)
        self.missing += len(rows) != ROWS_EACH
        self.residue += any(row[1] not in {None, "", tenant_id} for row in rows)


def planned(count: int, patience: float) -> list[Request]:
    """
    Draw the same requests for every stack.
    """
    draw = random.Random(SEED)
    return [
        Request(
            number=number,
            tenant=draw.choice(TENANTS),
            cancelled_after=draw.uniform(0, patience) if draw.random() < 0.6 else None,
            writes=draw.random() < 0.3,
            leaves_note=draw.random() < 0.3,
            between=draw.choice(["commit", "rollback", None]),
        )
        for number in range(count)
    ]


Prepare = Callable[[Session], Awaitable[Any]]
Options = Mapping[str, Any]
NONE: Options = MappingProxyType({})


async def serve(checkout: Checkout, request: Request, report: Report, prepare: Prepare) -> None:
    """
    Carry out one request; the cancellation may strike until the connection is back.
    """
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    handle = None
    try:
        with bind_tenant(request.tenant):
            async with checkout() as session:
                if request.cancelled_after is not None:
                    handle = loop.call_later(request.cancelled_after, task.cancel)
                await prepare(session)
                await work(session, request, report)
    finally:
        if handle is not None:
            handle.cancel()


async def work(session: Session, request: Request, report: Report) -> None:
    """
    Read, write, end or not, read again.
    """
    name = request.tenant.id
    report.judge(await session.fetch(READ))
    if request.writes:
        await session.fetch(
            f"INSERT INTO parcels (id, name) VALUES ({request.number + 100}, '{name}')"
        )
    if request.leaves_note:
        await session.fetch(f"SELECT set_config('storm.note', '{name}', false)")
    if request.between:
        await getattr(session, request.between)()
    report.judge(await session.fetch(READ))
    await session.commit()


async def storm(
    checkout: Checkout, count: int, prepare: Prepare, *, patience: float = PATIENCE
) -> Report:
    """
    Send all requests, a dozen at once.
    """
    report, requests = Report(), iter(planned(count, patience))

    async def worker() -> None:
        for request in requests:
            report.requests += 1
            task = asyncio.create_task(serve(checkout, request, report, prepare))
            try:
                await task
            except asyncio.CancelledError:
                report.cancelled += 1
            except Exception as error:  # noqa: BLE001 -- all are reported
                report.errors.append(repr(error))

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return report


async def inspect(checkout: Checkout, admin: psycopg.Connection, report: Report) -> None:
    """
    Look at what the storm left: on the server, in the table, on each connection.
    """
    report.stuck += await stuck(admin)
    planted = "SELECT count(*) FROM parcels WHERE name <> 'seed' AND name <> tenant_id"
    report.wrong += admin.execute(planted).fetchall()[0][0]
    async with AsyncExitStack() as lent:
        sessions = [await lent.enter_async_context(checkout()) for _ in range(CONNECTIONS)]
        for session in sessions:
            binding = getattr(session.driver, "binding", None)
            if binding is not None and binding.pooled:
                continue  # the server's sessions are looked at, not the client's
            if binding is not None:
                binding.scrubbed()  # or the look itself would scrub
            report.residue += await session.alone(UNBOUND) != [(None,)]
    for tenant in TENANTS:
        with bind_tenant(tenant):
            async with checkout() as session:
                report.judge(await session.fetch(READ))


async def stuck(admin: psycopg.Connection) -> int:
    """
    Count the sessions that are still busy or in a transaction, after time to end.
    """
    sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s AND state <> 'idle'"
    count = 0
    for _ in range(100):
        count = admin.execute(sql, (APP,)).fetchall()[0][0]
        if not count:
            break
        await asyncio.sleep(0.05)
    return count


@asynccontextmanager
async def own_pool(
    connect: Callable[[], Awaitable[Any]],
    session: Callable[[Any], Session],
    clean: Callable[[Any], Awaitable[Any]],
) -> AsyncIterator[Checkout]:
    """
    The smallest pool: a queue; what comes back is cleaned, or replaced.
    """
    free: asyncio.Queue[Any] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        free.put_nowait(await connect())

    async def give_back(connection: Any) -> None:
        try:
            await clean(connection)
        except Exception:  # noqa: BLE001 -- whatever is wrong with it, take another
            connection = await connect()
        free.put_nowait(connection)

    @asynccontextmanager
    async def checkout() -> AsyncIterator[Session]:
        connection = await free.get()
        try:
            yield session(connection)
        finally:
            await asyncio.shield(asyncio.create_task(give_back(connection)))

    yield checkout
    while not free.empty():
        await free.get_nowait().close()


def psycopg_connections(
    dsn: str, *, options: Options = NONE, **settings: Any
) -> AbstractAsyncContextManager[Checkout]:
    """
    Async connections of psycopg.
    """
    connect = partial(
        tenant_psycopg.AsyncTenantConnection.using(**settings).connect, dsn, **options
    )
    return own_pool(connect, PsycopgSession, lambda it: it.rollback())


@asynccontextmanager
async def psycopg_pools(
    dsn: str, *, bound: bool = True, options: Options = NONE, **settings: Any
) -> AsyncIterator[Checkout]:
    """
    An async pool of psycopg_pool.
    """
    kind: Any = psycopg.AsyncConnection
    async with psycopg_pool.AsyncConnectionPool(
        dsn,
        kwargs=dict(options),
        connection_class=tenant_psycopg.AsyncTenantConnection.using(**settings) if bound else kind,
        min_size=CONNECTIONS,
        max_size=CONNECTIONS,
        open=False,
    ) as pool:

        @asynccontextmanager
        async def checkout() -> AsyncIterator[Session]:
            async with pool.connection() as connection:
                yield PsycopgSession(connection)

        yield checkout


def asyncpg_connections(
    dsn: str, *, options: Options = NONE, **settings: Any
) -> AbstractAsyncContextManager[Checkout]:
    """
    Connections of asyncpg.
    """
    kind = tenant_asyncpg.TenantConnection.using(**settings)
    connect = partial(tenant_asyncpg.connect, dsn, connection_class=kind, **options)
    return own_pool(connect, AsyncpgSession, lambda it: it.reset(timeout=10))


@asynccontextmanager
async def asyncpg_pools(
    dsn: str, *, options: Options = NONE, **settings: Any
) -> AsyncIterator[Checkout]:
    """
    A pool of asyncpg.
    """
    async with asyncpg.create_pool(
        dsn,
        connection_class=tenant_asyncpg.TenantConnection.using(**settings),
        min_size=CONNECTIONS,
        max_size=CONNECTIONS,
        **options,
    ) as pool:

        @asynccontextmanager
        async def checkout() -> AsyncIterator[Session]:
            async with pool.acquire() as connection:
                yield AsyncpgSession(connection)

        yield checkout


@asynccontextmanager
async def sqlalchemy_engines(
    dsn: str,
    *,
    driver: str,
    adapt: Callable[..., Any] = bind_engine,
    options: Options = NONE,
    **settings: Any,
) -> AsyncIterator[Checkout]:
    """
    An async engine of SQLAlchemy.
    """
    url = dsn.replace("postgresql://", f"postgresql+{driver}://", 1)
    connect = dict(options)
    engine = create_async_engine(url, pool_size=CONNECTIONS, max_overflow=0, connect_args=connect)
    adapt(engine, **settings)

    @asynccontextmanager
    async def checkout() -> AsyncIterator[Session]:
        async with engine.connect() as connection:
            raw = await connection.get_raw_connection()
            yield SqlalchemySession(connection, raw.driver_connection)

    yield checkout
    await engine.dispose()


def bind_by_cursor_hook(engine: Any) -> None:
    """
    Bind the way that is found in many a blog: when the tenant seems to have changed.
    """

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def bind(connection: Any, cursor: Any, *_: Any) -> None:
        tenant = current_tenant()
        if tenant is not None and connection.info.get("tenant") != tenant.id:
            connection.info["tenant"] = tenant.id
            cursor.execute(f"SELECT set_config('twh.tenant_id', '{tenant.id}', false)")


async def bind_by_session_setting(session: Session) -> None:
    """
    Bind once per checkout, for the session.
    """
    await session.fetch(f"SELECT set_config('twh.tenant_id', '{require_tenant().id}', false)")


async def bind_nothing(_session: Session) -> None:
    """
    The connection binds.
    """


Stack = Callable[..., AbstractAsyncContextManager[Checkout]]

STACKS: dict[str, Stack] = {
    "psycopg": psycopg_connections,
    "psycopg_pool": psycopg_pools,
    "asyncpg": asyncpg_connections,
    "asyncpg.Pool": asyncpg_pools,
    "SQLAlchemy + psycopg": partial(sqlalchemy_engines, driver="psycopg"),
    "SQLAlchemy + asyncpg": partial(sqlalchemy_engines, driver="asyncpg"),
}

CONTROLS: dict[str, tuple[Stack, Prepare]] = {
    "session-level set_config": (partial(psycopg_pools, bound=False), bind_by_session_setting),
    "before_cursor_execute": (
        partial(sqlalchemy_engines, driver="asyncpg", adapt=bind_by_cursor_hook),
        bind_nothing,
    ),
}


async def run(
    parcels: PostgresDatabase,
    stack: Stack,
    prepare: Prepare = bind_nothing,
    *,
    count: int = REQUESTS,
    dsn: str = "",
    patience: float = PATIENCE,
) -> Report:
    """
    Raise a storm on a fresh table and report.

    Args:
        parcels: The database.

        stack: How to reach it.

        prepare: What each request does first.

        count: How many requests.

        dsn: Where to reach it, if not directly.

        patience: Seconds within which the cancellations strike.
    """
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, it: complaints.append(it))
    with psycopg.connect(parcels.dsn(), autocommit=True) as admin:
        admin.execute("TRUNCATE parcels")
        admin.cursor().executemany(
            "INSERT INTO parcels VALUES (%s, %s, 'seed')",
            [(tenant.id, n) for tenant in TENANTS for n in range(ROWS_EACH)],
        )
        async with stack(dsn or parcels.dsn(user=APP)) as checkout:
            report = await storm(checkout, count, prepare, patience=patience)
            await inspect(checkout, admin, report)
    report.errors += [str(one) for one in complaints if not one["message"].startswith(_LEFT_OPEN)]
    return report
