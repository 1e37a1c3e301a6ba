"""
A collector of spans for the tour: OpenTelemetry's protocol over HTTP, in this process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

try:
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
except ImportError:
    # The extra `otel` brings it along.
    HAS_OPENTELEMETRY = False
else:
    HAS_OPENTELEMETRY = True

__all__ = ["HAS_OPENTELEMETRY", "Collector", "Span", "collecting"]

_SERVER = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """
    What the tour looks at of a span.
    """

    name: str
    trace_id: str
    span_id: str
    is_server: bool


class Collector:
    """
    Keeps the spans that it is sent.

    Attributes:
        url: The endpoint, without the path of the signal.

        spans: What has come so far.
    """

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[Span] = []

    def take(self, body: bytes) -> None:
        """
        Read an export.
        """
        sent = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
        self.spans += [
            Span(
                name=span.name,
                trace_id=span.trace_id.hex(),
                span_id=span.span_id.hex(),
                is_server=span.kind == _SERVER,
            )
            for resource in sent.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def of_trace(self, trace_id: str, *, seconds: float = 20.0) -> list[Span]:
        """
        The spans of a trace, the server's first; wait for that one, but no longer than this.
        """
        end = time.monotonic() + seconds
        while True:
            found = [one for one in list(self.spans) if one.trace_id == trace_id]
            if any(one.is_server for one in found) or time.monotonic() > end:
                return sorted(found, key=lambda one: not one.is_server)
            time.sleep(0.05)


@contextmanager
def collecting() -> Iterator[Collector]:
    """
    Run a collector on a free port of the loopback interface, within a `with`.
    """
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            collector.take(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")  # an ExportTraceServiceResponse
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    collector.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
