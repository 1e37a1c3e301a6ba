"""
Expressions that dashboards have in common.
"""

from __future__ import annotations

from .._names import MetricName

__all__ = ["JOB", "errors_of", "most", "of", "quantile", "rate_of", "share"]

JOB = 'job=~"$job"'
_WINDOW = "$__rate_interval"


def of(metric: MetricName | str, matchers: str = "", *, part: str = "") -> str:
    """
    The samples of the jobs that were picked.

    Args:
        metric: Out of the table, or what the registry counts about itself.

        matchers: More, as between braces.

        part: Of a histogram: ``_bucket``, ``_sum``, ``_count``.
    """
    name = metric if isinstance(metric, str) else metric.name
    return f"{name}{part}{{{JOB}{',' if matchers else ''}{matchers}}}"


def rate_of(
    metric: MetricName | str, *by: str, matchers: str = "", part: str = "", window: str = _WINDOW
) -> str:
    """
    How often a second, for each value of some labels.
    """
    grouping = f" by ({', '.join(by)})" if by else ""
    if not part and isinstance(metric, MetricName) and metric.kind == "histogram":
        part = "_count"
    return f"sum{grouping} (rate({of(metric, matchers, part=part)}[{window}]))"


def quantile(
    share: float, metric: MetricName, *by: str, matchers: str = "", window: str = _WINDOW
) -> str:
    """
    What that share of a histogram stays below.
    """
    inner = rate_of(metric, "le", *by, matchers=matchers, part="_bucket", window=window)
    return f"histogram_quantile({share:g}, {inner})"


def share(part: str, whole: str, *by: str) -> str:
    """
    A part of a whole; 0 where there is none of the part, nothing where there is no whole.
    """
    on = f" on ({', '.join(by)})" if by else ""
    return f"({part} or 0 * {whole}) /{on} ({whole} > 0)"


def errors_of(metric: MetricName, bad: str, *by: str, window: str = _WINDOW) -> str:
    """
    Which share of a metric has such labels.
    """
    part = rate_of(metric, *by, matchers=bad, window=window)
    return share(part, rate_of(metric, *by, window=window))


def most(number: int, expr: str) -> str:
    """
    The largest few.
    """
    return f"topk({number}, {expr})"
