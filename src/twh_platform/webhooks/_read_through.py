"""
What was read of a store, for seconds: each thing once at a time, and few at once.

Names come from strangers.  So what there is, and what was asked for and is not there,
have a table each, readings of their own, and a line of their own to wait in: whoever
invents names takes none of these from those that there are.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar, final

from ..errors import BackendUnavailableError, ConfigurationError
from ..tenancy._carry import create_clean_task

__all__ = ["Limits", "ReadThrough"]

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
V = TypeVar("V")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """
    How long, how many and how much at once; see `StoredKeys`.
    """

    max_age: float
    stale_if_error: float
    retry_after: float
    timeout: float
    capacity: int
    readings: int
    waiting: int

    def __post_init__(self) -> None:
        for name in ("max_age", "timeout", "capacity", "readings"):
            if not getattr(self, name) > 0:
                message = f"{name}={getattr(self, name)!r} is not above zero"
                raise ConfigurationError(message)
        for name in ("stale_if_error", "retry_after", "waiting"):
            if not getattr(self, name) >= 0:
                message = f"{name}={getattr(self, name)!r} is below zero"
                raise ConfigurationError(message)


@dataclass(slots=True, eq=False)
class _Entry(Generic[V]):
    value: V | None
    read_at: float
    ask_after: float = -math.inf

    def younger_than(self, seconds: float, now: float) -> bool:
        return now < self.read_at + seconds

    def blank(self) -> None:
        # Whoever has it in hand while it is told to forget serves it no more.
        self.value, self.read_at, self.ask_after = None, -math.inf, -math.inf


@dataclass(slots=True, eq=False)
class _Reading(Generic[V]):
    task: asyncio.Task[tuple[V, float]]
    until: float  # of the event loop's time


class _Line:
    # Readings of one kind: some run, some wait.
    __slots__ = ("length", "most", "slots")

    def __init__(self, readings: int, most: int) -> None:
        self.slots = asyncio.Semaphore(readings)
        self.length, self.most = 0, most


class _UnderWay(Generic[K, V]):
    # What one event loop is reading.
    __slots__ = ("known", "readings", "unknown")

    def __init__(self, limits: Limits) -> None:
        self.readings: dict[K, _Reading[V]] = {}
        self.known = _Line(limits.readings, limits.readings + limits.capacity)
        self.unknown = _Line(limits.readings, limits.readings + limits.waiting)


@final
class ReadThrough(Generic[K, V]):
    """
    Remembers what it reads, and what is not there, in tables that do not grow.

    It serves any number of event loops, and `forget` any thread.

    Args:
        limits: See there.

        clock: Seconds that never go back.

        there: Whether what was read is there.
    """

    def __init__(
        self, limits: Limits, *, clock: Callable[[], float], there: Callable[[V], bool]
    ) -> None:
        self._limits, self._clock, self._there = limits, clock, there
        self._found: OrderedDict[K, _Entry[V]] = OrderedDict()
        self._missing: OrderedDict[K, _Entry[V]] = OrderedDict()
        self._held_off: OrderedDict[K, float] = OrderedDict()
        self._loops: dict[asyncio.AbstractEventLoop, _UnderWay[K, V]] = {}
        # A task may begin, and be told to forget, while it is being made.
        self._lock = threading.RLock()

    async def get(self, asked: K, read: Callable[[], Awaitable[V]]) -> V:
        """
        What was read lately, or what *read* returns, which is called without a tenant.

        Raises:
            twh_platform.errors.BackendUnavailableError: What *read* raises, or with
                code ``secret_store_busy`` or ``secret_store_timeout``, if nothing
                that was read before may serve.
        """
        entry = self._found.get(asked) or self._missing.get(asked)
        value = self._within(entry, self._limits.max_age)
        if value is not None:
            return value
        try:
            return await self._shared(asked, read)
        except BackendUnavailableError:
            value = self._within(entry, self._limits.stale_if_error)
            if value is None:
                raise
            return value

    def forget(self, meant: Callable[[K], bool]) -> None:
        """
        Read anew what is meant; what is being read now is not remembered.
        """
        with self._lock:
            for under_way in self._loops.values():
                _drop(under_way.readings, meant)
            # That it was there is remembered, so that it need not wait among strangers.
            for asked in filter(meant, self._found):
                self._found[asked].blank()
            for asked in filter(meant, list(self._missing)):
                self._missing.pop(asked).blank()
            _drop(self._held_off, meant)

    def _within(self, entry: _Entry[V] | None, seconds: float) -> V | None:
        if entry is None:
            return None
        value = entry.value
        return value if entry.younger_than(seconds, self._clock()) else None

    async def _shared(self, asked: K, read: Callable[[], Awaitable[V]]) -> V:
        reading = self._reading(asked, read)
        limit = asyncio.timeout_at(reading.until)
        try:
            async with limit:
                # Whoever is cancelled leaves the reading to the others.
                return (await asyncio.shield(reading.task))[0]
        except TimeoutError as error:
            if not limit.expired():
                raise
            message = "the secret store did not answer in time"
            raise BackendUnavailableError(message, code="secret_store_timeout") from error

    def _reading(self, asked: K, read: Callable[[], Awaitable[V]]) -> _Reading[V]:
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._clock() < self._asked_after(asked):
                message = "the secret store did not answer a moment ago"
                raise BackendUnavailableError(message, code="secret_store_unavailable")
            under_way = self._under_way(loop)
            reading = under_way.readings.get(asked)
            if reading is None:
                line = under_way.known if asked in self._found else under_way.unknown
                task = self._begun(line, read)
                reading = _Reading(task, loop.time() + self._limits.timeout)
                under_way.readings[asked] = reading
                task.add_done_callback(partial(self._landed, asked, under_way, line))
            return reading

    def _under_way(self, loop: asyncio.AbstractEventLoop) -> _UnderWay[K, V]:
        if loop not in self._loops:
            _drop(self._loops, lambda one: one.is_closed())
            self._loops[loop] = _UnderWay(self._limits)
        return self._loops[loop]

    def _begun(
        self, line: _Line, read: Callable[[], Awaitable[V]]
    ) -> asyncio.Task[tuple[V, float]]:
        if line.length >= line.most:
            message = "too many secrets are being read"
            raise BackendUnavailableError(message, code="secret_store_busy")

        async def begin() -> tuple[V, float]:
            async with line.slots:
                began = self._clock()  # the answer is no younger than the question
                return await read(), began

        line.length += 1
        return create_clean_task(begin())

    def _landed(
        self,
        asked: K,
        under_way: _UnderWay[K, V],
        line: _Line,
        task: asyncio.Task[tuple[V, float]],
    ) -> None:
        line.length -= 1
        error = None if task.cancelled() else task.exception()
        with self._lock:
            reading = under_way.readings.get(asked)
            if reading is None or reading.task is not task:
                return  # it was told to forget meanwhile
            del under_way.readings[asked]
            if isinstance(error, BackendUnavailableError):
                self._hold_off(asked)
            elif not task.cancelled() and error is None:
                self._remember(asked, *task.result())

    def _asked_after(self, asked: K) -> float:
        entry = self._found.get(asked)
        return entry.ask_after if entry else self._held_off.get(asked, -math.inf)

    def _hold_off(self, asked: K) -> None:
        ask_after = self._clock() + self._limits.retry_after
        if entry := self._found.get(asked):
            entry.ask_after = ask_after
        else:
            self._keep(self._held_off, asked, ask_after)

    def _remember(self, asked: K, value: V, read_at: float) -> None:
        for kept in (self._found, self._missing, self._held_off):
            kept.pop(asked, None)
        table = self._found if self._there(value) else self._missing
        self._keep(table, asked, _Entry(value, read_at))

    def _keep(self, table: OrderedDict[K, T], asked: K, value: T) -> None:
        table.pop(asked, None)
        # What was read longest ago goes.
        while len(table) >= self._limits.capacity:
            table.popitem(last=False)
        table[asked] = value


def _drop(table: dict[T, Any], meant: Callable[[T], bool]) -> None:
    for asked in filter(meant, list(table)):
        del table[asked]
