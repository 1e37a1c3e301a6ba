"""
Calls and pools of SQLAlchemy engines, told to `ClientCalls` by SQLAlchemy's events.

    >>> from sqlalchemy import create_engine
    >>> from twh_platform.telemetry import ClientCalls, Registry
    >>> registry = Registry()
    >>> engine = watch_engine(create_engine("sqlite://"), ClientCalls(registry))
    >>> with engine.connect() as connection:
    ...     rows = connection.exec_driver_sql("SELECT 1")
    >>> b'db_operation_name="SELECT"' in registry.page()
    True

One call is one statement, from its sending to its first rows, ORM, Core and
raw SQL alike.  Watch the engine or its driver, not both: each would tell.
BEGIN, COMMIT and ROLLBACK are not told: SQLAlchemy does not say when they end.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any, TypeVar

from .._extras import missing_extra
from ._clients import ClientCalls, DatabaseCall
from ._clients_pools import PoolMetrics, PoolState
from ._clients_words import read_statement

try:
    from sqlalchemy import Engine, event
    from sqlalchemy.exc import TimeoutError as PoolTimeoutError
    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.pool import Pool, QueuePool
except ImportError as cause:
    raise missing_extra("sqlalchemy", cause) from cause

__all__ = ["watch_engine"]

E = TypeVar("E", Engine, AsyncEngine)

_MARK = "_twh_calls"
_CALL = "_twh_call"
_OUT_SINCE = "twh.out_since"
# OpenTelemetry's names of SQLAlchemy's dialects, where they are others.
_SYSTEMS = {"mssql": "microsoft.sql_server", "oracle": "oracle.db"}
_KNOWN = frozenset({"postgresql", "mysql", "mariadb", "sqlite", "cockroachdb"})


def watch_engine(engine: E, calls: ClientCalls, *, pool: str = "default") -> E:
    """
    Tell *calls* what *engine* does from now on, and return it.

    It goes with `twh_platform.tenancy.postgres.sqlalchemy.bind_engine`, before
    or after it.  Said again, it changes nothing.  Waiting for a connection is
    timed around ``Pool.connect``, since SQLAlchemy has no event for its
    beginning.  Only pools with a bound, which are SQLAlchemy's default, show
    their connections.

    Args:
        engine: The engine, sync or async.

        calls: What is told.

        pool: The name of its pool on the page.
    """
    sync_engine = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    if getattr(sync_engine, _MARK, None) is calls:
        return engine
    setattr(sync_engine, _MARK, calls)
    statements = _Statements(sync_engine, calls)
    event.listen(sync_engine, "before_cursor_execute", statements.before)
    event.listen(sync_engine, "after_cursor_execute", statements.after)
    event.listen(sync_engine, "handle_error", statements.failed)
    if calls.pools is not None:
        pools = _Pools(calls.pools, pool)
        event.listen(sync_engine, "checkout", pools.checkout)
        event.listen(sync_engine, "checkin", pools.checkin)
        event.listen(sync_engine, "engine_disposed", pools.watch)
        pools.watch(sync_engine)
    return engine


class _Statements:
    """
    Listens to an engine.
    """

    def __init__(self, engine: Engine, calls: ClientCalls) -> None:
        name = engine.dialect.name
        self._system = name if name in _KNOWN else _SYSTEMS.get(name, "other_sql")
        self._calls = calls
        url = engine.url
        where = {"server.address": url.host, "server.port": url.port, "db.namespace": url.database}
        self._where = {name: value for name, value in where.items() if value}

    def before(self, *about: Any) -> None:
        _connection, _cursor, statement, parameters, context, is_many = about
        if context is None:
            return
        operation, table = read_statement(statement)
        call = self._calls.database(
            self._system,
            operation,
            table,
            where=lambda: self._where,
            batch=len(parameters) if is_many else 1,
        )
        # It lives as long as this one execution does.
        setattr(context, _CALL, call)

    def after(self, *about: Any) -> None:
        call = _call_of(about[4])
        if call is not None:
            call.end()

    def failed(self, told: Any) -> None:
        call = _call_of(told.execution_context)
        if call is not None:
            call.end(told.original_exception)


def _call_of(context: Any) -> DatabaseCall | None:
    found: DatabaseCall | None = getattr(context, _CALL, None)
    return found


class _Pools:
    """
    Listens to the pool of an engine, and to the next one after a disposal.
    """

    def __init__(self, metrics: PoolMetrics, name: str) -> None:
        self._metrics, self._name = metrics, name
        self._wait, self._use = metrics.wait(name), metrics.use(name)
        self._timeouts = metrics.timeouts(name)

    def checkout(self, _dbapi: Any, record: Any, _proxy: Any) -> None:
        record.info[_OUT_SINCE] = perf_counter()

    def checkin(self, _dbapi: Any, record: Any) -> None:
        since = record.info.pop(_OUT_SINCE, None)
        if since is not None:
            self._use.observe(perf_counter() - since)

    def watch(self, engine: Engine) -> None:
        pool: Any = engine.pool
        connect = pool.connect

        def timed() -> Any:
            started = perf_counter()
            try:
                connection = connect()
            except PoolTimeoutError:
                self._timeouts.inc()
                raise
            self._wait.observe(perf_counter() - started)
            return connection

        pool.connect = timed
        self._metrics.add(self._name, pool, _read)


def _read(pool: Pool) -> PoolState | None:
    if not isinstance(pool, QueuePool):
        return None
    most = pool.size() + pool._max_overflow  # noqa: SLF001 -- it has no accessor
    return PoolState(pool.checkedout(), pool.checkedin(), 0 if pool._max_overflow < 0 else most)  # noqa: SLF001
