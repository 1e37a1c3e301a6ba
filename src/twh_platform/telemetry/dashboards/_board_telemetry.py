"""
Whether what all other dashboards show can be believed.
"""

from __future__ import annotations

from .._names import (
    EXPORT_DURATION,
    LABEL_OVERFLOW,
    SPANS_DROPPED,
    SPANS_EXPORTED,
    SPANS_QUEUED,
)
from ._grafana import Board, Panel, Query, Row
from ._parts import JOB, errors_of, of, quantile, rate_of

__all__ = ["TELEMETRY"]

_EACH = "{{instance}}"

TELEMETRY = Board(
    uid="twh-telemetry-health",
    title="Telemetry health",
    about="Whether metrics and traces are complete, and what they cost.",
    folder="twh-platform",
    rows=[
        Row(
            title="Scrapes",
            panels=[
                Panel(
                    title="Targets",
                    about="1 for each target that answered the last scrape.",
                    queries=[Query(f"up{{{JOB}}}", "{{job}} {{instance}}")],
                    most=1,
                ),
                Panel(
                    title="Duration of a scrape",
                    about="What fetching a page took.",
                    queries=[Query(f"scrape_duration_seconds{{{JOB}}}", _EACH)],
                    unit="s",
                ),
                Panel(
                    title="Samples of a page",
                    about="Lines of a page, of all workers together.",
                    queries=[Query(f"scrape_samples_scraped{{{JOB}}}", _EACH)],
                ),
            ],
        ),
        Row(
            title="Cardinality",
            panels=[
                Panel(
                    title="Series",
                    about="Sets of label values of the living workers.",
                    queries=[Query(f"sum by (instance) ({of('telemetry_series')})", _EACH)],
                ),
                Panel(
                    title="Refused series",
                    about="Sets of label values a second that were beyond the budget.",
                    queries=[
                        Query(rate_of("telemetry_series_refused_total", "metric"), "{{metric}}")
                    ],
                    unit="ops",
                ),
                Panel(
                    title="Labels that were not there",
                    about="What was counted under other a second: of tenants, or of a metric.",
                    queries=[Query(rate_of(LABEL_OVERFLOW, "of"), "{{of}}")],
                    unit="ops",
                ),
                Panel(
                    title="Values that could not be counted",
                    about="No numbers, not finite or negative, and faults of listeners, a second.",
                    queries=[Query(rate_of("telemetry_values_dropped_total"), "dropped")],
                    unit="ops",
                ),
                Panel(
                    title="Workers that are left out",
                    about="Files of workers, or parts of them, a second.",
                    queries=[
                        Query(
                            rate_of("telemetry_worker_files_skipped_total", "reason"), "{{reason}}"
                        ),
                    ],
                    unit="ops",
                ),
                Panel(
                    title="Series of ended workers that were given up",
                    about="Their counts are lost.",
                    queries=[
                        Query(rate_of("telemetry_retained_series_dropped_total"), "given up"),
                    ],
                    unit="ops",
                ),
            ],
        ),
        Row(
            title="Spans",
            panels=[
                Panel(
                    title="Spans",
                    about="Spans a second that arrived, and that did not.",
                    queries=[
                        Query(rate_of(SPANS_EXPORTED), "exported"),
                        Query(rate_of(SPANS_DROPPED, "reason"), "dropped: {{reason}}"),
                    ],
                    unit="ops",
                ),
                Panel(
                    title="Queue",
                    about="Spans that wait.",
                    queries=[Query(f"sum by (instance) ({of(SPANS_QUEUED)})", _EACH)],
                ),
                Panel(
                    title="Duration of an export",
                    about="The 95th percentile by outcome.",
                    queries=[Query(quantile(0.95, EXPORT_DURATION, "outcome"), "{{outcome}}")],
                    unit="s",
                ),
                Panel(
                    title="Failed exports",
                    about="Which share of batches the collector did not take.",
                    queries=[Query(errors_of(EXPORT_DURATION, 'outcome!="success"'), "failed")],
                    unit="percentunit",
                    most=1,
                ),
            ],
        ),
    ],
)
