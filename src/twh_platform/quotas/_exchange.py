"""
What a limiter asks a store, and what the store answers.

A store is asked for one atomic thing and answers with everything that follows
from it: what was decided, by its own clock, and the state of every rule.  The
protocol is here and its implementations are elsewhere, because a decision says
which store was asked and needs none of them.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from ._arithmetic import State

__all__ = [
    "CLOSED",
    "HARD",
    "OPEN",
    "SHADOW",
    "SHARE",
    "SOFT",
    "Charge",
    "Outcome",
    "QuotaStore",
    "Settled",
    "Settlement",
    "Take",
    "charged",
]

HARD, SOFT, SHADOW = 0, 1, 2
OPEN, CLOSED, SHARE = 0, 1, 2


class Charge(NamedTuple):
    """
    One rule in a `Take`: what it is kept under, what it costs, its numbers.

    Attributes:
        bucket: What shares a life time: the partition, followed by ``:u.42``
            and the like for the scopes inside a tenant.

        field: The kind and the name of the rule: ``rminute``.

        kind: ``r``, ``w``, ``c``, ``n`` or ``l``: see `_arithmetic`.

        cost: Units, above zero.

        mode: 0 hard, 1 soft, 2 shadow.

        args: ``r``: period and units in lowest terms, burst.  ``w``: limit,
            length.  ``c``: limit, and the starts of four periods, of which the
            second is the current one.  ``n``: limit.  ``l``: limit, lease,
            maximum hold.  All times in microseconds.

        on_failure: What happens while the store does not answer: 0 open,
            1 closed, 2 share.  A store itself has no use for it.
    """

    bucket: str
    field: str
    kind: str
    cost: int
    mode: int
    args: tuple[int, ...]
    on_failure: int = SHARE


class Take(NamedTuple):
    """
    What to take, from rules that lie together.

    Attributes:
        partition: What they have in common: ``t.acme`` for a tenant.  It
            chooses the slot of a cluster.

        charges: The rules; no two have the same bucket and field.

        force: Charge whatever is left: for what has been used already.

        dry: Only look.

        lease: The id under which slots are held; empty where no rule is of
            kind ``l``.
    """

    partition: str
    charges: tuple[Charge, ...]
    force: bool = False
    dry: bool = False
    lease: str = ""


class Outcome(NamedTuple):
    """
    What came of a `Take`.

    Attributes:
        now: The store's clock, in microseconds since 1970.

        admitted: Whether everything that is hard was granted, and charged.

        fits: For each charge, whether it fitted.

        states: For each charge, the state after; if nothing was charged, the
            state as it is.

        origin: Who decided: ``store``; ``lease`` or ``cache``, on behalf of
            the store; and where it did not answer ``local``, ``open`` or
            ``closed``.

        stale: The periods of a calendar do not cover *now*: nothing was
            decided, ask again.

        charges: What the states are to be read by, where that is not what was
            asked: the smaller limits of a share.
    """

    now: int
    admitted: bool
    fits: tuple[bool, ...] = ()
    states: tuple[State, ...] = ()
    origin: str = "store"
    stale: bool = False
    charges: tuple[Charge, ...] = ()


class Settlement(NamedTuple):
    """
    What really was used of an earlier `Take`.

    Attributes:
        partition: As taken.

        id: The same for every attempt to settle the same receipt; if empty,
            nothing is remembered, and every attempt counts.

        charges: As taken, of those that were charged; the periods of calendars
            may be newer.

        actual: For each charge, the units to end up with.

        at: The store's clock when it was taken.

        expires: After this moment of the store's clock nothing is settled.

        origin: Who decided the take: `Outcome.origin`.
    """

    partition: str
    id: str
    charges: tuple[Charge, ...]
    actual: tuple[int, ...]
    at: int
    expires: int
    origin: str = "store"


class Settled(NamedTuple):
    """
    What came of a `Settlement`.

    Attributes:
        now: The store's clock.

        done: Whether it was carried out by this call; False if it was before,
            or if it came too late.

        states: For each charge the state after, if it was carried out.

        stale: As in `Outcome`.
    """

    now: int
    done: bool
    states: tuple[State, ...] = ()
    stale: bool = False


def charged(take: Take, outcome: Outcome) -> tuple[Charge, ...]:
    """
    The charges that a take made, if *outcome* came of it.
    """
    if take.dry or not outcome.admitted:
        return ()
    pairs = zip(take.charges, outcome.fits, strict=True)
    return tuple(one for one, fits in pairs if fits or take.force or one.mode != SHADOW)


class QuotaStore(Protocol):
    """
    Where the state of rules is kept.

    Every method raises `twh_platform.errors.BackendUnavailableError` if the
    store cannot answer; whether the take took place is then unknown.
    """

    async def take(self, take: Take, /) -> Outcome:
        """
        Decide all charges at once; write all, or nothing at all.
        """
        ...

    async def settle(self, settlement: Settlement, /) -> Settled:
        """
        Bring charges to what was really used, once; free the slots.
        """
        ...

    async def renew(self, take: Take, at: int, /) -> bool:
        """
        Prolong the slots of a take; False if they are gone or held for too long.
        """
        ...
