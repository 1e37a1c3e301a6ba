"""
The metrics of requests, event streams and websockets, and those by tenant.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

from ._exchange import Exchange, WebSocketExchange
from ._instruments import BoundCounter, BoundGauge, BoundHistogram, Counter, Gauge, Histogram
from ._names import (
    ACTIVE_REQUESTS,
    EVENT_STREAM_DURATION,
    EVENT_STREAM_SILENCE,
    EVENT_STREAMS_ACTIVE,
    REQUEST_BODY_SIZE,
    REQUEST_DURATION,
    RESPONSE_BODY_SIZE,
    RESPONSE_STREAMS,
    TENANT_DURATION,
    TENANT_REQUESTS,
    TIME_TO_FIRST_BYTE,
    WEBSOCKET_DURATION,
    WEBSOCKET_MESSAGES,
    WEBSOCKETS_ACTIVE,
    MetricName,
)
from ._registry import Registry
from ._tenants import TenantLabels, TenantSeat

__all__ = ["HttpMetrics", "TenantMetrics", "WebSocketMetrics", "define"]

# Distinct sets of labels that are looked up at once; more are looked up one by one.
_MOST_REMEMBERED = 10_000
# What a server says about a connection; a client has its part in it.
_SCHEMES = frozenset({"http", "https", "ws", "wss"})
_VERSIONS = frozenset({"1.0", "1.1", "2", "2.0", "3"})
_Key = tuple[Any, ...]
_DURATION_LINES = len(TENANT_DURATION.buckets) + 3  # the infinite bucket, the sum, the count
_OUTCOMES = ("success", "client_error", "server_error", "client_disconnect")


class _OfRequest:
    """
    The children that one kind of request counts into; for bodies, where there was one.
    """

    __slots__ = ("duration", "request_bytes", "response_bytes")

    def __init__(self) -> None:
        self.duration: BoundHistogram | None = None
        self.request_bytes: BoundHistogram | None = None
        self.response_bytes: BoundHistogram | None = None


class HttpMetrics:
    """
    Count what happens to requests.

    Args:
        registry: Where the metrics are defined.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``metric_duplicate``,
            if the registry has them already.
    """

    def __init__(self, registry: Registry) -> None:
        self._duration: Histogram = define(registry, REQUEST_DURATION)
        self._active: Gauge = define(registry, ACTIVE_REQUESTS)
        self._request_bytes: Histogram = define(registry, REQUEST_BODY_SIZE)
        self._response_bytes: Histogram = define(registry, RESPONSE_BODY_SIZE)
        self._first_byte = define(registry, TIME_TO_FIRST_BYTE)
        self._streams = define(registry, RESPONSE_STREAMS)
        self._event_streams = define(registry, EVENT_STREAMS_ACTIVE)
        self._event_duration = define(registry, EVENT_STREAM_DURATION)
        self._open: dict[Exchange, BoundGauge] = {}
        self._of_request: dict[_Key, _OfRequest] = {}
        registry.gauge_of(
            EVENT_STREAM_SILENCE.name,
            EVENT_STREAM_SILENCE.help,
            self._silence,
            labels=EVENT_STREAM_SILENCE.labels,
            merge=EVENT_STREAM_SILENCE.merge,
        )

    def active(self, method: str, scheme: str | None) -> BoundGauge:
        """
        The gauge of requests that are being answered.
        """
        return self._active.labels(method, scheme if scheme in _SCHEMES else "")

    def streaming(self, exchange: Exchange) -> None:
        """
        An event stream has begun.
        """
        gauge = self._event_streams.labels(exchange.route or "")
        gauge.inc()
        self._open[exchange] = gauge

    def ended(self, exchange: Exchange) -> None:
        """
        A request is over.
        """
        scope = exchange.seen
        key = (
            exchange.method,
            scope.get("scheme"),
            exchange.route,
            exchange.status,
            exchange.error_type,
            scope.get("http_version"),
        )
        children = self._of_request.get(key)
        if children is None:
            children = self._remember(key)
        if exchange.request_bytes:
            of_bytes = children.request_bytes or self._find_request_bytes(children, key)
            of_bytes.observe(exchange.request_bytes)
        if exchange.response_bytes:
            of_bytes = children.response_bytes or self._find_response_bytes(children, key)
            of_bytes.observe(exchange.response_bytes)
        exemplar = None
        if exchange.sampled or exchange.kept:
            exemplar = exchange.trace_id, exchange.span_id
        if exchange.is_event_stream:
            self._ended_events(exchange)
        else:
            duration = children.duration or self._find_duration(children, key)
            duration.observe(exchange.duration, exemplar)
        if exchange.is_stream:
            self._ended_stream(exchange, exemplar)

    def _ended_stream(self, exchange: Exchange, exemplar: tuple[str, str] | None) -> None:
        route = exchange.route or ""
        self._first_byte.labels(exchange.method, route).observe(exchange.first_byte, exemplar)
        self._streams.labels(route, _of_stream(exchange)).inc()

    def _ended_events(self, exchange: Exchange) -> None:
        gauge = self._open.pop(exchange, None)
        if gauge is not None:
            gauge.dec()
        duration = self._event_duration.labels(exchange.route or "", _of_stream(exchange))
        duration.observe(exchange.duration)

    def _remember(self, key: _Key) -> _OfRequest:
        children = _OfRequest()
        if len(self._of_request) < _MOST_REMEMBERED:
            self._of_request[key] = children
        return children

    def _find_duration(self, children: _OfRequest, key: _Key) -> BoundHistogram:
        method, scheme, route, status, error_type, version = key
        children.duration = found = self._duration.labels(
            method,
            scheme if scheme in _SCHEMES else "",
            route or "",
            status or "",
            error_type,
            version if version in _VERSIONS else "",
        )
        return found

    def _find_request_bytes(self, children: _OfRequest, key: _Key) -> BoundHistogram:
        labels = key[0], key[2] or "", key[3] or ""
        children.request_bytes = found = self._request_bytes.labels(*labels)
        return found

    def _find_response_bytes(self, children: _OfRequest, key: _Key) -> BoundHistogram:
        labels = key[0], key[2] or "", key[3] or ""
        children.response_bytes = found = self._response_bytes.labels(*labels)
        return found

    def _silence(self) -> dict[tuple[str, ...], float]:
        now = perf_counter()
        longest: dict[tuple[str, ...], float] = {}
        for exchange in list(self._open):
            route = (exchange.route or "",)
            longest[route] = max(longest.get(route, 0.0), now - exchange.silent_since)
        return longest


class WebSocketMetrics:
    """
    Count what happens to websockets.

    Args:
        registry: Where the metrics are defined.

    Raises:
        twh_platform.errors.ConfigurationError: As `HttpMetrics`.
    """

    def __init__(self, registry: Registry) -> None:
        self._active = define(registry, WEBSOCKETS_ACTIVE)
        self._duration = define(registry, WEBSOCKET_DURATION)
        self._messages = define(registry, WEBSOCKET_MESSAGES)

    def streaming(self, exchange: Exchange) -> None:
        """
        A websocket was accepted.
        """
        exchange.active = self._active.labels(exchange.route or "")
        exchange.active.inc()

    def ended(self, exchange: WebSocketExchange) -> None:
        """
        It is over, or was refused.
        """
        route = exchange.route or ""
        if exchange.active is not None:
            self._messages.labels(route, "received").inc(exchange.received)
            self._messages.labels(route, "sent").inc(exchange.sent)
        was_open = 0.0 if exchange.active is None else exchange.duration
        self._duration.labels(route, exchange.outcome).observe(was_open)


class TenantMetrics:
    """
    Count requests by tenant, for those tenants that have a label.

    Args:
        registry: Where the metrics are defined.

        labels: Which tenants have one.
    """

    def __init__(self, registry: Registry, labels: TenantLabels) -> None:
        self._labels = labels
        self._requests: Counter = define(registry, TENANT_REQUESTS)
        self._duration: Histogram = define(registry, TENANT_DURATION)
        labels.reserve(len(_OUTCOMES) + _DURATION_LINES)
        labels.on_leave(self._remove)
        registry.on_render(labels.review)

    def ended(self, exchange: Exchange) -> None:
        """
        A request is over.
        """
        seat = self._labels.seat(exchange.tenant_id)
        outcome = exchange.outcome
        requests = seat.children.get(outcome) or self._find(seat, outcome)
        if requests is not None:
            requests.inc()
        if exchange.is_event_stream:
            return
        duration = seat.children.get("duration") or seat.child(
            "duration", self._duration.labels, series=_DURATION_LINES
        )
        if duration is not None:
            duration.observe(exchange.duration)

    def _find(self, seat: TenantSeat, outcome: str) -> BoundCounter | None:
        return seat.child(outcome, lambda label: self._requests.labels(label, outcome))

    def _remove(self, label: str) -> None:
        for outcome in _OUTCOMES:
            self._requests.remove(label, outcome)
        self._duration.remove(label)


def define(registry: Registry, name: MetricName) -> Any:
    """
    Define a metric of the table.

    Raises:
        twh_platform.errors.ConfigurationError: As `Registry.counter`.
    """
    if name.kind == "counter":
        return registry.counter(name.name, name.help, labels=name.labels)
    if name.kind == "gauge":
        return registry.gauge(name.name, name.help, labels=name.labels, merge=name.merge)
    return registry.histogram(
        name.name, name.help, labels=name.labels, buckets=name.buckets, exemplars=name.exemplars
    )


def _of_stream(exchange: Exchange) -> str:
    if exchange.outcome == "client_disconnect":
        return "client_disconnect"
    return "error" if exchange.outcome == "server_error" else "completed"
