"""
Calls of what a service depends on: databases, caches, other services.

One call is timed by one clock, which its metric, its exemplar and its span
have in common.
"""

from __future__ import annotations

import re
from asyncio import CancelledError
from collections.abc import Callable, Iterable, Mapping
from time import perf_counter
from typing import Any, Final

from ..tenancy._context import binding_here, known_id
from ._clients_pools import PoolMetrics
from ._clients_words import OTHER_OPERATION
from ._exchange import Exchange, current_exchange
from ._http_metrics import define
from ._instruments import BoundHistogram, Histogram
from ._labels import clean_label
from ._names import DB_OPERATION_DURATION, HTTP_CLIENT_DURATION
from ._registry import Registry
from ._routes_methods import known_method
from ._tracing import OpenSpan, SpanSource
from ._trust import TrustBoundary

__all__ = ["ClientCalls", "DatabaseCall", "HttpCall"]

Where = Callable[[], Mapping[str, Any]]
_Told = dict[str, Any]

_MOST_REMEMBERED = 4_000
_ERROR_STATUS: Final = 400
_CANCELLED: Final = "cancelled"
_SQLSTATE = re.compile(r"[0-9A-Z]{5}")  # SQL:2023, part 2, section 24.1


class ClientCalls:
    """
    Time the calls of clients, for all technologies together.

        calls = ClientCalls(registry, spans=telemetry.tracing, hosts=["stock.example"])
        watch_engine(engine, calls)

    One is enough for a service, and a registry takes only one.  It is handed to
    the functions of `twh_platform.telemetry.sqlalchemy`, `psycopg`, `asyncpg`,
    `redis`, `httpx` and `aiohttp`.  Nothing of it fails a call.

    No statement, key, value, path or query is told: of SQL its first keyword
    out of a closed list, and in spans its first table.

    Args:
        metrics: Where calls are counted; None to count nothing.

        spans: What makes CLIENT spans, such as `OtelTracing`; None for none.
            A request that is not sampled has none.

        trust: Which hosts are ours: they are sent trace context and baggage.
            Nobody is without.

        hosts: Names and addresses of hosts that have a label of their own;
            others are ``_OTHER``.

    Attributes:
        pools: The metrics of pools; None without *metrics*.

        made: What technologies have made for it once and for all.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``metric_duplicate``,
            if *metrics* has been given to another one of these.
    """

    def __init__(
        self,
        metrics: Registry | None = None,
        *,
        spans: SpanSource | None = None,
        trust: TrustBoundary | None = None,
        hosts: Iterable[str] = (),
    ) -> None:
        self.spans = spans
        self.trust = trust
        self.made: dict[object, Any] = {}
        named = (hosts,) if isinstance(hosts, str) else tuple(hosts)
        self._hosts = frozenset(host.lower().strip("[]") for host in named)
        self.database_durations = self.http_durations = None
        self.pools: PoolMetrics | None = None
        if metrics is not None:
            self.database_durations = _Durations(define(metrics, DB_OPERATION_DURATION))
            self.http_durations = _Durations(define(metrics, HTTP_CLIENT_DURATION))
            self.pools = PoolMetrics(metrics)

    def database(
        self,
        system: str,
        operation: str,
        collection: str = "",
        *,
        where: Where | None = None,
        batch: int = 1,
        started: float | None = None,
    ) -> DatabaseCall:
        """
        Begin a call of a database; `DatabaseCall.end` has to be called.

        Args:
            system: ``postgresql``, ``redis`` and so on.

            operation: Out of a closed list.

            collection: The table, for the span alone.

            where: More attributes of the span, asked for where there is one.

            batch: How many commands it has.

            started: When it began, in seconds of `time.perf_counter`; now
                without.
        """
        call = DatabaseCall(self, system, operation, started)
        if self.spans is not None and _may_record(call.exchange):
            told: _Told = {"db.system.name": system, "db.operation.name": operation}
            if collection:
                told["db.collection.name"] = collection
            if batch > 1:
                told["db.operation.batch.size"] = batch
            name = system if operation == OTHER_OPERATION else operation
            call.begin(self.spans, f"{name} {collection}" if collection else name, told, where)
        return call

    def request(self, method: str, host: str, port: int | None, scheme: str) -> HttpCall:
        """
        Begin a request to another service; `HttpCall.end` has to be called.

        Args:
            method: As it is sent.

            host: The name or address alone.

            port: Its port.

            scheme: ``http`` or ``https``.
        """
        label, _ = known_method(method)
        name = host.lower().strip("[]")
        call = HttpCall(self, label, name if name in self._hosts else OTHER_OPERATION)
        if self.spans is not None and _may_record(call.exchange):
            told: _Told = {
                "http.request.method": label,
                "server.address": clean_label(host),
                "url.scheme": scheme,
            }
            if port:
                told["server.port"] = port
            call.begin(self.spans, "HTTP" if label == OTHER_OPERATION else label, told, None)
        return call

    def outbound_headers(self, call: HttpCall, host: str) -> dict[str, str]:
        """
        What *host* is told about the trace of *call*; nothing, if it is not ours.
        """
        if self.trust is None:
            return {}
        exchange = call.exchange
        span = call.span
        if span is not None:
            place = span.place
        elif exchange is not None:
            place = exchange.place
        else:
            return {}
        return self.trust.outbound_headers(
            place,
            host,
            baggage=None if exchange is None else exchange.inbound.baggage,
            tenant=known_id(binding_here()),
        )


class _Durations:
    """
    The children of one histogram, found by whatever is in their labels.
    """

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._children: dict[tuple[object, ...], BoundHistogram] = {}

    def observe(
        self, key: tuple[object, ...], seconds: float, exemplar: tuple[str, str] | None
    ) -> None:
        child = self._children.get(key)
        if child is None:
            child = self._histogram.labels(*key)
            if len(self._children) < _MOST_REMEMBERED:
                self._children[key] = child
        child.observe(seconds, exemplar)


class _Call:
    """
    A call that is under way: its clock and its span.
    """

    __slots__ = ("_calls", "_has_ended", "exchange", "span", "started")

    def __init__(self, calls: ClientCalls, started: float | None = None) -> None:
        self._calls = calls
        self._has_ended = False
        self.exchange = current_exchange()
        self.span: OpenSpan | None = None
        self.started = perf_counter() if started is None else started

    def begin(self, spans: SpanSource, name: str, told: _Told, where: Where | None) -> None:
        """
        Begin the span.
        """
        try:
            if where is not None:
                told.update(where())
            _add_who(self.exchange, told)
        except Exception:  # noqa: BLE001, S110 -- better a span that says less than a failed call
            pass
        # Never the current one: a driver may end it in another task.
        self.span = spans.begin(
            name, kind="client", attributes=told, current=False, started=self.started
        )

    def _end_span(self, error_type: str, told: _Told) -> None:
        if self.span is None:
            return
        if error_type == _CANCELLED:  # nobody waits any more, which is nobody's error
            self.span.end(None, {**told, "platform.outcome": _CANCELLED})
        else:
            self.span.end(error_type or None, told)

    def _exemplar(self) -> tuple[str, str] | None:
        exchange = self.exchange
        if self.span is not None:
            place = self.span.place
            return (place.trace_id, place.span_id) if place.sampled else None
        if exchange is not None and exchange.sampled:
            return exchange.trace_id, exchange.span_id
        return None


class DatabaseCall(_Call):
    """
    A call of a database.
    """

    __slots__ = ("_operation", "_system")

    def __init__(
        self, calls: ClientCalls, system: str, operation: str, started: float | None
    ) -> None:
        super().__init__(calls, started)
        self._system, self._operation = system, operation

    def end(self, error: BaseException | None = None, *, seconds: float | None = None) -> None:
        """
        It is over; said again, that is nothing.

        Args:
            error: What came instead of an answer; its type is told, never its text.
                `asyncio.CancelledError` is ``cancelled``, and no error of the span.

            seconds: How long it took; until now without.
        """
        if self._has_ended:
            return
        self._has_ended = True
        if seconds is None:
            seconds = perf_counter() - self.started
        error_type = _type_of(error)
        durations = self._calls.database_durations
        if durations is not None:
            durations.observe(
                (self._system, self._operation, error_type), seconds, self._exemplar()
            )
        if self.span is not None:
            state = getattr(error, "sqlstate", None)
            known = isinstance(state, str) and _SQLSTATE.fullmatch(state)
            self._end_span(error_type, {"db.response.status_code": state} if known else {})


class HttpCall(_Call):
    """
    A request that was sent.
    """

    __slots__ = ("_host", "_method")

    def __init__(self, calls: ClientCalls, method: str, host: str) -> None:
        super().__init__(calls)
        self._method, self._host = method, host

    def end(self, status: int = 0, error: BaseException | None = None) -> None:
        """
        The headers of its response are there, or it has failed; said again, that is nothing.

        Args:
            status: The status that came; one of 400 or more is an error.

            error: What came instead.
        """
        if self._has_ended:
            return
        self._has_ended = True
        seconds = perf_counter() - self.started
        error_type = _type_of(error) or (str(status) if status >= _ERROR_STATUS else "")
        durations = self._calls.http_durations
        if durations is not None:
            key = (self._method, self._host, status or "", error_type)
            durations.observe(key, seconds, self._exemplar())
        if self.span is not None:
            self._end_span(error_type, {"http.response.status_code": status} if status else {})


def _may_record(exchange: Exchange | None) -> bool:
    return exchange is None or exchange.sampled


def _add_who(exchange: Exchange | None, told: _Told) -> None:
    tenant = known_id(binding_here())
    if tenant is not None:
        told["tenant.id"] = clean_label(tenant)
    if exchange is None:
        return
    if tenant is not None and tenant == exchange.tenant_id and exchange.user_id is not None:
        told["enduser.id"] = clean_label(exchange.user_id)
    if exchange.operation:
        told["platform.operation"] = exchange.operation


def _type_of(error: BaseException | None) -> str:
    if error is None or isinstance(error, GeneratorExit):
        return ""  # whoever read a stream has had enough
    if isinstance(error, CancelledError):
        return _CANCELLED
    kind = type(error)
    module = kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"
