"""
Business: the operations that the service has named, and whether it keeps its promises.
"""

from __future__ import annotations

from .._names import OPERATION_DURATION
from ._grafana import Board, Panel, Query, Row
from ._parts import of, quantile, rate_of

__all__ = ["BUSINESS", "OBJECTIVES"]

_PICKED = 'operation=~"$operation"'
_FAILED = f'{_PICKED},outcome="error"'
_OPERATION = "{{operation}}"


def _failed(*by: str, window: str = "$__rate_interval") -> str:
    part = rate_of(OPERATION_DURATION, *by, matchers=_FAILED, window=window)
    whole = rate_of(OPERATION_DURATION, *by, matchers=_PICKED, window=window)
    return f"({part} or 0 * {whole}) / ({whole} > 0)"


BUSINESS = Board(
    uid="twh-business",
    title="Business operations",
    about="What the service does for its users, as it has named it.",
    folder="twh-business",
    variables=[
        (
            "operation",
            "Operation",
            f"label_values({of(OPERATION_DURATION, part='_count')}, operation)",
        )
    ],
    rows=[
        Row(
            title="Operations",
            panels=[
                Panel(
                    title="Succeeded in the range",
                    about="How often each operation has succeeded over the range that is shown.",
                    queries=[
                        Query(
                            "sum by (operation) (increase("
                            + of(
                                OPERATION_DURATION,
                                f'{_PICKED},outcome="success"',
                                part="_count",
                            )
                            + "[$__range]))",
                            _OPERATION,
                        )
                    ],
                    kind="stat",
                    width=24,
                ),
                Panel(
                    title="Operations",
                    about="Operations a second.",
                    queries=[
                        Query(
                            rate_of(OPERATION_DURATION, "operation", matchers=_PICKED), _OPERATION
                        )
                    ],
                    unit="ops",
                ),
                Panel(
                    title="Failures",
                    about="Which share ended in an error; what was cancelled is none.",
                    queries=[Query(_failed("operation"), _OPERATION)],
                    unit="percentunit",
                    most=1,
                ),
                Panel(
                    title="Duration",
                    about="The 95th percentile; the points lead to traces.",
                    queries=[
                        Query(
                            quantile(0.95, OPERATION_DURATION, "operation", matchers=_PICKED),
                            _OPERATION,
                            exemplars=True,
                        )
                    ],
                    unit="s",
                ),
                Panel(
                    title="By outcome",
                    about="Operations a second by how they ended.",
                    queries=[
                        Query(
                            rate_of(OPERATION_DURATION, "outcome", matchers=_PICKED),
                            "{{outcome}}",
                        )
                    ],
                    unit="ops",
                    stacked=True,
                ),
                Panel(
                    title="Table",
                    about="All of it over the range that is shown.",
                    queries=[
                        Query(
                            rate_of(
                                OPERATION_DURATION, "operation", matchers=_PICKED, window="$__range"
                            ),
                            "A second",
                            unit="ops",
                        ),
                        Query(
                            _failed("operation", window="$__range"), "Failures", unit="percentunit"
                        ),
                        Query(
                            quantile(
                                0.95,
                                OPERATION_DURATION,
                                "operation",
                                matchers=_PICKED,
                                window="$__range",
                            ),
                            "95 % are faster than",
                            unit="s",
                        ),
                    ],
                    kind="table",
                    width=16,
                ),
            ],
        )
    ],
)

_LEFT = (
    '1 - job:slo_error_ratio:rate30d{job=~"$job"} / on (slo) group_left () slo:error_budget:ratio'
)
_BURN = 'job:slo_error_ratio:rate%s{job=~"$job"} / on (slo) group_left () slo:error_budget:ratio'
_OF_SLO = "{{job}} {{slo}}"
_OF_ALERTS = "alertname, alertstate, severity, job"
_OURS = 'alertname=~"Twh.*"'

OBJECTIVES = Board(
    uid="twh-objectives",
    title="Objectives and error budget",
    about="Which share of requests missed an objective, and what is left of the budget of 30 days.",
    folder="twh-business",
    since="now-7d",
    rows=[
        Row(
            title="Budget",
            panels=[
                Panel(
                    title="Budget left",
                    about="Of 30 days, or of as much as there is; below 0 the objective is missed.",
                    queries=[Query(_LEFT, _OF_SLO)],
                    kind="stat",
                    unit="percentunit",
                    width=8,
                    warn=0.5,
                    bad=0.1,
                ),
                Panel(
                    title="Reached in 30 days",
                    about="The share of requests that met the objective.",
                    queries=[
                        Query('1 - job:slo_error_ratio:rate30d{job=~"$job"}', _OF_SLO),
                    ],
                    kind="stat",
                    unit="percentunit",
                    width=8,
                ),
                Panel(
                    title="Objective",
                    about="The share of requests that has to meet it.",
                    queries=[Query("1 - slo:error_budget:ratio", "{{slo}}")],
                    kind="stat",
                    unit="percentunit",
                    width=8,
                ),
                Panel(
                    title="Budget left over time",
                    about="It falls with what is missed, and rises as days are forgotten.",
                    queries=[Query(_LEFT, _OF_SLO)],
                    unit="percentunit",
                    width=12,
                ),
                Panel(
                    title="Rate of burning",
                    about="1 spends the budget of 30 days in 30 days; pages are sent at 6.",
                    queries=[
                        Query(_BURN % window, f"{{{{slo}}}} {window}")
                        for window in ("1h", "6h", "1d", "3d")
                    ],
                    width=12,
                    warn=6,
                    bad=14.4,
                ),
            ],
        ),
        Row(
            title="Requests",
            panels=[
                Panel(
                    title="Missed",
                    about="Requests a second that missed the objective.",
                    queries=[Query('job:slo_errors:rate5m{job=~"$job"}', _OF_SLO)],
                    unit="reqps",
                ),
                Panel(
                    title="Counted",
                    about="Requests a second; below a minimum in an hour no burn rate alerts.",
                    queries=[Query('job:slo_requests:rate5m{job=~"$job"}', _OF_SLO)],
                    unit="reqps",
                ),
                Panel(
                    title="Counted in an hour",
                    about="What the minimum is compared with.",
                    queries=[Query('job:slo_requests:increase1h{job=~"$job"}', _OF_SLO)],
                ),
                Panel(
                    title="Alerts",
                    about="What is pending or fires.",
                    queries=[
                        Query(
                            f"sum by ({_OF_ALERTS}) (ALERTS{{{_OURS}}})",
                            "Number",
                        )
                    ],
                    kind="table",
                    width=24,
                ),
            ],
        ),
    ],
)
