"""
SERVER spans of OpenTelemetry for exchanges, and the spans below them.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from contextvars import Token
from time import perf_counter, time_ns
from typing import Any, Final, NamedTuple
from weakref import WeakSet

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    NonRecordingSpan,
    NoOpTracer,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    get_current_span,
    set_span_in_context,
)

from .._baggage import Baggage
from .._exchange import Exchange, WebSocketExchange
from .._methods import OTHER_METHOD
from .._names import SCHEMA_URL
from .._trace_context import TraceContext
from ._attributes import Capture
from ._contrib import CONTRIB, is_used, quieten
from ._places import place_of, remote, state_of, with_baggage
from ._provider import PlatformProvider
from ._server_span import ServerSpan
from ._values import clean

__all__ = ["OtelTracing"]

_logger = logging.getLogger("twh_platform.telemetry")

_NAME = "twh_platform.telemetry"
_SCOPE = InstrumentationScope(_NAME, "", SCHEMA_URL)
(_SPAN,) = set_span_in_context(INVALID_SPAN, Context())  # the key of the current span
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_RANDOM_TOO = TraceFlags(0x03)  # W3C level 2
_NOT_SAMPLED, _ONLY_RANDOM = TraceFlags(0), TraceFlags(0x02)
_ERROR = Status(StatusCode.ERROR)
_KINDS: Final = {
    "internal": SpanKind.INTERNAL,
    "client": SpanKind.CLIENT,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
}
_FASTAPI = "fastapi.telemetry"


class _Unrecorded(NonRecordingSpan):
    """
    Stands for a request that is not recorded: its ids, for whoever asks for them.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._made: SpanContext | None = None

    def get_span_context(self) -> SpanContext:
        """
        The ids of the exchange; made when something asks, which few requests do.
        """
        if self._made is None:
            self._made = _own_context(self._exchange, sampled=False)
        return self._made

    def __repr__(self) -> str:
        return f"NonRecordingSpan({self.get_span_context()!r})"


_Attach = Callable[[Context], Token[Context]]


class _Entered(NamedTuple):
    token: Token[Context]
    span: Span
    is_ours: bool
    started: int


class OtelTracing:
    """
    The `Tracing` that makes spans of OpenTelemetry.

        tracing = OtelTracing(provider)
        app = TelemetryMiddleware(app, tracing=tracing)

    A sampled request has one SERVER span, by semantic conventions 1.44.  For
    one that is not, its ids become current in a span that records nothing, so
    that instrumentation inside records nothing either and what goes out is in
    the right trace.  A request that is kept at its end gets its span then.

    There is one SERVER span, whoever else makes some.  Where FastAPI's own
    instrumentation, or OpenTelemetry's middleware for ASGI, FastAPI and
    Starlette, is outside of ours, its span is the one: we take its ids and its
    decision, and add whose request it was.  Where it is inside, FastAPI's is
    switched off by `TelemetryMiddleware`, and contrib's is silenced: by the
    provider of `configure_telemetry`, or, with another one, from the first
    request on after the lifespan has begun, in the apps named by *apps*.
    Any other span that a request finds, such as one that the server was
    started in, is not its own: it has a trace for itself.

    A provider that is switched off makes no spans, and a request keeps the ids
    that it has.

    Nothing that is recorded contains the text of an exception, nor what looks
    like a secret in a query, unless it is asked for.

    Args:
        provider: The SDK's provider; the global one without.  With the one of
            `configure_telemetry`, spans have the ids that the exchange had
            from the start.  Another one's sampler is asked as well, and its
            ids are taken.

        apps: Apps inside, to look for contrib's middleware in.

        request_headers: Names of request headers that become attributes.

        response_headers: Names of response headers that do.

        secret_names: Names in a query whose values are redacted, besides
            `SECRET_QUERY_NAMES`.

        client: Whether addresses of clients become attributes.

        messages: Whether the texts of exceptions are recorded.  They can
            contain anything, secrets too.

        traces: Whether it is recorded where exceptions come from, as file,
            line and source line.

    Raises:
        twh_platform.errors.ConfigurationError: For a header that is a secret,
            and for what is no header's name.
    """

    def __init__(
        self,
        provider: trace.TracerProvider | None = None,
        *,
        apps: Iterable[Any] = (),
        request_headers: Iterable[str] = (),
        response_headers: Iterable[str] = (),
        secret_names: Iterable[str] = (),
        client: bool = True,
        messages: bool = False,
        traces: bool = False,
    ) -> None:
        self._provider = provider or trace.get_tracer_provider()
        self._tracer: Tracer = self._provider.get_tracer(_NAME, schema_url=SCHEMA_URL)
        self._own = self._provider if isinstance(self._provider, PlatformProvider) else None
        self._apps = list(apps) if self._own is None else []
        self._joined: WeakSet[Span] = WeakSet()  # of others, not recorded, each one request's
        self._failures = 0
        self._current, self._attach, self._detach = _context()
        self._capture = Capture(
            request_headers=request_headers,
            response_headers=response_headers,
            secret_names=secret_names,
            client=client,
            messages=messages,
            traces=traces,
        )

    @property
    def failures(self) -> int:
        """
        How often a span could not be made, written to or ended; the request went on.
        """
        return self._failures

    def enter(self, exchange: Exchange) -> _Entered | Token[Context] | None:
        """
        See `Tracing`.
        """
        context = self._current()
        if exchange.sampled or context or exchange.inbound.baggage is not None:
            try:
                return self._enter(exchange, context)
            except Exception:  # noqa: BLE001 -- no request fails for its span
                self._failed("begun")
                exchange.sampled = False
        return self._attach(Context({_SPAN: _Unrecorded(exchange)}))

    def is_settled(self, exchange: Exchange, entered: _Entered | Token[Context] | None) -> bool:
        """
        See `Tracing`: also where the span is somebody else's, or another provider's.
        """
        if self._own is None:
            return True
        if type(entered) is not _Entered:
            return exchange.sampled
        span = entered.span
        return not (isinstance(span, ServerSpan) and entered.is_ours) or span.was_asked

    def turn(
        self, exchange: Exchange, entered: _Entered | Token[Context] | None
    ) -> _Entered | Token[Context] | None:
        """
        See `Tracing`.
        """
        own = self._own
        if own is None:
            return entered
        if type(entered) is _Entered and isinstance(entered.span, ServerSpan):
            exchange.sampled = False
            entered.span.give_up(_own_context(exchange, sampled=False))
            own.processor.on_end(entered.span)  # where its flags say that it is not to be exported
            return entered
        context, started = self._current(), _wall(exchange)
        span = self._describe(exchange, own, started)
        token = self._attach(Context({**context, _SPAN: span}))
        exchange.sampled = True
        own.processor.on_start(span, context)  # type: ignore[arg-type]
        return _Entered(token, span, is_ours=True, started=started)

    def finish(self, exchange: Exchange, entered: _Entered | Token[Context] | None) -> None:
        """
        See `Tracing`.
        """
        try:
            if exchange.sampled:
                if type(entered) is _Entered:
                    self._end(exchange, entered)
            elif exchange.kept and not self._keep(exchange):
                exchange.kept = ""
        except Exception:  # noqa: BLE001 -- as in enter()
            self._failed("ended")

    def leave(self, entered: _Entered | Token[Context] | None) -> None:
        """
        See `Tracing`.
        """
        token: Any = entered.token if type(entered) is _Entered else entered
        if token is None:
            return
        try:  # noqa: SIM105 -- a `with` costs more
            self._detach(token)
        except ValueError:  # closed by another task than began it
            pass

    def begin(
        self,
        name: str,
        *,
        kind: str = "internal",
        attributes: Mapping[str, Any] | None = None,
        current: bool = True,
        started: float | None = None,
    ) -> _Child | None:
        """
        See `SpanSource`.
        """
        above = get_current_span()
        if above is not INVALID_SPAN and not above.is_recording():
            return None
        try:
            span = self._tracer.start_span(
                name,
                kind=_KINDS[kind],
                attributes=attributes,
                start_time=None if started is None else _at(started),
            )
            if not span.get_span_context().is_valid:
                return None  # the provider is switched off
            token = self._attach(set_span_in_context(span)) if current else None
        except Exception:  # noqa: BLE001 -- as in enter()
            self._failed("begun")
            return None
        return _Child(self, span, token)

    def end_child(
        self, span: Span, error: BaseException | str | None, attributes: Mapping[str, Any] | None
    ) -> None:
        """
        End a span that `begin` began.
        """
        try:
            if attributes:
                span.set_attributes(attributes)
            if isinstance(error, str):
                span.set_attribute("error.type", error)
                span.set_status(_ERROR)
            elif error is not None:
                told = self._capture.of_error(error)
                span.add_event("exception", told)
                span.set_attribute("error.type", told["exception.type"])
                span.set_status(_ERROR)
            span.end()
        except Exception:  # noqa: BLE001 -- as in enter()
            self._failed("ended")

    def _enter(self, exchange: Exchange, context: Context) -> _Entered | Token[Context]:
        other = self._outer(exchange, context)
        if other is not None:
            return self._join(exchange, other, context)
        if self._apps:
            self._apps = [app for app in self._apps if not quieten(app)]
        base = _based(exchange.inbound.baggage, context)
        if not exchange.sampled:
            return self._enter_unrecorded(exchange, base)
        started, own = _wall(exchange), self._own
        span: Span | None
        if own is None:
            span = self._start(exchange, base, started)
        else:
            span = self._describe(exchange, own, started)
        if span is None:
            return self._enter_unrecorded(exchange, base)
        token = self._attach(Context({**base, _SPAN: span}))
        if own is not None:
            own.processor.on_start(span, base)  # type: ignore[arg-type]
        return _Entered(token, span, is_ours=True, started=started)

    def _enter_unrecorded(self, exchange: Exchange, base: Context) -> Token[Context]:
        return self._attach(Context({**base, _SPAN: _Unrecorded(exchange)}))

    def _outer(self, exchange: Exchange, context: Context) -> Span | None:
        # A span of somebody else for this same request, if one is under way outside of us.
        native = getattr(exchange.seen.get(_FASTAPI), "span", None)
        if isinstance(native, Span) and native.get_span_context().is_valid:
            return native
        span = context.get(_SPAN)
        if not isinstance(span, Span) or isinstance(span, _Unrecorded):
            return None
        if getattr(span, "end_time", None) is not None:
            return None  # a pipelined request begins in the context of the one before it
        if not span.is_recording():
            return span if self._is_requests_own(span) else None
        scope = getattr(span, "instrumentation_scope", None)
        is_server = getattr(span, "kind", None) is SpanKind.SERVER
        return span if is_server and scope is not None and scope.name in CONTRIB else None

    def _is_requests_own(self, span: Span) -> bool:
        # What is not recorded does not say who has made it: contrib did for one request, or
        # a server was started in it, and then every request finds it.
        own = span.get_span_context()
        if not own.is_valid or own.is_remote or not is_used() or span in self._joined:
            return False
        self._joined.add(span)
        return True

    def _start(self, exchange: Exchange, base: Context, started: int) -> Span | None:
        # By the provider of somebody else, who chooses the ids and may not want it.
        link, parent = exchange.inbound.link, exchange.inbound.parent
        above = {} if parent is None else {_SPAN: NonRecordingSpan(remote(parent))}
        span = self._tracer.start_span(
            _name(exchange),
            context=Context({**base, **above}),
            kind=SpanKind.SERVER,
            attributes=self._capture.at_start(exchange),
            links=() if link is None else (Link(remote(link)),),
            start_time=started,
        )
        own = span.get_span_context()
        exchange.sampled = span.is_recording() and own.trace_flags.sampled
        if not own.is_valid or own.is_remote:
            return None  # the provider is switched off: at most the caller's ids come back
        exchange.rename(f"{own.trace_id:032x}", f"{own.span_id:016x}")
        return span

    def _describe(self, exchange: Exchange, provider: TracerProvider, started: int) -> ServerSpan:
        link, parent = exchange.inbound.link, exchange.inbound.parent
        return ServerSpan(
            self._capture,
            self._failed,
            name=_name(exchange),
            context=_own_context(exchange, sampled=True),
            parent=None if parent is None else remote(parent),
            resource=provider.resource,
            attributes=self._capture.at_start(exchange),
            links=() if link is None else (Link(remote(link)),),
            kind=SpanKind.SERVER,
            start_time=started,
            instrumentation_scope=_SCOPE,
        )

    def _join(self, exchange: Exchange, span: Span, context: Context) -> _Entered:
        own = span.get_span_context()
        exchange.rename(f"{own.trace_id:032x}", f"{own.span_id:016x}")
        exchange.sampled = span.is_recording()
        if exchange.sampled:
            # FastAPI's is ended by the last message, before we see it pass.
            exchange.before_answer(lambda: span.set_attributes(self._capture.who(exchange, {})))
        base = _based(exchange.inbound.baggage, context)
        token = self._attach(Context({**base, _SPAN: span}))
        return _Entered(token, span, is_ours=False, started=0)

    def _end(self, exchange: Exchange, entered: _Entered) -> None:
        span = entered.span
        if not entered.is_ours:
            if span.is_recording():
                told = {"platform.outcome": exchange.outcome}
                span.set_attributes(self._capture.who(exchange, told))
            return
        end = entered.started + _nanoseconds(exchange.duration)
        if isinstance(span, ServerSpan):
            self._finish(exchange, span, end)
            self._own.processor.on_end(span)  # type: ignore[union-attr] # its maker
            return
        span.set_attributes(self._capture.at_end(exchange))
        if exchange.route:
            span.update_name(_name(exchange))
        if exchange.error is not None:
            span.add_event("exception", self._capture.of_error(exchange.error), end)
        if exchange.outcome == "server_error":
            span.set_status(_ERROR)
        span.end(end)

    def _keep(self, exchange: Exchange) -> bool:
        provider = self._provider
        processor = getattr(provider, "_active_span_processor", None)
        if not isinstance(provider, TracerProvider) or processor is None:
            return False
        if isinstance(self._tracer, NoOpTracer):
            return False  # OTEL_SDK_DISABLED
        started = _wall(exchange)
        span = self._describe(exchange, provider, started)
        self._finish(exchange, span, started + _nanoseconds(exchange.duration))
        processor.on_end(span)
        return True

    def _finish(self, exchange: Exchange, span: ServerSpan, end: int) -> None:
        if exchange.error is not None:
            span.record_exception(exchange.error, timestamp=end)
        status = _ERROR if exchange.outcome == "server_error" else None
        span.finish(_name(exchange), self._capture.at_end(exchange), end, status)

    def _failed(self, what: str) -> None:
        self._failures += 1
        if self._failures & (self._failures - 1) == 0:  # the 1st, 2nd, 4th, 8th
            message = "a span could not be %s (%d so far)"
            _logger.error(message, what, self._failures, exc_info=sys.exc_info())


class _Child:
    """
    See `OpenSpan`.
    """

    __slots__ = ("_span", "_token", "_tracing")

    def __init__(self, tracing: OtelTracing, span: Span, token: Any) -> None:
        self._tracing, self._span, self._token = tracing, span, token

    @property
    def place(self) -> TraceContext:
        """
        See `OpenSpan`.
        """
        return place_of(self._span.get_span_context())

    def end(
        self,
        error: BaseException | str | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """
        See `OpenSpan`.
        """
        self._tracing.leave(self._token)
        self._tracing.end_child(self._span, error, attributes)


def _context() -> tuple[Callable[[], Context], _Attach, Callable[[Token[Context]], None]]:
    # What reads, sets and resets the current context.  Where the API keeps it in a ContextVar,
    # and does nothing else besides, that is used itself: each is two calls less, and a reset
    # from another task is not logged.
    if type(getattr(otel_context, "_RUNTIME_CONTEXT", None)) is not ContextVarsRuntimeContext:
        return get_current, attach, detach
    token = attach(get_current())
    detach(token)
    variable = token.var
    return variable.get, variable.set, variable.reset


def _based(carried: Baggage | None, context: Context) -> Context:
    context = with_baggage(carried, context)
    if _SPAN in context:
        context = Context({key: one for key, one in context.items() if key != _SPAN})
    return context


def _own_context(exchange: Exchange, *, sampled: bool) -> SpanContext:
    parent = exchange.inbound.parent
    if parent is None or parent.random:
        flags = _RANDOM_TOO if sampled else _ONLY_RANDOM
    else:
        flags = _SAMPLED if sampled else _NOT_SAMPLED
    state = None if parent is None else state_of(parent)
    trace_id, span_id = int(exchange.trace_id, 16), int(exchange.span_id, 16)
    return SpanContext(trace_id, span_id, is_remote=False, trace_flags=flags, trace_state=state)


def _name(exchange: Exchange) -> str:
    if isinstance(exchange, WebSocketExchange):
        method = "WS"
    else:
        method = "HTTP" if exchange.method == OTHER_METHOD else exchange.method
    return f"{method} {clean(exchange.route)}" if exchange.route else method


def _wall(exchange: Exchange) -> int:
    # When it arrived, told by the clock on the wall; there is one reading of the other clock.
    return _at(exchange.started)


def _at(moment: float) -> int:
    return time_ns() - _nanoseconds(perf_counter() - moment)


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
