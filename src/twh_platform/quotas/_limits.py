"""
A tenant's own limits: what an override says, and what it makes of a plan.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any, NoReturn

from ..errors import ConfigurationError
from ..tenancy._tenant import valid_tenant_id
from ._plan import Plan
from ._quoting import shown
from ._rules import LARGEST_LIMIT, Rate, Rule

__all__ = [
    "Limit",
    "Override",
    "check_statement",
    "limits_as_json",
    "overridden",
    "read_limits",
]

INVALID = "override_invalid"
LONGEST_ACTOR = 200
LONGEST_REASON = 1000
MOST_LIMITS = 100

_logger = logging.getLogger("twh_platform.quotas")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """
    What an override puts in the place of a rule's limit.

    Args:
        limit: Units; 0 refuses everything, where the kind of rule allows it.

        burst: Of a `Rate`: the new burst.  If None, a burst that the plan names
            stays, and one that it does not name is the new limit.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``override_invalid``.
    """

    limit: int
    burst: int | None = None

    def __post_init__(self) -> None:
        _require_integer("limit", self.limit, 0)
        if self.burst is not None:
            _require_integer("burst", self.burst, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """
    One version of a tenant's own limits: who changed them, when and why.

    Attributes:
        tenant_id: Whose.

        version: Of all overrides of a store: a later change has a larger one.

        limits: By the name of the rule; none, if the override was deleted.

        actor: Who changed it.

        reason: Why.

        changed_at: When, with time zone.
    """

    tenant_id: str
    version: int
    limits: Mapping[str, Limit]
    actor: str
    reason: str
    changed_at: datetime

    def __post_init__(self) -> None:
        object.__setattr__(self, "limits", MappingProxyType(dict(self.limits)))

    @property
    def deleted(self) -> bool:
        """
        Whether this version took the override away.
        """
        return not self.limits


def read_limits(limits: object) -> dict[str, Limit]:
    """
    Read new limits by the names of rules, also as they come from JSON.

        >>> read_limits({"minute": 100, "hour": {"limit": 5}})
        {'minute': Limit(limit=100, burst=None), 'hour': Limit(limit=5, burst=None)}

    Args:
        limits: For each rule a number, a `Limit`, or a mapping with ``limit``
            and perhaps ``burst``; 1 to 100 of them.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``override_invalid``,
            for everything else.
    """
    if not isinstance(limits, Mapping) or not 1 <= len(limits) <= MOST_LIMITS:
        _refuse(f"limits are a mapping of 1 to {MOST_LIMITS} rules")
    read = {}
    for name, said in limits.items():
        if not isinstance(name, str):
            _refuse("the name of a rule is no text")
        try:
            read[name] = _read_limit(said)
        except ConfigurationError as error:
            _refuse(f"rule {shown(name)}: {error}")
    return read


def limits_as_json(limits: Mapping[str, Limit]) -> dict[str, dict[str, int]]:
    """
    The same limits for JSON; `read_limits` reads them again.
    """
    return {
        name: {"limit": one.limit}
        if one.burst is None
        else {"limit": one.limit, "burst": one.burst}
        for name, one in limits.items()
    }


def check_statement(*, tenant_id: str, actor: str, reason: str) -> None:
    """
    Return if a change says whose limits it changes, who changes them and why.

    Raises:
        twh_platform.errors.TenantUnresolvedError: If the id is none.

        twh_platform.errors.ConfigurationError: With code ``override_invalid``,
            if the actor or the reason is missing, is longer than 200 or 1000
            characters, or has some that are not printable.
    """
    valid_tenant_id(tenant_id)
    for name, text, longest in (
        ("actor", actor, LONGEST_ACTOR),
        ("reason", reason, LONGEST_REASON),
    ):
        stated = isinstance(text, str) and text.strip() and text.isprintable()
        if not stated or len(text) > longest:
            _refuse(f"{name}={shown(text)} is not 1 to {longest} printable characters")


def overridden(plan: Plan, limits: Mapping[str, Limit], *, strict: bool = False) -> Plan:
    """
    Make the plan with some limits replaced; the plan itself if there are none.

    State is kept by the names and kinds of rules, which stay: what was used
    counts against the new limit.

    Args:
        plan: The plan.

        limits: By the name of the rule.

        strict: Refuse what does not fit this plan.  Otherwise the rule keeps
            its limit, and a warning is logged: a tenant may have got another
            plan since, and must not lose its other limits for it.

    Raises:
        twh_platform.errors.ConfigurationError: If *strict*, with code
            ``rule_unknown``, ``rule_invalid`` or ``override_invalid``.
    """
    rules = {rule.name: rule for rule in plan.rules}
    for name, limit in limits.items():
        try:
            rules[name] = _limited(plan.rule(name), limit)
        except ConfigurationError as error:
            if strict:
                raise
            _logger.warning("an override does not fit: %s", error)
    return replace(plan, rules=tuple(rules.values())) if limits else plan


def _limited(rule: Rule, limit: Limit) -> Rule:
    if limit.burst is None:
        return replace(rule, limit=limit.limit)
    if not isinstance(rule, Rate):
        _refuse(f"rule {rule.name!r}: burst={limit.burst} is for a Rate: this is none")
    return replace(rule, limit=limit.limit, burst=limit.burst)


def _read_limit(said: Any) -> Limit:
    if isinstance(said, Limit):
        return said
    if not isinstance(said, Mapping):
        return Limit(limit=said)
    if "limit" not in said or not set(said) <= {"limit", "burst"}:
        _refuse("it has a limit and perhaps a burst, and nothing else")
    return Limit(**said)


def _require_integer(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= LARGEST_LIMIT:
        _refuse(f"{name}={shown(value)} is no integer from {least} to {LARGEST_LIMIT}")


def _refuse(what: str) -> NoReturn:
    raise ConfigurationError(what, code=INVALID)
