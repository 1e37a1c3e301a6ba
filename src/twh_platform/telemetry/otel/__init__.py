"""
Spans by OpenTelemetry, and their way to a collector.  Needs the extra ``otel``.
"""

from __future__ import annotations

from ..._extras import missing_extra

try:
    import opentelemetry.sdk.trace as _sdk
except ImportError as error:
    raise missing_extra("otel", error) from error

from .._logging import find_spans_with
from ._attributes import SECRET_QUERY_NAMES
from ._configure import ConfiguredTelemetry, configure_telemetry
from ._events import span_event
from ._export import ExportStats, SpanQueue
from ._innermost import innermost
from ._propagator import TrustPropagator
from ._spans import OtelTracing

__all__ = [
    "SECRET_QUERY_NAMES",
    "ConfiguredTelemetry",
    "ExportStats",
    "OtelTracing",
    "SpanQueue",
    "TrustPropagator",
    "configure_telemetry",
    "span_event",
]

find_spans_with(innermost)

del _sdk, find_spans_with, innermost
