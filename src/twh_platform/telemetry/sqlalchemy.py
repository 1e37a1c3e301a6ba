"""
Calls and pools of SQLAlchemy engines, told to `ClientCalls` by their dialect.

    >>> from sqlalchemy import create_engine
    >>> from twh_platform.telemetry import ClientCalls, Registry
    >>> registry = Registry()
    >>> engine = watch_engine(create_engine("sqlite://"), ClientCalls(registry))
    >>> with engine.connect() as connection:
    ...     rows = connection.exec_driver_sql("SELECT 1")
    >>> b'db_operation_name="SELECT"' in registry.page()
    True

One call is one statement, from its sending to its first rows, ORM, Core and
raw SQL alike, or the COMMIT or ROLLBACK that ends a transaction.  Watch the
engine or its driver, not both: each would tell.  BEGIN is no call of its own:
drivers send it before a transaction's first statement, in whose time it is,
and with it what binds a tenant.  The ends of two-phase transactions are not
told: dialects send them by cursors of their own.

An engine's events would tell of statements, too, and not of a transaction's
end.  Whoever listens to one makes SQLAlchemy look for all of them, which costs
more than what is told; all that is sent goes through a few methods of the
dialect, so those are timed.  With them goes what a dialect asks the first
connection of an engine about the server.  A listener of ``do_execute`` that
sends a statement itself sends it past them.
"""

from __future__ import annotations

from collections.abc import Callable
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
_Method = Callable[..., None]

_MARK = "_twh_calls"
_OUT_SINCE = "twh.out_since"
_IS_OPEN = "twh.is_open"
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
    # Engines that differ in their execution options have one dialect and one pool.
    dialect: Any = sync_engine.dialect
    told: tuple[ClientCalls, ...] = getattr(dialect, _MARK, ())
    if calls in told:
        return engine
    setattr(dialect, _MARK, (*told, calls))
    _Dialect(sync_engine, calls).watch(dialect)
    if calls.pools is not None:
        pools = _Pools(calls.pools, pool)
        event.listen(sync_engine, "checkin", pools.checkin)
        pools.watch(sync_engine.pool)
    return engine


class _Dialect:
    """
    Times what a dialect sends.
    """

    def __init__(self, engine: Engine, calls: ClientCalls) -> None:
        name = engine.dialect.name
        self._system = name if name in _KNOWN else _SYSTEMS.get(name, "other_sql")
        self._calls = calls
        url = engine.url
        where = {"server.address": url.host, "server.port": url.port, "db.namespace": url.database}
        self._where = {name: value for name, value in where.items() if value}

    def watch(self, dialect: Any) -> None:
        """
        Put a clock around its methods.
        """
        dialect.do_execute = self._sending(dialect.do_execute)
        dialect.do_execute_no_params = self._sending(dialect.do_execute_no_params)
        dialect.do_executemany = self._sending(dialect.do_executemany, is_many=True)
        dialect.do_begin = _beginning(dialect.do_begin)
        dialect.do_commit = self._ending("COMMIT", dialect.do_commit)
        dialect.do_rollback = self._ending("ROLLBACK", dialect.do_rollback)

    def _begin(self, operation: str, table: str = "", batch: int = 1) -> DatabaseCall:
        return self._calls.database(self._system, operation, table, where=self._told, batch=batch)

    def _told(self) -> dict[str, Any]:
        return self._where

    def _sending(self, send: _Method, *, is_many: bool = False) -> _Method:
        def timed(cursor: Any, statement: Any, *rest: Any, **named: Any) -> None:
            operation, table = read_statement(statement)
            batch = len(rest[0]) if is_many and rest else 1
            with self._begin(operation, table, batch):
                send(cursor, statement, *rest, **named)

        return timed

    def _ending(self, operation: str, end: _Method) -> _Method:
        def timed(connection: Any) -> None:
            # A pool also rolls back where nothing has begun.
            if not _kept_of(connection).pop(_IS_OPEN, False):
                end(connection)
                return
            with self._begin(operation):
                end(connection)

        return timed


def _beginning(begin: _Method) -> _Method:
    def noted(connection: Any) -> None:
        dbapi = getattr(connection, "dbapi_connection", None)
        if getattr(dbapi, "autocommit", False) is not True:
            _kept_of(connection)[_IS_OPEN] = True
        begin(connection)

    return noted


def _kept_of(connection: Any) -> dict[Any, Any]:
    try:
        found = connection.info
    except (AttributeError, NotImplementedError):
        # One of the driver itself, or that on which the server is asked who it is.
        return {}
    return found if isinstance(found, dict) else {}


class _Pools:
    """
    Listens to the pool of an engine, and to the next one after a disposal.
    """

    def __init__(self, metrics: PoolMetrics, name: str) -> None:
        self._metrics, self._name = metrics, name
        self._wait, self._use = metrics.wait(name), metrics.use(name)
        self._timeouts = metrics.timeouts(name)

    def checkin(self, _dbapi: Any, record: Any) -> None:
        since = record.info.pop(_OUT_SINCE, None)
        if since is not None:
            self._use.observe(perf_counter() - since)

    def watch(self, pool: Any) -> None:
        connect, recreate = pool.connect, pool.recreate

        def timed() -> Any:
            started = perf_counter()
            try:
                connection = connect()
            except PoolTimeoutError:
                self._timeouts.inc()
                raise
            now = connection.info[_OUT_SINCE] = perf_counter()
            self._wait.observe(now - started)
            return connection

        def again() -> Any:
            made = recreate()
            self._metrics.forget(pool)
            self.watch(made)
            return made

        pool.connect, pool.recreate = timed, again
        self._metrics.add(self._name, pool, _read)


def _read(pool: Pool) -> PoolState | None:
    if not isinstance(pool, QueuePool):
        return None
    most = pool.size() + pool._max_overflow  # noqa: SLF001 -- it has no accessor
    return PoolState(pool.checkedout(), pool.checkedin(), 0 if pool._max_overflow < 0 else most)  # noqa: SLF001
