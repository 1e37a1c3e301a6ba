"""
A plan: the rules of the tenants that have it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ..errors import ConfigurationError
from ._rules import COMMON_SCOPES, Capacity, Rule

__all__ = ["Plan"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_SHOWN = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """
    The rules of the tenants that have it; immutable.

        >>> from twh_platform.quotas import Calendar, Capacity, Plan
        >>> day = Calendar(name="day", limit=1000, period="day")
        >>> plan = Plan(name="FREE", rules=[day, Capacity(name="items", limit=100, unit="items")])
        >>> plan.capacity("items").limit
        100

    Args:
        name: 1 to 64 of ``A-Z a-z 0-9 _ . -``; tenants have it as their tier.

        rules: Inside a tenant, so not of scope ``client`` or ``global``; each
            name once, for the state is kept under it.  In this order they are
            shown.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``plan_invalid``.
    """

    name: str
    rules: tuple[Rule, ...]
    _by_name: Mapping[str, Rule] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            self._refuse("its name is not 1 to 64 of A-Z, a-z, 0-9, _, . and -")
        object.__setattr__(self, "rules", tuple(self.rules))
        for rule in self.rules:
            if not isinstance(rule, Rule):
                self._refuse(f"{str(rule)[:_SHOWN]!r} is not a rule")
            if rule.scope in COMMON_SCOPES:
                self._refuse(f"rule {rule.name!r}: scope={rule.scope} is of no plan: it needs none")
        by_name = {rule.name: rule for rule in self.rules}
        if len(by_name) < len(self.rules):
            names = [rule.name for rule in self.rules]
            twice = next(one for one in names if names.count(one) > 1)
            self._refuse(f"rule {twice!r}: there are two with this name")
        object.__setattr__(self, "_by_name", MappingProxyType(by_name))

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def rule(self, name: str) -> Rule:
        """
        Return the rule with this name.

        Raises:
            twh_platform.errors.ConfigurationError: With code ``rule_unknown``,
                if there is none.
        """
        found = self._by_name.get(name)
        if found is None:
            message = f"plan {self.name!r} has no rule {str(name)[:_SHOWN]!r}"
            raise ConfigurationError(message, code="rule_unknown")
        return found

    def capacity(self, name: str) -> Capacity:
        """
        Return the rule with this name, which is a level.

        Raises:
            twh_platform.errors.ConfigurationError: With code ``rule_unknown``,
                if there is none, or if it is of another kind.
        """
        found = self.rule(name)
        if not isinstance(found, Capacity):
            message = f"plan {self.name!r}: rule {name!r} is a {type(found).__name__}, no Capacity"
            raise ConfigurationError(message, code="rule_unknown")
        return found

    def _refuse(self, what: str) -> None:
        message = f"plan {str(self.name)[:_SHOWN]!r}: {what}"
        raise ConfigurationError(message, code="plan_invalid")
