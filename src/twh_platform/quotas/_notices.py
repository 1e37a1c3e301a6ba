"""
Notices: a quota is used to 80, 90 or 100 percent, told once per period.

A store decides in one step, so of all decisions, on whichever instance, exactly
one moves a level across a threshold, and its answer shows it.  That answer can
be lost, with the process that waited for it; so whoever next sees the level
above the threshold also asks.  A ledger settles which of them tells.
"""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from .._signals import announce
from ..errors import BackendUnavailableError, ConfigurationError
from ._announcements import QuotaNotice
from ._arithmetic import State
from ._exchange import Charge
from ._periods import period_of_birth
from ._rules import Calendar, Capacity

__all__ = [
    "THRESHOLDS",
    "NoticeLedger",
    "Notices",
    "announce_capacity_notices",
    "capacity_notices",
    "checked_thresholds",
    "scope_of",
    "thresholds_crossed",
]

THRESHOLDS = (80, 90, 100)
"""Percent of a limit."""

_LONGEST_SCOPE = 200
_MOST_SEEN = 10_000
_MOST_QUEUED = 10_000

_logger = logging.getLogger("twh_platform.quotas")


class NoticeLedger(Protocol):
    """
    Who remembers which notices have been given.
    """

    async def claim(self, notice: QuotaNotice, /, *, crossed: bool) -> bool:
        """
        Say whether this notice is to be given, and remember that it was.

        It is if there was none of this tenant, rule, scope, period and
        threshold.  Where *crossed*, also if there was, for a smaller limit:
        the limit was raised since, and has been used up again.

        Raises:
            twh_platform.errors.BackendUnavailableError: If it cannot be known now.
        """
        ...


class MovedLevel(Protocol):
    """
    A level that was moved: `twh_platform.quotas.postgres.CapacityTaken`.
    """

    @property
    def tenant_id(self) -> str: ...
    @property
    def rule(self) -> Capacity: ...
    @property
    def before(self) -> int: ...
    @property
    def after(self) -> int: ...


def thresholds_crossed(
    before: int, after: int, limit: int, *, thresholds: Iterable[int] = THRESHOLDS
) -> tuple[int, ...]:
    """
    The thresholds that a level reaches by going from *before* to *after*.

        >>> thresholds_crossed(79, 95, 100)
        (80, 90)

    Args:
        before: Units before.

        after: Units after; below *before* if some were given back.

        limit: All of them; of 0 nothing is ever reached.

        thresholds: Percent.
    """
    return tuple(one for one in thresholds if 100 * before < one * limit <= 100 * after)


def capacity_notices(
    tenant_id: str,
    rule: Capacity,
    before: int,
    after: int,
    *,
    scope: str = "",
    thresholds: Iterable[int] = THRESHOLDS,
) -> tuple[QuotaNotice, ...]:
    """
    The notices that a level calls for which was moved.

    A level has no period: it is told again when it has fallen below a threshold
    and comes back to it.

    Args:
        tenant_id: Whose.

        rule: The rule, with the tenant's own limit.

        before: The level before.

        after: The level after.

        scope: As in `QuotaNotice`.

        thresholds: Percent of the limit.
    """
    return tuple(
        QuotaNotice(
            tenant_id=tenant_id,
            rule=rule.name,
            scope=scope,
            unit=rule.unit,
            threshold=threshold,
            used=after,
            limit=rule.limit,
            period_start=None,
            period_end=None,
        )
        for threshold in thresholds_crossed(before, after, rule.limit, thresholds=thresholds)
    )


def announce_capacity_notices(taken: MovedLevel) -> None:
    """
    Announce what `capacity_notices` says of a level that was moved.

    Call it with what taking capacity in PostgreSQL returned, when the
    transaction is committed.
    """
    for notice in capacity_notices(taken.tenant_id, taken.rule, taken.before, taken.after):
        announce(notice)


def checked_thresholds(thresholds: Iterable[int]) -> tuple[int, ...]:
    """
    Return *thresholds* in ascending order.

    Raises:
        twh_platform.errors.ConfigurationError: If one is no integer from 1 to 100.
    """
    given = tuple(thresholds)
    for one in given:
        if not isinstance(one, int) or isinstance(one, bool) or not 1 <= one <= 100:  # noqa: PLR2004 -- percent
            message = f"thresholds={one!r} is no integer from 1 to 100"
            raise ConfigurationError(message)
    return tuple(sorted(set(given)))


def scope_of(bucket: str) -> tuple[str, str]:
    """
    The tenant's id and the scope inside it, from where a rule is kept.

        >>> scope_of("t.acme:u.42")
        ('acme', 'u.42')

    A scope of more than 200 characters is shortened, with a hash that keeps it
    unique: whoever chooses long user ids must not be able to stop the ledger.
    """
    tenant_id, _, scope = bucket[2:].partition(":")
    if len(scope) > _LONGEST_SCOPE:
        digest = hashlib.sha256(scope.encode()).hexdigest()
        scope = f"{scope[: _LONGEST_SCOPE - 65]}~{digest}"
    return tenant_id, scope


class _Noticed(NamedTuple):
    rule: Calendar
    charge: Charge
    time_zone: str
    birth: int
    threshold: int
    used: int
    crossed: bool


class Notices:
    """
    The notices of one process: what was noticed, and not yet told.

    Args:
        thresholds: Percent of a limit, ascending.
    """

    def __init__(self, thresholds: tuple[int, ...]) -> None:
        self._thresholds = thresholds
        # Nothing is looked at below it: no threshold is above 100 percent.
        self.least = min(thresholds, default=0)
        # For which limit each was noticed here, so that the ledger is asked once.
        self._seen: dict[tuple[str, str, int, int], int] = {}
        self._queue: deque[_Noticed] = deque()

    def look(
        self, rule: Calendar, charge: Charge, time_zone: str, state: State, added: int
    ) -> None:
        """
        Notice what a counter has reached, to which *added* came just now.
        """
        birth, used, limit = state[0], state[1] - state[2], rule.limit
        for threshold in self._thresholds:
            if not limit or 100 * used < threshold * limit:
                return
            crossed = 100 * (used - added) < threshold * limit
            key = charge.bucket, charge.field, birth, threshold
            seen = self._seen.get(key)
            if (seen is None or (crossed and seen < limit)) and len(self._queue) < _MOST_QUEUED:
                if len(self._seen) >= _MOST_SEEN:
                    self._seen.clear()
                self._seen[key] = limit
                noticed = _Noticed(rule, charge, time_zone, birth, threshold, used, crossed)
                self._queue.append(noticed)

    def announce_level(self, rule: Capacity, charge: Charge, level: int, added: int) -> None:
        """
        Announce what a level has reached that a store keeps: it was moved in one step.
        """
        tenant_id, scope = scope_of(charge.bucket)
        for notice in capacity_notices(
            tenant_id, rule, level - added, level, scope=scope, thresholds=self._thresholds
        ):
            announce(notice)

    async def publish(self, ledger: NoticeLedger) -> None:
        """
        Announce what the ledger says is to be told.

        Raises:
            twh_platform.errors.BackendUnavailableError: If it cannot be known
                now; the rest waits.
        """
        while self._queue:
            noticed = self._queue[0]
            try:
                notice = _notice(noticed)
                wanted = await ledger.claim(notice, crossed=noticed.crossed)
            except BackendUnavailableError:
                raise
            except Exception:
                self._queue.popleft()  # it would fail again, and hold up the others
                raise
            self._queue.popleft()
            if wanted:
                announce(notice)


def _notice(noticed: _Noticed) -> QuotaNotice:
    rule, charge, time_zone, birth, threshold, used, _ = noticed
    start, end = period_of_birth(rule, charge.args[1:], time_zone=time_zone, birth=birth)
    tenant_id, scope = scope_of(charge.bucket)
    return QuotaNotice(
        tenant_id=tenant_id,
        rule=rule.name,
        scope=scope,
        unit=rule.unit,
        threshold=threshold,
        used=used,
        limit=rule.limit,
        period_start=start,
        period_end=end,
    )
