"""
The driver stacks, each in four ways of saying whose transaction it is.

A transaction is BEGIN, one primary key query, COMMIT, as the stack's users
write it.  *Plain* names the tenant in WHERE, on a table without policies.
*Usual* sends ``set_config(..., true)`` first, on the table with policies.
*Ours* opens tenant connections and does nothing else; *sealed* does so with a
seal, in a database that demands one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import asyncpg
import psycopg
import psycopg_pool
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from twh_platform.tenancy import bind_tenant
from twh_platform.tenancy.postgres import Seal
from twh_platform.tenancy.postgres import asyncpg as tenant_asyncpg
from twh_platform.tenancy.postgres import psycopg as tenant_psycopg
from twh_platform.tenancy.postgres.sqlalchemy import bind_engine

from ._database import TENANT
from ._measure import Variant

__all__ = ["STACKS", "Address", "Stack", "Way", "timed"]

_ID = 7
_SET = "SELECT set_config('twh.tenant_id', {}, true)"
_PLAIN = "SELECT quantity FROM plain_items WHERE tenant_id = {} AND id = {}"
_POLICED = "SELECT quantity FROM items WHERE id = {}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """
    Where a stack connects; called, it gives a DSN of the scheme asked for.

    Args:
        dsn: Makes the DSN.

        seal: What a sealed database demands.
    """

    dsn: Callable[[str], str]
    seal: Seal | None = None

    def __call__(self, scheme: str = "postgresql") -> str:
        return self.dsn(scheme)


class Way(Enum):
    """
    How a transaction learns its tenant.
    """

    PLAIN = "no RLS"
    USUAL = "set_config"
    OURS = "ours"
    SEALED = "sealed"

    @property
    def binds(self) -> bool:
        """
        Whether our connections do it.
        """
        return self in {Way.OURS, Way.SEALED}


Open = Callable[[Address, Way], contextlib.AbstractContextManager[Variant]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """
    A driver, or what stands on it.

    Args:
        name: As the tables show it.

        open: Connects; gives what runs transactions.
    """

    name: str
    open: Open


def _repeat(once: Callable[[], Any], *, backend: int, ours: bool) -> Variant:
    def run(count: int) -> list[float]:
        with bind_tenant(TENANT if ours else None):
            return [timed(once) for _ in range(count)]

    return Variant(run=run, backends=[backend])


def timed(once: Callable[[], Any]) -> float:
    """
    Run *once* and return the seconds that it took.
    """
    start = time.perf_counter()
    once()
    return time.perf_counter() - start


def _repeat_async(
    runner: asyncio.Runner, once: Callable[[], Awaitable[Any]], *, backend: int, ours: bool
) -> Variant:
    async def run(count: int) -> list[float]:
        taken = []
        with bind_tenant(TENANT if ours else None):
            for _ in range(count):
                start = time.perf_counter()
                await once()
                taken.append(time.perf_counter() - start)
        return taken

    return Variant(run=lambda count: runner.run(run(count)), backends=[backend])


def _statement(way: Way, tenant: str, item: str) -> str:
    return _PLAIN.format(tenant, item) if way is Way.PLAIN else _POLICED.format(item)


# --- psycopg


def _psycopg_class(way: Way, address: Address) -> Any:
    ours = tenant_psycopg.TenantConnection.using(seal=address.seal)
    return ours if way.binds else psycopg.Connection


def _psycopg_transaction(way: Way) -> Callable[[Any], None]:
    statement = _statement(way, "%s", "%s")
    arguments = (TENANT.id, _ID) if way is Way.PLAIN else (_ID,)
    set_config, usual = _SET.format("%s"), way is Way.USUAL

    def transaction(connection: Any) -> None:
        if usual:
            connection.execute(set_config, (TENANT.id,))
        assert connection.execute(statement, arguments).fetchone() == (_ID % 7,)

    return transaction


@contextlib.contextmanager
def _psycopg(address: Address, way: Way) -> Iterator[Variant]:
    transaction = _psycopg_transaction(way)
    with _psycopg_class(way, address).connect(address("postgresql")) as connection:

        def once() -> None:
            transaction(connection)
            connection.commit()

        yield _repeat(once, backend=connection.info.backend_pid, ours=way.binds)


@contextlib.contextmanager
def _psycopg_pool(address: Address, way: Way) -> Iterator[Variant]:
    transaction = _psycopg_transaction(way)
    with psycopg_pool.ConnectionPool(
        address("postgresql"),
        connection_class=_psycopg_class(way, address),
        min_size=1,
        max_size=1,
        open=True,
    ) as pool:
        with pool.connection() as connection:
            backend = connection.info.backend_pid

        def once() -> None:
            with pool.connection() as connection:
                transaction(connection)

        yield _repeat(once, backend=backend, ours=way.binds)


@contextlib.contextmanager
def _psycopg_pipeline(address: Address, way: Way) -> Iterator[Variant]:
    statement = _statement(way, "%s", "%s")
    arguments = (TENANT.id, _ID) if way is Way.PLAIN else (_ID,)
    with _psycopg_class(way, address).connect(address("postgresql")) as connection:

        def once() -> None:
            with connection.pipeline():
                if way is Way.USUAL:
                    connection.execute(_SET.format("%s"), (TENANT.id,))
                cursor = connection.execute(statement, arguments)
                connection.execute("COMMIT")  # commit() would wait for its answer
            assert cursor.fetchone() == (_ID % 7,)

        yield _repeat(once, backend=connection.info.backend_pid, ours=way.binds)


# --- asyncpg


def _asyncpg_transaction(way: Way) -> Callable[[Any], Awaitable[None]]:
    statement = _statement(way, "$1", "$2" if way is Way.PLAIN else "$1")
    arguments = (TENANT.id, _ID) if way is Way.PLAIN else (_ID,)
    set_config, usual = _SET.format("$1"), way is Way.USUAL

    async def transaction(connection: Any) -> None:
        async with connection.transaction():
            if usual:
                await connection.execute(set_config, TENANT.id)
            assert await connection.fetchval(statement, *arguments) == _ID % 7

    return transaction


def _asyncpg_class(way: Way, address: Address) -> Any:
    ours = tenant_asyncpg.TenantConnection.using(seal=address.seal)
    return ours if way.binds else asyncpg.Connection


@contextlib.contextmanager
def _asyncpg(address: Address, way: Way) -> Iterator[Variant]:
    transaction = _asyncpg_transaction(way)
    with asyncio.Runner() as runner:
        connection = runner.run(
            asyncpg.connect(address("postgresql"), connection_class=_asyncpg_class(way, address))
        )

        async def once() -> None:
            await transaction(connection)

        backend = connection.get_server_pid()
        yield _repeat_async(runner, once, backend=backend, ours=way.binds)
        runner.run(connection.close())


@contextlib.contextmanager
def _asyncpg_pool(address: Address, way: Way) -> Iterator[Variant]:
    transaction = _asyncpg_transaction(way)

    async def open_pool() -> tuple[Any, int]:
        pool = await asyncpg.create_pool(
            address("postgresql"),
            connection_class=_asyncpg_class(way, address),
            min_size=1,
            max_size=1,
        )
        async with pool.acquire() as connection:
            return pool, connection.get_server_pid()

    with asyncio.Runner() as runner:
        pool, backend = runner.run(open_pool())

        async def once() -> None:
            async with pool.acquire() as connection:
                await transaction(connection)

        yield _repeat_async(runner, once, backend=backend, ours=way.binds)
        runner.run(pool.close())


# --- SQLAlchemy


def _sqlalchemy_queries(engine: Any, way: Way, seal: Seal | None) -> tuple[Any, dict[str, Any]]:
    """
    Make *engine* bind as *way* says; give the statement and its parameters.
    """
    sync_engine = getattr(engine, "sync_engine", engine)
    if way.binds:
        bind_engine(engine, seal=seal)
    elif way is Way.USUAL:
        set_config = sa.text(_SET.format(":tenant"))

        @sa.event.listens_for(sync_engine, "begin")
        def bind(connection: sa.Connection) -> None:
            connection.execute(set_config, {"tenant": TENANT.id})

    statement = sa.text(_statement(way, ":tenant", ":item"))
    named = {"tenant": TENANT.id} if way is Way.PLAIN else {}
    return statement, {**named, "item": _ID}


_PID = sa.text("SELECT pg_backend_pid()")


@contextlib.contextmanager
def _sqlalchemy(address: Address, way: Way) -> Iterator[Variant]:
    engine = sa.create_engine(address("postgresql+psycopg"), pool_size=1, max_overflow=0)
    statement, values = _sqlalchemy_queries(engine, way, address.seal)

    def once() -> None:
        with engine.begin() as connection:
            assert connection.execute(statement, values).scalar_one() == _ID % 7

    with engine.begin() as connection:
        backend = connection.execute(_PID).scalar_one()
    yield _repeat(once, backend=backend, ours=way.binds)
    engine.dispose()


def _sqlalchemy_async(driver: str) -> Open:
    @contextlib.contextmanager
    def open_stack(address: Address, way: Way) -> Iterator[Variant]:
        engine = create_async_engine(address(f"postgresql+{driver}"), pool_size=1, max_overflow=0)
        statement, values = _sqlalchemy_queries(engine, way, address.seal)

        async def once() -> None:
            async with engine.begin() as connection:
                result = await connection.execute(statement, values)
                assert result.scalar_one() == _ID % 7

        async def backend_pid() -> int:
            async with engine.begin() as connection:
                return int((await connection.execute(_PID)).scalar_one())

        with asyncio.Runner() as runner:
            backend = runner.run(backend_pid())
            yield _repeat_async(runner, once, backend=backend, ours=way.binds)
            runner.run(engine.dispose())

    return open_stack


STACKS = {
    stack.name: stack
    for stack in (
        Stack(name="psycopg", open=_psycopg),
        Stack(name="psycopg_pool", open=_psycopg_pool),
        Stack(name="psycopg pipelined", open=_psycopg_pipeline),
        Stack(name="asyncpg", open=_asyncpg),
        Stack(name="asyncpg.Pool", open=_asyncpg_pool),
        Stack(name="SQLAlchemy psycopg", open=_sqlalchemy),
        Stack(name="SQLAlchemy psycopg async", open=_sqlalchemy_async("psycopg")),
        Stack(name="SQLAlchemy asyncpg", open=_sqlalchemy_async("asyncpg")),
    )
}
