"""
A collector of OpenTelemetry's protocol over HTTP, in this process, for tests.

It keeps the spans that it is sent.  It can be slow, refuse, or die.
"""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

__all__ = ["OtlpReceiver", "ReceivedSpan", "otlp_receiver", "receiving"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedSpan:
    """
    A span as the collector saw it.
    """

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    flags: int
    state: str
    start: int
    end: int
    status: int
    message: str
    scope: str
    attributes: dict[str, Any]
    resource: dict[str, Any]
    links: list[str]
    events: list[tuple[str, dict[str, Any]]]

    @property
    def is_server(self) -> bool:
        """
        Whether it is a SERVER span.
        """
        return self.kind == 2


@dataclass
class OtlpReceiver:
    """
    What was received, and how the next request is treated.

    Attributes:
        url: The endpoint, without the path of the signal.

        delay: Seconds that each request takes.

        status: What is answered.
    """

    url: str = ""
    delay: float = 0.0
    status: int = 200
    posts: int = 0
    headers: list[dict[str, str]] = field(default_factory=list)
    spans: list[ReceivedSpan] = field(default_factory=list)
    die: Any = None

    @property
    def server_spans(self) -> list[ReceivedSpan]:
        """
        The SERVER spans alone.
        """
        return [span for span in self.spans if span.is_server]

    def wait(self, count: int, seconds: float = 20.0) -> list[ReceivedSpan]:
        """
        Wait until that many spans are here; they are returned whatever happens.
        """
        end = time.monotonic() + seconds
        while len(self.spans) < count and time.monotonic() < end:
            time.sleep(0.01)
        return self.spans


@contextmanager
def receiving() -> Iterator[OtlpReceiver]:
    """
    Run a collector on a free port of the loopback interface.
    """
    receiver = OtlpReceiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            receiver.posts += 1
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            time.sleep(receiver.delay)
            if receiver.status == 200:
                receiver.headers.append({k.lower(): v for k, v in self.headers.items()})
                receiver.spans += _read(body)
            self.send_response(receiver.status)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")  # which is an empty ExportTraceServiceResponse
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    server.handle_error = lambda *_: None  # type: ignore[method-assign] # clients that have gone
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}"

    def die() -> None:
        server.shutdown()
        server.server_close()

    receiver.die = die
    try:
        yield receiver
    finally:
        die()
        thread.join(5)


@pytest.fixture
def otlp_receiver() -> Iterator[OtlpReceiver]:
    """
    A collector of this test's own.
    """
    with receiving() as receiver:
        yield receiver


def _read(body: bytes) -> Iterator[ReceivedSpan]:
    # Not at the top: a bare install reads this file as well.
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = _values(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield ReceivedSpan(
                    name=span.name,
                    kind=span.kind,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    flags=span.flags,
                    state=span.trace_state,
                    start=span.start_time_unix_nano,
                    end=span.end_time_unix_nano,
                    status=span.status.code,
                    message=span.status.message,
                    scope=of_scope.scope.name,
                    attributes=_values(span.attributes),
                    resource=resource,
                    links=[f"{link.trace_id.hex()}-{link.span_id.hex()}" for link in span.links],
                    events=[(event.name, _values(event.attributes)) for event in span.events],
                )


def _values(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind) if kind else None
