"""
Calls of what a service depends on: databases, caches, other services.

One call is timed by one clock, which its metric, its exemplar and its span
have in common.
"""

from __future__ import annotations

import re
from asyncio import CancelledError
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from time import perf_counter
from types import TracebackType
from typing import Any, Final, Self

from ..errors import ConfigurationError
from ..tenancy._context import binding_here, known_id
from ._clients_pools import PoolMetrics
from ._clients_words import OTHER_OPERATION
from ._define import define
from ._exchange import Exchange, current_exchange
from ._instruments import BoundHistogram, Histogram
from ._labels import clean_label, error_name
from ._methods import known_method
from ._names import DB_OPERATION_DURATION, HTTP_CLIENT_DURATION
from ._registry import Registry
from ._tracing import OpenSpan, SpanSource
from ._trust import TrustBoundary
from ._who import add_who

__all__ = ["ClientCalls", "DatabaseCall", "HttpCall"]

Where = Callable[[], Mapping[str, Any]]
_Told = dict[str, Any]

_MOST_REMEMBERED = 4_000
_ERROR_STATUS: Final = 400
_STATUSES = {int(one): str(int(one)) for one in HTTPStatus}
_CLASSES = range(1, 6)  # RFC 9110, section 15
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

    Raises:
        twh_platform.errors.ConfigurationError: With code ``metric_duplicate``,
            if *metrics* has been given to another one of these.  Also for
            *hosts* that are one text.
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
        if isinstance(hosts, str):
            message = f"hosts={hosts!r} is not a list of hosts"
            raise ConfigurationError(message)
        self._hosts = frozenset(host.lower().strip("[]") for host in hosts)
        self._made: dict[object, Any] = {}  # what a technology makes once and for all
        self._databases = self._requests = None
        self.pools: PoolMetrics | None = None
        if metrics is not None:
            self._databases = _Durations(define(metrics, DB_OPERATION_DURATION))
            self._requests = _Durations(define(metrics, HTTP_CLIENT_DURATION))
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
        Begin a call of a database, which a `with` or `DatabaseCall.end` ends.

        Args:
            system: ``postgresql``, ``redis`` and so on.

            operation: Out of a closed list.

            collection: The table, for the span alone.

            where: More attributes of the span, asked for where there is one.

            batch: How many commands it has.

            started: When it began, in seconds of `time.perf_counter`; now
                without.
        """
        call = DatabaseCall(self._databases, system, operation, started)
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
        Begin a request to another service; `HttpCall.end` tells its status.

        In a `with`, one that fails is told.

        Args:
            method: As it is sent.

            host: The name or address alone.

            port: Its port.

            scheme: ``http`` or ``https``.
        """
        label, _ = known_method(method)
        name = host.lower().strip("[]")
        host_label = name if name in self._hosts else OTHER_OPERATION
        call = HttpCall(self._requests, label, host_label)
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

    def key_used(self, signal: Any) -> None:
        """
        Tell of a call of a key service, which has a span; it is counted elsewhere.

        It is a listener:

            subscribe(KeyUsed, calls.key_used)

        A call that nobody has timed has no span.

        Args:
            signal: A `twh_platform.kms.KeyUsed`, announced where the call was made.
        """
        seconds, exchange = signal.seconds, current_exchange()
        if self.spans is None or seconds is None or not _may_record(exchange):
            return
        told: _Told = {"platform.provider": signal.service}
        if signal.tenant_id is not None:
            told["tenant.id"] = clean_label(signal.tenant_id)
        add_who(exchange, told)
        span = self.spans.begin(
            f"kms.{signal.operation}",
            kind="client",
            attributes=told,
            current=False,
            started=perf_counter() - seconds,
        )
        if span is not None:
            span.end(signal.code)

    def outbound_headers(self, call: HttpCall, host: str) -> dict[str, str]:
        """
        What *host* is told about the trace of *call*; nothing, if it is not ours.
        """
        try:
            return {} if self.trust is None else self._outbound(self.trust, call, host)
        except Exception:  # noqa: BLE001 -- a call without context is better than a failed one
            return {}

    def _outbound(self, trust: TrustBoundary, call: HttpCall, host: str) -> dict[str, str]:
        exchange = call.exchange
        span = call.span
        if span is not None:
            place = span.place
        elif exchange is not None:
            place = exchange.place
        else:
            return {}
        return trust.outbound_headers(
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

    __slots__ = ("_durations", "_has_ended", "exchange", "span", "started")

    def __init__(self, durations: _Durations | None, started: float | None = None) -> None:
        self._durations = durations
        self._has_ended = False
        self.exchange = current_exchange()
        self.span: OpenSpan | None = None
        self.started = perf_counter() if started is None else started

    def __enter__(self) -> Self:
        """
        It has begun already.
        """
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """
        End it, unless that was done inside.
        """
        self.end(error=error)

    def end(self, *, error: BaseException | None = None) -> None:
        """
        End it.
        """
        raise NotImplementedError

    def begin(self, spans: SpanSource, name: str, told: _Told, where: Where | None) -> None:
        """
        Begin the span.
        """
        try:
            if where is not None:
                told.update(where())
            add_who(self.exchange, told)
        except Exception:  # noqa: BLE001, S110 -- better a span that says less than a failed call
            pass
        # Never the current one: a driver may end it in another task.
        try:
            self.span = spans.begin(
                name, kind="client", attributes=told, current=False, started=self.started
            )
        except Exception:  # noqa: BLE001 -- better no span than a failed call
            self.span = None

    def _observe(self, key: tuple[object, ...], seconds: float) -> None:
        if self._durations is not None:
            self._durations.observe(key, seconds, self._exemplar())

    def _end_span(self, error_type: str, told: _Told) -> None:
        if self.span is None:
            return
        try:
            if error_type == _CANCELLED:  # nobody waits any more, which is nobody's error
                self.span.end(None, {**told, "platform.outcome": _CANCELLED})
            else:
                self.span.end(error_type or None, told)
        except Exception:  # noqa: BLE001, S110 -- the answer is there, and stays
            pass

    def _exemplar(self) -> tuple[str, str] | None:
        exchange = self.exchange
        if self.span is not None:
            try:
                place = self.span.place
            except Exception:  # noqa: BLE001 -- as in _end_span()
                return None
            return (place.trace_id, place.span_id) if place.sampled else None
        if exchange is not None and exchange.sampled:
            return exchange.trace_id, exchange.span_id
        return None


class DatabaseCall(_Call):
    """
    A call of a database; a `with` ends it, too.
    """

    __slots__ = ("_operation", "_system")

    def __init__(
        self,
        durations: _Durations | None,
        system: str,
        operation: str,
        started: float | None,
    ) -> None:
        super().__init__(durations, started)
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
        self._observe((self._system, self._operation, error_type), seconds)
        if self.span is not None:
            state = getattr(error, "sqlstate", None)
            known = isinstance(state, str) and _SQLSTATE.fullmatch(state)
            self._end_span(error_type, {"db.response.status_code": state} if known else {})


class HttpCall(_Call):
    """
    A request that was sent; a `with` ends one that fails, too.
    """

    __slots__ = ("_host", "_method")

    def __init__(self, durations: _Durations | None, method: str, host: str) -> None:
        super().__init__(durations)
        self._method, self._host = method, host

    def end(self, status: int = 0, error: BaseException | None = None) -> None:
        """
        The headers of its response are there, or it has failed; said again, that is nothing.

        Args:
            status: The status that came; one of 400 or more is an error.  One
                that nobody has registered, which a stranger can make up, is
                counted as its class, such as ``5xx``, or as ``_OTHER``.

            error: What came instead.
        """
        if self._has_ended:
            return
        self._has_ended = True
        seconds = perf_counter() - self.started
        label = _status_label(status) if status else ""
        error_type = _type_of(error) or (label if status >= _ERROR_STATUS else "")
        self._observe((self._method, self._host, label, error_type), seconds)
        if self.span is not None:
            self._end_span(error_type, {"http.response.status_code": status} if status else {})


def _may_record(exchange: Exchange | None) -> bool:
    return exchange is None or exchange.sampled


def _status_label(status: int) -> str:
    label = _STATUSES.get(status)
    if label is not None:
        return label
    return f"{status // 100}xx" if status // 100 in _CLASSES else OTHER_OPERATION


def _type_of(error: BaseException | None) -> str:
    if error is None or isinstance(error, GeneratorExit):
        return ""  # whoever read a stream has had enough
    if isinstance(error, CancelledError):
        return _CANCELLED
    return error_name(error)
