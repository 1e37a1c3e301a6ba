"""
Comparing a level with what is really there, and putting it right.

A level and its rows change in one transaction, so what is committed agrees,
whatever the moment.  The reconciler looks twice:

1. One statement reads the level and counts the rows.  It has one snapshot, so
   a difference is no race: somebody has moved one without the other.  Nothing
   is locked, and mostly this is all.
2. If they differ, the level is locked and the rows are counted again.  Whoever
   has moved the level has ended; whoever has changed rows and not yet the level
   is not seen, neither here nor there, and waits with the level.  What is
   counted now is the level, exactly, while inserts go on.

What is in no database has no snapshot.  It is counted under the lock only: take
before you write a file, give back after you have deleted it, in one
transaction, and whoever holds the lock sees the files of no open transaction.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from ..._signals import announce
from ...errors import ConfigurationError
from ...tenancy._context import require_tenant
from ...tenancy._tenant import Tenant
from ...tenancy.postgres._steps import Ask, Call, Steps
from .._announcements import CapacityDrift
from .._decision import checked_amount
from .._rules import Capacity
from ._capacity import locking

__all__ = ["CapacityCount", "Count", "Counts", "reconcile_steps"]

Count: TypeAlias = str | Callable[[Tenant], int | Awaitable[int]]
Counts: TypeAlias = Mapping[str, Count]

_HELD = "SELECT row_security_active('twh.quota_levels')"
_CORRECT = "SELECT twh.correct_capacity($1::text, $2::bigint)"
# No parameter, so that drivers leave what is in the count as it is.  The rule's
# name has been checked and holds no quote.
_LOOK = """\
SELECT coalesce((
    SELECT level FROM twh.quota_levels
    WHERE tenant_id = (SELECT twh.current_tenant()) AND rule = '{rule}'
), 0)::bigint, coalesce((
{count}
), 0)::bigint"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityCount:
    """
    What was recorded of a rule, and what is there.

    Attributes:
        tenant_id: Whose.

        rule: The rule's name.

        recorded: The level as it was.

        counted: What is there; the level now, unless it was left alone.
    """

    tenant_id: str
    rule: str
    recorded: int
    counted: int

    @property
    def drift(self) -> int:
        """
        How much the level was wrong; 0 if it was right.
        """
        return self.recorded - self.counted


def reconcile_steps(counts: Counts, *, correct: bool) -> Steps[tuple[CapacityCount, ...]]:
    """
    Compare, and put right, in the order of the rules' names.
    """
    tenant = require_tenant()
    for rule in counts:
        Capacity(name=rule, limit=0)  # it checks the name
    ((held,),) = yield Ask(_HELD)
    if not held:
        message = (
            "policies do not hold this login, so it would count the rows of all tenants: "
            "reconcile as the owner of the tables, or as a role that is granted what it counts"
        )
        raise ConfigurationError(message, code="capacity_login_unheld")
    found = []
    for rule in sorted(counts):
        one = yield from _reconcile(tenant, rule, counts[rule], correct=correct)
        found.append(one)
    return tuple(found)


def _reconcile(tenant: Tenant, rule: str, count: Count, *, correct: bool) -> Steps[CapacityCount]:
    if isinstance(count, str):
        looked = yield from _look(rule, count)
        recorded, counted = looked
        if recorded != counted and correct:
            yield locking(rule)
            looked = yield from _look(rule, count)
            recorded, counted = looked
    else:
        ((_, recorded, *_),) = yield locking(rule)
        counted = yield Call(count, tenant)
    counted = checked_amount(counted)
    if recorded != counted:
        if correct:
            yield Ask(_CORRECT, (rule, counted))
        drift = CapacityDrift(
            tenant_id=tenant.id,
            rule=rule,
            recorded=recorded,
            counted=counted,
            found_by="reconcile",
        )
        announce(drift)
    return CapacityCount(tenant_id=tenant.id, rule=rule, recorded=recorded, counted=counted)


def _look(rule: str, count: str) -> Steps[tuple[int, int]]:
    ((recorded, counted),) = yield Ask(_LOOK.format(rule=rule, count=count.rstrip().rstrip(";")))
    return recorded, counted
