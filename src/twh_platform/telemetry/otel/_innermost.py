"""
The innermost span that is recorded, for log lines.
"""

from __future__ import annotations

from opentelemetry.trace import get_current_span

from ._server_span import ServerSpan

__all__ = ["innermost"]


def innermost() -> tuple[str, str] | None:
    """
    The ids of the trace and the span that is current here, whoever made it.

    None where none is recorded, and for our own SERVER span: its ids are the
    request's, and to ask for them would settle that it is recorded.
    """
    span = get_current_span()
    if isinstance(span, ServerSpan) or not span.is_recording():
        return None
    own = span.get_span_context()
    return f"{own.trace_id:032x}", f"{own.span_id:016x}"
