"""
A limiter for tests: one plan for every tenant, made of the rules that are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twh_platform import Tenant
from twh_platform.quotas import Decision, Limiter, Rule

__all__ = ["ACME", "GLOBEX", "OnePlan", "admitted", "limiter_of"]

ACME, GLOBEX = Tenant(id="acme"), Tenant(id="globex")
_COMMON = {"client", "global"}


class OnePlan:
    """
    The same rules for every tenant; assign others and they hold from then on.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.plan = _Plan(rules)

    def change(self, *rules: Rule) -> None:
        """
        Let other rules hold.
        """
        self.plan = _Plan(rules)

    def for_tenant(self, _tenant: Tenant, /) -> _Plan:
        """
        As `PlanSource` asks for it.
        """
        return self.plan


class _Plan:
    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)


def limiter_of(store: Any, *rules: Rule, **options: Any) -> Limiter:
    """
    Rules for clients and global ones as the limiter's own, the others as everybody's plan.
    """
    common = [one for one in rules if one.scope in _COMMON]
    plans = OnePlan([one for one in rules if one.scope not in _COMMON])
    return Limiter(store, plans=plans, rules=common, **options)


async def admitted(limiter: Limiter, times: int, tenant: Tenant | None = ACME, **asked: Any) -> int:
    """
    Ask so many times for the same; how many were admitted.
    """
    decisions: list[Decision] = [await limiter.take(tenant, **asked) for _ in range(times)]
    return sum(one.allowed for one in decisions)
