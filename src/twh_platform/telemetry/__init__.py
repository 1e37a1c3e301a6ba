"""
What a service does, seen from outside: traces, metrics and logs that agree.
"""

from ._access_log import AccessLog
from ._baggage import Baggage
from ._clients import ClientCalls, DatabaseCall, HttpCall
from ._definitions import BYTES, SECONDS, Exemplar
from ._exchange import Exchange, WebSocketExchange, current_exchange
from ._instruments import BoundCounter, BoundGauge, BoundHistogram, Counter, Gauge, Histogram
from ._labels import clean_label
from ._logging import JsonFormatter, TelemetryFilter, add_ids
from ._methods import KNOWN_METHODS, KnownMethods
from ._metrics_app import MetricsApp
from ._middleware import TelemetryMiddleware
from ._operations import Operation, Operations, current_operation
from ._process import LoopWatch, watch_loop, watch_process
from ._registry import Registry
from ._routes import RouteTemplates, RouteWitness, set_route
from ._routes_frameworks import django_routes, watch_quart
from ._sampling import HeadSampler, Keep, SamplerStats, TenantRate, Verdict
from ._tenants import NO_TENANT, OTHER_TENANTS, TenantLabels, TenantLabelStats, TenantSeat
from ._trace_context import TraceContext, new_trace_id
from ._tracing import OpenSpan, SpanSource, Tracing
from ._trust import TENANT_BAGGAGE, Inbound, TrustBoundary
from ._workers import MetricsDirectory

__all__ = [
    "BYTES",
    "KNOWN_METHODS",
    "NO_TENANT",
    "OTHER_TENANTS",
    "SECONDS",
    "TENANT_BAGGAGE",
    "AccessLog",
    "Baggage",
    "BoundCounter",
    "BoundGauge",
    "BoundHistogram",
    "ClientCalls",
    "Counter",
    "DatabaseCall",
    "Exchange",
    "Exemplar",
    "Gauge",
    "HeadSampler",
    "Histogram",
    "HttpCall",
    "Inbound",
    "JsonFormatter",
    "Keep",
    "KnownMethods",
    "LoopWatch",
    "MetricsApp",
    "MetricsDirectory",
    "OpenSpan",
    "Operation",
    "Operations",
    "Registry",
    "RouteTemplates",
    "RouteWitness",
    "SamplerStats",
    "SpanSource",
    "TelemetryFilter",
    "TelemetryMiddleware",
    "TenantLabelStats",
    "TenantLabels",
    "TenantRate",
    "TenantSeat",
    "TraceContext",
    "Tracing",
    "TrustBoundary",
    "Verdict",
    "WebSocketExchange",
    "add_ids",
    "clean_label",
    "current_exchange",
    "current_operation",
    "django_routes",
    "new_trace_id",
    "set_route",
    "watch_loop",
    "watch_process",
    "watch_quart",
]
