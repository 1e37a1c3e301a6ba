"""
Calls and pools of psycopg, told to `ClientCalls` by its cursors.

    >>> import psycopg_pool
    >>> pool = watch_pool(
    ...     psycopg_pool.AsyncConnectionPool(dsn, open=False), calls
    ... )  # doctest: +SKIP

psycopg has no events.  What it has is the cursor factory of a connection, which
is meant to be set: ours adds a clock to whatever class is there, so that it
goes with any connection, those of `twh_platform.tenancy.postgres.psycopg`
among them, and with the cursors that the platform's stores make past it.

BEGIN, COMMIT and ROLLBACK go past cursors and are not told, unless they are
sent as statements.  In pipeline mode a time is that of the sending.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from functools import partial
from inspect import iscoroutinefunction
from time import perf_counter
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from .._extras import missing_extra
from ..tenancy.postgres._psycopg_cursors import watch_cursors
from ._clients import ClientCalls, DatabaseCall
from ._clients_pools import PoolState
from ._clients_words import read_statement

try:
    import psycopg
    from psycopg import sql
    from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout
except ImportError as cause:
    raise missing_extra("psycopg", cause) from cause

__all__ = ["watch_connection", "watch_pool"]

C = TypeVar("C", bound=psycopg.BaseConnection[Any])
P = TypeVar("P", bound=ConnectionPool[Any] | AsyncConnectionPool[Any])

_SYSTEM = "postgresql"
_FACTORIES = ("cursor_factory", "server_cursor_factory")
_MARK = "_twh_calls"
_BASE = "_twh_unwatched"


def watch_connection(connection: C, calls: ClientCalls) -> C:
    """
    Tell *calls* what the cursors of *connection* do from now on, and return it.

    Said again, it changes nothing.  A cursor factory that is a function and no
    class stays as it is, and what its cursors do is not told.

    Args:
        connection: The connection, sync or async.

        calls: What is told.
    """
    watched = partial(_watched, calls=calls)
    for name in _FACTORIES:
        factory = getattr(connection, name)
        if isinstance(factory, type):
            setattr(connection, name, watched(factory))
    watch_cursors(connection, watched)
    return connection


def _watched(kind: Any, *, calls: ClientCalls) -> Any:
    if getattr(kind, _MARK, None) is calls:
        return kind
    kind = getattr(kind, _BASE, kind)
    known = calls._made  # noqa: SLF001 -- a part of it
    if kind not in known:
        known[kind] = _kind(kind, calls)
    return known[kind]


def watch_pool(pool: P, calls: ClientCalls, *, name: str = "default") -> P:
    """
    Tell *calls* what *pool* and its connections do from now on, and return it.

    Said again, it changes nothing.  A connection is watched from the first time
    that it is taken out.  Waiting for one is timed around ``getconn``, and using
    one until ``putconn``.

    Args:
        pool: The pool of psycopg_pool, sync or async.

        calls: What is told.

        name: Its name on the page.
    """
    watched: Any = pool
    told: tuple[ClientCalls, ...] = getattr(watched, _MARK, ())
    if calls in told:
        return pool
    setattr(watched, _MARK, (*told, calls))
    if isinstance(pool, AsyncConnectionPool):
        _watch_async(watched, calls, _Clock(calls, name))
    else:
        _watch_sync(watched, calls, _Clock(calls, name))
    if calls.pools is not None:
        calls.pools.add(name, pool, _read)
    return pool


class _Clock:
    """
    Times what goes out of a pool and comes back.
    """

    def __init__(self, calls: ClientCalls, name: str) -> None:
        pools = calls.pools
        self._wait = None if pools is None else pools.wait(name)
        self._use = None if pools is None else pools.use(name)
        self._timeouts = None if pools is None else pools.timeouts(name)
        self._out: WeakKeyDictionary[Any, float] = WeakKeyDictionary()

    def got(self, connection: Any, started: float) -> None:
        now = perf_counter()
        self._out[connection] = now
        if self._wait is not None:
            self._wait.observe(now - started)

    def back(self, connection: Any) -> None:
        since = self._out.pop(connection, None)
        if since is not None and self._use is not None:
            self._use.observe(perf_counter() - since)

    def timed_out(self) -> None:
        if self._timeouts is not None:
            self._timeouts.inc()


def _watch_sync(pool: Any, calls: ClientCalls, clock: _Clock) -> None:
    getconn, putconn = pool.getconn, pool.putconn

    def timed_get(*args: Any, **options: Any) -> Any:
        started = perf_counter()
        try:
            connection = getconn(*args, **options)
        except PoolTimeout:
            clock.timed_out()
            raise
        clock.got(connection, started)
        return watch_connection(connection, calls)

    def timed_put(connection: Any) -> None:
        clock.back(connection)
        putconn(connection)

    pool.getconn, pool.putconn = timed_get, timed_put


def _watch_async(pool: Any, calls: ClientCalls, clock: _Clock) -> None:
    getconn, putconn = pool.getconn, pool.putconn

    async def timed_get(*args: Any, **options: Any) -> Any:
        started = perf_counter()
        try:
            connection = await getconn(*args, **options)
        except PoolTimeout:
            clock.timed_out()
            raise
        clock.got(connection, started)
        return watch_connection(connection, calls)

    async def timed_put(connection: Any) -> None:
        clock.back(connection)
        await putconn(connection)

    pool.getconn, pool.putconn = timed_get, timed_put


def _read(pool: Any) -> PoolState | None:
    if pool.closed:  # which it also is before it is opened
        return None
    stats = pool.get_stats()
    size, idle = stats.get("pool_size", 0), stats.get("pool_available", 0)
    return PoolState(size - idle, idle, stats.get("pool_max", 0), stats.get("requests_waiting", 0))


def _kind(base: Any, calls: ClientCalls) -> Any:
    mixin = _AsyncClock if iscoroutinefunction(base.execute) else _SyncClock
    names = {"__slots__": (), "__module__": base.__module__, _MARK: calls, _BASE: base}
    return type(base.__name__, (mixin, base), names)


def _begin(cursor: Any, query: Any) -> DatabaseCall:
    if not isinstance(query, str):
        while isinstance(query, sql.Composed):  # its first part has the keyword
            query = next(iter(query), "")
        if isinstance(query, sql.SQL):
            query = query.as_string(None)
    operation, table = read_statement(query)
    calls: ClientCalls = cursor._twh_calls  # noqa: SLF001 -- as _kind made it

    def where() -> dict[str, Any]:
        info = cursor.connection.info
        told = {"server.address": info.host, "server.port": info.port, "db.namespace": info.dbname}
        return {name: value for name, value in told.items() if value}

    return calls.database(_SYSTEM, operation, table, where=where)


class _SyncClock:
    __slots__ = ()

    def execute(self, query: Any, *args: Any, **options: Any) -> Any:
        with _begin(self, query):
            return super().execute(query, *args, **options)  # type: ignore[misc]

    def executemany(self, query: Any, *args: Any, **options: Any) -> None:
        with _begin(self, query):
            super().executemany(query, *args, **options)  # type: ignore[misc]

    def stream(self, query: Any, *args: Any, **options: Any) -> Iterator[Any]:
        with _begin(self, query):
            yield from super().stream(query, *args, **options)  # type: ignore[misc]

    @contextmanager
    def copy(self, statement: Any, *args: Any, **options: Any) -> Iterator[Any]:
        copying = super().copy(statement, *args, **options)  # type: ignore[misc]
        with _begin(self, statement), copying as copy:
            yield copy


class _AsyncClock:
    __slots__ = ()

    async def execute(self, query: Any, *args: Any, **options: Any) -> Any:
        with _begin(self, query):
            return await super().execute(query, *args, **options)  # type: ignore[misc]

    async def executemany(self, query: Any, *args: Any, **options: Any) -> None:
        with _begin(self, query):
            await super().executemany(query, *args, **options)  # type: ignore[misc]

    async def stream(self, query: Any, *args: Any, **options: Any) -> AsyncIterator[Any]:
        with _begin(self, query):
            rows = super().stream(query, *args, **options)  # type: ignore[misc]
            async with aclosing(rows):  # else the connection goes on with it
                async for row in rows:
                    yield row

    @asynccontextmanager
    async def copy(self, statement: Any, *args: Any, **options: Any) -> AsyncIterator[Any]:
        copying = super().copy(statement, *args, **options)  # type: ignore[misc]
        with _begin(self, statement):
            async with copying as copy:
                yield copy
