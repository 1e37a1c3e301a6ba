"""
System health: rate, errors and duration of requests, and what runs short.
"""

from __future__ import annotations

from .._names import (
    ACTIVE_REQUESTS,
    EVENT_STREAM_SILENCE,
    EVENT_STREAMS_ACTIVE,
    GC_COLLECTIONS,
    GC_PAUSE,
    LOOP_LAG,
    PROCESS_CPU,
    PROCESS_MAX_FDS,
    PROCESS_OPEN_FDS,
    PROCESS_RESIDENT,
    PROCESS_START,
    PROCESS_THREADS,
    REQUEST_BODY_SIZE,
    REQUEST_DURATION,
    RESPONSE_BODY_SIZE,
    RESPONSE_STREAMS,
    TIME_TO_FIRST_BYTE,
    WEBSOCKET_DURATION,
    WEBSOCKET_MESSAGES,
    WEBSOCKETS_ACTIVE,
)
from ._grafana import Board, Panel, Query, Row
from ._parts import JOB, errors_of, most, of, quantile, rate_of

__all__ = ["HEALTH"]

_BAD = 'error_type!=""'

_GLANCE = Row(
    title="At a glance",
    panels=[
        Panel(
            title="Targets that answer",
            about="Which share of the targets answered the last scrape.",
            queries=[Query(f"sum (up{{{JOB}}}) / count (up{{{JOB}}})")],
            kind="stat",
            unit="percentunit",
            width=4,
            warn=1,
            bad=0.5,
        ),
        Panel(
            title="Requests",
            about="Requests a second.",
            queries=[Query(rate_of(REQUEST_DURATION))],
            kind="stat",
            unit="reqps",
            width=5,
        ),
        Panel(
            title="Errors",
            about="Which share of requests ended in an error of the service.",
            queries=[Query(errors_of(REQUEST_DURATION, _BAD))],
            kind="stat",
            unit="percentunit",
            width=5,
            warn=0.001,
            bad=0.01,
        ),
        Panel(
            title="95 % are faster than",
            about="The 95th percentile of the duration of requests.",
            queries=[Query(quantile(0.95, REQUEST_DURATION))],
            kind="stat",
            unit="s",
            width=5,
            warn=0.5,
            bad=2,
        ),
        Panel(
            title="In flight",
            about="Requests that are being answered.",
            queries=[Query(f"sum ({of(ACTIVE_REQUESTS)})")],
            kind="stat",
            width=5,
        ),
    ],
)

_REQUESTS = Row(
    title="Requests",
    panels=[
        Panel(
            title="Requests by status",
            about="Requests a second; without a status the client had left.",
            queries=[
                Query(
                    rate_of(REQUEST_DURATION, "http_response_status_code"),
                    "{{http_response_status_code}}",
                )
            ],
            unit="reqps",
            stacked=True,
        ),
        Panel(
            title="Errors by type",
            about="Requests a second that ended in an error of the service.",
            queries=[
                Query(rate_of(REQUEST_DURATION, "error_type", matchers=_BAD), "{{error_type}}")
            ],
            unit="reqps",
        ),
        Panel(
            title="Duration",
            about="Percentiles of the duration of requests; the points lead to traces.",
            queries=[
                Query(quantile(0.5, REQUEST_DURATION), "50 %"),
                Query(quantile(0.95, REQUEST_DURATION), "95 %", exemplars=True),
                Query(quantile(0.99, REQUEST_DURATION), "99 %"),
            ],
            unit="s",
        ),
        Panel(
            title="Distribution of durations",
            about="How many requests took how long; the points lead to traces.",
            queries=[
                Query(rate_of(REQUEST_DURATION, "le", part="_bucket"), exemplars=True),
            ],
            kind="heatmap",
            unit="s",
            width=12,
        ),
        Panel(
            title="Routes",
            about="The busiest routes over the range that is shown.",
            queries=[
                Query(
                    most(20, rate_of(REQUEST_DURATION, "http_route", window="$__range")),
                    "Requests a second",
                    unit="reqps",
                ),
                Query(
                    errors_of(REQUEST_DURATION, _BAD, "http_route", window="$__range"),
                    "Errors",
                    unit="percentunit",
                ),
                Query(
                    quantile(0.95, REQUEST_DURATION, "http_route", window="$__range"),
                    "95 % are faster than",
                    unit="s",
                ),
            ],
            kind="table",
            width=12,
        ),
        Panel(
            title="Body sizes",
            about="The 95th percentile of the sizes of bodies.",
            queries=[
                Query(quantile(0.95, REQUEST_BODY_SIZE), "requests"),
                Query(quantile(0.95, RESPONSE_BODY_SIZE), "responses"),
            ],
            unit="bytes",
        ),
    ],
)

_OPEN = Row(
    title="Streams and websockets",
    panels=[
        Panel(
            title="Time to the first byte",
            about="The 95th percentile, of responses in several parts.",
            queries=[
                Query(
                    quantile(0.95, TIME_TO_FIRST_BYTE, "http_route"),
                    "{{http_route}}",
                    exemplars=True,
                )
            ],
            unit="s",
        ),
        Panel(
            title="Responses in parts by outcome",
            about="How many ended a second.",
            queries=[Query(rate_of(RESPONSE_STREAMS, "outcome"), "{{outcome}}")],
            unit="ops",
            stacked=True,
        ),
        Panel(
            title="Open connections",
            about="Event streams and websockets that are open.",
            queries=[
                Query(f"sum ({of(EVENT_STREAMS_ACTIVE)})", "event streams"),
                Query(f"sum ({of(WEBSOCKETS_ACTIVE)})", "websockets"),
            ],
        ),
        Panel(
            title="Silence of event streams",
            about="How long the most silent open stream has sent nothing.",
            queries=[
                Query(f"max by (http_route) ({of(EVENT_STREAM_SILENCE)})", "{{http_route}}"),
            ],
            unit="s",
        ),
        Panel(
            title="Messages of websockets",
            about="Messages a second by direction.",
            queries=[Query(rate_of(WEBSOCKET_MESSAGES, "direction"), "{{direction}}")],
            unit="ops",
        ),
        Panel(
            title="Websockets by outcome",
            about="How many ended a second.",
            queries=[Query(rate_of(WEBSOCKET_DURATION, "outcome"), "{{outcome}}")],
            unit="ops",
        ),
    ],
)

_EACH = "{{instance}}"

_SATURATION = Row(
    title="Saturation",
    panels=[
        Panel(
            title="Event loop lag",
            about="The 99th percentile of how late the event loop was; above 250 ms it alerts.",
            queries=[Query(quantile(0.99, LOOP_LAG, "instance"), _EACH)],
            unit="s",
            bad=0.25,
        ),
        Panel(
            title="In flight by method",
            about="Requests that are being answered.",
            queries=[
                Query(
                    f"sum by (http_request_method) ({of(ACTIVE_REQUESTS)})",
                    "{{http_request_method}}",
                )
            ],
            stacked=True,
        ),
        Panel(
            title="CPU",
            about="Cores that are in use.",
            queries=[Query(rate_of(PROCESS_CPU, "instance"), _EACH)],
        ),
        Panel(
            title="Memory",
            about="What is in RAM.",
            queries=[Query(f"sum by (instance) ({of(PROCESS_RESIDENT)})", _EACH)],
            unit="bytes",
        ),
        Panel(
            title="File descriptors",
            about="Open file descriptors, and of one process how many there may be.",
            queries=[
                Query(f"sum by (instance) ({of(PROCESS_OPEN_FDS)})", _EACH),
                Query(f"min ({of(PROCESS_MAX_FDS)})", "most of one process"),
            ],
        ),
        Panel(
            title="Threads",
            about="Threads of Python.",
            queries=[Query(f"sum by (instance) ({of(PROCESS_THREADS)})", _EACH)],
        ),
        Panel(
            title="Pauses of the garbage collector",
            about="Which share of the time everything stood still.",
            queries=[Query(rate_of(GC_PAUSE, "instance", part="_sum"), _EACH)],
            unit="percentunit",
        ),
        Panel(
            title="Runs of the garbage collector",
            about="Runs a second by generation.",
            queries=[Query(rate_of(GC_COLLECTIONS, "generation"), "{{generation}}")],
            unit="ops",
        ),
        Panel(
            title="Age of the process",
            about="Of several workers, that of the newest: it falls with each restart.",
            queries=[Query(f"time() - max by (instance) ({of(PROCESS_START)})", _EACH)],
            unit="s",
        ),
    ],
)

HEALTH = Board(
    uid="twh-system-health",
    title="System health",
    about="Rate, errors and duration of requests, and what runs short.",
    folder="twh-platform",
    rows=[_GLANCE, _REQUESTS, _OPEN, _SATURATION],
)
