"""
What quotas announce: a request was refused, a limit is near, a store does not answer.

Subscribe with `twh_platform.subscribe`, as telemetry and audit do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

__all__ = [
    "CapacityDrift",
    "QuotaDecided",
    "QuotaExceeded",
    "QuotaNotice",
    "QuotaOverrideChanged",
    "QuotaOverridesStale",
    "QuotaRefused",
    "QuotaStoreDegraded",
    "QuotaStoreRestored",
    "UsageLedgerDegraded",
    "UsageLedgerRestored",
]


class QuotaDecided(NamedTuple):
    """
    The limiter has decided: announced for every take, one that is refused too.

    One is made for each request, so it is a named tuple.  What is only asked,
    `Limiter.peek`, is not announced, nor what a database takes by itself.

    Attributes:
        code: Why it was refused, as in `QuotaRefused`; None if it was admitted.

        rules: The names of the rules that had enough left.

        tenant_id: The tenant; None before one is known.

        origin: Who decided: see `Outcome.origin`; ``limiter`` if no store was
            asked.

        seconds: How long the stores took; None if none was asked.
    """

    code: str | None
    rules: tuple[str, ...]
    tenant_id: str | None
    origin: str
    seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaRefused:
    """
    A request was refused.

    Attributes:
        code: ``quota_exceeded``, ``quota_cost_too_large`` or
            ``quota_store_unavailable``.

        rules: The names of the rules that refused.

        tenant_id: The tenant; None before one is known.

        user: The user, where the caller named one.

        route: The route's template, or None.

        client: The client's address as rules count it, or None.

        retry_after: Seconds until it could be admitted; None if never.
    """

    code: str
    rules: tuple[str, ...]
    tenant_id: str | None
    user: str | None
    route: str | None
    client: str | None
    retry_after: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaExceeded:
    """
    A request went beyond a soft or a shadow rule, and was admitted.

    Attributes:
        rules: The names of the rules.

        tenant_id: The tenant; None before one is known.

        user: The user, where the caller named one.

        route: The route's template, or None.

        client: The client's address as rules count it, or None.
    """

    rules: tuple[str, ...]
    tenant_id: str | None
    user: str | None
    route: str | None
    client: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityDrift:
    """
    A level of capacity in PostgreSQL was not what is there.

    Attributes:
        tenant_id: Whose.

        rule: The rule's name.

        recorded: The level.

        counted: What was counted; of ``give_back``, what was given back of it.

        found_by: ``reconcile``, or ``give_back`` where more was given back than
            was taken.
    """

    tenant_id: str
    rule: str
    recorded: int
    counted: int
    found_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaOverrideChanged:
    """
    A tenant's own limits were changed; announced by the instance that did it.

    Attributes:
        tenant_id: Whose.

        version: Of the change, among all overrides of the store.

        actor: Who changed them.

        reason: Why.

        before: What they were, by rule: ``{"minute": {"limit": 50}}``; empty if
            there were none.

        after: What they are.
    """

    tenant_id: str
    version: int
    actor: str
    reason: str
    before: Mapping[str, Mapping[str, int]]
    after: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaOverridesStale:
    """
    The overrides could not be read; what was known goes on to hold.

    Attributes:
        code: Why: the code of the error.

        failures: How many readings in a row have failed, with this one.

        age: Seconds since the reading began that what is known comes from.
    """

    code: str
    failures: int
    age: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaStoreDegraded:
    """
    The store does not answer: from now on each rule's failure policy decides.

    Attributes:
        reason: ``timeout``, the name of the driver's exception such as
            ``ConnectionError``, or the code of what the store raised.

        since: Seconds since 1970.
    """

    reason: str
    since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaStoreRestored:
    """
    The store answers again, and decides.

    Attributes:
        seconds: For how long it did not.

        admitted_locally: Takes that were admitted from this instance's share.

        admitted_uncounted: Takes that were admitted by rules that fail open.

        refused: Takes that were refused, by the share or because a rule fails
            closed.
    """

    seconds: float
    admitted_locally: int
    admitted_uncounted: int
    refused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaNotice:
    """
    A tenant has used a certain part of a quota: once per period and threshold.

    Attributes:
        tenant_id: The tenant.

        rule: The name of the rule.

        scope: Who of the tenant: empty for all of it, ``u.42`` for a user,
            ``k.`` and ``r.`` for an API key and a route; long ones shortened.

        unit: What is counted.

        threshold: The percentage that was reached: 80, 90 or 100.

        used: Units that were used when it was noticed.

        limit: The rule's limit, with the tenant's own override.

        period_start: When the period began, by the tenant's clock; None for a
            `Capacity`, which has none.

        period_end: When it ends.
    """

    tenant_id: str
    rule: str
    scope: str
    unit: str
    threshold: int
    used: int
    limit: int
    period_start: datetime | None
    period_end: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageLedgerDegraded:
    """
    Usage cannot be written down: it is kept in memory until it can.

    It is announced when that begins, and once more when the first of it is lost.

    Attributes:
        reason: The code of the error, or the name of an exception.

        pending: Counters that wait in memory.

        lost: Notes that were not kept because memory was full, since the meter
            was made.
    """

    reason: str
    pending: int
    lost: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageLedgerRestored:
    """
    Usage is written down again.

    Attributes:
        failures: Attempts in a row that had failed.

        lost: As in `UsageLedgerDegraded`.
    """

    failures: int
    lost: int
