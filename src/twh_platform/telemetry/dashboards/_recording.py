"""
What Prometheus works out ahead: the share of requests that missed an objective.

Windows up to six hours come from the counters themselves, so that an outage is seen
at once; the longer ones from what was recorded over five minutes, because
reading days of raw samples each minute is dear.  Errors and requests are averaged apart, so
a quiet night weighs what it had.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ._objectives import Objectives

__all__ = ["RAW_WINDOWS", "WINDOWS", "Recording", "recordings"]

RAW_WINDOWS = ("5m", "30m", "1h", "2h", "6h")
WINDOWS = (*RAW_WINDOWS, "1d", "3d", "30d")
"""
The windows of burn rates, and that of the whole budget.
"""

_COUNT = "http_server_request_duration_seconds_count"
_BUCKET = "http_server_request_duration_seconds_bucket"


class Recording(NamedTuple):
    """
    A recording rule.

    Args:
        record: The name, as level, metric and operation.

        expr: What it is.

        labels: Labels that it gets.
    """

    record: str
    expr: str
    labels: dict[str, str]


def recordings(objectives: Objectives) -> list[Recording]:
    """
    The recording rules, each after those that it reads.
    """
    return [*_targets(objectives), *_availability(objectives), *_latency(objectives), *_long()]


def _targets(objectives: Objectives) -> Iterator[Recording]:
    for name, budget in objectives.budgets.items():
        yield Recording("slo:error_budget:ratio", f"vector({budget:.10g})", {"slo": name})


def _availability(objectives: Objectives) -> Iterator[Recording]:
    every = f"{_COUNT}{{{objectives.job_matcher}}}"
    bad = f'{_COUNT}{{{objectives.job_matcher},error_type!=""}}'
    yield from _slo("availability", every, [("+", bad)])


def _latency(objectives: Objectives) -> Iterator[Recording]:
    fine = f'{objectives.job_matcher},error_type=""'
    every = f"{_COUNT}{{{fine}}}"
    fast = f'{_BUCKET}{{{fine},le="{objectives.latency_seconds!r}"}}'
    yield from _slo("latency", every, [("+", every), ("-", fast)])


def _slo(name: str, every: str, bad: list[tuple[str, str]]) -> Iterator[Recording]:
    labels = {"slo": name}
    for window in RAW_WINDOWS:
        requests = f"sum by (job) (rate({every}[{window}]))"
        errors = _errors(bad, requests, window)
        if window == "5m":
            yield Recording("job:slo_requests:rate5m", requests, labels)
            yield Recording("job:slo_errors:rate5m", errors, labels)
        ratio = f"(\n  {_indented(errors)}\n)\n/\n({requests} > 0)"
        yield Recording(f"job:slo_error_ratio:rate{window}", ratio, labels)
    yield Recording("job:slo_requests:increase1h", f"sum by (job) (increase({every}[1h]))", labels)


def _errors(bad: list[tuple[str, str]], requests: str, window: str) -> str:
    rates = [f"{sign} sum by (job) (rate({one}[{window}]))" for sign, one in bad]
    # A series of errors is not there before the first error.
    return "\n".join(rates).removeprefix("+ ") + f"\nor\n0 * {requests}"


def _indented(text: str) -> str:
    return text.replace("\n", "\n  ")


def _long() -> Iterator[Recording]:
    for window in WINDOWS[len(RAW_WINDOWS) :]:
        errors = f"avg_over_time(job:slo_errors:rate5m[{window}])"
        requests = f"avg_over_time(job:slo_requests:rate5m[{window}])"
        yield Recording(f"job:slo_error_ratio:rate{window}", f"{errors}\n/\n({requests} > 0)", {})
