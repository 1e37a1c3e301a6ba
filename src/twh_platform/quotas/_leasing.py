"""
Fewer trips to the store: leases of units for hot keys, and remembered refusals.

A key that is taken from often gets a *chunk* in one trip: so many takes at
once, charged to every rule.  The next takes are served from it without asking
anybody, until it is used up or its lease ends.  What is left then is given
back.

What it costs is stated.  Units are charged before they are used, never after,
so no total is exceeded; only a `Rate` or a `SlidingWindow` may meet them late.
At any moment an instance holds at most one chunk of a counter, whatever keys it
is part of, therefore in any stretch of time a rule admits at most::

    what it admits without leases  +  instances * chunk

and a `Calendar` nothing more, because a lease ends with its period.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from ..errors import BackendUnavailableError, ConfigurationError
from ._arithmetic import NEVER, status
from ._exchange import Charge, Outcome, QuotaStore, Settled, Settlement, Take
from ._ids import UniqueIds
from ._leasing_bound import LEAST_TAKES, Chunks
from ._leasing_denials import Denials
from ._rules import Rate, Rule, SlidingWindow
from ._takes import charge_of

__all__ = ["LeasingQuotaStore", "LeasingStats"]

_GIVE_BACK_US = 60_000_000


@dataclass(slots=True)
class LeasingStats:
    """
    What a `LeasingQuotaStore` has done so far, for telemetry.

    Attributes:
        asked: Takes that went to the store as they were.

        chunks: Trips for a chunk that the store granted.

        chunks_refused: Trips for a chunk that it did not.

        leased: Takes that were paid for by chunks.

        returned: Takes' worth that was given back unused.

        lost: Takes' worth that could not be given back: it stays charged.

        denied: Takes that were refused from memory.

        held_at_most: For each rule's kind and name, the most units that this
            process has held of one counter.  Times the number of instances it
            is what they admitted beyond the rule at the most.
    """

    asked: int = 0
    chunks: int = 0
    chunks_refused: int = 0
    leased: int = 0
    returned: int = 0
    lost: int = 0
    denied: int = 0
    held_at_most: dict[str, int] = field(default_factory=dict)


class _Key:
    """
    One set of charges that is asked for again and again.

    Attributes:
        take: The charges.

        chunk: How many takes are drawn at once; below 2 nothing is leased.

        most: How many could be drawn at the very most.

        reserved: Takes that it may hold: they count against what may be held
            of each counter.

        left: Takes that are paid for and unused.

        paid: Takes that were ever paid for and not given back.

        ends: When the lease ends, by the monotonic clock.

        outcome: What each take that is served from it is told.

        hot: Whether it was taken from often enough in the stretch before *start*.

        start: When counting began.

        seen: Takes since then that came to the store.

        before: Takes that had been served from leases by then.

        exact_until: No chunk is asked for until then.

        waiting: Who waits for the chunk that is under way.

        drawing: Whether one is.

        timer: For giving back at the end.
    """

    __slots__ = (
        "before",
        "chunk",
        "drawing",
        "ends",
        "exact_until",
        "hot",
        "left",
        "most",
        "outcome",
        "paid",
        "reserved",
        "seen",
        "start",
        "take",
        "timer",
        "waiting",
    )

    def __init__(self, take: Take, chunk: int, most: int, now: float) -> None:
        self.take = take
        self.chunk = chunk
        self.most = most
        self.reserved = 0
        self.left = 0
        self.paid = 0
        self.ends = 0.0
        self.outcome = Outcome(0, admitted=False)
        self.hot = False
        self.start = now
        self.seen = 0
        self.before = 0
        self.exact_until = 0.0
        self.waiting: deque[asyncio.Future[Outcome | None]] = deque()
        self.drawing = False
        self.timer: asyncio.TimerHandle | None = None


class LeasingQuotaStore:
    """
    Lease units of hot keys from a store, and remember its refusals for a moment.

    Only sets of hard rules of the kinds `Rate`, `SlidingWindow` and `Calendar`
    are leased, and only once they are taken from *hot* times within a lease.
    With several rules the smallest chunk counts.  Where the store refuses a
    chunk, the exact cost is tried.

        >>> from twh_platform.quotas import LeasingQuotaStore, MemoryQuotaStore, Rate
        >>> store = LeasingQuotaStore(MemoryQuotaStore())
        >>> store.over_admission(Rate(name="second", limit=1000, per=1), instances=4)
        200

    Inside a `FallbackQuotaStore`: what is leased is served on while the store
    is down, for no longer than the lease.

    Args:
        store: The store behind it.

        chunk: How many units of a rule may be held here unused.  If it is not
            given, a tenth of each limit, and of rates and windows no more than
            they admit in 50 ms.  What it does not suffice for two takes of is
            not leased.  0 leases nothing.

        lease: Seconds for which a chunk can be used.

        hot: From how many takes within a lease on a key is hot.

        denial: Seconds for which a refusal is remembered at the most: so much
            later a refund by another instance is noticed.  0 remembers none.

        max_keys: How many keys, and how many refusals, are kept at the most.

        monotonic: Seconds.

    Attributes:
        stats: Counters.

        shard_of: As that of the store behind it.

    Raises:
        twh_platform.errors.ConfigurationError: If a number is not possible.
    """

    def __init__(
        self,
        store: QuotaStore,
        *,
        chunk: int | None = None,
        lease: float = 1.0,
        hot: int = 10,
        denial: float = 1.0,
        max_keys: int = 10_000,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        least = {"chunk": (chunk or 0, 0), "hot": (hot, 1), "denial": (denial, 0)}
        for name, (number, bound) in {**least, "max_keys": (max_keys, 1)}.items():
            if not number >= bound:
                message = f"{name}={number!r} is not possible: at least {bound}"
                raise ConfigurationError(message)
        if not lease > 0:
            message = f"lease={lease!r} is not above zero"
            raise ConfigurationError(message)
        self._store = store
        self.shard_of: Callable[[str], Hashable] = getattr(store, "shard_of", _one_shard)
        self._lease = lease
        self._hot = hot
        self._max_keys = max_keys
        self._monotonic = monotonic
        self._denial = denial
        self._denials = Denials(longest_us=round(denial * 1_000_000), max_keys=max_keys)
        # By how much the store's clock is ahead of `monotonic`, in microseconds.
        self._ahead = 0
        self._keys: dict[Take, _Key] = {}
        # The limiter hands in the same object again and again: no hashing for it.
        self._by_id: dict[int, _Key] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ids = UniqueIds()
        self.stats = LeasingStats()
        self._chunks = Chunks(chunk, self.stats.held_at_most)

    @property
    def shared(self) -> bool:
        """
        Whether other processes count in the store behind it.
        """
        return getattr(self._store, "shared", True)

    def __repr__(self) -> str:
        return f"LeasingQuotaStore({self._store!r}, keys={len(self._keys)})"

    @property
    def gives_back(self) -> bool:
        """
        Whether a take that is cancelled is given back by the store behind it.
        """
        return bool(getattr(self._store, "gives_back", False))

    def over_admission(self, rule: Rule, *, instances: int) -> int:
        """
        How many units more than the rule says may be admitted in any stretch of time.

        Args:
            rule: The rule.

            instances: How many processes lease from it.
        """
        if not isinstance(rule, Rate | SlidingWindow):
            return 0
        units = self._chunks.units(charge_of(rule, "", 1, "UTC", 0))
        return instances * units if units >= LEAST_TAKES else 0

    def take_nowait(self, take: Take, /) -> Outcome | None:
        """
        Decide without asking the store, where that is possible; None where not.
        """
        key = self._by_id.get(id(take))
        if key is not None and key.left and self._monotonic() < key.ends:
            key.left -= 1
            return key.outcome
        return self._denied(take)

    async def take(self, take: Take, /) -> Outcome:
        """
        Decide all charges at once, from a lease if there is one.
        """
        # As take_nowait(): a call less, for the sake of what is hot.
        key = self._by_id.get(id(take))
        if key is not None and key.left and self._monotonic() < key.ends:
            key.left -= 1
            return key.outcome
        loop = asyncio.get_running_loop()
        if key is None or not key.drawing or loop is not self._loop:
            found = self._denied(take)
            if found is not None:
                return found
            if take.dry or take.force or take.lease:
                return await self._ask(take)
            if key is None or loop is not self._loop:
                key = self._key(take, loop)
            if not key.drawing and not self._is_hot(key):
                return await self._ask(take)
        waiter = loop.create_future()
        key.waiting.append(waiter)
        if not key.drawing:
            self._serve(key)
        try:
            outcome = await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._take_back(key, waiter.result())
            raise
        return await self._ask(take) if outcome is None else outcome

    async def settle(self, settlement: Settlement, /) -> Settled:
        """
        Settle with the store; what it frees is not refused from memory any more.
        """
        settled = await self._store.settle(settlement)
        self._denials.forget(settlement.charges)
        return settled

    async def renew(self, take: Take, at: int, /) -> bool:
        """
        Prolong the slots of a take.
        """
        return await self._store.renew(take, at)

    async def aclose(self) -> None:
        """
        Give everything back, and close the store behind it if it can be closed.
        """
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for key in list(self._keys.values()):
            self._drop(key)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        close = getattr(self._store, "aclose", None)
        if close is not None:
            await close()

    def _denied(self, take: Take) -> Outcome | None:
        if not self._denials or take.dry or take.force:
            return None
        now = int(self._monotonic() * 1_000_000) + self._ahead
        found = self._denials.find(take, now)
        if found is not None:
            self.stats.denied += 1
        return found

    async def _ask(self, take: Take) -> Outcome:
        outcome = await self._store.take(take)
        self.stats.asked += 1
        if not outcome.stale and not take.dry:
            self._ahead = outcome.now - int(self._monotonic() * 1_000_000)
            if not outcome.admitted and self._denial:
                self._denials.learn(take, outcome)
        return outcome

    def _key(self, take: Take, loop: asyncio.AbstractEventLoop) -> _Key:
        """
        Find or begin the account of a set of charges.
        """
        if loop is not self._loop:
            # Timers and tasks of another loop do not run any more.
            self._keys.clear()
            self._by_id.clear()
            self._chunks.clear()
            self._loop = loop
        key = self._keys.pop(take, None)
        if key is None:
            key = _Key(take, *self._chunks.of(take.charges), self._monotonic())
        else:
            del self._by_id[id(key.take)]
            key.take = take
        # The key keeps the take alive, so no other gets its id.
        self._by_id[id(take)] = self._keys[take] = key
        while len(self._keys) > self._max_keys:
            self._drop(next(iter(self._keys.values())))
        return key

    def _is_hot(self, key: _Key) -> bool:
        if key.chunk < LEAST_TAKES:
            return False
        now = self._monotonic()
        if now >= key.start + self._lease:
            served = key.paid - key.left
            often = key.seen + served - key.before >= self._hot
            key.hot = often and now < key.start + 2 * self._lease
            key.start, key.seen, key.before = now, 0, served
        key.seen += 1
        hot = key.hot or key.seen > self._hot
        free = self._chunks.free(key.take.charges, key.reserved)
        return hot and now >= key.exact_until and free >= LEAST_TAKES

    def _serve(self, key: _Key) -> None:
        """
        Hand out what there is, in the order in which it was asked for, and draw more.
        """
        if key.left and self._monotonic() >= key.ends:
            self._return(key, key.left)
        while key.left and key.waiting:
            waiter = key.waiting.popleft()
            if not waiter.done():
                key.left -= 1
                waiter.set_result(key.outcome)
        if key.waiting and not key.drawing:
            key.drawing = True
            self._start(self._draw(key))

    async def _draw(self, key: _Key) -> None:
        """
        Get a chunk, and what is waited for besides.

        It belongs to no request: a client that goes away takes nothing along.
        """
        self._reserve(key)
        wanted = min(key.reserved + len(key.waiting), key.most)
        take = _times(key.take, wanted)
        asked_at = self._monotonic()
        try:
            outcome = await self._store.take(take)
        except BaseException as error:
            key.drawing = False
            self._release(key)
            self._fail(key, error)
            if not isinstance(error, Exception):
                raise
            return
        key.drawing = False
        if outcome.admitted:
            self._granted(key, take, outcome, asked_at, wanted)
            return
        self._release(key)
        if outcome.stale:
            self._tell_all(key, outcome)
        else:
            self._refused(key, outcome, asked_at)

    def _granted(
        self, key: _Key, take: Take, outcome: Outcome, asked_at: float, wanted: int
    ) -> None:
        self.stats.chunks += 1
        self.stats.leased += wanted
        self._ahead = outcome.now - int(self._monotonic() * 1_000_000)
        key.left = wanted
        key.paid += wanted
        key.outcome = outcome._replace(origin="lease")
        # From before the question on: it never ends later than the store's own would.
        key.ends = asked_at + self._lease
        for charge in take.charges:
            if charge.kind != "r":
                key.ends = min(key.ends, asked_at + _until_boundary(charge, outcome.now))
        self._serve(key)
        self._hold(key)

    def _refused(self, key: _Key, outcome: Outcome, asked_at: float) -> None:
        """
        Let everybody ask for themselves until a chunk may fit again.
        """
        self.stats.chunks_refused += 1
        charges = _times(key.take, key.chunk).charges
        waits = [
            status(one.kind, state, outcome.now, one.cost, one.args).retry_us
            for one, state in zip(charges, outcome.states, strict=True)
        ]
        longest = self._lease if NEVER in waits else min(max(waits) / 1_000_000, self._lease)
        key.exact_until = asked_at + longest
        self._tell_all(key, None)

    def _tell_all(self, key: _Key, outcome: Outcome | None) -> None:
        waiting, key.waiting = key.waiting, deque()
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(outcome)

    def _fail(self, key: _Key, error: BaseException) -> None:
        known = error if isinstance(error, Exception) else BackendUnavailableError("cancelled")
        waiting, key.waiting = key.waiting, deque()
        for waiter in waiting:
            if not waiter.done():
                waiter.set_exception(known)

    def _take_back(self, key: _Key, outcome: Outcome | None) -> None:
        """
        Take back what was handed to somebody who has gone.
        """
        if outcome is None or not outcome.admitted:
            return
        if outcome is not key.outcome:
            key.paid -= 1
            self._give_back(key.take, outcome, 1)
            return
        key.left += 1
        self._serve(key)
        self._hold(key)

    def _hold(self, key: _Key) -> None:
        """
        Keep what is left, no more than was reserved, and no longer than the lease.
        """
        if key.left > key.reserved:
            # Some of those who waited have gone.
            self._return(key, key.left - key.reserved)
        if key.timer is None:
            self._set_timer(key)

    def _reserve(self, key: _Key) -> None:
        takes = max(0, min(key.chunk, self._chunks.free(key.take.charges, key.reserved)))
        self._release(key)
        key.reserved = takes
        self._chunks.hold(key.take.charges, takes)

    def _release(self, key: _Key) -> None:
        self._chunks.release(key.take.charges, key.reserved)
        key.reserved = 0

    def _set_timer(self, key: _Key) -> None:
        wait = max(0.0, key.ends - self._monotonic())
        key.timer = asyncio.get_running_loop().call_later(wait, self._at_end, key)

    def _at_end(self, key: _Key) -> None:
        key.timer = None
        if key.drawing:  # what it gets, or not, sets the timer anew
            return
        if self._monotonic() < key.ends:
            self._set_timer(key)
            return
        if key.left:
            self._return(key, key.left)
        self._release(key)

    def _drop(self, key: _Key) -> None:
        del self._keys[key.take], self._by_id[id(key.take)]
        if key.timer is not None:
            key.timer.cancel()
            key.timer = None
        if key.left:
            self._return(key, key.left)
        self._release(key)

    def _return(self, key: _Key, unused: int) -> None:
        key.left -= unused
        key.paid -= unused
        self._give_back(key.take, key.outcome, unused)

    def _give_back(self, take: Take, outcome: Outcome, unused: int) -> None:
        settlement = Settlement(
            take.partition,
            self._ids.next(),
            _times(take, unused).charges,
            (0,) * len(take.charges),
            outcome.now,
            outcome.now + _GIVE_BACK_US,
        )
        self._start(self._settle_unused(settlement, unused))

    async def _settle_unused(self, settlement: Settlement, unused: int) -> None:
        try:
            settled = await self._store.settle(settlement)
        except Exception:  # noqa: BLE001 -- whatever it was: it stays charged
            self.stats.lost += unused
            return
        if settled.done:
            self.stats.returned += unused
            self._denials.forget(settlement.charges)
        else:
            self.stats.lost += unused

    def _start(self, work: Any) -> None:
        # Of no request: it must not keep one's tenant.
        context = contextvars.Context()
        task = asyncio.get_running_loop().create_task(work, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _one_shard(_: str) -> None:
    return None


def _times(take: Take, count: int) -> Take:
    return take._replace(charges=tuple(one._replace(cost=one.cost * count) for one in take.charges))


def _until_boundary(charge: Charge, now: int) -> float:
    """
    Seconds until the window or period ends in which a charge was made.
    """
    if charge.kind == "w":
        length = charge.args[1]
        return (length - now % length) / 1_000_000
    _, _, second, third, fourth = charge.args
    return (next(one for one in (second, third, fourth) if now < one) - now) / 1_000_000
