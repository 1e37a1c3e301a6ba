"""
The pools that can be attacked, each behind the same two methods.

No driver is imported: whoever hands a pool over has it.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ....errors import ConfigurationError

__all__ = ["AbandonedError", "Pool", "Script", "opened"]

Ending = Literal["commit", "rollback", "raise"]
Rows = list[list[tuple[Any, ...]]]


class AbandonedError(Exception):
    """
    Raised in the middle of a transaction, as a handler's own exception would be.

    Args:
        rows: What the statements gave before.
    """

    def __init__(self, rows: Rows) -> None:
        super().__init__("abandoned")
        self.rows = rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """
    One transaction: its statements, none with parameters or a percent sign, and its end.
    """

    statements: tuple[str, ...]
    ending: Ending = "commit"


class Pool(Protocol):
    """
    What is attacked.

    Attributes:
        cancels: Whether a transaction can be cancelled from outside.
    """

    cancels: bool

    async def play(self, script: Script) -> Rows:
        """
        Take a connection, run a transaction, give it back; the rows by statement.
        """
        ...

    def taken(self) -> int:
        """
        How many connections are not in the pool.
        """
        ...


@asynccontextmanager
async def opened(target: Any) -> AsyncIterator[Pool]:
    """
    Recognise a pool, or what makes one; what is opened here is closed here.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``attack_pool_unknown``.
    """
    kind = _kind(target)
    if kind is None and callable(target):
        made = target()
        if _kind(made) is None and inspect.isawaitable(made):
            made = await made
        if _kind(made) is None and hasattr(made, "__aenter__"):
            async with made as entered, opened(entered) as pool:
                yield pool
            return
        if _kind(made) is None:
            raise _unknown(made)
        async with opened(made) as pool:
            try:
                yield pool
            finally:
                await _closed(made)
        return
    if kind is None:
        raise _unknown(target)
    closes = await _started(target)
    try:
        yield kind(target)
    finally:
        if closes:
            await _closed(target)


def _unknown(target: Any) -> ConfigurationError:
    message = (
        f"{type(target).__name__} is no engine of SQLAlchemy, pool of psycopg_pool or asyncpg, "
        "or function that returns one"
    )
    return ConfigurationError(message, code="attack_pool_unknown")


def _kind(target: Any) -> Callable[[Any], Pool] | None:
    for base in type(target).__mro__:
        found = _KINDS.get((base.__module__.partition(".")[0], base.__name__))
        if found is not None:
            return found
    return None


async def _started(target: Any) -> bool:
    """
    Open what is not open yet; returns whether it was done here.
    """
    if _kind(target) is _AsyncpgPool:
        was_open = bool(getattr(target, "_initialized", True))
        await target
        return not was_open
    if getattr(target, "closed", False) is True:
        done = target.open()
        if inspect.isawaitable(done):
            await done
        return True
    return False


async def _closed(target: Any) -> None:
    close = getattr(target, "dispose", None) or target.close
    done = close()
    if inspect.isawaitable(done):
        await done


class _Engine:
    cancels = False

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    async def play(self, script: Script) -> Rows:
        return await asyncio.to_thread(self._play, script)

    def _play(self, script: Script) -> Rows:
        with self._engine.connect() as connection:
            rows = [_fetched(connection.exec_driver_sql(one)) for one in script.statements]
            if script.ending == "raise":
                raise AbandonedError(rows)
            getattr(connection, script.ending)()
        return rows

    def taken(self) -> int:
        return _checked_out(self._engine)


class _AsyncEngine:
    cancels = True

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    async def play(self, script: Script) -> Rows:
        async with self._engine.connect() as connection:
            rows = [_fetched(await connection.exec_driver_sql(one)) for one in script.statements]
            if script.ending == "raise":
                raise AbandonedError(rows)
            await getattr(connection, script.ending)()
        return rows

    def taken(self) -> int:
        return _checked_out(self._engine.sync_engine)


def _checked_out(engine: Any) -> int:
    count = getattr(engine.pool, "checkedout", None)
    return int(count()) if count is not None else 0


def _fetched(result: Any) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in result.fetchall()] if result.returns_rows else []


class _PsycopgPool:
    cancels = False

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    async def play(self, script: Script) -> Rows:
        return await asyncio.to_thread(self._play, script)

    def _play(self, script: Script) -> Rows:
        with self._pool.connection() as connection:
            rows = []
            for one in script.statements:
                cursor = connection.execute(one)
                found = cursor.fetchall() if cursor.description else []
                rows.append([_values(row) for row in found])
            if script.ending == "raise":
                raise AbandonedError(rows)
            getattr(connection, script.ending)()
        return rows

    def taken(self) -> int:
        return _out_of(self._pool)


class _AsyncPsycopgPool:
    cancels = True

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    async def play(self, script: Script) -> Rows:
        async with self._pool.connection() as connection:
            rows = []
            for one in script.statements:
                cursor = await connection.execute(one)
                found = await cursor.fetchall() if cursor.description else []
                rows.append([_values(row) for row in found])
            if script.ending == "raise":
                raise AbandonedError(rows)
            await getattr(connection, script.ending)()
        return rows

    def taken(self) -> int:
        return _out_of(self._pool)


def _out_of(pool: Any) -> int:
    stats = pool.get_stats()
    return max(0, int(stats["pool_size"]) - int(stats["pool_available"]))


def _values(row: Any) -> tuple[Any, ...]:
    return tuple(row.values() if hasattr(row, "values") else row)


class _AsyncpgPool:
    cancels = True

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    async def play(self, script: Script) -> Rows:
        async with self._pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                rows = [list(map(tuple, await connection.fetch(one))) for one in script.statements]
            except BaseException:
                await transaction.rollback()
                raise
            await (transaction.commit if script.ending == "commit" else transaction.rollback)()
            if script.ending == "raise":
                raise AbandonedError(rows)
        return rows

    def taken(self) -> int:
        return int(self._pool.get_size()) - int(self._pool.get_idle_size())


_KINDS: dict[tuple[str, str], Callable[[Any], Pool]] = {
    ("sqlalchemy", "Engine"): _Engine,
    ("sqlalchemy", "AsyncEngine"): _AsyncEngine,
    ("psycopg_pool", "ConnectionPool"): _PsycopgPool,
    ("psycopg_pool", "AsyncConnectionPool"): _AsyncPsycopgPool,
    ("asyncpg", "Pool"): _AsyncpgPool,
}
