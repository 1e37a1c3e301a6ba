"""
Taking and giving back capacity, without a driver.

The steps are carried out by `twh_platform.tenancy.postgres` on the caller's own
connection, in the caller's own transaction, and so never need another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from ..._signals import announce, has_listeners
from ...errors import ConfigurationError, QuotaCostError, QuotaExceededError
from ...tenancy._context import require_tenant
from ...tenancy._tenant import Tenant
from ...tenancy.postgres._steps import Ask, Steps
from .._announcements import CapacityDrift, QuotaExceeded, QuotaRefused
from .._decision import RuleStatus, checked_amount
from .._limiter import PlanSource
from .._rules import Capacity, Mode, Rule

__all__ = [
    "CapacityRefusal",
    "CapacitySteps",
    "CapacityTaken",
    "Costs",
    "RuleName",
    "locking",
]

RuleName: TypeAlias = str | Capacity
Costs: TypeAlias = Mapping[RuleName, int] | Mapping[str, int] | Mapping[Capacity, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityTaken:
    """
    A level that was moved, in a transaction that may still be rolled back.

    It is announced too, where somebody listens.

    Attributes:
        tenant_id: Whose.

        rule: The rule, with the tenant's own limit.

        before: The level before.

        after: The level after; below *before* if it was given back.
    """

    tenant_id: str
    rule: Capacity
    before: int
    after: int

    @property
    def limit(self) -> int:
        """
        The rule's limit.
        """
        return self.rule.limit

    @property
    def exceeded(self) -> bool:
        """
        Whether the level is beyond the limit now.
        """
        return self.after > self.rule.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityRefusal:
    """
    Why nothing was taken; as `QuotaExceededError.decision`, it reads like a `Decision`.

    Attributes:
        statuses: Every rule that was asked, in the order of their names.

        code: ``quota_exceeded``, or ``quota_cost_too_large`` if a rule admits
            less than the cost even when nothing is taken.
    """

    statuses: tuple[RuleStatus, ...]
    code: str

    @property
    def allowed(self) -> bool:
        """
        False.
        """
        return False

    @property
    def violated(self) -> tuple[RuleStatus, ...]:
        """
        The rules that had not enough left.
        """
        return tuple(one for one in self.statuses if one.refuses)

    @property
    def exceeded(self) -> tuple[RuleStatus, ...]:
        """
        The soft and shadow rules that had not enough left.
        """
        return tuple(one for one in self.statuses if not (one.fits or one.refuses))

    @property
    def retry_after(self) -> None:
        """
        None: time gives nothing back.
        """
        return


class _Change(NamedTuple):
    """
    One rule, and what to add to its level.
    """

    rule: Capacity
    amount: int


_CHANGE = """\
SELECT rule, before, after, refused
FROM twh.change_capacity($1::text[], $2::bigint[], $3::bigint[])"""
_LEVELS = """\
SELECT rule, level FROM twh.quota_levels
WHERE tenant_id = (SELECT twh.current_tenant()) ORDER BY rule"""


class CapacitySteps:
    """
    What the classes of all drivers share.

    Args:
        plans: Which rules a tenant has, such as `twh_platform.quotas.Plans`.
            Without them rules are given as values, not by name.
    """

    def __init__(self, plans: PlanSource | None = None) -> None:
        self._plans = plans

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._plans!r})"

    def _take(self, costs: Costs) -> Steps[tuple[CapacityTaken, ...]]:
        tenant = require_tenant()
        changes = self._changes(tenant, costs)
        rows = yield from _change(changes)
        if any(refused for *_, refused in rows.values()):
            _refuse(tenant, changes, rows)
        taken = _moved(tenant, changes, rows)
        beyond = tuple(one.rule.name for one in taken if one.exceeded and one.after > one.before)
        if beyond:
            _announce_exceeded(tenant, beyond)
        return taken

    def _take_one(self, rule: RuleName, cost: int | None) -> Steps[CapacityTaken]:
        found = self._rule(require_tenant(), rule)
        (taken,) = yield from self._take({found: found.cost if cost is None else cost})
        return taken

    def _give_back(self, amounts: Costs) -> Steps[tuple[CapacityTaken, ...]]:
        tenant = require_tenant()
        changes = [_Change(one.rule, -one.amount) for one in self._changes(tenant, amounts)]
        rows = yield from _change(changes)
        for rule, amount in changes:
            before = rows[rule.name][0]
            if before + amount < 0:
                drift = CapacityDrift(
                    tenant_id=tenant.id,
                    rule=rule.name,
                    recorded=before,
                    counted=-amount,
                    found_by="give_back",
                )
                announce(drift)
        return _moved(tenant, changes, rows)

    def _give_back_one(self, rule: RuleName, amount: int | None) -> Steps[CapacityTaken]:
        found = self._rule(require_tenant(), rule)
        (given,) = yield from self._give_back({found: found.cost if amount is None else amount})
        return given

    def _levels(self) -> Steps[dict[str, int]]:
        rows = yield Ask(_LEVELS)
        return {rule: level for rule, level in rows}  # noqa: C416 -- a row need not be a pair

    def _changes(self, tenant: Tenant, costs: Costs) -> list[_Change]:
        changes = [
            _Change(self._rule(tenant, rule), checked_amount(cost)) for rule, cost in costs.items()
        ]
        if not changes:
            message = "no rule is named, so nothing would be taken"
            raise ConfigurationError(message, code="capacity_rule_invalid")
        if len({one.rule.name for one in changes}) < len(changes):
            message = f"a rule is named twice, of {[one.rule.name for one in changes]}"
            raise ConfigurationError(message, code="capacity_rule_invalid")
        return sorted(changes, key=lambda one: one.rule.name)

    def _rule(self, tenant: Tenant, rule: RuleName) -> Capacity:
        if isinstance(rule, Capacity):
            return rule
        rules: Iterable[Rule] = ()
        if self._plans is not None:
            rules = self._plans.for_tenant(tenant).rules
        for one in rules:
            if isinstance(one, Capacity) and one.name == rule:
                return one
        message = f"the plan of tenant {tenant.id!r} has no Capacity with name {rule!r}"
        raise ConfigurationError(message, code="capacity_rule_invalid")


def locking(rule: str) -> Ask:
    """
    Lock a level until the transaction ends, and read it.
    """
    return Ask(_CHANGE, ([rule], [0], [None]))


def _change(changes: list[_Change]) -> Steps[dict[str, tuple[int, int, bool]]]:
    names = [one.rule.name for one in changes]
    amounts = [one.amount for one in changes]
    hard = [one.rule.limit if one.rule.mode is Mode.HARD else None for one in changes]
    rows = yield Ask(_CHANGE, (names, amounts, hard))
    return {rule: (before, after, refused) for rule, before, after, refused in rows}


def _moved(
    tenant: Tenant, changes: list[_Change], rows: Mapping[str, tuple[int, int, bool]]
) -> tuple[CapacityTaken, ...]:
    moved = tuple(
        CapacityTaken(
            tenant_id=tenant.id,
            rule=one.rule,
            before=rows[one.rule.name][0],
            after=rows[one.rule.name][1],
        )
        for one in changes
    )
    if has_listeners(CapacityTaken):
        for one in moved:
            announce(one)
    return moved


def _refuse(
    tenant: Tenant, changes: list[_Change], rows: Mapping[str, tuple[int, int, bool]]
) -> None:
    statuses = tuple(_status(one, rows[one.rule.name][0]) for one in changes)
    hard = [one for one in changes if one.rule.mode is Mode.HARD]
    too_large = any(one.amount > one.rule.limit for one in hard)
    code = QuotaCostError.code if too_large else QuotaExceededError.code
    refusal = CapacityRefusal(statuses=statuses, code=code)
    names = tuple(one.rule.name for one in refusal.violated)
    if has_listeners(QuotaRefused):
        announce(
            QuotaRefused(
                code=code,
                rules=names,
                tenant_id=tenant.id,
                user=None,
                route=None,
                client=None,
                retry_after=None,
            )
        )
    kind = QuotaCostError if too_large else QuotaExceededError
    raise kind(f"not enough left of {', '.join(names)}", decision=refusal)


def _status(change: _Change, before: int) -> RuleStatus:
    rule, left = change.rule, max(0, change.rule.limit - before)
    fits = change.amount <= left or not change.amount
    return RuleStatus(rule, fits, left, 0.0, 0.0, 0.0 if fits else None)


def _announce_exceeded(tenant: Tenant, rules: tuple[str, ...]) -> None:
    if has_listeners(QuotaExceeded):
        exceeded = QuotaExceeded(
            rules=rules, tenant_id=tenant.id, user=None, route=None, client=None
        )
        announce(exceeded)
