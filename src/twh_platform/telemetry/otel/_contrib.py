"""
How OpenTelemetry's own middleware is silenced inside of ours, so that nothing is there twice.

Its tracer is asked for a span when it begins a request, and for one more at each
message.  Inside an exchange that has a span, what it is given is that span, in
a wrapper that keeps the middleware from writing over it and from ending it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry.trace import Span, SpanContext, SpanKind, Tracer, get_current_span, use_span

from .._exchange import current_exchange

__all__ = ["CONTRIB", "Quiet", "is_used", "quieten"]

CONTRIB: Final = frozenset(
    f"opentelemetry.instrumentation.{name}" for name in ("asgi", "fastapi", "starlette")
)
"""
The names of the tracers that make SERVER spans for ASGI.
"""

_MIDDLEWARE = ("opentelemetry.instrumentation.asgi", "OpenTelemetryMiddleware")
# What the middleware says about a request, which the span says already.
_ITS_OWN = ("asgi.", "client.", "http.", "net.", "network.", "server.", "url.", "user_agent.")
_DEEPEST = 100


class Quiet(Tracer):
    """
    A tracer of contrib's that makes no spans within exchanges.

    Args:
        tracer: What makes them elsewhere.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def start_span(self, name: str, *args: Any, **options: Any) -> Span:
        """
        See `Tracer`.
        """
        if not _within():
            return self._tracer.start_span(name, *args, **options)
        span = get_current_span()
        # Of what was borrowed, it is lent on as it is.
        return _Borrowed(span) if span.is_recording() and type(span) is not _Borrowed else span

    @contextmanager
    def start_as_current_span(self, name: str, *args: Any, **options: Any) -> Iterator[Span]:  # type: ignore[override]
        """
        See `Tracer`.
        """
        if _within():
            with use_span(self.start_span(name), record_exception=False) as span:
                yield span
        else:
            with self._tracer.start_as_current_span(name, *args, **options) as span:
                yield span


class _Borrowed(Span):
    """
    A span that is somebody else's: to add to, not to rename and not to end.
    """

    kind = SpanKind.SERVER

    def __init__(self, span: Span) -> None:
        self._span = span

    def get_span_context(self) -> SpanContext:
        return self._span.get_span_context()

    def is_recording(self) -> bool:
        return self._span.is_recording()

    def set_attribute(self, key: str, value: Any) -> None:
        if not key.startswith(_ITS_OWN) and self._span.is_recording():
            self._span.set_attribute(key, value)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        for key, value in attributes.items():
            self.set_attribute(key, value)

    def add_event(self, *args: Any, **options: Any) -> None:
        if self._span.is_recording():
            self._span.add_event(*args, **options)

    def add_link(self, *args: Any, **options: Any) -> None:
        if self._span.is_recording():
            self._span.add_link(*args, **options)

    def update_name(self, name: str) -> None:
        pass

    def set_status(self, *_args: Any, **_options: Any) -> None:
        pass

    def record_exception(self, *_args: Any, **_options: Any) -> None:
        pass

    def end(self, end_time: int | None = None) -> None:
        pass


def is_used() -> bool:
    """
    Whether anybody in this process can have made a span by contrib's middleware.
    """
    return _MIDDLEWARE[0] in sys.modules


def quieten(app: Any) -> bool:
    """
    Silence contrib's middleware in an app; False where its stack is not built yet.
    """
    seen: set[int] = set()
    while app is not None and id(app) not in seen and len(seen) < _DEEPEST:
        seen.add(id(app))
        kind = type(app)
        if (kind.__module__, kind.__name__) == _MIDDLEWARE and not isinstance(app.tracer, Quiet):
            app.tracer = Quiet(app.tracer)
        if hasattr(app, "middleware_stack"):
            app = app.middleware_stack
            if app is None:
                return False
        else:
            app = getattr(app, "app", None)
    return True


def _within() -> bool:
    exchange = current_exchange()
    entered = None if exchange is None else exchange.entered
    return entered is not None and getattr(entered, "is_ours", True)
