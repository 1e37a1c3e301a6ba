"""
The composition root: who listens to whom.

Capabilities announce and know no listener, telemetry counts and knows no
signal.  The table that joins them is here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final

from ._signals import subscribe
from .errors import MissingExtraError
from .telemetry import _announced as listeners
from .telemetry import _names as names
from .telemetry._announced import Emit, Fixed, Listener
from .telemetry._announced_parts import Degraded, Restored, Whereabouts
from .telemetry._announced_tenants import CountTenant, Remaining
from .telemetry._define import define
from .telemetry._names import MetricName
from .telemetry._registry import Registry
from .telemetry._tenants import TenantLabels

__all__ = ["observe"]

Pairs = Iterator[tuple[str, Listener]]
Define = Callable[[MetricName], Any]

COUNTED: Final[tuple[tuple[str, MetricName, tuple[str | Fixed, ...]], ...]] = (
    ("tenancy.TenantRefused", names.TENANCY_REFUSALS, ("code",)),
    ("tenancy.TenantViolation", names.RLS_CONTEXT_ERRORS, ("code",)),
    ("quotas.QuotaNotice", names.QUOTA_NOTICES, ("rule", "threshold")),
    ("quotas.CapacityDrift", names.QUOTA_DRIFT, ("rule", "found_by")),
    ("quotas.QuotaOverrideChanged", names.QUOTA_OVERRIDE_CHANGES, ()),
    ("quotas.QuotaOverridesStale", names.QUOTA_OVERRIDES_STALE, ("code",)),
    ("kms.KeyUsed", names.KMS_OPERATIONS, ("operation", "service", "code")),
    ("kms.KeyChanged", names.KMS_KEY_CHANGES, ("action", "service", "code")),
    ("kms.secrets.SecretRead", names.SECRET_READS, ("source", "code")),
    ("kms.secrets.SecretChanged", names.SECRET_CHANGES, ("action", "code")),
    ("webhooks.WebhookVerified", names.WEBHOOKS_RECEIVED, ("profile", Fixed("verified"))),
    ("webhooks.WebhookReplayed", names.WEBHOOKS_RECEIVED, ("profile", Fixed("replayed"))),
    ("webhooks.WebhookRefused", names.WEBHOOKS_RECEIVED, ("profile", Fixed("refused"))),
    ("webhooks.WebhookRefused", names.WEBHOOK_REFUSALS, ("profile", "code")),
    ("webhooks.ReplayStoreDown", names.WEBHOOK_STORE_FAILURES, ("step", "code")),
)
"""
Signals that count as one: the metric, and for each of its labels a field or a `Fixed` value.
"""

EVENTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "tenancy.TenantRefused": "platform.tenancy.refused",
        "tenancy.TenantViolation": "platform.tenancy.violation",
        "quotas.QuotaRefused": "platform.quota.refused",
        "quotas.QuotaExceeded": "platform.quota.exceeded",
        "quotas.QuotaStoreDegraded": "platform.degraded",
        "quotas.QuotaStoreRestored": "platform.restored",
        "kms.KeyUsed": "platform.kms.failed",
        "kms.KeyServiceDegraded": "platform.degraded",
        "kms.KeyServiceRestored": "platform.restored",
        "kms.secrets.SecretRead": "platform.secret.failed",
        "webhooks.WebhookRefused": "platform.webhook.refused",
        "webhooks.WebhookReplayed": "platform.webhook.replayed",
        "webhooks.ReplayStoreDown": "platform.webhook.store_down",
    }
)
"""
Signals that a trace is told of; those with a code of None, which say that all went well, not.
"""

IGNORED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "tenancy.TenantResolved": (
            "TelemetryMiddleware counts every request by its tenant; a signal that nobody"
            " listens to is not even built."
        ),
        "quotas.postgres.CapacityTaken": (
            "Its transaction may be rolled back; what is left is told by QuotaNotice, and"
            " what was wrong by CapacityDrift."
        ),
    }
)
"""
Signals that nobody is subscribed to, each with the reason.
"""

_RESULTS: Final = {
    "quota_exceeded": "limited",
    "quota_cost_too_large": "too_large",
    "quota_store_unavailable": "error",
}
_WITHOUT_STORE: Final = ("admitted_locally", "admitted_uncounted", "refused")


def observe(
    registry: Registry, *, tenants: TenantLabels | None = None, events: Emit | None = None
) -> Callable[[], None]:
    """
    Make metrics of what all capabilities announce.

    Those that need an extra which is not installed are left out; their metrics
    stay empty.  A registry can be given once.

        >>> from twh_platform.telemetry import Registry
        >>> registry = Registry()
        >>> unobserve = observe(registry)
        >>> b"platform_tenancy_refusals_total" in registry.page()
        True
        >>> unobserve()

    Args:
        registry: Where the metrics are defined: see the reference of metrics.

        tenants: Which tenants have a label; without it no metric by tenant is kept.

        events: Told the name and the attributes of what a trace should show, in
            the context of the request that it is about.

    Returns:
        A function that ends all of it.  What was counted stays on the page.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``metric_duplicate``,
            if the registry has these metrics already.
    """
    ends = [
        subscribe(signal, listener)
        for name, listener in _listeners(registry, tenants, events)
        if (signal := signal_class(name)) is not None
    ]

    def unobserve() -> None:
        for end in ends:
            end()

    return unobserve


def signal_class(name: str) -> type | None:
    """
    Find the class of a signal; None where its capability needs what is not installed.

    Args:
        name: From the package on, such as ``quotas.QuotaRefused``.
    """
    room, _, attribute = name.rpartition(".")
    try:
        module = import_module(f"{__package__}.{room}")
    except MissingExtraError:
        return None
    found: type = getattr(module, attribute)
    return found


def _listeners(registry: Registry, tenants: TenantLabels | None, events: Emit | None) -> Pairs:
    # A metric that two signals count into is defined once.
    defined: Define = cache(lambda name: define(registry, name))
    for signal, name, labels in COUNTED:
        counted = listeners.Counted(registry, defined(name), labels)
        yield signal, listeners.Counting(registry, counted)
    yield from _of_administrators(registry, defined)
    yield from _of_quotas(registry, defined)
    yield from _of_keys(registry, defined)
    yield from _of_degradation(registry, defined)
    if tenants is not None:
        yield from _of_tenants(registry, defined, tenants)
    if events is not None:
        yield from _of_traces(registry, events)


def _of_administrators(registry: Registry, defined: Define) -> Pairs:
    lasting = listeners.Lasting(
        registry, defined(names.ADMINISTRATORS_ACTIVE), defined(names.ADMINISTRATOR_DURATION)
    )
    yield "tenancy.AdministratorEntered", lasting
    yield "tenancy.AdministratorLeft", lasting


def _of_quotas(registry: Registry, defined: Define) -> Pairs:
    decisions = defined(names.QUOTA_DECISIONS)
    exceeded = Fixed("exceeded")
    yield "quotas.QuotaRefused", listeners.CountEach(registry, decisions, _RESULTS)
    yield "quotas.QuotaExceeded", listeners.CountEach(registry, decisions, exceeded)
    seconds = defined(names.QUOTA_BACKEND)
    yield "quotas.QuotaDecided", listeners.Decided(registry, decisions, seconds)
    for result in _WITHOUT_STORE:
        child = defined(names.QUOTA_WITHOUT_STORE).labels(result)
        yield "quotas.QuotaStoreRestored", listeners.CountPart(registry, child, result)
    lost = listeners.CountPart(
        registry, defined(names.QUOTA_USAGE_LOST).labels(), "lost", is_total=True
    )
    yield "quotas.UsageLedgerDegraded", lost
    yield "quotas.UsageLedgerRestored", lost


def _of_keys(registry: Registry, defined: Define) -> Pairs:
    for outcome, field in (("success", "rewrapped"), ("failure", "failed")):
        child = defined(names.KMS_REWRAPPED).labels(outcome)
        yield "kms.lifecycle.DataKeysRewrapped", listeners.CountPart(registry, child, field)
    using = defined(names.KMS_DURATION)
    used = listeners.Took(registry, using, "seconds", ("operation", "service", "code"))
    yield "kms.KeyUsed", used
    shredding = defined(names.KMS_SHRED_DURATION)
    took = listeners.Took(registry, shredding, "seconds", ("service", "state"))
    yield "kms.lifecycle.TenantShredded", took


def _of_degradation(registry: Registry, defined: Define) -> Pairs:
    where = Whereabouts(
        registry,
        defined(names.DEGRADED),
        defined(names.DEGRADATIONS),
        defined(names.DEGRADED_SECONDS),
    )
    began, ended = Degraded, Restored
    yield "quotas.QuotaStoreDegraded", began(where, "quota_store", reason="reason")
    yield "quotas.QuotaStoreRestored", ended(where, "quota_store", seconds="seconds")
    # Announced once more when the first of it is lost.
    ledger = began(where, "usage_ledger", reason="reason", repeats=True)
    yield "quotas.UsageLedgerDegraded", ledger
    yield "quotas.UsageLedgerRestored", ended(where, "usage_ledger")
    keys = began(where, "key_service", reason="code", provider="service")
    yield "kms.KeyServiceDegraded", keys
    answers = ended(where, "key_service", seconds="seconds", provider="service")
    yield "kms.KeyServiceRestored", answers


def _of_tenants(registry: Registry, defined: Define, tenants: TenantLabels) -> Pairs:
    # Not of TenantRefused: its tenant is one that a stranger has named.
    refusals = defined(names.TENANT_QUOTA_REFUSALS)
    yield "quotas.QuotaRefused", CountTenant(registry, refusals, tenants)
    yield "quotas.QuotaNotice", Remaining(registry, names.QUOTA_REMAINING, tenants)


def _of_traces(registry: Registry, events: Emit) -> Pairs:
    for signal, event in EVENTS.items():
        found = signal_class(signal)
        if found is not None:
            told = [one.name for one in fields(found)]
            yield signal, listeners.Events(registry, event, events, told)
