"""
What was refused a moment ago and would be refused again.

A refusal is remembered per counter, with the least cost that was refused, until
the moment at which that cost would fit.  It is forgotten when the rule's
numbers change, when this process gives something back to the counter, and
after a time in any case, because others give back as well.

Only what time alone gives back is remembered: rates, windows, calendars.  A
slot or a level may be free again at any moment.
"""

from __future__ import annotations

from typing import NamedTuple

from ._arithmetic import EMPTY, NEVER, State, status
from ._exchange import HARD, Charge, Outcome, Take
from ._fallback_share import covered

__all__ = ["Denials"]

_KINDS = frozenset("rwc")


class _Seen(NamedTuple):
    """
    A counter as a refusal showed it.

    Attributes:
        state: Its state.

        until: Until when the cost does not fit, by the store's clock; 0 if it did.

        cost: The units in question; more do not fit either.

        args: The rule's numbers.
    """

    state: State
    until: int
    cost: int
    args: tuple[int, ...]


class Denials:
    """
    The refusals that one process has met.

    Args:
        longest_us: For how long one is remembered at the most.

        max_keys: How many counters are remembered at the most.
    """

    def __init__(self, *, longest_us: int, max_keys: int) -> None:
        self._longest_us = longest_us
        self._max_keys = max_keys
        self._seen: dict[tuple[str, str], _Seen] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def learn(self, take: Take, outcome: Outcome) -> None:
        """
        Remember a refusal.
        """
        for charge, fit, state in zip(take.charges, outcome.fits, outcome.states, strict=True):
            until = 0 if fit else self._until(charge, state, outcome.now)
            key = charge.bucket, charge.field
            self._seen.pop(key, None)  # so that it becomes the youngest
            self._seen[key] = _Seen(state, until, charge.cost, charge.args)
        while len(self._seen) > self._max_keys:
            del self._seen[next(iter(self._seen))]

    def find(self, take: Take, now: int) -> Outcome | None:
        """
        The refusal that a take would meet, if one is remembered.
        """
        fits = tuple(not self._refuses(charge, now) for charge in take.charges)
        if all(fits) or not covered(take.charges, now):
            return None
        states = tuple(map(self._state, take.charges))
        return Outcome(now, admitted=False, fits=fits, states=states, origin="cache")

    def forget(self, charges: tuple[Charge, ...]) -> None:
        """
        Forget what may have been given back.
        """
        for charge in charges:
            self._seen.pop((charge.bucket, charge.field), None)

    def _until(self, charge: Charge, state: State, now: int) -> int:
        if charge.mode != HARD or charge.kind not in _KINDS:
            return 0
        retry = status(charge.kind, state, now, charge.cost, charge.args).retry_us
        return now + (self._longest_us if retry == NEVER else min(retry, self._longest_us))

    def _refuses(self, charge: Charge, now: int) -> bool:
        seen = self._seen.get((charge.bucket, charge.field))
        return (
            seen is not None
            and now < seen.until
            and charge.cost >= seen.cost
            and charge.args == seen.args
        )

    def _state(self, charge: Charge) -> State:
        seen = self._seen.get((charge.bucket, charge.field))
        return EMPTY if seen is None else seen.state
