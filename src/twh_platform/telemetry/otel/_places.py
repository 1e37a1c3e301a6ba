"""
Places in a trace and what travels with them, in OpenTelemetry's types and in ours.
"""

from __future__ import annotations

from opentelemetry import baggage as otel_baggage
from opentelemetry.context import Context
from opentelemetry.trace import SpanContext, TraceFlags, TraceState

from .._baggage import Baggage
from .._trace_context import TraceContext, clean_tracestate

__all__ = ["place_of", "remote", "state_of", "with_baggage"]

_RANDOM = 0x02  # W3C level 2; the API's flags know it from some version on only


def place_of(own: SpanContext) -> TraceContext:
    """
    The place of a span whose ids are valid, for what is sent out in it.
    """
    return TraceContext(
        trace_id=f"{own.trace_id:032x}",
        span_id=f"{own.span_id:016x}",
        sampled=own.trace_flags.sampled,
        random=bool(own.trace_flags & _RANDOM),
        state=clean_tracestate(own.trace_state.to_header()) if own.trace_state else "",
    )


def remote(place: TraceContext) -> SpanContext:
    """
    The span of another process that *place* tells about.
    """
    return SpanContext(
        int(place.trace_id, 16),
        int(place.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(place.flags),
        trace_state=state_of(place),
    )


def state_of(place: TraceContext) -> TraceState | None:
    """
    The `tracestate` of *place*; None where it is empty.
    """
    return TraceState.from_header([place.state]) if place.state else None


def with_baggage(baggage: Baggage | None, context: Context) -> Context:
    """
    The same context with this baggage and no other: whoever read it there believed everybody.
    """
    if context and otel_baggage.get_all(context):
        context = otel_baggage.clear(context)
    if baggage is not None:
        for name, value in baggage.values.items():
            context = otel_baggage.set_baggage(name, value, context)
    return context
