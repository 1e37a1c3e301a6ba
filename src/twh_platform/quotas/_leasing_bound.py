"""
How many units may be held unused, and how many are: the bound that leasing states.

At any moment a process holds at most one chunk of a counter, whatever sets of
rules it is part of.
"""

from __future__ import annotations

from ._exchange import HARD, Charge

__all__ = ["LEAST_TAKES", "Chunks"]

# One take is no lease.
LEAST_TAKES = 2

_KINDS = frozenset("rwc")
# As much as is taken in so many microseconds at the full rate.
_STRETCH_US = 50_000
_FRACTION = 10
_MOST_NAMES = 1000


class Chunks:
    """
    The chunks of one process, counter by counter.

    Args:
        chunk: Units of a rule; None for a tenth of its limit, and of rates and
            windows no more than they admit in 50 ms.

        held_at_most: Where the most that was held of one counter is noted, by
            the rule's kind and name.
    """

    def __init__(self, chunk: int | None, held_at_most: dict[str, int]) -> None:
        self._chunk = chunk
        self._held: dict[tuple[str, str], int] = {}
        self._most = held_at_most

    def of(self, charges: tuple[Charge, ...]) -> tuple[int, int]:
        """
        How many takes of these charges are drawn at once, and how many could be at the most.
        """
        if not charges or any(one.kind not in _KINDS or one.mode != HARD for one in charges):
            return 0, 0
        chunk = min(self.units(one) // one.cost for one in charges)
        return chunk, min(_full(one) // one.cost for one in charges)

    def units(self, charge: Charge) -> int:
        """
        How many units of a rule may be held unused.
        """
        full, args = _full(charge), charge.args
        if self._chunk is not None:
            return min(self._chunk, full)
        units = full // _FRACTION
        if charge.kind == "r":
            return min(units, _STRETCH_US * args[1] // args[0])
        if charge.kind == "w":
            return min(units, _STRETCH_US * args[0] // args[1])
        return units

    def free(self, charges: tuple[Charge, ...], reserved: int) -> int:
        """
        How many takes may be held of these charges.

        Args:
            charges: A set that is asked for together.

            reserved: The takes that are held for this set already; what others
                hold of its counters is not free.
        """
        return min(
            (self.units(one) - self._held.get((one.bucket, one.field), 0)) // one.cost + reserved
            for one in charges
        )

    def hold(self, charges: tuple[Charge, ...], takes: int) -> None:
        """
        Count so many takes as held.
        """
        most = self._most
        for one in charges if takes else ():
            place = one.bucket, one.field
            held = self._held[place] = self._held.get(place, 0) + takes * one.cost
            if held > most.get(one.field, 0) and (one.field in most or len(most) < _MOST_NAMES):
                most[one.field] = held

    def release(self, charges: tuple[Charge, ...], takes: int) -> None:
        """
        Count so many takes as held no longer.
        """
        for one in charges if takes else ():
            place = one.bucket, one.field
            self._held[place] -= takes * one.cost
            if not self._held[place]:
                del self._held[place]

    def clear(self) -> None:
        """
        Count none as held.
        """
        self._held.clear()


def _full(charge: Charge) -> int:
    """
    The most units that a rule admits at once.
    """
    return charge.args[2] if charge.kind == "r" else charge.args[0]
