"""
Calls and pools of redis-py, told to `ClientCalls`.

    >>> import redis.asyncio
    >>> client = watch_redis(redis.asyncio.Redis(), calls)  # doctest: +SKIP

redis-py's events tell when a client is made and when a connection is released,
but nothing about commands.  So its two public methods that everything goes
through are timed, on the one client that is given: ``execute_command``, and
``execute`` of the pipelines that it makes.  A time includes waiting for a
connection, and tries that failed.  What subscribers hear is no call.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import iscoroutinefunction
from time import perf_counter
from typing import Any, TypeVar

from .._extras import missing_extra
from ._clients import ClientCalls, DatabaseCall
from ._clients_pools import PoolMetrics, PoolState
from ._clients_words import read_command

try:
    import redis
except ImportError as cause:
    raise missing_extra("redis", cause) from cause

__all__ = ["watch_redis"]

_SYSTEM = "redis"
_MARK = "_twh_watched"
# What a pipeline has where it is one, by the make of its client.
_TRANSACTION = ("is_transaction", "transaction", "explicit_transaction")
_UNBOUNDED = 1 << 30  # what redis-py has for no bound is 2**31
_Begin = Callable[[Any], DatabaseCall]
R = TypeVar("R")


def watch_redis(client: R, calls: ClientCalls, *, pool: str = "redis") -> R:
    """
    Tell *calls* what *client* does from now on, and return it.

    Said again, it changes nothing.

    Args:
        client: A ``Redis`` or ``RedisCluster``, sync or async.

        calls: What is told.

        pool: The name of its pool on the page.
    """
    watched: Any = client
    if getattr(watched, _MARK, None) is calls:
        return client
    setattr(watched, _MARK, calls)
    is_async = iscoroutinefunction(watched.execute_command)
    time = _time_async if is_async else _time_sync
    where = _where(watched)

    def begin(args: tuple[Any, ...]) -> DatabaseCall:
        return calls.database(_SYSTEM, read_command(args[0] if args else ""), where=where)

    watched.execute_command = time(watched.execute_command, begin)
    make = watched.pipeline

    def pipeline(*args: Any, **options: Any) -> Any:
        made = make(*args, **options)

        def begin_all(_args: tuple[Any, ...]) -> DatabaseCall:
            is_one = any(getattr(made, name, None) is True for name in _TRANSACTION)
            name = "MULTI" if is_one else "PIPELINE"
            return calls.database(_SYSTEM, name, where=where, batch=len(made))

        made.execute = time(made.execute, begin_all)
        if hasattr(made, "immediate_execute_command"):  # of WATCH and what follows
            made.immediate_execute_command = time(made.immediate_execute_command, begin)
        return made

    watched.pipeline = pipeline
    _watch_pool(getattr(watched, "connection_pool", None), calls.pools, pool)
    return client


def _time_sync(function: Any, begin: _Begin) -> Any:
    def timed(*args: Any, **options: Any) -> Any:
        with begin(args):
            return function(*args, **options)

    return timed


def _time_async(function: Any, begin: _Begin) -> Any:
    async def timed(*args: Any, **options: Any) -> Any:
        with begin(args):
            return await function(*args, **options)

    return timed


def _where(client: Any) -> Callable[[], dict[str, Any]]:
    def where() -> dict[str, Any]:
        options = getattr(getattr(client, "connection_pool", None), "connection_kwargs", {})
        address = options.get("host") or options.get("path")
        told = {
            "server.address": address,
            "server.port": options.get("port"),
            "db.namespace": str(options.get("db") or 0),
        }
        return {name: value for name, value in told.items() if value}

    return where


def _watch_pool(pool: Any, metrics: PoolMetrics | None, name: str) -> None:
    if pool is None or metrics is None or getattr(pool, _MARK, None) is metrics:
        return
    setattr(pool, _MARK, metrics)
    metrics.add(name, pool, _read)
    get, wait, timeouts = pool.get_connection, metrics.wait(name), metrics.timeouts(name)

    def got(started: float) -> None:
        wait.observe(perf_counter() - started)

    def timed(*args: Any, **options: Any) -> Any:
        started = perf_counter()
        try:
            connection = get(*args, **options)
        except redis.exceptions.ConnectionError as error:
            _count_timeout(error, timeouts)
            raise
        got(started)
        return connection

    async def timed_async(*args: Any, **options: Any) -> Any:
        started = perf_counter()
        try:
            connection = await get(*args, **options)
        except redis.exceptions.ConnectionError as error:
            _count_timeout(error, timeouts)
            raise
        got(started)
        return connection

    pool.get_connection = timed_async if iscoroutinefunction(get) else timed


def _count_timeout(error: Exception, timeouts: Any) -> None:
    # ConnectionError is also what a server that is down is told by: then a socket was tried.
    if type(error).__name__ == "MaxConnectionsError" or str(error) in _NO_CONNECTION:
        timeouts.inc()


_NO_CONNECTION = frozenset({"Too many connections", "No connection available."})


def _read(pool: Any) -> PoolState | None:
    most = getattr(pool, "max_connections", 0) or 0
    most = 0 if most >= _UNBOUNDED else most
    idle: Any = getattr(pool, "_available_connections", None)
    used: Any = getattr(pool, "_in_use_connections", None)
    if idle is not None and used is not None:
        return PoolState(len(used), len(idle), most)
    queue = getattr(pool, "pool", None)  # of the blocking pool
    made = getattr(pool, "_connections", None)
    if queue is None or made is None:
        return PoolState(0, 0, most)
    free = sum(one is not None for one in list(queue.queue))
    return PoolState(max(0, len(made) - free), free, most)
