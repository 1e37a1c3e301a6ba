"""
The limiter: asks all rules that a request meets at once, and settles what it took.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from time import perf_counter
from typing import Protocol, TypedDict, Unpack

from .._signals import announce, has_listeners
from ..errors import BackendUnavailableError, ConfigurationError
from ..tenancy._tenant import Tenant
from ._announcements import QuotaDecided, QuotaExceeded, QuotaRefused
from ._decision import Cost, Decision, Part, Receipt, checked_cost
from ._exchange import Charge, Outcome, QuotaStore, Settled, Settlement, Take
from ._ids import UniqueIds
from ._quoting import shown
from ._rules import COMMON_SCOPES, LARGEST, Capacity, Rule
from ._takes import Prepared, Request, Rules, RuleSet, charge_of, met_by, prepare

__all__ = ["Limiter", "Meter", "PlanSource"]

_MOST_PLANS = 4096
_MOST_PREPARED = 32_768
_MOST_ATTEMPTS = 3
_LONGEST_RECEIPT = 366 * 86_400

# What a named tuple's own constructor comes to, in a third of its time.
_new = tuple.__new__


class PlanSource(Protocol):
    """
    Which plan a tenant has: `Plans`, or plans with overrides.
    """

    def for_tenant(self, tenant: Tenant, /) -> Rules:
        """
        The same object for as long as the plan does not change.
        """
        ...


class Meter(Protocol):
    """
    Who keeps account of what calendars count.
    """

    def note(self, part: Part, /) -> None:
        """
        Take down what a store has said of a tenant's rules; must not block.

        It is called after each answer: for what was charged, refused, only
        looked at (`Take.dry`), and for what a settlement has left, where the
        cost of a charge is what was added to it, or 0.
        """
        ...


class Asked(TypedDict, total=False):
    """
    What `Limiter.take` is asked besides the tenant.
    """

    user: str | None
    api_key: str | None
    route: str | None
    client: str | None
    cost: Cost | None
    only: Sequence[str] | None


class Limiter:
    """
    Ask all rules of a request at once: all are charged, or none.

    The rules of a tenant, its users, API keys and routes lie together and are
    decided in one step of the store.  Rules for client addresses, and global
    ones, lie elsewhere: they are asked first, and get back what they gave if
    the tenant's refuse.

        >>> import asyncio
        >>> from twh_platform.quotas import Limiter, MemoryQuotaStore, Rate
        >>> login = Rate(name="login", limit=5, per=60, scope="client")
        >>> limiter = Limiter(MemoryQuotaStore(), rules=[login])
        >>> decision = asyncio.run(limiter.take(client="192.0.2.1"))
        >>> decision.allowed, decision.statuses[0].remaining
        (True, 4)

    Args:
        store: Where the state is kept.

        plans: Which rules a tenant has.

        rules: Those of scope ``client`` and ``global``, which need no tenant.

        meter: Who keeps account of the tenants' calendars.

        receipt_seconds: For how long a receipt can be settled.

        clock: Seconds since 1970: a first guess at the calendar's period,
            which the store's own clock corrects.

    Raises:
        twh_platform.errors.ConfigurationError: If *rules* have a scope inside a
            tenant, or a name twice, or if *receipt_seconds* is not above zero
            and at most 366 days.
    """

    def __init__(
        self,
        store: QuotaStore,
        *,
        plans: PlanSource | None = None,
        rules: Iterable[Rule] = (),
        meter: Meter | None = None,
        receipt_seconds: float = 300.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self._plans = plans
        self._rules = tuple(rules)
        _check_common(self._rules)
        self._meter = meter
        self.receipt_seconds = receipt_seconds
        self._clock = clock
        self._common = RuleSet(None, self._rules)
        self._known: dict[int, RuleSet] = {}
        self._prepared = 0
        self._ids = UniqueIds()
        if not 0 < receipt_seconds <= _LONGEST_RECEIPT:
            message = f"receipt_seconds={receipt_seconds!r} is not above zero and up to 366 days"
            raise ConfigurationError(message)

    async def take(
        self,
        tenant: Tenant | None = None,
        *,
        user: str | None = None,
        api_key: str | None = None,
        route: str | None = None,
        client: str | None = None,
        cost: Cost | None = None,
        only: Sequence[str] | None = None,
    ) -> Decision:
        """
        Take the cost of a request from every rule that it meets, or from none.

        Rules of scope ``user``, ``api_key`` and ``route`` are met where the
        request names one.  The rules of scope ``client`` and ``global`` are met
        where *client* is given.  `Capacity` rules are met by name only.

        Args:
            tenant: Whose plan; none, to ask the rules that need no tenant.

            user: The user's id.

            api_key: The API key's id, not the key.

            route: The template of the route, such as ``GET /items/{id}``.

            client: The client's address.

            cost: Units of requests, or units for each unit; each rule's own
                cost where it says nothing.  0 charges nothing.

            only: The names of the rules to ask; all if None.

        Returns:
            The decision, whether it allows or refuses.

        Raises:
            twh_platform.errors.ConfigurationError: For a cost that is none, a
                rule that there is not, or an id that is no text.

            twh_platform.errors.BackendUnavailableError: If the store does not
                answer, and nothing stands in for it.
        """
        part = None
        began = perf_counter() if has_listeners(QuotaDecided) else 0.0
        if tenant is not None and cost is None and only is None:
            # Most requests come to this, and are spared what the others need.
            found = self._rules_of(tenant).alone.get((tenant.id, tenant.time_zone))
            if found is not None:
                rules, take = found
                outcome = await self.store.take(take)
                part = _new(Part, (rules, take, outcome, tenant, self.store))
                if outcome.admitted and False not in outcome.fits:
                    if self._meter is not None:
                        self._meter.note(part)
                    if began:
                        seconds, names = perf_counter() - began, [one.name for one in rules]
                        told = None, tuple(names), tenant.id, outcome.origin, seconds
                        announce(_new(QuotaDecided, told))
                    return Decision(self, (part,))
        request = self._request(
            tenant, user=user, api_key=api_key, route=route, client=client, cost=cost, only=only
        )
        if part is None:
            return await self._decide(request, began=began)
        return await self._decide_by(request, part, began)

    async def peek(self, tenant: Tenant | None = None, **asked: Unpack[Asked]) -> Decision:
        """
        What `take` would say to the same, without taking.
        """
        request = self._request(tenant, **asked)
        return await self._decide(request, dry=True)

    async def charge(self, tenant: Tenant | None = None, **asked: Unpack[Asked]) -> Decision:
        """
        Take what has been used already, whatever is left: later requests pay for it.

        It takes what `take` does.  The debt of a `Rate` goes up to one burst.
        """
        began = perf_counter() if has_listeners(QuotaDecided) else 0.0
        return await self._decide(self._request(tenant, **asked), force=True, began=began)

    async def give_back(
        self,
        tenant: Tenant,
        name: str,
        amount: int,
        *,
        user: str | None = None,
        api_key: str | None = None,
        route: str | None = None,
    ) -> None:
        """
        Give back units of a `Capacity` rule that the store keeps.

        Args:
            tenant: Whose.

            name: The rule's.

            amount: How many; the level does not go below zero.

            user: The user's id, for a rule of that scope.

            api_key: The API key's id, likewise.

            route: The template of the route, likewise.

        Raises:
            twh_platform.errors.ConfigurationError: If there is no such rule, if
                the amount is none, or if it is not said whose level it is.

            twh_platform.errors.BackendUnavailableError: If the store does not
                answer.
        """
        request = self._request(
            tenant, user=user, api_key=api_key, route=route, cost=amount, only=(name,)
        )
        if not met_by(request):
            [scope] = [one.scope for one in request.rules.rules if one.name == name]
            message = f"rule {name!r} has scope={scope}: it is not said whose level it is"
            raise ConfigurationError(message)
        for rules, take in self._prepare(request).parts:
            if not isinstance(rules[0], Capacity):
                message = f"rule {name!r} of tenant {tenant.id!r} is of another kind than Capacity"
                raise ConfigurationError(message)
            gone = Settlement(take.partition, "", take.charges, (0,), 0, LARGEST)
            await self.store.settle(gone)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """
        The rules that need no tenant.
        """
        return self._rules

    def plan_of(self, tenant: Tenant) -> Rules:
        """
        Return the plan that *tenant* is held to now, with its own limits.

        Raises:
            twh_platform.errors.ConfigurationError: If it has none.
        """
        if self._plans is None:
            message = f"tenant {tenant.id!r} has no plan: this limiter was given none"
            raise ConfigurationError(message, code="plan_unknown")
        return self._plans.for_tenant(tenant)

    def _request(
        self,
        tenant: Tenant | None,
        *,
        user: str | None = None,
        api_key: str | None = None,
        route: str | None = None,
        client: str | None = None,
        cost: Cost | None = None,
        only: Sequence[str] | None = None,
    ) -> Request:
        amount: int | frozenset[tuple[str, int]] | None = None
        if cost is not None:
            cost = checked_cost(cost)
            amount = cost if isinstance(cost, int) else frozenset(cost.items())
        names = None if only is None else tuple(only)
        if tenant is None:
            of = self._common, "", ""
        else:
            of = self._rules_of(tenant), tenant.id, tenant.time_zone
        return _new(Request, (*of, user, api_key, route, client, amount, names, tenant))

    def _rules_of(self, tenant: Tenant) -> RuleSet:
        if self._plans is None:
            return self._common
        plan = self._plans.for_tenant(tenant)
        known = self._known.get(id(plan))
        if known is None:
            if len(self._known) >= _MOST_PLANS:
                self._known.clear()
            known = self._known[id(plan)] = RuleSet(plan, (*self._rules, *plan.rules))
        return known

    async def _decide(
        self, request: Request, *, dry: bool = False, force: bool = False, began: float = 0.0
    ) -> Decision:
        rules = request[0]
        prepared = rules.prepared.get(rules.key(request)) or self._prepare(request)
        if prepared.too_large and not (force or dry):
            return self._told(Decision.too_large(self, prepared.too_large), request, began)
        parts: tuple[Part, ...] = ()
        try:
            for met, take in prepared.parts:
                if dry or force or take.lease:
                    lease = take.lease and self.new_id()
                    take = take._replace(dry=dry, force=force, lease=lease)  # noqa: PLW2901
                outcome = await self.store.take(take)
                part = _new(Part, (met, take, outcome, request[9], self.store))
                if outcome.stale:
                    part = await self._ask_again(request, part)
                parts += (part,)
                if not (part.outcome.admitted or dry):
                    break
        except BaseException:
            await self._undo(parts)
            raise
        decision = await self._decided(parts, dry=dry, too_large=bool(prepared.too_large))
        return decision if dry else self._told(decision, request, began)

    async def _decide_by(self, request: Request, part: Part, began: float) -> Decision:
        if part.outcome.stale:
            part = await self._ask_again(request, part)
        decision = await self._decided((part,), dry=False, too_large=False)
        return self._told(decision, request, began)

    async def _decided(self, parts: tuple[Part, ...], *, dry: bool, too_large: bool) -> Decision:
        why = ""
        for part in parts:
            if not part.outcome.admitted:
                closed = part.outcome.origin == "closed"
                why = "quota_store_unavailable" if closed else "quota_exceeded"
        if parts and self._meter is not None:
            self._meter.note(parts[-1])  # a tenant's rules are asked last
        if dry and too_large:
            why = "quota_cost_too_large"
        elif why and not dry:
            await self._undo(parts[:-1])
        holds = any(part.take.lease for part in parts)
        return Decision(self, parts, why, holds=holds)

    async def _ask_again(self, request: Request, part: Part) -> Part:
        """
        Ask with the periods of the store's clock, which is in another than ours.
        """
        for _ in range(_MOST_ATTEMPTS):
            prepared = self._prepare(request, now=part.outcome.now)
            charges = next(
                take.charges for _, take in prepared.parts if take.partition == part.take.partition
            )
            take = part.take._replace(charges=charges)
            part = part._replace(take=take, outcome=await self.store.take(take))
            if not part.outcome.stale:
                return part
        message = "the store's clock runs away from its own answers"
        raise BackendUnavailableError(message, code="quota_store_unavailable")

    async def _undo(self, parts: tuple[Part, ...]) -> None:
        if parts:
            receipt = Receipt(self, parts)
            with suppress(BackendUnavailableError):  # then it stays charged
                await asyncio.shield(asyncio.ensure_future(receipt.refund()))

    async def settle(self, part: Part, settlement: Settlement, /) -> bool:
        """
        Settle one part of a receipt, which calls this.
        """
        settlement = settlement._replace(charges=self._by_present_limits(part, settlement))
        for _ in range(_MOST_ATTEMPTS):
            settled = await self.store.settle(settlement)
            if not settled.stale:
                if self._meter is not None and len(settled.states) == len(settlement.charges):
                    self._meter.note(_left(part, settlement, settled))
                return settled.done
            settlement = settlement._replace(charges=_in_period(part, settlement, settled.now))
        return False

    def _by_present_limits(self, part: Part, settlement: Settlement) -> tuple[Charge, ...]:
        """
        The charges with the limits that hold now: by older ones a state would drain too fast.
        """
        charges = settlement.charges
        if part.tenant is None or self._plans is None:
            return charges
        try:
            present = {one.name: one for one in self._plans.for_tenant(part.tenant).rules}
        except ConfigurationError:  # the tenant's plan is gone
            return charges
        rules = [present.get(one.name, one) for one in _rules_of(part, settlement)]
        return tuple(
            charge._replace(args=charge_of(rule, "", 1, "", 0).args)
            if rule.kind == charge.kind and rule.kind in "rw"
            else charge
            for charge, rule in zip(charges, rules, strict=True)
        )

    async def renew(self, part: Part, /) -> bool:
        """
        Prolong the slots of one part of a receipt, which calls this.
        """
        # A rule that was only tried, and had no slot left, holds none.
        take = part.take._replace(charges=tuple(part.charged()))
        return await self.store.renew(take, part.outcome.now)

    def new_id(self) -> str:
        """
        An id that no other receipt has.
        """
        return self._ids.next()

    def _told(self, decision: Decision, request: Request, began: float) -> Decision:
        if began:
            announce(_decided(decision, request.tenant_id or None, perf_counter() - began))
        if decision.allowed:
            if has_listeners(QuotaExceeded) and decision.exceeded:
                announce(_exceeded(decision, request))
        elif has_listeners(QuotaRefused):
            announce(_refused(decision, request))
        return decision

    def _prepare(self, request: Request, *, now: int | None = None) -> Prepared:
        around = round(self._clock() * 1e6) if now is None else now
        prepared = prepare(request, around)
        if self._prepared >= _MOST_PREPARED:
            self._forget()
        self._prepared += 1
        request.rules.keep(request, prepared)
        return prepared

    def _forget(self) -> None:
        # Of all plans together: tenants with limits of their own have each a plan.
        for rules in (self._common, *self._known.values()):
            rules.forget()
        self._prepared = 0


def _check_common(rules: tuple[Rule, ...]) -> None:
    for one in rules:
        if not isinstance(one, Rule):
            message = f"rules has {shown(one)}, which is no rule; of plans, give their common"
            raise ConfigurationError(message)
    names = [one.name for one in rules]
    for one in rules:
        if one.scope not in COMMON_SCOPES:
            message = f"rule {one.name!r}: scope={one.scope} is inside a tenant: it is of a plan"
            raise ConfigurationError(message)
        if names.count(one.name) > 1:
            message = f"rule {one.name!r}: there are two with this name"
            raise ConfigurationError(message)


def _in_period(part: Part, settlement: Settlement, now: int) -> tuple[Charge, ...]:
    """
    The charges with the periods of another moment.
    """
    return tuple(
        charge_of(rule, one.bucket, one.cost, part.time_zone, now) if one.kind == "c" else one
        for one, rule in zip(settlement.charges, _rules_of(part, settlement), strict=True)
    )


def _rules_of(part: Part, settlement: Settlement) -> tuple[Rule, ...]:
    rules = {
        (one.bucket, one.field): rule
        for one, rule in zip(part.take.charges, part.rules, strict=True)
    }
    return tuple(rules[one.bucket, one.field] for one in settlement.charges)


def _left(part: Part, settlement: Settlement, settled: Settled) -> Part:
    """
    What a settlement has left, as if it had been taken: with what it added as the cost.
    """
    pairs = zip(settlement.charges, settlement.actual, strict=True)
    charges = tuple(one._replace(cost=max(0, actual - one.cost)) for one, actual in pairs)
    fits = (True,) * len(charges)
    outcome = Outcome(
        settled.now, admitted=True, fits=fits, states=settled.states, origin=settlement.origin
    )
    take = Take(part.take.partition, charges)
    return part._replace(rules=_rules_of(part, settlement), take=take, outcome=outcome)


def _decided(decision: Decision, tenant_id: str | None, seconds: float) -> QuotaDecided:
    rules = [
        rule.name
        for part in decision.parts
        for rule, fits in zip(part.rules, part.outcome.fits, strict=True)
        if fits
    ]
    asked = seconds if decision.parts else None
    return _new(
        QuotaDecided, (decision.code or None, tuple(rules), tenant_id, decision.origin, asked)
    )


def _refused(decision: Decision, request: Request) -> QuotaRefused:
    return QuotaRefused(
        code=decision.code,
        rules=tuple(one.rule.name for one in decision.violated),
        tenant_id=request.tenant_id or None,
        user=request.user,
        route=request.route,
        client=request.client,
        retry_after=decision.retry_after,
    )


def _exceeded(decision: Decision, request: Request) -> QuotaExceeded:
    return QuotaExceeded(
        rules=tuple(one.rule.name for one in decision.exceeded),
        tenant_id=request.tenant_id or None,
        user=request.user,
        route=request.route,
        client=request.client,
    )
