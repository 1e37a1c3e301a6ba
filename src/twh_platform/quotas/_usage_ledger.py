"""
The ledger of usage: the greatest that was seen of each counter, summed for the export.

Every answer of a store has a calendar's counter as it stands: its birth, what
was taken since and what was refunded since.  Both only grow as long as the
counter lives, and a counter that was lost starts with another birth.  So a
ledger keeps the greatest of each for every birth, and what was used in a period
is the sum over births.  Writing the same twice, late, or from several
instances changes nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any, Protocol

from ..errors import BackendUnavailableError
from ._announcements import QuotaNotice
from ._notices import NoticeLedger
from ._options import require_positive

__all__ = [
    "MemoryUsageLedger",
    "UsageCounter",
    "UsageLedger",
    "UsageQuery",
    "UsageRow",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageCounter:
    """
    One counter of one calendar as it stood when somebody saw it.

    The first five fields tell it from all others.

    Attributes:
        tenant_id: Whose.

        rule: The name of the rule.

        scope: Who of the tenant: empty for all of it, ``u.42`` for a user.

        birth: When it began, in microseconds since 1970, by its store's clock.

        instance: Which process keeps it; empty if a store that all share does.

        unit: What it counts.

        period_start: When its period began, by the tenant's clock.

        period_end: When it ends.

        taken: Units taken since its birth.

        refunded: Units given back since.
    """

    tenant_id: str
    rule: str
    scope: str
    birth: int
    instance: str
    unit: str
    period_start: datetime
    period_end: datetime
    taken: int
    refunded: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """
    What one tenant used of one rule in one period: a line of the export.

    Attributes:
        tenant_id: Whose.

        rule: The name of the rule.

        unit: What was counted.

        scope: As in `UsageCounter`.

        period_start: When the period began, by the tenant's clock.

        period_end: When it ends.

        taken: Units that were taken.

        refunded: Units of them that were given back.
    """

    tenant_id: str
    rule: str
    unit: str
    scope: str
    period_start: datetime
    period_end: datetime
    taken: int
    refunded: int

    @property
    def used(self) -> int:
        """
        Units that were taken and not given back.
        """
        return self.taken - self.refunded

    @property
    def place(self) -> tuple[Any, ...]:
        """
        Where it stands among all rows: an order in which no two are equal.

        By the first day, the tenant and the rule, and then by all that is left.
        """
        return (
            self.period_start.date(),
            self.tenant_id,
            self.rule,
            self.period_start,
            self.scope,
            self.unit,
            self.period_end,
            self.period_start.utcoffset(),
            self.period_end.utcoffset(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuery:
    """
    Which periods to export.

    The days are those of each tenant's own calendar: of September are the
    periods that began in September where the tenant is.

    Args:
        first: The first day.

        until: The day after the last.

        tenant_id: Only this tenant's, if given.
    """

    first: date
    until: date
    tenant_id: str | None = None


class UsageLedger(NoticeLedger, Protocol):
    """
    Where usage is written down, and which notices were given.

    Every method raises `twh_platform.errors.BackendUnavailableError` if the
    ledger cannot answer.
    """

    async def record(self, counters: Sequence[UsageCounter], /) -> None:
        """
        Keep the greatest `taken` and `refunded` of each counter: all, or none.
        """
        ...

    async def page(
        self, query: UsageQuery, /, *, after: UsageRow | None, size: int
    ) -> Sequence[UsageRow]:
        """
        Return the next rows in the order of `UsageRow.place`.

        Args:
            query: Which.

            after: The last row of the page before; None for the first page.

            size: How many rows at the most; fewer only at the end.
        """
        ...


class MemoryUsageLedger:
    """
    Usage in the memory of this process: for tests and demos, and gone with it.

    A page costs as much as there are counters.

        >>> MemoryUsageLedger(max_counters=1000)
        MemoryUsageLedger(counters=0, max_counters=1000)

    Args:
        max_counters: How many it keeps; what comes then is refused.

    Raises:
        twh_platform.errors.ConfigurationError: If *max_counters* is not above
            zero.
    """

    def __init__(self, *, max_counters: int = 1_000_000) -> None:
        require_positive(max_counters=max_counters)
        self._most = max_counters
        self._counters: dict[tuple[str, str, str, int, str], UsageCounter] = {}
        self._claims: dict[tuple[object, ...], int] = {}

    def __repr__(self) -> str:
        return f"MemoryUsageLedger(counters={len(self._counters)}, max_counters={self._most})"

    async def record(self, counters: Sequence[UsageCounter], /) -> None:
        """
        Keep the greatest `taken` and `refunded` of each counter: all, or none.

        Raises:
            twh_platform.errors.BackendUnavailableError: With code
                ``usage_ledger_full``.
        """
        new = {_identity(one): one for one in counters}
        if len(self._counters.keys() | new.keys()) > self._most:
            message = f"all {self._most} counters are in use"
            raise BackendUnavailableError(message, code="usage_ledger_full")
        for one in counters:
            key = _identity(one)
            self._counters[key] = _greatest(self._counters.get(key), one)

    async def claim(self, notice: QuotaNotice, /, *, crossed: bool) -> bool:
        """
        Say whether this notice is to be given, and remember that it was.
        """
        key = (
            notice.tenant_id,
            notice.rule,
            notice.scope,
            notice.period_start,
            notice.threshold,
        )
        before = self._claims.get(key)
        wanted = before is None or (crossed and before < notice.limit)
        if wanted:
            self._claims[key] = notice.limit
        return wanted

    async def page(
        self, query: UsageQuery, /, *, after: UsageRow | None, size: int
    ) -> Sequence[UsageRow]:
        """
        Return the next rows in the order of `UsageRow.place`.
        """
        sums: dict[tuple[Any, ...], UsageRow] = {}
        for one in self._counters.values():
            if not _asked_for(one, query):
                continue
            row = _row(one)
            place = row.place
            if after is not None and place <= after.place:
                continue
            old = sums.get(place)
            sums[place] = row if old is None else _sum(old, row)
        return heapq.nsmallest(size, sums.values(), key=lambda row: row.place)


def _identity(one: UsageCounter) -> tuple[str, str, str, int, str]:
    return one.tenant_id, one.rule, one.scope, one.birth, one.instance


def _greatest(old: UsageCounter | None, new: UsageCounter) -> UsageCounter:
    """
    The greatest of each; the period and unit of whichever has counted further.
    """
    if old is None:
        return new
    latest = new if (new.taken, new.refunded) >= (old.taken, old.refunded) else old
    return replace(
        latest, taken=max(old.taken, new.taken), refunded=max(old.refunded, new.refunded)
    )


def _asked_for(one: UsageCounter, query: UsageQuery) -> bool:
    mine = query.tenant_id is None or one.tenant_id == query.tenant_id
    return mine and query.first <= one.period_start.date() < query.until


def _row(one: UsageCounter) -> UsageRow:
    return UsageRow(
        tenant_id=one.tenant_id,
        rule=one.rule,
        unit=one.unit,
        scope=one.scope,
        period_start=one.period_start,
        period_end=one.period_end,
        taken=one.taken,
        refunded=one.refunded,
    )


def _sum(one: UsageRow, other: UsageRow) -> UsageRow:
    return replace(one, taken=one.taken + other.taken, refunded=one.refunded + other.refunded)
