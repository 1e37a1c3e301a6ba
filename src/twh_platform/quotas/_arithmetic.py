"""
What a rule does to its state: the same arithmetic as in the Lua of the Redis store.

The state of a rule is three integers, ``(t, a, b)``, and is written as text::

    t, sixteen digits   a   [ "." b ]        1764000000123456 7       -> 17640000001234567
                                             1764000000000000 40 . 95 -> 176400000000000040.95

    kind            t                        a                       b
    r Rate          start of the busy spell  taken since             0
    w SlidingWindow start of this window     taken in this one       taken in the one before
    c Calendar      birth of the counter     taken since             refunded since
    n Capacity      `LEVEL_TIME`             the level               0

Sixteen digits of microseconds last until the year 2286.  With a small *a* the
whole is an integer of 64 bits, which Redis keeps in nine bytes.

Every function takes the moment as an argument and is exact: no product reaches
2**53, which the rules see to.  Nothing here knows limits of its own: a changed
limit meets the state as it is, so what was used is inherited, in units.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

__all__ = [
    "LEVEL_TIME",
    "NEVER",
    "ClockOutsideError",
    "State",
    "Status",
    "decide",
    "is_capped",
    "refund",
    "status",
]

State = tuple[int, int, int]

LEVEL_TIME = 10**15
# No count goes beyond: not what is soft, and not what is forced.
LARGEST_COUNT = 2**53 - 1
# Long before anything: what a counter that is not there looks like.
EMPTY: State = (0, 0, 0)
NEVER = -1


class ClockOutsideError(Exception):
    """
    The moment is in none of the periods that came with a calendar's charge.
    """


class Status(NamedTuple):
    """
    What is left of a rule at a moment.

    Attributes:
        remaining: Units that could be taken now.

        renew_us: Until more of them can be, with nobody taking any.

        reset_us: Until all of them can be.

        retry_us: Until the cost in question can be; 0 if now, `NEVER` if
            never.
    """

    remaining: int
    renew_us: int
    reset_us: int
    retry_us: int


def _ceil_div(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)


def _rate_now(state: State, now: int, args: tuple[int, ...]) -> State:
    """
    The same state, its start moved to less than one period ago.
    """
    period, units, burst = args
    start, taken, _ = state
    if start > now:
        # A clock that went back, as after a failover: nobody waits longer than a full refill.
        taken = 0 if (start - now) * units >= burst * period else taken
        start = now
    cycles = (now - start) // period
    taken = max(0, taken - cycles * units)
    start += cycles * period
    drained = (now - start) * units
    if taken * period <= drained:
        return now, 0, 0
    # Of a limit that was lowered, and of debt, no more than twice the burst stays.
    return start, min(taken, drained // period + 2 * burst), 0


def _rate(state: State, now: int, cost: int, args: tuple[int, ...]) -> tuple[bool, State]:
    period, units, burst = args
    start, taken, _ = state
    since = now - start
    drained = since * units
    if taken * period <= drained:
        start, taken, drained = now, 0, 0
    elif not 0 <= since < period:
        start, taken, _ = _rate_now(state, now, args)
        drained = (now - start) * units
    taken += cost
    if taken <= burst or (taken - burst) * period <= drained:
        return True, (start, taken, 0)
    return False, (start, min(taken, drained // period + 2 * burst), 0)


def _rate_refund(  # noqa: PLR0917 -- as `refund`
    state: State, now: int, back: int, charged: int, at: int, args: tuple[int, ...]
) -> State:
    period, units, burst = args
    start, taken, _ = _rate_now(state, now, args)
    charged = min(charged, 2 * burst)  # more than that was never added
    since = max(0, now - at)
    if since * units >= charged * period:
        return start, taken, 0
    # Time has given back some of it: that is not given back twice.
    kept = charged - since * units // period
    return start, max(0, taken - min(back, kept)), 0


def _rate_status(state: State, now: int, cost: int, args: tuple[int, ...]) -> Status:
    period, units, burst = args
    start, taken, _ = _rate_now(state, now, args)
    since = now - start
    remaining = burst - taken + since * units // period
    if taken == 0:
        return Status(burst, 0, 0, 0 if cost <= burst else NEVER)
    # Units whose time has come since the start of the spell; the next is one more.
    renew = _ceil_div((since * units // period + 1) * period, units) - since
    if remaining < 0:
        renew = _ceil_div((taken - burst + 1) * period, units) - since
    reset = _ceil_div(taken * period, units) - since
    if cost > burst:
        return Status(max(0, remaining), renew, reset, NEVER)
    retry = _ceil_div((taken + cost - burst) * period, units) - since
    return Status(max(0, remaining), renew, reset, max(0, retry))


def _window_now(state: State, now: int, args: tuple[int, ...]) -> State:
    limit, length = args
    start = now - now % length
    then, current, before = state
    if then == start - length:
        current, before = 0, current
    elif then < start or then > start + length:
        current, before = 0, 0
    # The start of the next window is that of a clock that went back: its counts hold.
    return start, min(current, 2 * limit), min(before, 2 * limit)


def _weight(before: int, elapsed: int, length: int) -> int:
    return _ceil_div(before * (length // 1000 - elapsed // 1000), length // 1000)


def _window(state: State, now: int, cost: int, args: tuple[int, ...]) -> tuple[bool, State]:
    limit, length = args
    start, current, before = _window_now(state, now, args)
    ok = current + _weight(before, now - start, length) + cost <= limit
    return ok, (start, min(current + cost, 2 * limit), before)


def _window_refund(
    state: State, now: int, back: int, _charged: int, at: int, args: tuple[int, ...]
) -> State:
    start, current, before = _window_now(state, now, args)
    if at >= start:
        current = max(0, current - back)
    elif at >= start - args[1]:
        before = max(0, before - back)
    return start, current, before


def _window_status(state: State, now: int, cost: int, args: tuple[int, ...]) -> Status:
    limit, length = args
    start, current, before = _window_now(state, now, args)
    elapsed = now - start
    remaining = max(0, limit - current - _weight(before, elapsed, length))
    if remaining == limit:
        return Status(limit, 0, 0, 0 if cost <= limit else NEVER)
    left = length - elapsed
    reset = left + length if current else left
    renew = _window_retry(current, before, elapsed, remaining + 1, args)
    if cost > limit:
        return Status(remaining, renew, reset, NEVER)
    return Status(remaining, renew, reset, _window_retry(current, before, elapsed, cost, args))


def _window_retry(current: int, before: int, elapsed: int, cost: int, args: tuple[int, ...]) -> int:
    """
    Until the weight of the window before, or else of this one, has become small enough.
    """
    limit, length = args
    room = limit - cost
    if current + _weight(before, elapsed, length) <= room:
        return 0
    if current <= room:
        return _fades(before, room - current, length) - elapsed
    return length - elapsed + _fades(current, room, length)


def _fades(count: int, room: int, length: int) -> int:
    """
    After how long a window's count, as the one before, weighs no more than *room*.
    """
    milliseconds = length // 1000
    return 1000 * (milliseconds - room * milliseconds // count)


def _period_start(now: int, args: tuple[int, ...]) -> tuple[int, int]:
    _, first, second, third, fourth = args
    if first <= now < second:
        return first, second
    if second <= now < third:
        return second, third
    if third <= now < fourth:
        return third, fourth
    raise ClockOutsideError(now)


def _calendar_now(state: State, now: int, args: tuple[int, ...]) -> State:
    return state if state[0] >= _period_start(now, args)[0] else (now, 0, 0)


def _calendar(state: State, now: int, cost: int, args: tuple[int, ...]) -> tuple[bool, State]:
    birth, taken, refunded = _calendar_now(state, now, args)
    after = min(taken + cost, LARGEST_COUNT)
    return taken - refunded + cost <= args[0], (birth, after, refunded)


def _calendar_refund(
    state: State, now: int, back: int, _charged: int, at: int, args: tuple[int, ...]
) -> State:
    birth, taken, refunded = _calendar_now(state, now, args)
    if at < birth:
        return birth, taken, refunded
    return birth, taken, min(taken, refunded + back)


def _calendar_status(state: State, now: int, cost: int, args: tuple[int, ...]) -> Status:
    limit = args[0]
    _, taken, refunded = _calendar_now(state, now, args)
    used = taken - refunded
    left = _period_start(now, args)[1] - now
    until = left if used else 0
    retry = 0 if used + cost <= limit else NEVER if cost > limit else left
    return Status(max(0, limit - used), until, until, retry)


def _level(state: State, _now: int, cost: int, args: tuple[int, ...]) -> tuple[bool, State]:
    level = state[1] + cost
    return level <= args[0], (LEVEL_TIME, min(level, LARGEST_COUNT), 0)


def _level_refund(
    state: State, _now: int, back: int, _charged: int, _at: int, _args: tuple[int, ...]
) -> State:
    return LEVEL_TIME, max(0, state[1] - back), 0


def _level_status(state: State, _now: int, cost: int, args: tuple[int, ...]) -> Status:
    # Nobody knows when it will be given back: a client is told to come in a second.
    limit, level = args[0], state[1]
    retry = 0 if level + cost <= limit else NEVER if cost > limit else 1_000_000
    return Status(max(0, limit - level), 0, 0, retry)


def _slot(state: State, _now: int, _cost: int, args: tuple[int, ...]) -> tuple[bool, State]:
    return state[1] < args[0], (0, state[1] + 1, 0)


Decide = Callable[[State, int, int, tuple[int, ...]], tuple[bool, State]]
Refund = Callable[[State, int, int, int, int, tuple[int, ...]], State]

DECIDE: dict[str, Decide] = {
    "r": _rate,
    "w": _window,
    "c": _calendar,
    "n": _level,
    "l": _slot,
}
REFUND: dict[str, Refund] = {
    "r": _rate_refund,
    "w": _window_refund,
    "c": _calendar_refund,
    "n": _level_refund,
}
STATUS: dict[str, Callable[[State, int, int, tuple[int, ...]], Status]] = {
    "r": _rate_status,
    "w": _window_status,
    "c": _calendar_status,
    "n": _level_status,
    "l": _level_status,
}


def decide(
    kind: str, state: State, now: int, cost: int, args: tuple[int, ...]
) -> tuple[bool, State]:
    """
    Whether *cost* fits, and the state with it charged, fit or not.

    Args:
        kind: The rule's.

        state: As it was last written, or `EMPTY`.

        now: The moment, in microseconds since 1970.

        cost: Units, above zero.

        args: The rule's numbers: see `Charge`.

    Raises:
        ClockOutsideError: If the periods in *args* do not cover *now*.
    """
    return DECIDE[kind](state, now, cost, args)


def refund(  # noqa: PLR0917 -- the numbers of one formula, which the Lua has in the same order
    kind: str, state: State, now: int, back: int, charged: int, at: int, args: tuple[int, ...]
) -> State:
    """
    The state with *back* units given back, as far as time has not done so.

    Args:
        kind: The rule's.

        state: As it was last written, or `EMPTY`.

        now: The moment.

        back: Units to give back.

        charged: Units that were taken, *back* among them.

        at: When they were taken, by the same clock.

        args: The rule's numbers.

    Raises:
        ClockOutsideError: If the periods in *args* do not cover *now*.
    """
    return REFUND[kind](state, now, back, charged, at, args)


def status(kind: str, state: State, now: int, cost: int, args: tuple[int, ...]) -> Status:
    """
    What is left at *now*, and how long *cost* units would have to wait.

    Raises:
        ClockOutsideError: If the periods in *args* do not cover *now*.
    """
    return STATUS[kind](state, now, cost, args)


def is_capped(kind: str, state: State, now: int, args: tuple[int, ...]) -> bool:
    """
    Whether a charge that led to the state has met the ceiling of what is counted.

    How much of it was counted, and may be given back, the state does not say.
    """
    start, taken, _ = state
    if kind == "r":
        period, units, burst = args
        return taken >= (now - start) * units // period + 2 * burst
    if kind == "w":
        return taken >= 2 * args[0]
    return taken >= LARGEST_COUNT


def is_over(kind: str, state: State, now: int, args: tuple[int, ...]) -> bool:
    """
    Whether the state says no more than `EMPTY` does: it may be forgotten.
    """
    start, taken, _ = state
    if kind == "r":
        period, units, _ = args
        return taken * period <= (now - start) * units
    if kind == "w":
        return start <= now - 2 * args[1]
    if kind == "c":
        # Its own period is one of those that it was written with.
        return now >= min((one for one in args[1:] if one > start), default=now)
    return taken == 0


def lifetime_us(kind: str, state: State, now: int, args: tuple[int, ...]) -> int:
    """
    For how long the state matters; a store may forget it afterwards.
    """
    if kind == "r":
        period, units, _ = args
        # Twice, so that a limit that is lowered meanwhile finds it.
        return 2 * max(0, _ceil_div(state[1] * period, units) - (now - state[0])) + 1_000_000
    if kind == "w":
        return state[0] + 2 * args[1] - now + 1_000_000
    if kind == "c":
        return _period_start(now, args)[1] - now + 1_000_000
    return LEVEL_LIFETIME_US


LEVEL_LIFETIME_US = 400 * 86_400 * 1_000_000
