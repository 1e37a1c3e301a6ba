"""
A store that always answers in time: by the store behind it, or by each rule's policy.

::

    take -> may the store be asked? -- yes --> it has the budget to answer in --> its outcome
                      |                             |
                      no (the breaker is open)      no answer, or an error
                      |                             |
                      +---------> open: admit   closed: refuse   share: count here

What the store said before is remembered, and what is taken here is counted
apart, so that no outage gives anybody a fresh limit: see `_fallback_share`.

An answer that comes after the budget is not lost.  What it charged is given
back, because the client was answered without it.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Hashable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from .._breaker import Breaker
from .._signals import announce
from ..errors import BackendUnavailableError, ConfigurationError
from ._announcements import QuotaStoreDegraded, QuotaStoreRestored
from ._exchange import Outcome, QuotaStore, Settled, Settlement, Take, charged
from ._fallback_deadlines import TURNS, Watch
from ._fallback_share import LocalShare
from ._ids import UniqueIds
from ._options import require_positive

__all__ = ["FallbackQuotaStore", "FallbackStats"]

T = TypeVar("T")

_logger = logging.getLogger("twh_platform.quotas")

_FULL = "quota_store_full"
_TIMEOUT = "timeout"
_LOCAL = frozenset({"local", "open", "closed"})
_MOST_ATTEMPTS = 3
_GIVE_BACK_US = 60_000_000


class _UnansweredError(Exception):
    """
    The store did not answer in time, or with an error.
    """


@dataclass(slots=True)
class FallbackStats:
    """
    What a `FallbackQuotaStore` has done so far, for telemetry.

    Attributes:
        answered: Calls that the store answered in time.

        timeouts: Calls that it did not.

        errors: Calls that it answered with an error, fullness among them.

        admitted_locally: Takes admitted from this instance's share.

        admitted_uncounted: Takes admitted by rules that fail open.

        refused_locally: Takes that the share refused.

        refused_closed: Takes refused because a rule fails closed, or because
            there was no room to count them in.

        probes: Takes that were sent to see whether the store is back.

        outages: How often the store was given up.

        late: Answers that came after the budget, or after the caller had gone.

        given_back: Charges of such answers that were given back.

        deferred: Settlements that were put off until the store is back.

        dropped: Settlements that were given up: what they would have given
            back stays charged.
    """

    answered: int = 0
    timeouts: int = 0
    errors: int = 0
    admitted_locally: int = 0
    admitted_uncounted: int = 0
    refused_locally: int = 0
    refused_closed: int = 0
    probes: int = 0
    outages: int = 0
    late: int = 0
    given_back: int = 0
    deferred: int = 0
    dropped: int = 0


class FallbackQuotaStore:
    """
    Ask a store, for so long and no longer; stand in for it while it fails.

    Every call is answered within the budget.  After *failures* in a row the
    store is left alone; then one take at a time, after growing pauses, is the
    probe that finds it back.  Meanwhile each rule's policy decides:

    - ``open`` admits without counting.
    - ``closed`` refuses: `Outcome.origin` is ``closed``.
    - ``share`` counts in this process against ``limit / instances``, rounded
      up.  Per rule and window an instance admits at most that much beyond what
      the store admitted, and nothing beyond what the store last said was left.

    Where a take has rules of several policies, one that is hard and ``closed``
    refuses it; those that share decide all or nothing.

        >>> import asyncio
        >>> from twh_platform.quotas import FallbackQuotaStore, Limiter, MemoryQuotaStore, Rate
        >>> store = FallbackQuotaStore(MemoryQuotaStore(), instances=4)
        >>> limiter = Limiter(store, rules=[Rate(name="login", limit=5, per=60, scope="client")])
        >>> asyncio.run(limiter.take(client="192.0.2.1")).origin
        'store'
        >>> store.degraded
        False

    With a store on Redis and leases, this is the outermost:
    ``FallbackQuotaStore(LeasingQuotaStore(RedisQuotaStore(client)), instances=4)``.

    Args:
        store: The store behind it.  One with a true attribute ``gives_back``
            puts right itself what it charged for a caller that is cancelled:
            its takes need no task of their own.  One with a method
            ``shard_of(partition)`` says what fails together: each shard has a
            breaker of its own.

        instances: How many processes share the limits; a function is asked at
            each decision, so that it may follow the deployment.

        budget: Seconds that the store has for an answer.

        failures: How many failures in a row open the breaker.

        pause: Seconds until the first probe; each next pause is twice as long.

        longest_pause: Seconds between probes at the most; up to half of it is
            added at random.

        max_keys: How many states are kept here at the most: of shares, and of
            what the store last said.

        max_late: How many late answers are waited for at the most, and how
            many settlements are kept for later.

        clock: Seconds since 1970, until the store has told its own time.

        monotonic: Seconds.

        chance: A random number from 0 to 1.

    Attributes:
        stats: Counters.

    Raises:
        twh_platform.errors.ConfigurationError: If a number is not above zero.
    """

    def __init__(
        self,
        store: QuotaStore,
        *,
        instances: int | Callable[[], int],
        budget: float = 0.04,
        failures: int = 3,
        pause: float = 0.1,
        longest_pause: float = 2.0,
        max_keys: int = 100_000,
        max_late: int = 1024,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        require_positive(
            instances=1 if callable(instances) else instances,
            budget=budget,
            failures=failures,
            pause=pause,
            longest_pause=longest_pause,
            max_keys=max_keys,
            max_late=max_late,
        )
        self._store = store
        self._at_once: Callable[[Take], Outcome | None] = getattr(
            store, "take_nowait", _nothing_at_once
        )
        # Whether a take that is cancelled may be forgotten: the store puts it right itself.
        self._gives_back: bool = getattr(store, "gives_back", False)
        self._budget = budget
        self._failures = failures
        self._max_late = max_late
        self._clock = clock
        self._monotonic = monotonic
        self._new_breaker = partial(
            Breaker, failures=failures, pause=pause, longest=longest_pause, chance=chance
        )
        self._shard_of: Callable[[str], Hashable] = getattr(store, "shard_of", _one_shard)
        self._shards: dict[Hashable, _Shard] = {}
        self._share = LocalShare(_counter(instances), max_keys=max_keys)
        # By how much the store's clock is ahead of `monotonic`.
        self._ahead = int((clock() - monotonic()) * 1_000_000)
        self._full_row = 0
        self._since: float | None = None
        self._before = FallbackStats()
        self._watch: Watch | None = None
        self._late: set[asyncio.Task[Any]] = set()
        self._ids = UniqueIds()
        self.stats = FallbackStats()

    @property
    def shared(self) -> bool:
        """
        Whether other processes count in the store behind it.
        """
        return getattr(self._store, "shared", True)

    def __repr__(self) -> str:
        word = "degraded" if self.degraded else "answering"
        return f"FallbackQuotaStore({self._store!r}, {word})"

    @property
    def degraded(self) -> bool:
        """
        Whether the store is given up at the moment.
        """
        return self._since is not None

    async def take(self, take: Take, /) -> Outcome:
        """
        Decide all charges at once, by the store or in its stead.
        """
        found = self._at_once(take)
        if found is not None:
            return found
        shard = self._shard(take.partition)
        if not shard.breaker.admits(self._monotonic()):
            return self._stand_in(take)
        call = self._store.take(take)
        try:
            if self._gives_back:
                outcome = await self._directly(shard, call)
            else:
                outcome = await self._within(shard, call, partial(self._late_take, take))
        except _UnansweredError:
            return self._stand_in(take)
        if outcome.states and outcome.origin != "cache":
            self._ahead = outcome.now - int(self._monotonic() * 1_000_000)
            self._share.learn(take.charges, outcome.states)
        return outcome

    async def settle(self, settlement: Settlement, /) -> Settled:
        """
        Settle where it was decided.

        What cannot be settled now is kept, up to a number, until the store is
        back; `Settled.done` is False then.
        """
        now = self._moment()
        if settlement.origin in _LOCAL:
            return self._share.settle_at(now, settlement)
        shard = self._shard(settlement.partition)
        if not shard.breaker.is_open:
            with suppress(_UnansweredError):
                return await self._settle(shard, settlement, 0)
        else:
            self._owe(settlement, 0)
        return Settled(now, done=False)

    async def renew(self, take: Take, at: int, /) -> bool:
        """
        Prolong the slots of a take where they are held.

        While the store does not answer they count as held, for no longer than
        the longest hold.
        """
        if self._share.renew_at(self._moment(), take, at):
            return True
        shard = self._shard(take.partition)
        if not shard.breaker.is_open:
            with suppress(_UnansweredError):
                return await self._within(shard, self._store.renew(take, at), self._late_other)
        longest = [one.args[2] for one in take.charges if one.kind == "l"]
        return bool(longest) and self._moment() < at + min(longest)

    async def aclose(self) -> None:
        """
        End what is under way, and close the store behind it if it can be closed.

        Settlements that are put off get one budget's time.
        """
        shards = list(self._shards.values())
        drains = [one.drain for one in shards if one.drain is not None]
        if drains:
            await asyncio.wait(drains, timeout=self._budget)
        for task in (*self._late, *drains):
            task.cancel()
        await asyncio.gather(*self._late, *drains, return_exceptions=True)
        for shard in shards:
            self.stats.dropped += len(shard.owed)
            shard.owed.clear()
        close = getattr(self._store, "aclose", None)
        if close is not None:
            await close()

    def _shard(self, partition: str) -> _Shard:
        name = self._shard_of(partition)
        shard = self._shards.get(name)
        if shard is None:
            shard = self._shards[name] = _Shard(self._new_breaker())
        return shard

    async def _within(
        self,
        shard: _Shard,
        call: Coroutine[Any, Any, T],
        late: Callable[[asyncio.Task[T]], None],
    ) -> T:
        """
        Wait for the store's answer, within the budget.

        The call goes on when the time is over, or when the caller is cancelled:
        what it does at the store is known only from its answer.
        """
        # admits() has let this caller through: if it is open, it is the probe.
        probe = shard.breaker.is_open
        self.stats.probes += probe
        loop = asyncio.get_running_loop()
        task = loop.create_task(call)
        waiter = loop.create_future()
        task.add_done_callback(partial(_wake, waiter))
        timer = loop.call_later(self._budget, _wake, waiter)
        try:
            await waiter
            for _ in range(TURNS):
                if task.done():
                    break
                await asyncio.sleep(0)
        except BaseException:
            shard.breaker.gave_up(self._monotonic(), probe=probe)
            self._leave(task, late)
            raise
        finally:
            timer.cancel()
        if task.done():
            return self._answer(shard, task, probe=probe)
        self._leave(task, late)
        self._failed(shard, _TIMEOUT, probe=probe)
        raise _UnansweredError

    async def _directly(self, shard: _Shard, call: Coroutine[Any, Any, T]) -> T:
        """
        Wait likewise, without a task for the call: when the time is over it is cancelled.
        """
        probe = shard.breaker.is_open
        self.stats.probes += probe
        loop = asyncio.get_running_loop()
        if self._watch is None or self._watch.loop is not loop:
            self._watch = Watch(loop, self._budget)
        deadline = self._watch.begin()
        try:
            result = await call
        except (Exception, asyncio.CancelledError) as error:
            if deadline.passed(error):
                self._failed(shard, _TIMEOUT, probe=probe)
                raise _UnansweredError from None
            if isinstance(error, asyncio.CancelledError):
                shard.breaker.gave_up(self._monotonic(), probe=probe)
                raise
            self._judge(shard, error, probe=probe)
            raise _UnansweredError from error
        finally:
            deadline.task = None
        self._answered(shard, probe=probe)
        return result

    def _answer(self, shard: _Shard, task: asyncio.Task[T], *, probe: bool) -> T:
        try:
            result = task.result()
        except (Exception, asyncio.CancelledError) as error:
            self._judge(shard, error, probe=probe)
            raise _UnansweredError from error
        self._answered(shard, probe=probe)
        return result

    def _judge(self, shard: _Shard, error: BaseException, *, probe: bool) -> None:
        """
        Take note of a failure of the store; raise what is the caller's own.
        """
        if isinstance(error, ConfigurationError):
            shard.breaker.gave_up(self._monotonic(), probe=probe)
            raise error
        self._failed(shard, _reason(error), probe=probe, error=error)

    def _answered(self, shard: _Shard, *, probe: bool) -> None:
        self.stats.answered += 1
        shard.breaker.succeeded(probe=probe)
        self._full_row = 0
        if self._since is not None:
            now = self._monotonic()
            if not any(one.breaker.hinders(now) for one in self._shards.values()):
                self._restored(self._since)
        if shard.owed:
            self._start_drain(shard)

    def _failed(
        self, shard: _Shard, reason: str, *, probe: bool, error: BaseException | None = None
    ) -> None:
        if reason == _TIMEOUT:
            self.stats.timeouts += 1
        else:
            self.stats.errors += 1
        if reason == _FULL:
            # It is there, and answers for what it has room for.
            shard.breaker.succeeded(probe=probe)
            self._full_row += 1
        else:
            shard.breaker.failed(self._monotonic(), probe=probe)
        given_up = shard.breaker.is_open or self._full_row >= self._failures
        if given_up and self._since is None:
            self._since = self._monotonic()
            self._before = _copy(self.stats)
            self.stats.outages += 1
            bug = None if isinstance(error, BackendUnavailableError) else error
            _logger.warning("the store of quotas is given up: %s", reason, exc_info=bug)
            announce(QuotaStoreDegraded(reason=reason, since=self._clock()))

    def _restored(self, since: float) -> None:
        self._since = None
        now, before = self.stats, self._before
        seconds = self._monotonic() - since
        _logger.warning("the store of quotas answers again after %.1f s", seconds)
        announce(
            QuotaStoreRestored(
                seconds=seconds,
                admitted_locally=now.admitted_locally - before.admitted_locally,
                admitted_uncounted=now.admitted_uncounted - before.admitted_uncounted,
                refused=now.refused_locally
                + now.refused_closed
                - before.refused_locally
                - before.refused_closed,
            )
        )

    def _moment(self) -> int:
        """
        The store's clock, as far as known.
        """
        return int(self._monotonic() * 1_000_000) + self._ahead

    def _stand_in(self, take: Take) -> Outcome:
        outcome = self._share.take_at(self._moment(), take)
        if take.dry or outcome.stale:
            return outcome
        if outcome.origin == "open":
            self.stats.admitted_uncounted += 1
        elif outcome.origin == "closed":
            self.stats.refused_closed += 1
        elif outcome.admitted:
            self.stats.admitted_locally += 1
        else:
            self.stats.refused_locally += 1
        return outcome

    def _leave(self, task: asyncio.Task[T], late: Callable[[asyncio.Task[T]], None]) -> None:
        if len(self._late) >= self._max_late:
            task.cancel()
        self._late.add(task)
        task.add_done_callback(self._late.discard)
        task.add_done_callback(late)

    def _late_take(self, take: Take, task: asyncio.Task[Outcome]) -> None:
        """
        Give back what was charged without anybody knowing.
        """
        self._late_other(task)
        if task.cancelled() or task.exception() is not None:
            return
        outcome = task.result()
        charges = charged(take, outcome)
        # What is forced was used already, and is charged in the right place now.
        if not charges or take.force:
            return
        self.stats.given_back += 1
        settlement = Settlement(
            take.partition,
            take.lease or self._ids.next(),
            charges,
            (0,) * len(charges),
            outcome.now,
            outcome.now + _GIVE_BACK_US,
            outcome.origin,
        )
        self._owe(settlement, 0)

    def _late_settle(
        self, settlement: Settlement, attempts: int, task: asyncio.Task[Settled]
    ) -> None:
        self._late_other(task)
        if task.cancelled() or task.exception() is not None:
            self._owe(settlement, attempts + 1)

    def _late_other(self, task: asyncio.Task[Any]) -> None:
        self.stats.late += 1
        if not task.cancelled():
            task.exception()  # asyncio complains about those that nobody looks at

    async def _settle(self, shard: _Shard, settlement: Settlement, attempts: int) -> Settled:
        late = partial(self._late_settle, settlement, attempts)
        try:
            return await self._within(shard, self._store.settle(settlement), late)
        except _UnansweredError as error:
            if error.__cause__ is not None:
                self._owe(settlement, attempts + 1)
            raise

    def _owe(self, settlement: Settlement, attempts: int) -> None:
        shard = self._shard(settlement.partition)
        # Without an id the store cannot tell a second attempt from another one.
        repeatable = settlement.id or not attempts
        room = sum(len(one.owed) for one in self._shards.values()) < self._max_late
        if not repeatable or not room or attempts >= _MOST_ATTEMPTS:
            self.stats.dropped += 1
            return
        self.stats.deferred += not attempts
        shard.owed.append((settlement, attempts))
        if not shard.breaker.is_open and not attempts:
            self._start_drain(shard)

    def _start_drain(self, shard: _Shard) -> None:
        if shard.drain is None or shard.drain.done():
            loop = asyncio.get_running_loop()
            # Of no request: it must not keep one's tenant.
            context = contextvars.Context()
            shard.drain = loop.create_task(self._pay(shard), context=context)

    async def _pay(self, shard: _Shard) -> None:
        """
        Settle what was put off, one by one, until the store fails again.
        """
        with suppress(_UnansweredError):
            while shard.owed and not shard.breaker.is_open:
                settled = await self._settle(shard, *shard.owed.popleft())
                # Its calendar's periods are over: so is what would be given back.
                self.stats.dropped += settled.stale


class _Shard:
    """
    What fails together: one server of a cluster.

    Attributes:
        breaker: Whether it is asked.

        owed: Settlements that were put off, and how often each was tried.

        drain: Carries them out.
    """

    __slots__ = ("breaker", "drain", "owed")

    def __init__(self, breaker: Breaker) -> None:
        self.breaker = breaker
        self.owed: deque[tuple[Settlement, int]] = deque()
        self.drain: asyncio.Task[None] | None = None


def _wake(waiter: asyncio.Future[None], _: object = None) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _one_shard(_: str) -> None:
    return None


def _nothing_at_once(_: Take) -> None:
    return None


def _reason(error: BaseException) -> str:
    """
    A short name: what a driver's message may hold stays out of signals and logs.
    """
    if isinstance(error, BackendUnavailableError):
        if error.__cause__ is None:
            return error.code
        error = error.__cause__
    return _TIMEOUT if isinstance(error, TimeoutError) else type(error).__name__


def _copy(stats: FallbackStats) -> FallbackStats:
    return FallbackStats(**{name: getattr(stats, name) for name in FallbackStats.__slots__})


def _counter(instances: int | Callable[[], int]) -> Callable[[], int]:
    """
    Ask for the number of instances; while that fails, the last answer counts.
    """
    if not callable(instances):
        return lambda: instances
    ask, last = instances, max(1, instances())
    failed = False

    def count() -> int:
        nonlocal last, failed
        try:
            last = max(1, ask())
        except Exception:
            if not failed:
                _logger.exception("the number of instances is not known: it stays %d", last)
            failed = True
        else:
            failed = False
        return last

    return count
