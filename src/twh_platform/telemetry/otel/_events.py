"""
What happens inside a request, as events of the span that is current then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry import trace

__all__ = ["span_event"]


def span_event(name: str, attributes: Mapping[str, Any]) -> None:
    """
    Add an event to the current span, if that is recorded.

    Made for `twh_platform.platform.observe`:

        >>> from twh_platform.platform import observe
        >>> from twh_platform.telemetry import Registry
        >>> unobserve = observe(Registry(), events=span_event)
        >>> unobserve()

    A request that is kept afterwards, for an error or because it was slow, had
    no span when it happened: it has the code in its logs only.

    Args:
        name: Out of the table of events.

        attributes: Numbers, texts, and tuples of one of them.
    """
    span = trace.get_current_span()
    if span.is_recording():
        span.add_event(name, attributes)
