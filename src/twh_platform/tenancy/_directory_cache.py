"""
A bounded cache in front of a directory.

An entry is served for its time to live and not a moment longer, even when the
directory is down: nobody may be served on the word of an entry that could
hide a suspension.  Found and not-found entries have bounds of their own, so
strangers who ask for invented tenants push out nobody.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from ..errors import BackendUnavailableError, ConfigurationError
from ._carry import create_clean_task
from ._deadline import finish_within
from ._directory import TenantDirectory
from ._tenant import Tenant

__all__ = ["CachedTenantDirectory"]

V = TypeVar("V")

_ATTEMPTS = 3


class _Load:
    # One look-up in flight, shared by all who wait for it.  Its task never
    # raises: a failure that nobody waits for any more must not be reported.
    __slots__ = ("error", "stale", "task", "tenant")

    def __init__(self) -> None:
        self.task: asyncio.Task[None]
        self.tenant: Tenant | None = None
        self.error: Exception | None = None
        self.stale = False


class CachedTenantDirectory:
    """
    Remember what another directory answered, for a while.

    Whoever misses at the same moment shares one look-up; one of them being
    cancelled does not disturb the others.  What is invalidated while its
    look-up is in flight is looked up again: the old answer reaches nobody.
    Failures are not remembered.  One instance belongs to one event loop.

        >>> from twh_platform.tenancy import MemoryTenantDirectory
        >>> directory = CachedTenantDirectory(MemoryTenantDirectory(), ttl=10)

    Args:
        inner: The directory that knows.

        ttl: Seconds for which a tenant found is believed.

        negative_ttl: Seconds for which a tenant not found stays so.

        capacity: How many tenants found are remembered.

        negative_capacity: How many ids not found are remembered.

        timeout: Seconds after which a look-up is given up.

        max_loads: How many look-ups may be in flight.

        clock: Seconds that never go back.
    """

    def __init__(
        self,
        inner: TenantDirectory,
        *,
        ttl: float = 30.0,
        negative_ttl: float = 5.0,
        capacity: int = 10_000,
        negative_capacity: int = 1_000,
        timeout: float = 2.0,
        max_loads: int = 100,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for name, value in (
            ("ttl", ttl),
            ("negative_ttl", negative_ttl),
            ("capacity", capacity),
            ("negative_capacity", negative_capacity),
            ("timeout", timeout),
            ("max_loads", max_loads),
        ):
            if not value > 0:
                message = f"{name}={value!r} is not above zero"
                raise ConfigurationError(message)
        self._inner = inner
        self._ttl, self._negative_ttl = ttl, negative_ttl
        self._capacity, self._negative_capacity = capacity, negative_capacity
        self._timeout, self._max_loads, self._clock = timeout, max_loads, clock
        self._found: dict[str, tuple[Tenant, float]] = {}
        self._missing: dict[str, float] = {}
        self._loads: dict[str, _Load] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def get(self, tenant_id: str) -> Tenant | None:
        """
        Return the tenant with exactly this id, or None; at once if remembered.

        Raises:
            twh_platform.errors.BackendUnavailableError: With code
                ``directory_timeout`` if the answer is late,
                ``directory_busy`` if too many look-ups are in flight, or what
                the inner directory raised.
        """
        entry = self._found.get(tenant_id)
        if entry is not None and self._clock() < entry[1]:
            return entry[0]
        until = self._missing.get(tenant_id)
        if until is not None and self._clock() < until:
            return None
        return await self._look_up(tenant_id)

    def invalidate(self, tenant_id: str) -> None:
        """
        Forget what is known of this tenant; the next request looks it up.
        """
        self._found.pop(tenant_id, None)
        self._missing.pop(tenant_id, None)
        load = self._loads.pop(tenant_id, None)
        if load is not None:
            load.stale = True

    def clear(self) -> None:
        """
        Forget everything.
        """
        self._found.clear()
        self._missing.clear()
        for load in self._loads.values():
            load.stale = True
        self._loads.clear()

    async def _look_up(self, tenant_id: str) -> Tenant | None:
        for _ in range(_ATTEMPTS):
            load = self._loads.get(tenant_id) or self._start(tenant_id)
            # wait() leaves the task alone when the one who waits is cancelled.
            await asyncio.wait((load.task,))
            if load.stale or load.task.cancelled():
                continue
            if load.error is not None:
                raise load.error
            return load.tenant
        message = f"tenant {tenant_id!r} changes faster than it can be read"
        raise BackendUnavailableError(message, code="directory_busy")

    def _start(self, tenant_id: str) -> _Load:
        if len(self._running) >= self._max_loads:
            message = f"{self._max_loads} directory look-ups are in flight already"
            raise BackendUnavailableError(message, code="directory_busy")
        load = self._loads[tenant_id] = _Load()
        load.task = create_clean_task(self._load(tenant_id, load))
        self._running.add(load.task)
        load.task.add_done_callback(lambda task: self._settle(tenant_id, load, task))
        return load

    async def _load(self, tenant_id: str, load: _Load) -> None:
        asked_at = self._clock()  # the answer is no younger than the question
        try:
            load.tenant = await finish_within(
                self._timeout,
                self._inner.get(tenant_id),
                what="the directory look-up",
                code="directory_timeout",
            )
        except Exception as error:  # noqa: BLE001 -- handed to all who wait
            load.error = error
            return
        if not load.stale:
            self._remember(tenant_id, load.tenant, asked_at)

    def _settle(self, tenant_id: str, load: _Load, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if self._loads.get(tenant_id) is load:
            del self._loads[tenant_id]

    def _remember(self, tenant_id: str, tenant: Tenant | None, asked_at: float) -> None:
        self._found.pop(tenant_id, None)
        self._missing.pop(tenant_id, None)
        if tenant is None:
            _make_room(self._missing, self._negative_capacity)
            self._missing[tenant_id] = asked_at + self._negative_ttl
        else:
            _make_room(self._found, self._capacity)
            self._found[tenant_id] = (tenant, asked_at + self._ttl)


def _make_room(entries: dict[str, V], capacity: int) -> None:
    # The entry that was looked up longest ago goes: a hit need not be noted.
    while len(entries) >= capacity:
        del entries[next(iter(entries))]
