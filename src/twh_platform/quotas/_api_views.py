"""
A tenant's rules and what is used of them, as JSON tells it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..tenancy._tenant import Tenant
from ._arithmetic import decide
from ._decision import Part, RuleStatus
from ._exchange import Charge
from ._limiter import Limiter
from ._limits import Override, limits_as_json
from ._periods import period_of_birth
from ._rules import (
    Calendar,
    Capacity,
    Concurrency,
    Mode,
    Rate,
    Rule,
    SlidingWindow,
)

__all__ = ["override_view", "rule_views"]

_KINDS: dict[type[Rule], str] = {
    Rate: "rate",
    SlidingWindow: "sliding_window",
    Calendar: "calendar",
    Concurrency: "concurrency",
    Capacity: "capacity",
}
# What was counted elsewhere, or is old.
_ESTIMATED = frozenset({"local", "open", "closed"})

View = dict[str, Any]


async def rule_views(
    limiter: Limiter,
    tenant: Tenant,
    *,
    user: str | None = None,
    api_key: str | None = None,
    levels: Mapping[str, int],
    shadow: bool = False,
) -> tuple[list[View], bool]:
    """
    Every rule of a tenant's plan, in its order, with what is used of it.

    Nothing is charged.  What nobody in particular shares, such as a rule of
    scope ``route``, has no `used` and no `remaining`.

    Args:
        limiter: The rules and their store.

        tenant: Whose.

        user: Of rules of scope ``user``, this one's.

        api_key: Of rules of scope ``api_key``, this one's.

        levels: Of `Capacity` rules, what is known of a better source than the
            limiter's store.

        shadow: Whether rules in shadow mode are shown.

    Returns:
        The views, and whether the store said so itself.

    Raises:
        twh_platform.errors.ConfigurationError: If the tenant has no plan.

        twh_platform.errors.BackendUnavailableError: If the store does not
            answer, and nothing stands in for it.
    """
    rules = [one for one in limiter.plan_of(tenant).rules if shadow or one.mode is not Mode.SHADOW]
    asked = [one.name for one in rules if one.name not in levels]
    decision = await limiter.peek(tenant, user=user, api_key=api_key, only=asked)
    found: dict[str, View] = {}
    for part in decision.parts:
        found.update(_found(part))
    for one in rules:
        if one.name in levels:
            used = levels[one.name]
            found[one.name] = {"used": used, "remaining": max(0, one.limit - used)}
    exact = all(part.outcome.origin not in _ESTIMATED for part in decision.parts)
    return [{**_rule_view(one), **found.get(one.name, {})} for one in rules], exact


def override_view(override: Override) -> View:
    """
    One version of a tenant's own limits.
    """
    return {
        "version": override.version,
        "limits": limits_as_json(override.limits),
        "actor": override.actor,
        "reason": override.reason,
        "changed_at": override.changed_at.isoformat(),
    }


def _rule_view(rule: Rule) -> View:
    view: View = {
        "name": rule.name,
        "kind": _KINDS[type(rule)],
        "unit": rule.unit,
        "scope": str(rule.scope),
        "mode": str(rule.mode),
        "limit": rule.limit,
    }
    if isinstance(rule, Rate | SlidingWindow):
        view["per_seconds"] = rule.per_us / 1e6
    if isinstance(rule, Rate):
        view["burst"] = rule.capacity
    if isinstance(rule, Calendar):
        view["period"] = str(rule.period)
    if rule.routes:
        view["routes"] = list(rule.routes)
    return view


def _found(part: Part) -> dict[str, View]:
    charges = part.outcome.charges or part.take.charges
    rows = zip(part.rules, charges, part.outcome.states, part.statuses(), strict=True)
    return {
        rule.name: {
            "used": _used(charge, state, part.outcome.now, status),
            "remaining": status.remaining,
            **_times(rule, charge, part, status),
        }
        for rule, charge, state, status in rows
    }


def _used(charge: Charge, state: tuple[int, int, int], now: int, status: RuleStatus) -> int:
    if charge.kind == "c":
        _, (_, taken, refunded) = decide("c", state, now, 0, charge.args)
        return taken - refunded
    if charge.kind in "nl":
        return state[1]
    return max(0, status.rule.capacity - status.remaining)


def _times(rule: Rule, charge: Charge, part: Part, status: RuleStatus) -> View:
    if isinstance(rule, Calendar):
        start, end = period_of_birth(
            rule, charge.args[1:], time_zone=part.time_zone, birth=part.outcome.now
        )
        return {"period_start": start.isoformat(), "period_end": end.isoformat()}
    if isinstance(rule, Rate | SlidingWindow):
        return {"reset_after": round(status.reset_after, 3)}
    return {}
