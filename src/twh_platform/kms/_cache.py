"""
The cache of data keys: whose they are, who loads them, and who waits.

How long an entry is believed is in `_cache_entry`.  Whoever misses at the same
moment waits for one load.  A load that an event loop waits
for runs in a thread of its own, so a waiter that is cancelled disturbs nobody.
What is evicted while it is loaded is loaded again: the old answer reaches
nobody.  A child of `fork` begins with an empty cache.
"""

from __future__ import annotations

import copy
import math
import random
import threading
from collections.abc import Callable, Generator, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar

from .._forks import reset_after_fork
from ..errors import (
    BackendUnavailableError,
    ConfigurationError,
    KeyServiceError,
    KeyServiceUnavailableError,
    PlatformError,
)
from ..tenancy._context import bind_tenant, unbind_tenant
from ..tenancy._tenant import Tenant
from ._cache_entry import CachePolicy, Entry
from ._clock import elapsed
from ._deadline import no_deadline, time_left
from ._tails import tail_prefix
from ._threads import Threads, answer

__all__ = ["CacheStats", "DataKeyCache", "Steps", "TenantKeys"]

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

SLOTS = 4
_ATTEMPTS = 4
_STUCK = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """
    What a cache of data keys has done since it was made; hits are not counted.

    Attributes:
        entries: Data keys that it holds now.

        tenants: Tenants that it holds something of now.

        loads: Loads that callers waited for.

        refreshes: Loads in the background.

        failures: Loads that failed because a backend was unavailable.

        refusals: Loads that were refused.

        refused_again: Calls answered by a refusal that was remembered.

        stale: Calls answered by an entry beyond its `max_age`.

        evictions: Tenants evicted by `evict`.
    """

    entries: int
    tenants: int
    loads: int
    refreshes: int
    failures: int
    refusals: int
    refused_again: int
    stale: int
    evictions: int


class TenantKeys:
    """
    What the cache holds for one tenant.

    Attributes:
        prefix: Its part of what seals are bound to.

        entries: What was loaded, by key.

        sealing: What it seals with, by slot.

        gone: Whether it was evicted: nothing enters any more.
    """

    __slots__ = ("entries", "gone", "loads", "prefix", "refusals", "sealing", "tenant_id")

    def __init__(self, tenant_id: str) -> None:
        self.tenant_id = tenant_id
        self.prefix = tail_prefix(tenant_id)
        self.entries: dict[Hashable, Entry] = {}
        # Of whatever class its loaders give: hot paths do not ask which.
        self.sealing: list[Any] = [None] * SLOTS
        self.refusals: dict[Hashable, _Refusal] = {}
        self.loads: dict[Hashable, _Work] = {}
        self.gone = False


class _Refusal:
    __slots__ = ("asked_at", "error", "key", "until")

    def __init__(self, key: Hashable, error: PlatformError, asked_at: float, until: float) -> None:
        self.key, self.error, self.asked_at, self.until = key, error, asked_at, until


Loader: TypeAlias = Callable[[Entry | None], Entry]


class _Wanted(NamedTuple):
    # What a caller asks for; see `DataKeyCache.steps`.
    tenant: Tenant
    key: Hashable
    load: Loader
    slot: int | None
    instead_of: Entry | None


class _Abandoned(Exception):  # noqa: N818 - a turn of a load, not an error
    pass


class _Work:
    # One load in flight.  Its future holds an entry or an error, never raises,
    # and cannot be cancelled.
    __slots__ = ("asked_at", "future", "held", "hurried", "key", "load", "slot", "tenant")

    def __init__(
        self, wanted: _Wanted, held: TenantKeys, asked_at: float, *, slot: int | None = None
    ) -> None:
        self.tenant, self.key, self.load = wanted.tenant, wanted.key, wanted.load
        self.held, self.asked_at, self.slot = held, asked_at, slot
        self.hurried = False
        self.future: Future[Entry | BaseException] = Future()
        self.future.set_running_or_notify_cancel()


Turn: TypeAlias = tuple[_Work, bool]
Steps: TypeAlias = Generator[Turn, "Entry | BaseException", T]


class DataKeyCache:
    """
    Entries by tenant and key, each loaded by one caller at a time.

    What has to be waited for is written once, as steps; `run` and `run_async`
    take them.

    Args:
        policy: How long and how many.

        clock: Seconds that never go back and count sleep.

        chance: Gives 0 to 1: spreads refreshes over time.

        threads: How many loads for event loops, and refreshes, run at once.

        seconds: How long a caller waits for a load.
    """

    def __init__(
        self,
        policy: CachePolicy,
        *,
        clock: Callable[[], float] = elapsed,
        chance: Callable[[], float] = random.random,
        threads: int = 8,
        seconds: float = 10.0,
    ) -> None:
        self.policy = policy
        self.clock = clock
        self._chance, self._seconds = chance, seconds
        self._threads = Threads(threads, name="twh-data-keys")
        self.tenants: dict[str, TenantKeys] = {}
        self._closed = False
        self._counts: dict[str, int] = {}
        self.after_fork()
        reset_after_fork(self)

    def after_fork(self) -> None:
        """
        Begin with nothing of what was before, as a forked child has to.

        What counts the uses of a data key would otherwise count in two places.
        """
        self._lock = threading.Lock()
        # In place: hot paths have hold of it.
        self.tenants.clear()
        # By the time of their validation; what tenants seal with goes last.
        self._opening: dict[Entry, TenantKeys] = {}
        self._sealing: dict[Entry, TenantKeys] = {}
        self._refusals: dict[_Refusal, TenantKeys] = {}
        self._in_flight = 0

    def steps(
        self,
        tenant: Tenant,
        key: Hashable,
        load: Loader,
        *,
        slot: int | None = None,
        instead_of: Entry | None = None,
    ) -> Steps[Entry]:
        """
        The way to an entry that may be used.

        Args:
            tenant: Whose.

            key: Under which it is found; of a slot, under which it is loaded.

            load: Gets what was there before, or None, and returns the entry.
                It runs as *tenant*, without the deadline of whoever caused it.

            slot: Load what is sealed with in this slot.

            instead_of: What is in the slot and will not do.

        Raises:
            twh_platform.errors.KeyServiceError: What the load raised.
        """
        wanted = _Wanted(tenant, key, load, slot, instead_of)
        again = False
        for _ in range(_ATTEMPTS):
            found = self._find(wanted)
            if isinstance(found, Entry):
                return found
            work, mine = found
            try:
                outcome = yield work, mine
            except KeyServiceUnavailableError as late:
                self._note_late(work)
                outcome = late
            if isinstance(outcome, Entry):
                if not work.held.gone:
                    return outcome
                continue
            if isinstance(outcome, _Abandoned):
                continue
            if _is_retryable(outcome):
                entry = work.held.entries.get(key)
                if entry is not None and not work.held.gone and entry.alive(self.clock()):
                    self._count("stale")
                    return entry
                # Whoever led had less time than we have.
                if work.hurried and not mine and not again:
                    again = True
                    continue
            raise _fresh_error(outcome)
        raise _busy(tenant.id)

    def run(self, steps: Steps[T]) -> T:
        """
        Take the steps in this thread.
        """
        try:
            turn = next(steps)
            while True:
                try:
                    outcome = self._take(*turn)
                except KeyServiceUnavailableError as late:
                    turn = steps.throw(late)
                else:
                    turn = steps.send(outcome)
        except StopIteration as stop:
            value: T = stop.value
            return value

    async def run_async(self, steps: Steps[T]) -> T:
        """
        Take the steps without blocking the event loop.
        """
        try:
            turn = next(steps)
            while True:
                try:
                    outcome = await self._take_async(*turn)
                except KeyServiceUnavailableError as late:
                    turn = steps.throw(late)
                else:
                    turn = steps.send(outcome)
        except StopIteration as stop:
            value: T = stop.value
            return value

    def evict(self, tenant_id: str) -> None:
        """
        Forget all of a tenant's; what is being loaded does not enter.
        """
        with self._lock:
            self._count("evictions")
            held = self.tenants.pop(tenant_id, None)
            if held is not None:
                self._forget_all(held)

    def clear(self) -> None:
        """
        Forget all of everybody's.
        """
        for tenant_id in list(self.tenants):
            self.evict(tenant_id)

    def close(self) -> None:
        """
        Forget everything and let go of the threads; loads that still run are not waited for.
        """
        self.clear()
        with self._lock:
            self._closed = True
        # What is queued runs on: somebody may be waiting for it.
        self._threads.close(cancel=False)

    def drop(self, held: TenantKeys, entry: Entry) -> None:
        """
        Forget one entry.
        """
        with self._lock:
            self._remove(held, entry)

    def stats(self) -> CacheStats:
        """
        What it has done so far.
        """
        with self._lock:
            counts = {one.name: self._counts.get(one.name, 0) for one in fields(CacheStats)}
            counts["entries"] = len(self._opening) + len(self._sealing)
            counts["tenants"] = len(self.tenants)
        return CacheStats(**counts)

    def _find(self, wanted: _Wanted) -> Entry | Turn:
        with self._lock:
            if self._closed:
                raise _closed()
            now = self.clock()
            held = self._held(wanted.tenant.id)
            slot = wanted.slot
            entry = held.entries.get(wanted.key) if slot is None else held.sealing[slot]
            if entry is not None and entry is not wanted.instead_of and entry.usable(now):
                if now >= entry.fresh_until and slot is None:
                    self._refresh(wanted, held, entry, now)
                return entry
            self._ensure_not_refused(held, wanted.key, now)
            return self._join(wanted, held, now)

    def _held(self, tenant_id: str) -> TenantKeys:
        held = self.tenants.get(tenant_id)
        if held is None:
            held = self.tenants[tenant_id] = TenantKeys(tenant_id)
        return held

    def _ensure_not_refused(self, held: TenantKeys, key: Hashable, now: float) -> None:
        refusal = held.refusals.get(key)
        if refusal is None:
            return
        if refusal.asked_at <= now < refusal.until:
            self._count("refused_again")
            raise _fresh_error(refusal.error)
        self._unrefuse(held, refusal)

    def _join(self, wanted: _Wanted, held: TenantKeys, now: float) -> Turn:
        work = held.loads.get(wanted.key)
        if work is not None and work.asked_at <= now < work.asked_at + _STUCK:
            return work, False
        if work is None:
            self._ensure_room(held)
            self._in_flight += 1
        self._count("loads")
        work = held.loads[wanted.key] = _Work(wanted, held, now, slot=wanted.slot)
        return work, True

    def _ensure_room(self, held: TenantKeys) -> None:
        # Ids that somebody invents must not fill the queue of everybody's loads.
        if len(held.loads) > self.policy.per_tenant or self._in_flight > self.policy.capacity:
            self._tidy(held)
            raise _busy(held.tenant_id)

    def _refresh(self, wanted: _Wanted, held: TenantKeys, entry: Entry, now: float) -> None:
        if now >= entry.hard_at:
            self._count("stale")
        if wanted.key in held.loads or self._in_flight > self.policy.capacity:
            return
        self._count("refreshes")
        self._in_flight += 1
        work = held.loads[wanted.key] = _Work(wanted, held, now)
        self._threads.submit(partial(self._load_alone, work))

    def _load_alone(self, work: _Work) -> None:
        with no_deadline():
            self._load(work)

    def _load(self, work: _Work) -> None:
        outcome: Entry | BaseException = _Abandoned()
        try:
            # Not under the lease of whoever happened to come first.
            with unbind_tenant(), bind_tenant(work.tenant):
                outcome = work.load(work.held.entries.get(work.key))
        except Exception as error:  # noqa: BLE001 - handed to all who wait
            outcome = error
        finally:
            self._settle(work, outcome)

    def _settle(self, work: _Work, outcome: Entry | BaseException) -> None:
        held = work.held
        with self._lock:
            if held.loads.get(work.key) is work:
                del held.loads[work.key]
                self._in_flight -= 1
                if isinstance(outcome, Entry):
                    self._enter(held, outcome, work)
                elif not isinstance(outcome, _Abandoned):
                    self._note(held, outcome, work)
                self._tidy(held)
        work.future.set_result(outcome)

    def _enter(self, held: TenantKeys, entry: Entry, work: _Work) -> None:
        entry.believe(work.asked_at, self.policy, self._chance())
        before = held.entries.get(entry.key)
        if before is not None:
            self._remove(held, before)
        if work.slot is not None:
            self._leave_slot(held, work.slot)
            entry.slot = work.slot
        if entry.slot is not None:
            held.sealing[entry.slot] = entry
        held.entries[entry.key] = entry
        (self._opening if entry.slot is None else self._sealing)[entry] = held
        self._make_room(held)

    def _leave_slot(self, held: TenantKeys, slot: int) -> None:
        before = held.sealing[slot]
        if before is not None:
            before.slot = None
            held.sealing[slot] = None
            if self._sealing.pop(before, None) is not None:
                self._opening[before] = held

    def _make_room(self, held: TenantKeys) -> None:
        spare = len(held.entries) - sum(one is not None for one in held.sealing)
        if spare > self.policy.per_tenant:
            oldest = next(one for one in held.entries.values() if one.slot is None)
            self._remove(held, oldest)
        while len(self._opening) + len(self._sealing) > self.policy.capacity:
            entry, owner = next(iter((self._opening or self._sealing).items()))
            self._remove(owner, entry)
            self._tidy(owner)

    def _remove(self, held: TenantKeys, entry: Entry) -> None:
        if held.entries.get(entry.key) is entry:
            del held.entries[entry.key]
        if entry.slot is not None and held.sealing[entry.slot] is entry:
            held.sealing[entry.slot] = None
        self._opening.pop(entry, None)
        self._sealing.pop(entry, None)

    def _note(self, held: TenantKeys, error: BaseException, work: _Work) -> None:
        entry = held.entries.get(work.key)
        now = self.clock()
        if _is_retryable(error):
            self._count("failures")
            if entry is not None:
                entry.fail(now)
            return
        self._count("refusals")
        if entry is not None:
            self._remove(held, entry)
        if isinstance(error, KeyServiceError):
            kept = _fresh_error(error)
            kept.__cause__ = None
            self._refuse(held, _Refusal(work.key, kept, now, now + self.policy.negative_age))

    def _note_late(self, work: _Work) -> None:
        # The load goes on; whoever comes meanwhile is not to wait as long.
        with self._lock:
            entry = work.held.entries.get(work.key)
            if entry is not None and not work.held.gone:
                entry.fail(self.clock())

    def _refuse(self, held: TenantKeys, refusal: _Refusal) -> None:
        before = held.refusals.get(refusal.key)
        if before is not None:
            self._unrefuse(held, before)
        held.refusals[refusal.key] = refusal
        self._refusals[refusal] = held
        if len(held.refusals) > self.policy.per_tenant:
            self._unrefuse(held, next(iter(held.refusals.values())))
        if len(self._refusals) > self.policy.capacity:
            oldest, owner = next(iter(self._refusals.items()))
            self._unrefuse(owner, oldest)
            self._tidy(owner)

    def _unrefuse(self, held: TenantKeys, refusal: _Refusal) -> None:
        held.refusals.pop(refusal.key, None)
        self._refusals.pop(refusal, None)

    def _forget_all(self, held: TenantKeys) -> None:
        held.gone = True
        for entry in list(held.entries.values()):
            self._remove(held, entry)
        for refusal in list(held.refusals.values()):
            self._unrefuse(held, refusal)
        self._in_flight -= len(held.loads)
        held.loads.clear()

    def _tidy(self, held: TenantKeys) -> None:
        empty = not (held.entries or held.refusals or held.loads)
        if empty and self.tenants.get(held.tenant_id) is held:
            del self.tenants[held.tenant_id]

    def _take(self, work: _Work, mine: bool) -> Entry | BaseException:  # noqa: FBT001 - a turn
        if mine:
            work.hurried = time_left(math.inf) < math.inf
            self._load(work)
        try:
            return work.future.result(time_left(self._seconds))
        except TimeoutError:
            raise _late(work.tenant.id) from None

    async def _take_async(self, work: _Work, mine: bool) -> Entry | BaseException:  # noqa: FBT001 - a turn
        if mine and self._threads.submit(partial(self._load_alone, work)).cancelled():
            self._settle(work, _closed())  # it was closed since
        late = partial(_late, work.tenant.id)
        return await answer(work.future, seconds=self._seconds, late=late)

    def _count(self, what: str) -> None:
        self._counts[what] = self._counts.get(what, 0) + 1


def _is_retryable(error: BaseException) -> bool:
    return isinstance(error, BackendUnavailableError) or getattr(error, "retryable", False) is True


def _fresh_error(error: E) -> E:
    # One object raised by many would gather the tracebacks of all of them.
    if not isinstance(error, PlatformError):
        return error
    again = copy.copy(error)
    again.__cause__ = error.__cause__
    again.__suppress_context__ = True
    return again


def _closed() -> ConfigurationError:
    return ConfigurationError("this cipher is closed", code="cipher_closed")


def _late(tenant_id: str) -> KeyServiceUnavailableError:
    return KeyServiceUnavailableError(f"a data key of tenant {tenant_id!r} did not come in time")


def _busy(tenant_id: str) -> KeyServiceUnavailableError:
    message = f"too many data keys are being loaded, or evicted at once: tenant {tenant_id!r}"
    return KeyServiceUnavailableError(message, code="data_keys_busy")
