"""
Calls and pools of asyncpg, told to `ClientCalls` by its query loggers.

    >>> import asyncpg
    >>> pool = asyncpg.create_pool(dsn, init=on_connect(calls))  # doctest: +SKIP
    >>> watch_pool(pool, calls)  # doctest: +SKIP

It goes with `twh_platform.tenancy.postgres.asyncpg.TenantConnection` as
``connection_class``.  asyncpg tells about a query once it is over, in the next
turn of the event loop; times are asyncpg's.  BEGIN, COMMIT and ROLLBACK are
told like others.  Statements that were prepared with ``Connection.prepare``,
COPY and cursors are not: no query logger hears of them.  Engines of SQLAlchemy
on asyncpg, which prepare everything, are watched as engines.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any, TypeVar

from .._extras import missing_extra
from ._clients import ClientCalls
from ._clients_pools import PoolState
from ._clients_words import read_statement

try:
    import asyncpg
except ImportError as cause:
    raise missing_extra("asyncpg", cause) from cause

__all__ = ["on_connect", "watch_connection", "watch_pool"]

_SYSTEM = "postgresql"
_Init = Callable[[Any], Awaitable[None]]
C = TypeVar("C")


def watch_connection(connection: C, calls: ClientCalls) -> C:
    """
    Tell *calls* what *connection* does from now on, and return it.

    Said again, it changes nothing.

    Args:
        connection: A connection, or what a pool lends.

        calls: What is told.
    """
    watched: Any = connection
    watched.add_query_logger(_Logger(calls))
    return connection


def on_connect(calls: ClientCalls, init: _Init | None = None) -> _Init:
    """
    What to give `asyncpg.create_pool` as ``init``.

    Args:
        calls: What is told.

        init: What else has to be done with each new connection; done first.
    """

    async def watch(connection: Any) -> None:
        if init is not None:
            await init(connection)
        watch_connection(connection, calls)

    return watch


def watch_pool(pool: asyncpg.Pool, calls: ClientCalls, *, name: str = "default") -> asyncpg.Pool:
    """
    Show the connections of *pool* on the page, and return it.

    How long somebody waits for a connection, asyncpg does not tell, and its
    pools take nothing that would.

    Args:
        pool: The pool; its connections are watched by `on_connect`.

        calls: What is told.

        name: Its name on the page.
    """
    if calls.pools is not None:
        calls.pools.add(name, pool, _read)
    return pool


def _read(pool: Any) -> PoolState | None:
    if pool.is_closing():
        return None
    size, idle = pool.get_size(), pool.get_idle_size()
    return PoolState(size - idle, idle, pool.get_max_size())


class _Logger:
    """
    A query logger; equal to another one of the same calls, since a connection has a set of them.
    """

    def __init__(self, calls: ClientCalls) -> None:
        self._calls = calls

    def __call__(self, record: Any) -> None:
        operation, table = read_statement(record.query)
        seconds = record.elapsed
        call = self._calls.database(
            _SYSTEM,
            operation,
            table,
            where=lambda: _where(record),
            started=perf_counter() - seconds,
        )
        call.end(record.exception, seconds=seconds)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Logger) and other._calls is self._calls

    def __hash__(self) -> int:
        return hash(self._calls)


def _where(record: Any) -> dict[str, Any]:
    address = record.conn_addr
    told: dict[str, Any] = {"db.namespace": record.conn_params.database}
    if isinstance(address, tuple):
        told["server.address"], told["server.port"] = address[:2]
    else:
        told["server.address"] = str(address)
    return told
