"""
From a request to what a store is asked: the rules it meets, what each costs, where it lies.

Nothing here asks anybody: the same request makes the same takes, and those are
kept for the next one to which the same matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

from ..errors import ConfigurationError
from ..tenancy._tenant import Tenant
from ._calendar import period_starts
from ._exchange import CLOSED, HARD, OPEN, SHADOW, SHARE, SOFT, Charge, Take
from ._quoting import shown
from ._rules import (
    COMMON_SCOPES,
    Calendar,
    Capacity,
    Concurrency,
    Mode,
    OnFailure,
    Rate,
    Rule,
    Scope,
    SlidingWindow,
)

__all__ = ["Prepared", "Request", "RuleSet", "Rules", "charge_of", "met_by", "prepare"]

_MODES = {Mode.HARD: HARD, Mode.SOFT: SOFT, Mode.SHADOW: SHADOW}
_POLICIES = {OnFailure.OPEN: OPEN, OnFailure.CLOSED: CLOSED, OnFailure.SHARE: SHARE}
_LETTERS = {Scope.USER: "u", Scope.API_KEY: "k", Scope.ROUTE: "r"}


class Rules(Protocol):
    """
    What a plan has.
    """

    @property
    def rules(self) -> Sequence[Rule]:
        """
        The rules, in the order in which they are shown.
        """
        ...


class Request(NamedTuple):
    """
    Who asks for what.
    """

    rules: RuleSet
    tenant_id: str
    time_zone: str
    user: str | None
    api_key: str | None
    route: str | None
    client: str | None
    cost: int | frozenset[tuple[str, int]] | None
    only: tuple[str, ...] | None
    tenant: Tenant | None


class RuleSet:
    """
    The rules of a plan, and what of a request matters to them.

    Attributes:
        plan: The plan: kept, so that no other gets its id.

        prepared: The takes of requests that differ in what matters.

        alone: Where nothing matters but the tenant: by its id and time zone,
            the only take of its requests, and the rules of that.
    """

    __slots__ = (
        "_client",
        "_common",
        "_key",
        "_plain",
        "_route",
        "_user",
        "alone",
        "plan",
        "prepared",
        "rules",
    )

    def __init__(self, plan: Rules | None, rules: Sequence[Rule]) -> None:
        scopes = {one.scope for one in rules}
        self.plan = plan
        self.rules = rules
        self.prepared: dict[tuple[Any, ...], Prepared] = {}
        self.alone: dict[tuple[str, str], tuple[tuple[Rule, ...], Take]] = {}
        self._user = Scope.USER in scopes
        self._key = Scope.API_KEY in scopes
        self._route = Scope.ROUTE in scopes or any(one.routes for one in rules)
        self._client = Scope.CLIENT in scopes
        self._common = Scope.GLOBAL in scopes
        self._plain = plan is not None and scopes <= {Scope.TENANT} and not self._route

    def keep(self, request: Request, prepared: Prepared) -> None:
        """
        Keep the takes for requests to which the same matters.
        """
        self.prepared[self.key(request)] = prepared
        parts, too_large = prepared
        asks_nothing = request.cost is None and request.only is None
        if self._plain and asks_nothing and len(parts) == 1 and not too_large:
            [(_, take)] = parts
            if not take.lease:
                self.alone[request.tenant_id, request.time_zone] = parts[0]

    def forget(self) -> None:
        """
        Keep none.
        """
        self.prepared.clear()
        self.alone.clear()

    def key(self, request: Request) -> tuple[Any, ...]:
        """
        What of the request decides which rules it meets, and where they lie.
        """
        _, tenant_id, time_zone, user, api_key, route, client, cost, only, _ = request
        if not self._user:
            user = None
        if not self._key:
            api_key = None
        if not self._route:
            route = None
        if not self._client and client is not None:
            client = "" if self._common else None
        return tenant_id, time_zone, user, api_key, route, client, cost, only


class Prepared(NamedTuple):
    """
    The takes of a request, and the rules that it can never satisfy.
    """

    parts: tuple[tuple[tuple[Rule, ...], Take], ...]
    too_large: tuple[Rule, ...]


def prepare(request: Request, around_us: int) -> Prepared:
    """
    Work out the takes of a request: one for each partition in which its rules lie.

    Args:
        request: Who asks for what.

        around_us: About when: see `charge_of`.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``rule_unknown`` for a
            name that there is not, or for an id that is no text.
    """
    parts: dict[str, list[tuple[Rule, Charge]]] = {}
    too_large = []
    for rule in met_by(request):
        cost = _cost(rule, request)
        if not cost:
            continue
        if cost > rule.capacity and rule.mode is Mode.HARD:
            too_large.append(rule)
        partition, bucket = _place(rule, request)
        charge = charge_of(rule, bucket, cost, request.time_zone, around_us)
        parts.setdefault(partition, []).append((rule, charge))
    takes = tuple(_take(partition, pairs) for partition, pairs in parts.items())
    return Prepared(takes, tuple(too_large))


def charge_of(rule: Rule, bucket: str, cost: int, time_zone: str, around_us: int) -> Charge:
    """
    A rule as a store is asked it.

    Args:
        rule: The rule.

        bucket: What shares a life time; see `Charge`.

        cost: Units.

        time_zone: The tenant's; rules of scope ``client`` and ``global`` go by UTC.

        around_us: About when: the second period is that of this moment.
    """
    args: tuple[int, ...] = (rule.limit,)
    if isinstance(rule, Rate):
        args = (*rule.ratio, rule.capacity)
    elif isinstance(rule, SlidingWindow):
        args = (rule.limit, rule.per_us)
    elif isinstance(rule, Calendar):
        # Clients come to many tenants: their periods are those of no tenant's zone.
        zone = "UTC" if rule.scope in COMMON_SCOPES else time_zone
        starts = period_starts(
            rule.period, time_zone=zone, anchor_day=rule.anchor_day, around_us=around_us
        )
        args = (rule.limit, *starts)
    elif isinstance(rule, Concurrency):
        args = (rule.limit, rule.lease_us, rule.maximum_hold_us)
    policy = _POLICIES[rule.on_failure]
    return Charge(bucket, rule.kind + rule.name, rule.kind, cost, _MODES[rule.mode], args, policy)


def met_by(request: Request) -> list[Rule]:
    """
    The rules that a request meets, in the order of the plan, or as it names them.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``rule_unknown``, if
            it names one that there is not.
    """
    rules = request.rules.rules
    if request.only is None:
        return [
            one
            for one in rules
            if not isinstance(one, Capacity) and _covers(one, request.route) and _who(one, request)
        ]
    known = {one.name: one for one in rules}
    for name in request.only:
        if name not in known:
            message = f"there is no rule {name!r} for tenant {request.tenant_id!r}"
            raise ConfigurationError(message, code="rule_unknown")
    return [known[name] for name in dict.fromkeys(request.only) if _who(known[name], request)]


def _covers(rule: Rule, route: str | None) -> bool:
    if not rule.routes:
        return True
    return route is not None and (route in rule.routes or route.partition(" ")[2] in rule.routes)


def _who(rule: Rule, request: Request) -> bool:
    named = {
        Scope.TENANT: request.tenant_id or None,
        Scope.USER: request.user,
        Scope.API_KEY: request.api_key,
        Scope.ROUTE: request.route,
    }
    return named.get(rule.scope, request.client) is not None


def _cost(rule: Rule, request: Request) -> int:
    if request.cost is None:
        return rule.cost
    if isinstance(request.cost, frozenset):
        cost = dict(request.cost).get(rule.unit, rule.cost)
    else:
        # By name, a number means the rule's own unit, whichever that is.
        named = request.only is not None or rule.unit == "requests"
        cost = request.cost if named else rule.cost
    # A request takes one slot, whatever it costs.
    return min(cost, 1) if isinstance(rule, Concurrency) else cost


def _place(rule: Rule, request: Request) -> tuple[str, str]:
    """
    Where a rule lies: partition and bucket.
    """
    if rule.scope is Scope.GLOBAL:
        return "g", "g"
    if rule.scope is Scope.CLIENT:
        place = f"c.{_encoded(request.client)}"
        return place, place
    partition = f"t.{request.tenant_id}"
    if rule.scope is Scope.TENANT:
        return partition, partition
    subject = {
        Scope.USER: request.user,
        Scope.API_KEY: request.api_key,
        Scope.ROUTE: request.route,
    }[rule.scope]
    return partition, f"{partition}:{_LETTERS[rule.scope]}.{_encoded(subject)}"


def _encoded(name: str | None) -> str:
    if not isinstance(name, str):
        message = f"{shown(name)} is no text: the ids of users, API keys and clients are"
        raise ConfigurationError(message)
    # "~" and "." are left alone by quote(): neither is a separator of ours.
    return quote(name, safe="", errors="surrogatepass")


def _take(partition: str, pairs: list[tuple[Rule, Charge]]) -> tuple[tuple[Rule, ...], Take]:
    rules, charges = zip(*pairs, strict=True)
    lease = "later" if any(one.kind == "l" for one in charges) else ""
    return rules, Take(partition, charges, lease=lease)
