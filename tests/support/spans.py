"""
Requests to an ASGI app without a server, and the spans that came of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from twh_platform._asgi import ASGIApp, Message
from twh_platform.telemetry._middleware import TelemetryMiddleware
from twh_platform.telemetry.otel import configure_telemetry

__all__ = ["STRANGER", "Watch", "answering", "call"]

STRANGER = ("203.0.113.9", 4711)


class Watch:
    """
    Telemetry whose spans stay here.
    """

    def __init__(self, *, ratio: float = 1.0, **options: Any) -> None:
        self.memory = InMemorySpanExporter()
        self.telemetry = configure_telemetry(
            exporter=lambda: self.memory, ratio=ratio, set_global=False, **options
        )

    def around(self, app: ASGIApp, **options: Any) -> TelemetryMiddleware:
        """
        Watch an app.
        """
        telemetry = self.telemetry
        given = {"sampler": telemetry.sampler, "trust": telemetry.trust, **options}
        return TelemetryMiddleware(app, tracing=telemetry.tracing, **given)

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """
        Every span that has ended.
        """
        assert self.telemetry.force_flush(20)
        return self.memory.get_finished_spans()

    @property
    def span(self) -> ReadableSpan:
        """
        The only span.
        """
        (found,) = self.spans
        return found

    @property
    def server_spans(self) -> list[ReadableSpan]:
        """
        SERVER spans alone.
        """
        return [span for span in self.spans if span.kind is SpanKind.SERVER]


async def call(
    app: ASGIApp,
    path: str = "/",
    *,
    method: str = "GET",
    query: bytes = b"",
    headers: Iterable[tuple[bytes, bytes]] = (),
    client: tuple[str, int] = STRANGER,
    **scope: Any,
) -> list[Message]:
    """
    Send one request, whose client stays until it is answered, and return the messages.
    """
    sent: list[Message] = []
    waiting = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        if waiting:
            return waiting.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    full = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "replace"),
        "query_string": query,
        "root_path": "",
        "headers": [(b"host", b"shop.example"), *headers],
        "client": client,
        "server": ("127.0.0.1", 80),
        **scope,
    }
    await app(full, receive, send)
    return sent


async def answering(scope: Any, receive: Any, send: Any) -> None:
    """
    An app that answers with two bytes.
    """
    start = {"type": "http.response.start", "status": 200, "headers": [(b"x-of", b"us")]}
    await send(start)
    await send({"type": "http.response.body", "body": b"ok"})
