"""
The store in memory: takes from any number of rules at once, all or nothing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar

from ..errors import BackendUnavailableError
from ._arithmetic import DECIDE, EMPTY, REFUND, ClockOutsideError, State, is_over
from ._exchange import HARD, SHADOW, Charge, Outcome, Settled, Settlement, Take
from ._options import require_positive

__all__ = ["MemoryQuotaStore"]

# What a named tuple's own constructor comes to, in a third of its time.
_new = tuple.__new__


class MemoryQuotaStore:
    """
    Rules in the memory of this process: exact, and gone with it.

    The cost of a take does not depend on how many keys there are.  What has
    run out is dropped as new keys come; what has not is never forgotten: a
    store that is full refuses new keys.

        >>> MemoryQuotaStore(max_keys=1000)
        MemoryQuotaStore(keys=0, max_keys=1000)

    Args:
        max_keys: How many states it keeps at the most, and how many settlements
            that could come a second time.

        clock: Seconds since 1970.

    Raises:
        twh_platform.errors.ConfigurationError: If *max_keys* is not above zero.
    """

    shared: ClassVar[bool] = False  # each process counts for itself

    def __init__(
        self, *, max_keys: int = 1_000_000, clock: Callable[[], float] = time.time
    ) -> None:
        require_positive(max_keys=max_keys)
        self._max_keys = max_keys
        self._clock = clock
        self._now = 0
        # While it is ahead of the system's clock: what it said last, and what that had read.
        self._slow_now = self._slow_read = 0
        self._kept: dict[_Key, _Kept] = {}
        self._queue: deque[_Key] = deque()
        self._marked = 0  # settlements among what is kept, which take no room from rules

    def __repr__(self) -> str:
        return f"MemoryQuotaStore(keys={len(self._kept)}, max_keys={self._max_keys})"

    async def take(self, take: Take, /) -> Outcome:
        """
        Decide all charges at once; write all, or nothing at all.

        Raises:
            twh_platform.errors.BackendUnavailableError: With code
                ``quota_store_full``, if there is no room for a new key.
        """
        # As `_moment`, for which a call is saved here.
        now = int(self._clock() * 1_000_000)
        if now < self._now:
            now = self._slowed(now)
        self._now = now
        return self.take_at(now, take)

    async def settle(self, settlement: Settlement, /) -> Settled:
        """
        Bring charges to what was really used, once; free the slots.
        """
        return self.settle_at(self._moment(), settlement)

    async def renew(self, take: Take, at: int, /) -> bool:
        """
        Prolong the slots of a take; False if they are gone or held for too long.
        """
        return self.renew_at(self._moment(), take, at)

    def take_at(self, now: int, take: Take) -> Outcome:
        """
        The same at a given moment, in microseconds since 1970.
        """
        charges, kept = take.charges, self._kept
        changed, states = [], []
        if take.dry:
            return self._take_in_full(now, take)
        # The commonest case in half the time: every state is there, and has enough left.
        try:
            for charge in charges:
                bucket, field, kind, cost, _, args, _ = charge
                one = kept.get((bucket, field))
                if one is None or kind == "l":
                    return self._take_in_full(now, take)
                fits, state = DECIDE[kind](one[0], now, cost, args)
                if not fits:
                    return self._take_in_full(now, take)
                changed.append((one, state, charge))
                states.append(state)
        except ClockOutsideError:
            return Outcome(now, admitted=False, stale=True)
        for one, state, charge in changed:
            one[0], one[1] = state, charge
        return _new(Outcome, (now, True, (True,) * len(states), tuple(states), "store", False, ()))

    def _take_in_full(self, now: int, take: Take) -> Outcome:
        charges, force, kept = take.charges, take.force, self._kept
        admitted, new = True, 0
        fits, before, after = [], [], []
        try:
            for charge in charges:
                bucket, field, kind, cost, mode, args, _ = charge
                found = kept.get((bucket, field))
                if found is None:
                    state, new = EMPTY, new + 1
                else:
                    state = self._state(now, charge) if kind == "l" else found[0]
                fit, charged = DECIDE[kind](state, now, cost, args)
                fits.append(fit)
                before.append(state)
                after.append(charged)
                if not fit and mode == HARD:
                    admitted = False
        except ClockOutsideError:
            return Outcome(now, admitted=False, stale=True)
        if take.dry or not (admitted or force):
            return Outcome(now, admitted or force, tuple(fits), tuple(before))
        if new:
            self._make_room(now, new)
        for index, charge in enumerate(charges):
            if fits[index] or force or charge.mode != SHADOW:
                self._put(now, charge, after[index], take.lease)
            else:
                after[index] = before[index]
        return _new(Outcome, (now, True, tuple(fits), tuple(after), "store", False, ()))

    def settle_at(self, now: int, settlement: Settlement) -> Settled:
        """
        The same at a given moment, in microseconds since 1970.
        """
        marker = settlement.partition, settlement.id
        if now > settlement.expires or (settlement.id and marker in self._kept):
            return Settled(now, done=False)
        # What frees slots and nothing else needs no marker to be done once.
        slots = all(charge.kind == "l" for charge in settlement.charges)
        if settlement.id and not slots:
            self._make_room_for_marker(now)
        try:
            states = tuple(
                self._settled_state(now, charge, actual, settlement)
                for charge, actual in zip(settlement.charges, settlement.actual, strict=True)
            )
        except ClockOutsideError:
            return Settled(now, done=False, stale=True)
        freed = self._put_settled(now, settlement, states)
        if slots and not freed:
            return Settled(now, done=False)
        if settlement.id and not slots:
            self._queue.append(marker)
            self._kept[marker] = [settlement.expires, None]
            self._marked += 1
        return Settled(now, done=True, states=states)

    def renew_at(self, now: int, take: Take, at: int) -> bool:
        """
        The same at a given moment, in microseconds since 1970.
        """
        held = [charge for charge in take.charges if charge.kind == "l"]
        renewed = [
            self._slots(charge).renew(
                take.lease, now, min(now + charge.args[1], at + charge.args[2])
            )
            for charge in held
        ]
        return bool(held) and all(renewed)

    def _moment(self) -> int:
        now = int(self._clock() * 1_000_000)
        if now < self._now:
            now = self._slowed(now)
        self._now = now
        return now

    def _slowed(self, read: int) -> int:
        """
        The clock of the system was set back: the store's goes at half the speed until they agree.

        If it stood still, nothing would refill until then.
        """
        if self._now != self._slow_now or read < self._slow_read:
            self._slow_read = read
        step = (read - self._slow_read) // 2
        self._slow_read += 2 * step
        self._slow_now = self._now + step
        return self._slow_now

    def _state(self, now: int, charge: Charge) -> State:
        kept = self._kept.get((charge.bucket, charge.field))
        if kept is None:
            return EMPTY
        state: State | _Slots = kept[0]
        return (0, state.count(now), 0) if isinstance(state, _Slots) else state

    def _slots(self, charge: Charge) -> _Slots:
        kept = self._kept.get((charge.bucket, charge.field))
        return kept[0] if kept and isinstance(kept[0], _Slots) else _Slots()

    def _put(self, now: int, charge: Charge, state: State, lease: str = "") -> None:
        held: State | _Slots = state
        if charge.kind == "l":
            held = self._slots(charge)
            held.hold(lease, now + charge.args[1])
        key = charge.bucket, charge.field
        if key not in self._kept:
            self._queue.append(key)
        self._kept[key] = [held, charge]

    def _make_room(self, now: int, new: int) -> None:
        # Two for each that comes: what has run out goes faster than it comes.
        self._sweep(now, 2 * new)
        if len(self._kept) - self._marked + new > self._max_keys:
            self._sweep(now, 64)
        if len(self._kept) - self._marked + new > self._max_keys:
            message = f"all {self._max_keys} keys are in use"
            raise BackendUnavailableError(message, code="quota_store_full")

    def _make_room_for_marker(self, now: int) -> None:
        self._sweep(now, 2)
        if self._marked >= self._max_keys:
            message = f"{self._max_keys} settlements are kept already"
            raise BackendUnavailableError(message, code="quota_store_full")

    def _sweep(self, now: int, count: int) -> None:
        for _ in range(min(count, len(self._queue))):
            key = self._queue.popleft()
            if _is_over(self._kept[key], now):
                self._marked -= self._kept.pop(key)[1] is None
            else:
                self._queue.append(key)

    def _settled_state(
        self, now: int, charge: Charge, actual: int, settlement: Settlement
    ) -> State:
        state = self._state(now, charge)
        if charge.kind == "l":
            return 0, state[1] - self._slots(charge).holds(settlement.id, now), 0
        if actual > charge.cost:
            return DECIDE[charge.kind](state, now, actual - charge.cost, charge.args)[1]
        back = charge.cost - actual
        return REFUND[charge.kind](state, now, back, charge.cost, settlement.at, charge.args)

    def _put_settled(self, now: int, settlement: Settlement, states: tuple[State, ...]) -> bool:
        """
        Write the states, free the slots; say whether one was held.
        """
        freed = False
        for charge, state in zip(settlement.charges, states, strict=True):
            if charge.kind == "l":
                slots = self._slots(charge)
                freed = slots.holds(settlement.id, now) or freed
                slots.free(settlement.id)
            else:
                self._put(now, charge, state)
        return freed


class _Slots:
    """
    The leases of one rule of kind ``l``: until when each is held.
    """

    __slots__ = ("_earliest", "_held")

    def __init__(self) -> None:
        self._held: dict[str, int] = {}
        self._earliest = 0

    def count(self, now: int) -> int:
        """
        How many are held.
        """
        if self._earliest <= now:
            self._held = {one: until for one, until in self._held.items() if until > now}
            self._earliest = min(self._held.values(), default=0)
        return len(self._held)

    def hold(self, lease: str, until: int) -> None:
        """
        Hold one, or hold it until another moment.
        """
        self._held[lease] = until
        self._earliest = min(self._earliest, until) if len(self._held) > 1 else until

    def renew(self, lease: str, now: int, until: int) -> bool:
        """
        Hold one that is held until later; False if it is not, or not any later.
        """
        if not self.holds(lease, now) or until <= now:
            return False
        self.hold(lease, until)
        return True

    def holds(self, lease: str, now: int) -> bool:
        """
        Whether one is held.
        """
        return self._held.get(lease, 0) > now

    def free(self, lease: str) -> None:
        """
        Hold one no longer.
        """
        self._held.pop(lease, None)


_Key = tuple[str, str]
# A state or slots with their latest charge, for which None stands in a settlement's: it
# has the moment when it expires.  A list, because both change with every take.
_Kept = list[Any]


def _is_over(kept: _Kept, now: int) -> bool:
    held, charge = kept
    if isinstance(held, int):
        return held < now
    if isinstance(held, _Slots):
        return held.count(now) == 0
    assert charge is not None  # noqa: S101 -- what is no marker was written by a charge
    return is_over(charge.kind, held, now, charge.args)
