"""
What capabilities announce, as metrics and as events of spans.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import twh_platform
from twh_platform import platform
from twh_platform._signals import announce, has_listeners
from twh_platform.errors import ConfigurationError, MissingExtraError
from twh_platform.platform import COUNTED, EVENTS, IGNORED, observe, signal_class
from twh_platform.quotas import (
    CapacityDrift,
    QuotaDecided,
    QuotaExceeded,
    QuotaNotice,
    QuotaOverrideChanged,
    QuotaOverridesStale,
    QuotaRefused,
    QuotaStoreDegraded,
    QuotaStoreRestored,
    UsageLedgerDegraded,
    UsageLedgerRestored,
)
from twh_platform.telemetry import Registry, TenantLabels
from twh_platform.telemetry import _announced as listeners
from twh_platform.telemetry._announced import MOST_LABELS, Fixed
from twh_platform.telemetry._announced_tenants import Remaining
from twh_platform.telemetry._names import EVENT_ATTRIBUTES, QUOTA_REMAINING, SPAN_EVENTS
from twh_platform.tenancy import (
    AdministratorEntered,
    AdministratorLeft,
    TenantRefused,
    TenantResolved,
    TenantViolation,
)
from twh_platform.testing import ManualClock

PACKAGE = Path(twh_platform.__file__).parent
NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def registry():
    """A registry of this test alone."""
    return Registry()


@pytest.fixture
def observed(registry):
    """It listens to everything, and keeps what traces are told."""
    told: list[tuple[str, dict]] = []
    end = observe(registry, tenants=TenantLabels(top=2), events=lambda *event: told.append(event))
    yield told
    end()


def samples(registry, family=""):
    """The page's samples by their names and labels, of one family."""
    lines = registry.page().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs if name.startswith(family)}


def refused(code="quota_exceeded", rules=("minute",), tenant_id="acme"):
    """A refusal of quotas."""
    return QuotaRefused(
        code=code,
        rules=rules,
        tenant_id=tenant_id,
        user=None,
        route=None,
        client=None,
        retry_after=1.0,
    )


def not_let_in(code="tenant_unknown", tenant_id=None):
    """A refusal of tenancy."""
    return TenantRefused(
        code=code,
        status=403,
        tenant_id=tenant_id,
        source="header",
        user_id=None,
        request_id="0" * 32,
        method="GET",
        path="/secret\n",
    )


def notice(**changes):
    """A tenant has used 80 of 100."""
    values = {
        "tenant_id": "acme",
        "rule": "month",
        "scope": "",
        "unit": "requests",
        "threshold": 80,
        "used": 80,
        "limit": 100,
        "period_start": NOW,
        "period_end": NOW + timedelta(days=30),
    }
    return QuotaNotice(**{**values, **changes})


@pytest.mark.usefixtures("observed")
def test_refusals_and_violations_count_by_code(registry):
    """Never by the tenant or the path that a stranger has named."""
    for _ in range(2):
        announce(not_let_in(tenant_id="initech"))
    announce(TenantViolation(code="tenant_row_refused", tenant_id="acme", sqlstate="42501"))

    assert samples(registry, "platform_tenancy") == {
        'platform_tenancy_refusals_total{code="tenant_unknown"}': 2
    }
    assert samples(registry, "platform_rls") == {
        'platform_rls_context_errors_total{code="tenant_row_refused"}': 1
    }
    assert b"initech" not in registry.page()


@pytest.mark.usefixtures("observed")
def test_decisions_of_quotas_count_by_rule(registry):
    """Each of the rules that refused, and each that would have."""
    announce(refused(rules=("minute", "day")))
    announce(refused("quota_cost_too_large"))
    announce(refused("quota_store_unavailable", rules=()))
    announce(QuotaExceeded(rules=("shadow",), tenant_id="acme", user=None, route=None, client=None))

    assert samples(registry, "platform_quota_decisions_total") == {
        'platform_quota_decisions_total{policy="minute",result="limited"}': 1,
        'platform_quota_decisions_total{policy="day",result="limited"}': 1,
        'platform_quota_decisions_total{policy="minute",result="too_large"}': 1,
        'platform_quota_decisions_total{policy="",result="error"}': 1,
        'platform_quota_decisions_total{policy="shadow",result="exceeded"}': 1,
    }


@pytest.mark.usefixtures("observed")
def test_tenants_are_told_by_governed_labels_only(registry):
    """The third tenant shares a label, and no tenant is no tenant."""
    for tenant in ("acme", "globex", "initech", None, "acme"):
        announce(refused(tenant_id=tenant))

    assert samples(registry, "platform_tenant_quota") == {
        'platform_tenant_quota_refusals_total{tenant="acme"}': 2,
        'platform_tenant_quota_refusals_total{tenant="globex"}': 1,
        'platform_tenant_quota_refusals_total{tenant="other"}': 1,
        'platform_tenant_quota_refusals_total{tenant=""}': 1,
    }


def test_without_labels_no_tenant_is_named(registry):
    """Not even one."""
    end = observe(registry)
    announce(refused())
    announce(notice())
    end()

    assert b"acme" not in registry.page()


def test_what_is_left_holds_until_the_period_ends(registry):
    """The rule that has least counts; a gauge is never older than what it is about."""
    clock = ManualClock(NOW.timestamp())
    left = Remaining(registry, QUOTA_REMAINING, TenantLabels(top=1), clock)
    left(notice())
    left(notice(rule="day", used=95, period_end=NOW + timedelta(days=1)))
    left(notice(scope="u.42", used=100))
    left(notice(tenant_id="globex", used=100))
    left(notice(rule="seats", used=100, period_start=None, period_end=None))

    first = samples(registry, "platform_quota_remaining")
    clock.advance(2 * 86_400)
    second = samples(registry, "platform_quota_remaining")
    clock.advance(30 * 86_400)

    name = 'platform_quota_remaining_ratio{tenant="acme"}'
    assert first == {name: pytest.approx(0.05)}
    assert second == {name: pytest.approx(0.2)}
    assert samples(registry, "platform_quota_remaining") == {}


def test_a_tenant_that_loses_its_label_leaves_the_page(registry):
    """With everything that was counted under it."""
    clock = ManualClock()
    labels = TenantLabels(top=2, idle=60, clock=clock.monotonic)
    end = observe(registry, tenants=labels)
    announce(refused())
    announce(notice(period_end=datetime.now(UTC) + timedelta(days=1)))
    before = registry.page()
    for _ in range(2):
        clock.advance(61)
        labels.review()
    end()

    assert before.count(b'tenant="acme"') == 2
    assert b"acme" not in registry.page()


@pytest.mark.usefixtures("observed")
def test_other_signals_of_quotas_count(registry):
    """Notices, drift, overrides that were changed or could not be read."""
    announce(notice())
    announce(
        CapacityDrift(tenant_id="acme", rule="seats", recorded=3, counted=2, found_by="reconcile")
    )
    announce(
        QuotaOverrideChanged(
            tenant_id="acme", version=1, actor="ann", reason="deal", before={}, after={}
        )
    )
    announce(QuotaOverridesStale(code="override_store_late", failures=1, age=3.0))

    found = samples(registry, "platform_quota")
    assert found['platform_quota_notices_total{policy="month",threshold="80"}'] == 1
    assert found['platform_quota_capacity_drift_total{policy="seats",found_by="reconcile"}'] == 1
    assert found["platform_quota_override_changes_total"] == 1
    assert found['platform_quota_overrides_stale_total{reason="override_store_late"}'] == 1


@pytest.mark.usefixtures("observed")
def test_a_store_that_fails_is_degraded_until_it_answers(registry):
    """Two of them count two; a restoration that nobody saw begin does not count below 0."""
    back = QuotaStoreRestored(seconds=5.0, admitted_locally=7, admitted_uncounted=2, refused=1)
    announce(back)
    for _ in range(2):
        announce(QuotaStoreDegraded(reason="timeout", since=0.0))
    during = samples(registry, "platform_degraded{")
    announce(back)

    name = 'platform_degraded{part="quota_store",provider=""}'
    assert (during, samples(registry, "platform_degraded{")) == ({name: 2}, {name: 1})
    assert samples(registry, "platform_degradations") == {
        'platform_degradations_total{part="quota_store",provider="",reason="timeout"}': 2
    }
    assert sum(samples(registry, "platform_degraded_seconds").values()) == 10
    assert samples(registry, "platform_quota_without_store") == {
        'platform_quota_without_store_total{result="admitted_locally"}': 14,
        'platform_quota_without_store_total{result="admitted_uncounted"}': 4,
        'platform_quota_without_store_total{result="refused"}': 2,
    }


@pytest.mark.usefixtures("observed")
def test_lost_usage_is_counted_once(registry):
    """The ledger announces its trouble twice, and the total of what was lost each time."""
    announce(UsageLedgerDegraded(reason="timeout", pending=9, lost=0))
    announce(UsageLedgerDegraded(reason="timeout", pending=9, lost=1))
    during = samples(registry, "platform_degraded{")
    announce(UsageLedgerRestored(failures=3, lost=4))

    name = 'platform_degraded{part="usage_ledger",provider=""}'
    assert (during, samples(registry, "platform_degraded{")) == ({name: 1}, {name: 0})
    assert sum(samples(registry, "platform_degradations").values()) == 1
    assert samples(registry, "platform_quota_usage") == {"platform_quota_usage_lost_total": 4}


@pytest.mark.usefixtures("observed")
def test_work_of_administrators_is_under_way_until_it_is_over(registry):
    """What began before anybody listened counts as over, not below 0."""
    common = {"actor": "ann", "reason": "ticket 7", "entered_at": NOW}
    over = {**common, "duration": 30.0, "transactions": 2}
    announce(AdministratorEntered(access_id="1", **common))
    announce(AdministratorEntered(access_id="2", **common))
    announce(AdministratorLeft(access_id="1", error="KeyError", **over))
    announce(AdministratorLeft(access_id="0", error=None, **over))

    found = samples(registry, "platform_administrator")
    assert found["platform_administrators_active"] == 1
    assert found['platform_administrator_session_seconds_count{outcome="error"}'] == 1
    assert found['platform_administrator_session_seconds_sum{outcome="success"}'] == 30
    assert b"ticket 7" not in registry.page()


@pytest.mark.usefixtures("observed")
def test_keys_and_secrets_count_by_outcome(registry):
    """An outcome is the code of the error, or success."""
    pytest.importorskip("cryptography")
    from twh_platform.kms import KeyChanged, KeyUsed
    from twh_platform.kms.lifecycle import DataKeysRewrapped, TenantShredded
    from twh_platform.kms.secrets import SecretChanged, SecretRead

    for code in (None, None, "key_disabled"):
        announce(
            KeyUsed(service="vault", operation="unwrap", tenant_id="a", key_ref="k", code=code)
        )
    announce(KeyChanged(service="local", action="rotated", tenant_id="a"))
    announce(SecretRead(tenant_id="a", name="smtp", version=1, source="cache"))
    announce(SecretChanged(tenant_id="a", name="smtp", version=1, action="put", code="denied"))
    announce(DataKeysRewrapped(tenant_id="a", rewrapped=5, failed=1, remaining=0))
    announce(TenantShredded(tenant_id="a", service="aws", state="destroying", seconds=0.3))

    found = {name: value for name, value in samples(registry).items() if "bucket" not in name}
    expected = {
        'platform_kms_operations_total{op="unwrap",provider="vault",outcome="success"}': 2,
        'platform_kms_operations_total{op="unwrap",provider="vault",outcome="key_disabled"}': 1,
        'platform_kms_key_changes_total{action="rotated",provider="local",outcome="success"}': 1,
        'platform_secret_reads_total{source="cache",outcome="success"}': 1,
        'platform_secret_changes_total{action="put",outcome="denied"}': 1,
        'platform_kms_data_keys_rewrapped_total{outcome="success"}': 5,
        'platform_kms_data_keys_rewrapped_total{outcome="failure"}': 1,
        'platform_kms_shred_seconds_count{provider="aws",state="destroying"}': 1,
    }
    assert {name: found.get(name) for name in expected} == expected


@pytest.mark.usefixtures("observed")
def test_a_key_service_is_degraded_by_its_name(registry):
    """One that rests does not hide that another one answers."""
    pytest.importorskip("cryptography")
    from twh_platform.kms import KeyServiceDegraded, KeyServiceRestored

    for service in ("aws", "vault"):
        announce(KeyServiceDegraded(service=service, code="key_service_unavailable"))
    announce(KeyServiceRestored(service="aws", seconds=12.5))

    assert samples(registry, "platform_degraded") == {
        'platform_degraded{part="key_service",provider="aws"}': 0,
        'platform_degraded{part="key_service",provider="vault"}': 1,
        'platform_degraded_seconds_total{part="key_service",provider="aws"}': 12.5,
    }


@pytest.mark.usefixtures("observed")
def test_webhooks_count_by_outcome_and_refusals_by_code(registry):
    """What was verified may come again: that is counted beside it."""
    from twh_platform.webhooks import (
        ReplayStoreDown,
        WebhookRefused,
        WebhookReplayed,
        WebhookVerified,
    )

    where = {"profile": "stripe", "endpoint": "", "tenant_id": None}
    announce(WebhookVerified(scheme="v1", key_id="k", age=2, **where))
    announce(WebhookReplayed(**where))
    announce(WebhookRefused(code="signature_mismatch", status=400, **where))
    announce(ReplayStoreDown(step="claim", code="timeout", store_down="closed"))

    received = 'platform_webhooks_received_total{profile="stripe",outcome='
    assert samples(registry, "platform_webhook") == {
        f'{received}"verified"}}': 1,
        f'{received}"replayed"}}': 1,
        f'{received}"refused"}}': 1,
        'platform_webhook_refusals_total{profile="stripe",code="signature_mismatch"}': 1,
        'platform_webhook_store_failures_total{step="claim",code="timeout"}': 1,
    }


def test_a_trace_is_told_what_went_wrong(observed):
    """With codes and rules; without tenant, path or anything that a stranger has written."""
    announce(not_let_in(tenant_id="initech"))
    announce(refused(rules=("minute", "day")))
    announce(QuotaStoreDegraded(reason="timeout", since=0.0))

    assert observed == [
        ("platform.tenancy.refused", {"platform.code": "tenant_unknown"}),
        (
            "platform.quota.refused",
            {"platform.code": "quota_exceeded", "platform.rules": ("minute", "day")},
        ),
        ("platform.degraded", {"platform.reason": "timeout"}),
    ]


def test_a_trace_is_not_told_what_went_well(observed):
    """A key that was used is a metric; one that could not be is an event."""
    pytest.importorskip("cryptography")
    from twh_platform.kms import KeyUsed

    for code in (None, "key_disabled"):
        announce(
            KeyUsed(service="vault", operation="unwrap", tenant_id="a", key_ref="k", code=code)
        )

    told = {"platform.code": "key_disabled", "platform.provider": "vault"}
    assert observed == [("platform.kms.failed", told)]


@pytest.mark.usefixtures("observed")
def test_uses_of_keys_are_timed(registry):
    """Where somebody has measured them."""
    pytest.importorskip("cryptography")
    from twh_platform.kms import KeyUsed

    for code, seconds in ((None, 0.2), (None, None), ("key_disabled", 0.4)):
        used = KeyUsed(
            service="aws", operation="wrap", tenant_id="a", key_ref="k", code=code, seconds=seconds
        )
        announce(used)

    found = samples(registry, "platform_kms_operation_seconds")
    labels = '{op="wrap",provider="aws",outcome="%s"}'
    assert found["platform_kms_operation_seconds_sum" + labels % "success"] == 0.2
    assert found["platform_kms_operation_seconds_count" + labels % "success"] == 1
    assert found["platform_kms_operation_seconds_sum" + labels % "key_disabled"] == 0.4


@pytest.mark.usefixtures("observed")
def test_admitted_decisions_count_by_rule(registry):
    """Once for each rule that had enough left; those of the fallback are degraded."""
    rules = ("minute", "day")
    announce(QuotaDecided(None, rules, "acme", "store", 0.002))
    announce(QuotaDecided(None, rules, "acme", "local", 0.0002))
    announce(QuotaDecided("quota_exceeded", ("day",), "acme", "store", 0.002))
    announce(QuotaDecided("quota_cost_too_large", (), "acme", "limiter", None))

    decisions = samples(registry, "platform_quota_decisions_total")
    assert decisions == {
        f'platform_quota_decisions_total{{policy="{rule}",result="{result}"}}': 1
        for rule in rules
        for result in ("allowed", "degraded")
    }
    counts = samples(registry, "platform_quota_backend_seconds_count")
    assert [int(count) for count in counts.values()] == [2, 1]


def test_events_are_added_to_the_current_span(registry):
    """And to nothing where no span is recorded."""
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace import TracerProvider

    from twh_platform.telemetry.otel._events import span_event

    tracer = TracerProvider().get_tracer("test")
    end = observe(registry, events=span_event)
    announce(refused())
    with tracer.start_as_current_span("request") as span:
        announce(refused(rules=("minute", "day")))
    end()

    (event,) = span.events
    assert event.name == "platform.quota.refused"
    assert event.attributes["platform.rules"] == ("minute", "day")


def test_values_beyond_the_bound_share_other(registry):
    """However many codes there turn out to be."""
    end = observe(registry)
    for number in range(MOST_LABELS + 50):
        announce(not_let_in(code=f"code_{number}"))
    end()

    found = samples(registry, "platform_tenancy_refusals_total")
    assert len(found) == MOST_LABELS + 1
    assert found['platform_tenancy_refusals_total{code="other"}'] == 50
    assert samples(registry, "platform_telemetry_label_overflow_total") == {
        'platform_telemetry_label_overflow_total{of="platform_tenancy_refusals_total"}': 50
    }


class Broken:
    """A value that no table can have as its key, nor a page as text."""

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        raise RuntimeError("boom")


@pytest.mark.usefixtures("observed")
def test_listening_never_raises(registry, caplog):
    """What cannot be counted is dropped, counted as that, and logged by nobody."""
    announce(not_let_in(code=Broken()))
    announce(refused(rules=7))
    announce(notice(used="many"))
    announce(QuotaStoreDegraded(reason=Broken(), since=0.0))

    assert samples(registry)["telemetry_values_dropped_total"] >= 4
    assert not caplog.records


def test_events_that_cannot_be_told_are_dropped(registry, caplog):
    """An exporter's fault is not the request's."""

    def fail(_name, _attributes):
        raise RuntimeError("boom")

    end = observe(registry, events=fail)
    announce(refused())
    end()

    assert samples(registry)["telemetry_values_dropped_total"] == 1
    assert not caplog.records


def test_unobserving_ends_all_of_it(registry):
    """Nothing is built for nobody; what was counted stays."""
    end = observe(registry)
    announce(refused())
    end()
    end()
    announce(refused())

    assert sum(samples(registry, "platform_quota_decisions_total").values()) == 1
    assert not any(
        has_listeners(found) for name in _listed() if (found := signal_class(name)) is not None
    )


def test_a_registry_is_observed_once(registry):
    """A second time its metrics are there already, and nothing has been subscribed."""
    end = observe(registry)
    with pytest.raises(ConfigurationError) as caught:
        observe(registry)
    end()

    assert caught.value.code == "metric_duplicate"
    assert not has_listeners(TenantRefused)


def test_a_capability_that_is_not_installed_is_left_out(registry, monkeypatch):
    """Its metrics are there and stay empty."""
    load = platform.import_module

    def without(name):
        if name.startswith("twh_platform.kms"):
            raise MissingExtraError("install it")
        return load(name)

    monkeypatch.setattr(platform, "import_module", without)
    end = observe(registry, events=lambda *_event: None)
    announce(not_let_in())
    end()

    assert sum(samples(registry, "platform_tenancy").values()) == 1
    assert b"# TYPE platform_kms_operations_total counter" in registry.page()


def _listed() -> set[str]:
    pairs = platform._listeners(Registry(), TenantLabels(), lambda *_event: None)
    return {name for name, _ in pairs}


def announced_classes(sources: dict[str, str]) -> set[str]:
    """
    Name each class that is announced: those of `_announcements`, and what is asked about.
    """
    found = set()
    for module, source in sources.items():
        tree = ast.parse(source)
        if module.endswith("_announcements"):
            found |= {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
        found |= {name for node in ast.walk(tree) for name in _asked_about(node)}
    return found


def _asked_about(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Call) and node.args:
        called, (first, *_) = ast.unparse(node.func), node.args
        built = called == "announce" and isinstance(first, ast.Call)
        name = ast.unparse(first.func if built else first)
        if built or called == "has_listeners":
            yield from [name] if name[0].isupper() else []  # else a function that builds it


def _sources() -> dict[str, str]:
    paths = [path for path in PACKAGE.rglob("*.py") if "testing" not in path.parts]
    return {
        path.relative_to(PACKAGE).with_suffix("").as_posix(): path.read_text() for path in paths
    }


def test_no_signal_is_forgotten():
    """Each is counted, or ignored for a reason that is written down."""
    known = {name.rpartition(".")[2] for name in _listed() | set(IGNORED)}
    announced = announced_classes(_sources())

    assert announced - known == set()
    assert known - announced == set()
    assert not _listed() & set(IGNORED)


def test_a_forgotten_signal_is_noticed():
    """Control: one more class that somebody announces is missing in the table."""
    planted = {"a/_announcements": "class One: ...", "b": "announce(Two())\nhas_listeners(Three)"}

    assert announced_classes(planted) == {"One", "Two", "Three"}
    assert TenantResolved.__name__ in announced_classes(_sources())


@pytest.mark.parametrize(("signal", "metric", "labels"), COUNTED)
def test_the_table_fits_the_signals(signal, metric, labels):
    """Each label has a value, out of a field that there is."""
    found = signal_class(signal)
    if found is None:
        pytest.skip(f"{signal} needs an extra")
    fields = {one.name for one in dataclasses.fields(found)}

    assert len(labels) == len(metric.labels)
    assert {one for one in labels if not isinstance(one, Fixed)} <= fields


def test_the_table_of_events_fits_the_names():
    """Every event and attribute that can be told is in the table of names."""
    fields = {
        f"platform.{listeners._CALLED.get(one.name, one.name)}"
        for name in EVENTS
        if (found := signal_class(name)) is not None
        for one in dataclasses.fields(found)
    }

    assert set(EVENTS.values()) == set(SPAN_EVENTS)
    assert signal_class("kms.KeyUsed") is None or set(EVENT_ATTRIBUTES) <= fields


WATCHERS = re.compile(r"^\s*(?:from|import) (?:opentelemetry|prometheus_client)", re.MULTILINE)


def _watching(sources: dict[str, str]) -> list[str]:
    return [
        module
        for module, source in sources.items()
        if not module.startswith("telemetry/") and WATCHERS.search(source)
    ]


def test_no_capability_knows_who_listens():
    """None imports OpenTelemetry or prometheus_client; planted, it is found."""
    assert _watching(_sources()) == []
    assert _watching({"kms/_guard": "def f():\n    from opentelemetry import trace"})
