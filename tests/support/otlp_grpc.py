"""
A collector of OpenTelemetry's protocol over gRPC, in this process, for tests.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.otlp import ReceivedSpan, _read

__all__ = ["GrpcReceiver", "receiving_grpc"]


@dataclass
class GrpcReceiver:
    """
    What was received, and how the next export is treated.

    Attributes:
        address: Host and port.

        delay: Seconds that each export takes.

        status: The name of the status that is answered.
    """

    address: str = ""
    delay: float = 0.0
    status: str = "OK"
    calls: int = 0
    metadata: list[dict[str, Any]] = field(default_factory=list)
    spans: list[ReceivedSpan] = field(default_factory=list)
    die: Any = None


@contextmanager
def receiving_grpc(*, key: bytes = b"", certificate: bytes = b"") -> Iterator[GrpcReceiver]:
    """
    Run a collector on a free port of the loopback interface.

    Args:
        key: For TLS: the key.

        certificate: For TLS: what is shown, and what clients must show one of.
    """
    # Not at the top: the package is one of tests alone.
    import grpc
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

    receiver = GrpcReceiver()

    class Servicer(trace_service_pb2_grpc.TraceServiceServicer):  # type: ignore[misc]
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 -- gRPC's
            receiver.calls += 1
            time.sleep(receiver.delay)
            if receiver.status != "OK":
                context.abort(grpc.StatusCode[receiver.status], "as told")
            receiver.metadata.append(dict(context.invocation_metadata()))
            receiver.spans += _read(request.SerializeToString())
            return trace_service_pb2.ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Servicer(), server)
    if key:
        credentials = grpc.ssl_server_credentials(
            [(key, certificate)], root_certificates=certificate, require_client_auth=True
        )
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    receiver.address = f"127.0.0.1:{port}"
    receiver.die = lambda: server.stop(None).wait(10)
    server.start()
    try:
        yield receiver
    finally:
        server.stop(None).wait(10)
