"""
What one instance admits on its own while the store does not answer.

Two things have to agree.  What the store last said of a rule, with what was
admitted here since, must leave room within the whole limit: what was used up
stays used up.  And this instance's share of the limit must leave room as well,
counted from zero in its own memory: nobody takes more than its share of what
others may be taking at the same time.

So an instance admits, per rule and window, at most its share beyond what the
store admitted, and less if it knew that less was left.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import BackendUnavailableError
from ._arithmetic import DECIDE, REFUND, State
from ._exchange import CLOSED, HARD, OPEN, SHADOW, Charge, Outcome, Settled, Settlement, Take
from ._store import MemoryQuotaStore

__all__ = ["LocalShare", "covered", "shared"]

# The state of a rule that nobody has seen yet.
_UNSEEN: State = (0, 0, 0)


def shared(charge: Charge, instances: int) -> Charge:
    """
    The same charge against one instance's share of the limit, rounded up.

    The share of a `Rate` is exact: its period is longer; only the burst is
    rounded.  A limit of 0 stays 0.

    Args:
        charge: As the store is asked.

        instances: Between how many the limit is divided.
    """
    first, *rest = charge.args
    if charge.kind == "r":
        units, burst = rest
        return charge._replace(args=(first * instances, units, -(-burst // instances)))
    return charge._replace(args=(-(-first // instances), *rest))


def covered(charges: tuple[Charge, ...], now: int) -> bool:
    """
    Whether *now* is in the periods that came with the calendars.
    """
    return all(one.args[1] <= now < one.args[4] for one in charges if one.kind == "c")


class LocalShare:
    """
    The shares of this instance, and what the store last said.

    Args:
        instances: Between how many the limits are divided, asked each time.

        max_keys: How many states are kept at the most, of each of the two.
    """

    def __init__(self, instances: Callable[[], int], *, max_keys: int) -> None:
        self._instances = instances
        self._max_keys = max_keys
        self._store = MemoryQuotaStore(max_keys=max_keys)
        self._known: dict[tuple[str, str], State] = {}

    def learn(self, charges: tuple[Charge, ...], states: tuple[State, ...]) -> None:
        """
        Remember what the store said; the oldest is forgotten where there is no room.
        """
        known = self._known
        for charge, state in zip(charges, states, strict=True):
            known[charge[0], charge[1]] = state
        while len(known) > self._max_keys:
            del known[next(iter(known))]

    def take_at(self, now: int, take: Take) -> Outcome:
        """
        Decide by each rule's policy; refuse as well where there is no room to count in.
        """
        charges = take.charges
        if not covered(charges, now):
            return Outcome(now, admitted=False, stale=True)
        if not take.force and any(_is_closed(one) for one in charges):
            fits = tuple(not _is_closed(one) for one in charges)
            states = tuple(map(self._state, charges))
            return Outcome(now, admitted=False, fits=fits, states=states, origin="closed")
        counted = tuple(one for one in charges if one.on_failure != OPEN)
        if not counted:
            fits, states = (True,) * len(charges), (_UNSEEN,) * len(charges)
            return Outcome(now, admitted=True, fits=fits, states=states, origin="open")
        try:
            return _whole(take, self._count(now, take, counted))
        except BackendUnavailableError:
            fits = tuple(take.force or one.mode != HARD for one in charges)
            states = tuple(map(self._state, charges))
            return Outcome(now, take.force, fits, states, "open" if take.force else "closed")

    def settle_at(self, now: int, settlement: Settlement) -> Settled:
        """
        Settle what was decided here.
        """
        count = self._instances()
        pairs = zip(settlement.charges, settlement.actual, strict=True)
        counted = [(one, actual) for one, actual in pairs if one.on_failure != OPEN]
        if not counted:
            return Settled(now, done=False)
        charges = tuple(shared(one, count) for one, _ in counted)
        actual = tuple(one for _, one in counted)
        settled = self._store.settle_at(now, settlement._replace(charges=charges, actual=actual))
        if not settled.done:
            return settled
        self._correct(now, settlement.at, counted)
        found = iter(settled.states)
        states = (_UNSEEN if one.on_failure == OPEN else next(found) for one in settlement.charges)
        return settled._replace(states=tuple(states))

    def renew_at(self, now: int, take: Take, at: int) -> bool:
        """
        Prolong slots that are held here; False if none are.
        """
        count = self._instances()
        mine = tuple(shared(one, count) for one in take.charges if one.on_failure != OPEN)
        return self._store.renew_at(now, take._replace(charges=mine), at)

    def _count(self, now: int, take: Take, counted: tuple[Charge, ...]) -> Outcome:
        """
        Ask both: what is known of the whole, and the share.
        """
        count = self._instances()
        shares = tuple(shared(one, count) for one in counted)
        room, after = self._room(now, counted, force=take.force)
        free = take.force or all(fit or one.mode for fit, one in zip(room, counted, strict=True))
        # Where the whole has no room, the share is only looked at.
        mine = take._replace(charges=shares, dry=take.dry or not free)
        outcome = self._store.take_at(now, mine)
        admitted = outcome.admitted and free
        if admitted and not take.dry:
            self.learn(counted, after)
        fits = tuple(a and b for a, b in zip(room, outcome.fits, strict=True))
        # What was admitted is told by the share, whose counters are its own.
        read = [
            (one, state) if fit or admitted else (whole, self._state(whole))
            for fit, one, state, whole in zip(room, shares, outcome.states, counted, strict=True)
        ]
        return outcome._replace(
            admitted=admitted,
            fits=fits,
            states=tuple(state for _, state in read),
            origin="local",
            charges=tuple(charge for charge, _ in read),
        )

    def _room(
        self, now: int, charges: tuple[Charge, ...], *, force: bool
    ) -> tuple[tuple[bool, ...], tuple[State, ...]]:
        """
        Whether the whole limits have room, as far as known, and what is known then.
        """
        fits, after = [], []
        for charge in charges:
            state = self._state(charge)
            fit, new = True, state
            # Slots are given back by others as well, which nobody says here.
            if charge.kind != "l":
                fit, new = DECIDE[charge.kind](state, now, charge.cost, charge.args)
            fits.append(fit)
            after.append(new if fit or force or charge.mode != SHADOW else state)
        return tuple(fits), tuple(after)

    def _correct(self, now: int, at: int, counted: list[tuple[Charge, int]]) -> None:
        """
        Bring what is known to what was really used.
        """
        for one, actual in counted:
            if one.kind == "l":
                continue
            state, more = self._state(one), actual - one.cost
            if more > 0:
                new = DECIDE[one.kind](state, now, more, one.args)[1]
            else:
                new = REFUND[one.kind](state, now, -more, one.cost, at, one.args)
            self.learn((one,), (new,))

    def _state(self, charge: Charge) -> State:
        return self._known.get((charge.bucket, charge.field), _UNSEEN)


def _is_closed(charge: Charge) -> bool:
    return charge.on_failure == CLOSED and charge.mode == HARD


def _whole(take: Take, outcome: Outcome) -> Outcome:
    """
    Put the rules that fail open, and were not counted, back into their places.
    """
    if len(outcome.fits) == len(take.charges):
        return outcome
    found = iter(zip(outcome.fits, outcome.states, outcome.charges, strict=True))
    rows = [(True, _UNSEEN, one) if one.on_failure == OPEN else next(found) for one in take.charges]
    fits, states, charges = zip(*rows, strict=True)
    return outcome._replace(fits=fits, states=states, charges=charges)
