"""
The metrics of requests, event streams and websockets, and those by tenant.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

from ._define import define, define_read
from ._exchange import Exchange, WebSocketExchange
from ._instruments import BoundCounter, BoundGauge, BoundHistogram, Counter, Gauge, Histogram
from ._methods import OTHER_METHOD
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
)
from ._registry import Registry
from ._request_kinds import RequestKind, ResultMetrics
from ._tenants import TenantLabels, TenantSeat

__all__ = ["HttpMetrics", "TenantMetrics", "WebSocketMetrics"]

# Distinct sets of labels that are looked up at once; more are looked up one by one.
_MOST_REMEMBERED = 10_000
# What a server says about a connection; a client has its part in it.
_SCHEMES = frozenset({"http", "https", "ws", "wss"})
_VERSIONS = frozenset({"1.0", "1.1", "2", "2.0", "3"})
_METHOD_NOT_ALLOWED = 405
_Result = tuple[str | None, int, str]
_DURATION_LINES = len(TENANT_DURATION.buckets) + 3  # the infinite bucket, the sum, the count
_OUTCOMES = ("success", "client_error", "server_error", "client_disconnect")


class HttpMetrics:
    """
    Count what happens to requests.

    Args:
        registry: Where the metrics are defined.

        tenants: Which tenants have a label; None for no metrics by tenant.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``metric_duplicate``,
            if the registry has them already.
    """

    def __init__(self, registry: Registry, tenants: TenantLabels | None = None) -> None:
        self._duration: Histogram = define(registry, REQUEST_DURATION)
        self._active: Gauge = define(registry, ACTIVE_REQUESTS)
        self._request_bytes: Histogram = define(registry, REQUEST_BODY_SIZE)
        self._response_bytes: Histogram = define(registry, RESPONSE_BODY_SIZE)
        self._first_byte = define(registry, TIME_TO_FIRST_BYTE)
        self._streams = define(registry, RESPONSE_STREAMS)
        self._event_streams = define(registry, EVENT_STREAMS_ACTIVE)
        self._event_duration = define(registry, EVENT_STREAM_DURATION)
        self._open: dict[Exchange, BoundGauge] = {}
        self._kinds: dict[tuple[str, str, str], RequestKind] = {}
        self._remembered = 0
        self._tenants = None if tenants is None else TenantMetrics(registry, tenants)
        define_read(registry, EVENT_STREAM_SILENCE, self._silence)

    def kind(self, method: str, scheme: object, version: object) -> RequestKind:
        """
        The kind of a request.

        Args:
            method: Out of a closed list.

            scheme: As in the scope.

            version: As in the scope.
        """
        known = scheme if scheme in _SCHEMES else "", version if version in _VERSIONS else ""
        key: Any = (method, *known)
        found = self._kinds.get(key)
        if found is None:
            active = self._active.labels(method, known[0])
            found = self._kinds[key] = RequestKind(method, active, *key[1:])
        return found

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
        kind = exchange.kind
        if exchange.status == _METHOD_NOT_ALLOWED:
            # Else a stranger multiplies the routes by the methods.
            kind = self.kind(OTHER_METHOD, kind.scheme, kind.version)
        key = exchange.route, exchange.status, exchange.error_type
        found = kind.results.get(key) or self._remember(kind, key)
        if exchange.request_bytes:
            of_bytes = found.request_bytes or self._find_request_bytes(found, kind, key)
            of_bytes.observe(exchange.request_bytes)
        if exchange.response_bytes:
            of_bytes = found.response_bytes or self._find_response_bytes(found, kind, key)
            of_bytes.observe(exchange.response_bytes)
        exemplar = None
        if exchange.sampled or exchange.kept:
            exemplar = exchange.trace_id, exchange.span_id
        if exchange.is_event_stream:
            self._ended_events(exchange)
        else:
            duration = found.duration or self._find_duration(found, kind, key)
            duration.observe(exchange.duration, exemplar)
        if exchange.is_stream:
            self._ended_stream(exchange, exemplar)
        if self._tenants is not None:
            self._tenants.ended(exchange)

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

    def _remember(self, kind: RequestKind, key: _Result) -> ResultMetrics:
        made = ResultMetrics()
        if self._remembered < _MOST_REMEMBERED:
            self._remembered += 1
            kind.results[key] = made
        return made

    def _find_duration(
        self, result: ResultMetrics, kind: RequestKind, key: _Result
    ) -> BoundHistogram:
        route, status, error_type = key
        result.duration = found = self._duration.labels(
            kind.method, kind.scheme, route or "", status or "", error_type, kind.version
        )
        return found

    def _find_request_bytes(
        self, result: ResultMetrics, kind: RequestKind, key: _Result
    ) -> BoundHistogram:
        labels = kind.method, key[0] or "", key[1] or ""
        result.request_bytes = found = self._request_bytes.labels(*labels)
        return found

    def _find_response_bytes(
        self, result: ResultMetrics, kind: RequestKind, key: _Result
    ) -> BoundHistogram:
        labels = kind.method, key[0] or "", key[1] or ""
        result.response_bytes = found = self._response_bytes.labels(*labels)
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
        labels.tell(registry)

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


def _of_stream(exchange: Exchange) -> str:
    if exchange.outcome == "client_disconnect":
        return "client_disconnect"
    return "error" if exchange.outcome == "server_error" else "completed"
