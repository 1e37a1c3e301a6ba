"""
A source of spans that keeps what it was told, and the requests that calls are made in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from twh_platform.telemetry import TraceContext
from twh_platform.telemetry._exchange import Exchange
from twh_platform.telemetry._routes import current_route_holder
from twh_platform.telemetry._trust import Inbound


class Span:
    """
    A span, while it is made and afterwards.
    """

    def __init__(self, name: str, kind: str, attributes: Mapping[str, Any]) -> None:
        self.name, self.kind, self.attributes = name, kind, dict(attributes)
        self.place = TraceContext.root(sampled=True)
        self.error: Any = None
        self.has_ended = False

    def end(self, error: Any = None, attributes: Mapping[str, Any] | None = None) -> None:
        """See `OpenSpan`."""
        self.attributes.update(attributes or {})
        self.error, self.has_ended = error, True


class Spans:
    """
    A `SpanSource` that records everything.
    """

    def __init__(self) -> None:
        self.made: list[Span] = []

    def begin(
        self,
        name: str,
        *,
        kind: str = "internal",
        attributes: Mapping[str, Any] | None = None,
        current: bool = True,
        started: float | None = None,
    ) -> Span:
        """See `SpanSource`."""
        span = Span(name, kind, attributes or {})
        self.made.append(span)
        return span

    @property
    def names(self) -> list[str]:
        """The names of all spans that have ended."""
        return [span.name for span in self.made if span.has_ended]

    def __str__(self) -> str:
        return repr([(span.name, span.attributes, span.error) for span in self.made])


class _Nobody:
    header = b""

    def streaming(self, exchange: Exchange) -> None:
        """See `Watcher`."""

    def ended(self, exchange: Exchange) -> None:
        """See `Watcher`."""


async def _nothing(*_: Any) -> Any:
    return None


@contextmanager
def in_request(*, sampled: bool = True, inbound: Inbound | None = None) -> Iterator[Exchange]:
    """Be within a request."""
    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    exchange = Exchange(scope, _nothing, _nothing, _Nobody())
    exchange.inbound, exchange.sampled = inbound or Inbound(), sampled
    token = current_route_holder.set(exchange)
    try:
        yield exchange
    finally:
        current_route_holder.reset(token)
