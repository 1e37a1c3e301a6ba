"""
A bounded cache in front of a directory.

An entry is served for its time to live and not a moment longer, even when the
directory is down: nobody may be served on the word of an entry that could
hide a suspension.  Served tenants have bounds of their own, so strangers who
ask for invented ones push out nobody.  A tenant that is not served is
remembered exactly as one that does not exist: nobody can tell them apart by
how long an answer takes or when it comes anew.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

from ..errors import BackendUnavailableError, ConfigurationError, TenantSuspendedError
from ._carry import create_clean_task
from ._deadline import finish_within
from ._directory import TenantDirectory
from ._tenant import Tenant

__all__ = ["CachedTenantDirectory"]

V = TypeVar("V")

_ATTEMPTS = 3
_NO_MORE = float("-inf")


class _Load:
    # One look-up in flight, shared by all who wait for it.  Its task never
    # raises: a failure that nobody waits for any more must not be reported.
    __slots__ = ("error", "known", "stale", "task", "tenant")

    def __init__(self, *, known: bool) -> None:
        self.known = known
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

        ttl: Seconds for which a served tenant is believed.

        negative_ttl: Seconds for which a tenant that is not found, or not
            served (its status, its expiry), stays so.

        capacity: How many served tenants are remembered.

        negative_capacity: How many others are remembered.

        timeout: Seconds after which a look-up is given up.

        max_loads: How many look-ups may be in flight; one that was given up
            counts until the inner directory has noticed.  Ids that are not
            among the served tenants remembered, fresh or not, may take half
            of them: a flood of invented ids leaves the rest to tenants.

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
        self._refused: dict[str, tuple[Tenant | None, float]] = {}
        self._loads: dict[str, _Load] = {}
        self._running: set[_Load] = set()

    async def get(self, tenant_id: str) -> Tenant | None:
        """
        Return the tenant with exactly this id, or None; at once if remembered.

        Raises:
            twh_platform.errors.BackendUnavailableError: With code
                ``directory_timeout`` if the answer is late,
                ``directory_busy`` if too many look-ups are in flight, or what
                the inner directory raised.
        """
        entry = self._found.get(tenant_id) or self._refused.get(tenant_id)
        if entry is not None and self._clock() < entry[1]:
            return entry[0]
        return await self._look_up(tenant_id)

    def invalidate(self, tenant_id: str) -> None:
        """
        Forget what is known of this tenant; the next request looks it up.
        """
        if tenant_id in self._found:
            # Not believed any more, but its look-ups have their part of *max_loads*.
            self._found[tenant_id] = (self._found[tenant_id][0], _NO_MORE)
        self._refused.pop(tenant_id, None)
        load = self._loads.pop(tenant_id, None)
        if load is not None:
            load.stale = True

    def clear(self) -> None:
        """
        Forget what is known of every tenant.
        """
        for tenant_id, (tenant, _) in self._found.items():
            self._found[tenant_id] = (tenant, _NO_MORE)
        self._refused.clear()
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
        known = tenant_id in self._found
        unknown = sum(not load.known for load in self._running)
        if len(self._running) >= self._max_loads or not (known or unknown < self._max_loads / 2):
            message = f"{len(self._running)} directory look-ups are in flight already"
            raise BackendUnavailableError(message, code="directory_busy")
        load = self._loads[tenant_id] = _Load(known=known)
        self._running.add(load)
        load.task = create_clean_task(self._load(tenant_id, load))
        load.task.add_done_callback(lambda _: self._settle(tenant_id, load))
        return load

    async def _load(self, tenant_id: str, load: _Load) -> None:
        asked_at = self._clock()  # the answer is no younger than the question
        try:
            load.tenant = await finish_within(
                self._timeout,
                self._ask(tenant_id, load),
                what="the directory look-up",
                code="directory_timeout",
            )
        except Exception as error:  # noqa: BLE001 -- handed to all who wait
            load.error = error
            return
        if not load.stale:
            self._remember(tenant_id, load.tenant, asked_at)

    async def _ask(self, tenant_id: str, load: _Load) -> Tenant | None:
        try:
            return await self._inner.get(tenant_id)
        finally:
            self._running.discard(load)

    def _settle(self, tenant_id: str, load: _Load) -> None:
        if self._loads.get(tenant_id) is load:
            del self._loads[tenant_id]

    def _remember(self, tenant_id: str, tenant: Tenant | None, asked_at: float) -> None:
        self._found.pop(tenant_id, None)
        self._refused.pop(tenant_id, None)
        if tenant is not None and _is_served(tenant):
            _make_room(self._found, self._capacity)
            self._found[tenant_id] = (tenant, asked_at + self._ttl)
        else:
            _make_room(self._refused, self._negative_capacity)
            self._refused[tenant_id] = (tenant, asked_at + self._negative_ttl)


def _is_served(tenant: Tenant) -> bool:
    # Decides only for how long to remember; the middleware asks by its own clock.
    try:
        tenant.ensure_served(datetime.now(UTC))
    except TenantSuspendedError:
        return False
    return True


def _make_room(entries: dict[str, V], capacity: int) -> None:
    # The entry that was looked up longest ago goes: a hit need not be noted.
    while len(entries) >= capacity:
        del entries[next(iter(entries))]
