"""
What wakes somebody up (severity page), and what can wait until morning (ticket).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ._objectives import FASTEST_BURN, Objectives

__all__ = ["Alert", "alerts"]

_WHOSE = '!~"|other"'  # a tenant that has a label of its own


class Alert(NamedTuple):
    """
    An alerting rule.

    Args:
        name: Its name.

        expr: What is wrong where this has a series.

        hold: How long it has to be so.

        severity: ``page`` or ``ticket``.

        summary: One line, with Prometheus's templates for labels.

        runbook: The page that says what to do, without its ending.
    """

    name: str
    expr: str
    hold: str
    severity: str
    summary: str
    runbook: str


def alerts(objectives: Objectives) -> list[Alert]:
    """
    All of them.
    """
    return [
        *_down(objectives),
        *_burning(objectives),
        *_requests(objectives),
        *_process(objectives),
        *_isolation(objectives),
        *_keys(objectives),
        *_quotas(objectives),
        *_webhooks(objectives),
        *_database(objectives),
        *_telemetry(objectives),
    ]


def _down(objectives: Objectives) -> Iterator[Alert]:
    matcher = objectives.job_matcher
    gone = [f'absent(up{{job="{job}"}})' for job in objectives.jobs]
    yield Alert(
        "TwhServiceDown",
        "\nor\n".join([f"max by (job) (up{{{matcher}}}) == 0", *gone]),
        "1m",
        "page",
        "No target of {{ $labels.job }} answers a scrape, or there is none.",
        "telemetry-service-down",
    )
    yield Alert(
        "TwhTargetDown",
        f"up{{{matcher}}} == 0",
        "10m",
        "ticket",
        "{{ $labels.instance }} of {{ $labels.job }} does not answer scrapes.",
        "telemetry-target-down",
    )


# The windows and factors of the SRE workbook, chapter 5; the third pair is our addition.
_BURNS = (
    ("TwhBudgetBurnFastest", FASTEST_BURN, "1h", "5m", "page", "two days"),
    ("TwhBudgetBurnFast", 6.0, "6h", "30m", "page", "five days"),
    ("TwhBudgetBurnSlow", 3.0, "1d", "2h", "ticket", "ten days"),
    ("TwhBudgetBurnSlowest", 1.0, "3d", "6h", "ticket", "thirty days"),
)


def _burning(objectives: Objectives) -> Iterator[Alert]:
    for name, factor, long, short, severity, spent in _BURNS:
        allowed = f"on (slo) group_left () ({factor:g} * slo:error_budget:ratio)"
        # Each hour was counted six times, every ten minutes.
        counted = "job:slo_requests:increase1h"
        if long != "1h":
            counted = f"sum_over_time({counted}[{long}:10m]) / 6"
        yield Alert(
            name,
            f"job:slo_error_ratio:rate{long} > {allowed}\n"
            f"and\njob:slo_error_ratio:rate{short} > {allowed}\n"
            f"and\n{counted} >= {objectives.least_requests}",
            "0s",
            severity,
            "{{ $labels.job }} misses its {{ $labels.slo }} so often that the budget of 30 days"
            f" is spent in {spent}.",
            "telemetry-error-budget",
        )


def _requests(objectives: Objectives) -> Iterator[Alert]:
    hourly = 'job:slo_requests:increase1h{slo="availability"}'
    yield Alert(
        "TwhQuietServiceFails",
        'job:slo_error_ratio:rate1h{slo="availability"} > 0.5\n'
        f"and\n{hourly} >= 5\nand\n{hourly} < {objectives.least_requests}",
        "5m",
        "ticket",
        "{{ $labels.job }} has few requests, and most of them fail.",
        "telemetry-quiet-service-fails",
    )
    yield Alert(
        "TwhTenantErrors",
        _tenants_burn(objectives),
        "2m",
        "ticket",
        "Requests of {{ $labels.tenant }} to {{ $labels.job }} fail more often than the objective"
        " allows.",
        "telemetry-tenant-errors",
    )


def _tenants_burn(objectives: Objectives) -> str:
    name = "platform_tenant_requests_total"
    every = f"{name}{{{objectives.job_matcher},tenant{_WHOSE}}}"
    bad = f'{name}{{{objectives.job_matcher},tenant{_WHOSE},outcome="server_error"}}'
    by = "sum by (job, tenant)"
    allowed = f"{FASTEST_BURN * objectives.budgets['availability']:.6g}"
    parts = [
        f"{by} (rate({bad}[{window}])) / {by} (rate({every}[{window}])) > {allowed}"
        for window in ("1h", "5m")
    ]
    least = f"{by} (increase({every}[1h])) >= {objectives.least_requests}"
    return "\nand\n".join([*parts, least])


def _process(objectives: Objectives) -> Iterator[Alert]:
    lag = f"platform_event_loop_lag_seconds_bucket{{{objectives.job_matcher}}}"
    by = "sum by (job, instance, le)"
    yield Alert(
        "TwhEventLoopLag",
        f"histogram_quantile(0.99, {by} (rate({lag}[5m]))) > 0.25",
        "5m",
        "ticket",
        "The event loop of {{ $labels.instance }} of {{ $labels.job }} is held up for more than"
        " 250 ms at a time.",
        "telemetry-event-loop-lag",
    )


def _isolation(objectives: Objectives) -> Iterator[Alert]:
    errors = f"platform_rls_context_errors_total{{{objectives.job_matcher}}}"
    yield Alert(
        "TwhRlsContextError",
        _began("sum by (job, code)", errors, "5m"),
        "0s",
        "page",
        "{{ $labels.job }} used the database without a tenant or across tenants, and was refused:"
        " {{ $labels.code }}.",
        "telemetry-rls-context-error",
    )


def _began(by: str, counter: str, window: str) -> str:
    """
    An event in a window, the first of its series too, which `increase` cannot see.
    """
    new = f"{counter} unless last_over_time({counter}[1h] offset {window})"
    return f"{by} (increase({counter}[{window}])) > 0\nor\n{by} ({new}) > 0"


def _keys(objectives: Objectives) -> Iterator[Alert]:
    name, matcher = "platform_kms_operations_total", objectives.job_matcher
    every = f"sum by (job, provider) (rate({name}{{{matcher}}}[5m]))"
    bad = f'sum by (job, provider) (rate({name}{{{matcher},outcome!="success"}}[5m]))'
    # Whoever destroys a key proves it by a use that fails, and means to.
    proofs = f"sum by (job, provider) (rate(platform_kms_shred_seconds_count{{{matcher}}}[5m]))"
    yield Alert(
        "TwhKeyServiceErrors",
        f"({bad} - ({proofs} or 0 * {bad})) / {every} > 0.05\nand\n{every} * 300 >= 10",
        "2m",
        "page",
        "More than 5 % of the uses of keys by {{ $labels.job }} fail ({{ $labels.provider }}).",
        "telemetry-key-service-errors",
    )
    yield Alert(
        "TwhKeyServiceDown",
        f'max by (job, provider) (platform_degraded{{{matcher},part="key_service"}}) > 0',
        "1m",
        "page",
        "The key service of {{ $labels.job }} ({{ $labels.provider }}) does not answer; keys in"
        " caches are used up within minutes.",
        "telemetry-key-service-down",
    )


def _quotas(objectives: Objectives) -> Iterator[Alert]:
    matcher = objectives.job_matcher
    yield Alert(
        "TwhQuotaStoreDown",
        f'max by (job) (platform_degraded{{{matcher},part="quota_store"}}) > 0',
        "2m",
        "page",
        "The store of quotas of {{ $labels.job }} does not answer: limits hold for each process"
        " alone, or not at all.",
        "telemetry-quota-store-down",
    )
    yield Alert(
        "TwhUsageLedgerDown",
        f'max by (job) (platform_degraded{{{matcher},part="usage_ledger"}}) > 0',
        "10m",
        "ticket",
        "What tenants of {{ $labels.job }} use is kept in memory, for its ledger does not answer.",
        "telemetry-usage-ledger-down",
    )


def _webhooks(objectives: Objectives) -> Iterator[Alert]:
    failures = f"platform_webhook_store_failures_total{{{objectives.job_matcher}}}"
    yield Alert(
        "TwhReplayStoreDown",
        _began("sum by (job)", failures, "5m"),
        "2m",
        "page",
        "The store that tells {{ $labels.job }} which webhooks were handled does not answer.",
        "telemetry-replay-store-down",
    )


def _database(objectives: Objectives) -> Iterator[Alert]:
    timeouts = f"db_client_connection_timeouts_total{{{objectives.job_matcher}}}"
    yield Alert(
        "TwhPoolExhausted",
        _began("sum by (job, db_client_connection_pool_name)", timeouts, "5m"),
        "2m",
        "page",
        "{{ $labels.job }} waits for connections of {{ $labels.db_client_connection_pool_name }}"
        " in vain.",
        "telemetry-pool-exhausted",
    )


def _telemetry(objectives: Objectives) -> Iterator[Alert]:
    matcher = objectives.job_matcher
    dropped = f"platform_telemetry_spans_dropped_total{{{matcher}}}"
    yield Alert(
        "TwhSpansDropped",
        _began("sum by (job, reason)", dropped, "15m"),
        "5m",
        "ticket",
        "Spans of {{ $labels.job }} do not arrive: {{ $labels.reason }}.",
        "telemetry-spans-dropped",
    )
    refused = f"telemetry_series_refused_total{{{matcher}}}"
    yield Alert(
        "TwhLabelOverflow",
        _began("sum by (job, metric)", refused, "15m"),
        "5m",
        "ticket",
        "{{ $labels.job }} has more series of {{ $labels.metric }} than it may have.",
        "telemetry-label-overflow",
    )
    skipped = f"telemetry_worker_files_skipped_total{{{matcher}}}"
    yield Alert(
        "TwhMetricsIncomplete",
        _began("sum by (job, reason)", skipped, "15m"),
        "5m",
        "ticket",
        "Pages of {{ $labels.job }} leave out what workers counted: {{ $labels.reason }}.",
        "telemetry-metrics-incomplete",
    )
