"""
Our trust boundary for instrumentation that uses OpenTelemetry's propagators.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from opentelemetry import baggage as otel_baggage
from opentelemetry.context import Context, get_current
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanKind,
    get_current_span,
    set_span_in_context,
)

from .._baggage import Baggage
from .._exchange import current_exchange
from .._trust import Inbound, TrustBoundary
from ._places import place_of, remote, with_baggage

__all__ = ["TrustPropagator"]

_FIELDS = ("traceparent", "tracestate", "baggage", "b3")
_B3 = ("x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-b3-flags")
_ALL = frozenset({*_FIELDS, *_B3})
_OUTWARDS = (SpanKind.CLIENT, SpanKind.PRODUCER)
_HOSTS = ("server.address", "net.peer.name", "peer.hostname", "http.host")
_URLS = ("url.full", "http.url")


class TrustPropagator(TextMapPropagator):
    """
    Read and write trace context as a `TrustBoundary` says.

    Inbound, instrumentation of ASGI hands over the scope, by which the sender
    is judged; of a stranger's context nothing is taken.  Other carriers tell
    nothing about their sender, so nothing is taken from them either, unless
    *messages* says that they come from our own queues.

    Outbound, the host is read from the span of the request that is being sent,
    as instrumentation of clients makes it, or else from a ``host`` in the
    carrier.  A request to nobody known is one to a stranger.  The tenant in
    the baggage is the verified one of the request that is being served.  What
    a mapping already says of a trace is removed first: clients keep headers
    over a redirect, which may lead from a host of ours to a stranger.  From
    other carriers nothing can be removed.

    Args:
        trust: Whose context counts, and who is told ours.

        messages: Believe carriers that are no requests, such as the headers of
            a job out of a queue.
    """

    def __init__(self, trust: TrustBoundary, *, messages: bool = False) -> None:
        self._trust = trust
        self._own = TrustBoundary(networks=["unix"]) if messages else None

    def extract(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        getter: Getter[CarrierT] = default_getter,
    ) -> Context:
        """
        See `TextMapPropagator`.
        """
        context = get_current() if context is None else context
        if isinstance(carrier, Mapping) and "type" in carrier and "headers" in carrier:
            return _entered(self._trust.accept(dict(carrier)), context)
        if self._own is None or type(carrier).__module__.startswith("starlette."):
            return context
        headers = [
            (name.encode(), str(value).encode("utf-8", "replace"))
            for name in _FIELDS
            for value in getter.get(carrier, name) or ()
        ]
        return _entered(self._own.accept({"client": None, "headers": headers}), context)

    def inject(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        setter: Setter[CarrierT] = default_setter,
    ) -> None:
        """
        See `TextMapPropagator`.
        """
        span = get_current_span(context)
        own = span.get_span_context()
        if not own.is_valid:
            return
        values = {name: str(value) for name, value in otel_baggage.get_all(context).items()}
        exchange = current_exchange()
        headers = self._trust.outbound_headers(
            place_of(own),
            _host(span) or _host_of(carrier),
            baggage=Baggage(values=values) if values else None,
            tenant=None if exchange is None else exchange.tenant_id,
        )
        _forget(carrier)
        for name, value in headers.items():
            setter.set(carrier, name, value)

    @property
    def fields(self) -> set[str]:
        """
        Every header that may be read or written.
        """
        return set(_ALL)


def _entered(inbound: Inbound, context: Context) -> Context:
    context = with_baggage(inbound.baggage, context)
    if inbound.parent is None:
        return context
    return set_span_in_context(NonRecordingSpan(remote(inbound.parent)), context)


def _forget(carrier: object) -> None:
    if isinstance(carrier, MutableMapping):
        for name in [one for one in carrier if isinstance(one, str) and one.lower() in _ALL]:
            carrier.pop(name, None)


def _host(span: Span) -> str:
    if getattr(span, "kind", None) not in _OUTWARDS:
        return ""  # of a SERVER span, it is ourselves
    told: Mapping[str, Any] = getattr(span, "attributes", None) or {}
    for name in _URLS:
        try:
            found = urlsplit(str(told.get(name, ""))).hostname
        except ValueError:
            continue
        if found:
            return found
    return next((str(told[name]) for name in _HOSTS if told.get(name)), "")


def _host_of(carrier: object) -> str:
    if not isinstance(carrier, Mapping):
        return ""
    for name in ("host", "Host"):
        value = carrier.get(name)
        if isinstance(value, str):
            return urlsplit(f"//{value}").hostname or "" if "]" not in value else ""
    return ""
