"""
Two services, one of them a stranger's: what they were sent, and redirects between them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.support.client_spans import Spans
from tests.support.serving import running
from twh_platform.telemetry import ClientCalls, Registry, TrustBoundary

__all__ = ["SECRET", "Service", "Services", "services"]

SECRET = "hunter2"
"""
A value in addresses, headers and bodies.
"""


class Service:
    """
    An app that keeps the headers that it is sent; ``/to/N`` redirects to another port.
    """

    def __init__(self) -> None:
        self.heard: list[dict[str, str]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.heard.append({name.decode(): value.decode() for name, value in scope["headers"]})
        path = scope["path"]
        headers = [(b"content-length", b"0")]
        status = int(path[1:]) if path[1:].isdecimal() else 200
        if path.startswith("/to/"):
            status = 307
            headers.append((b"location", path.removeprefix("/to/").encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


class Services:
    """
    Ours as ``localhost``, the stranger's as ``127.0.0.1``, and calls that are watched.
    """

    def __init__(self, us: Service, stranger: Service, ours: int, strange: int) -> None:
        self.us, self.stranger = us, stranger
        self.our_url, self.strange_url = f"http://localhost:{ours}", f"http://127.0.0.1:{strange}"
        self.registry, self.spans = Registry(), Spans()
        self.calls = ClientCalls(
            self.registry,
            spans=self.spans,
            trust=TrustBoundary(hosts=["localhost"]),
            hosts=["localhost"],
        )

    @property
    def page(self) -> str:
        """The page in words."""
        return self.registry.page(openmetrics=True).decode()

    def counted(self, host: str, status: str, error: str = "", method: str = "GET") -> int:
        """How many requests were counted under these labels."""
        start = (
            f'http_client_request_duration_seconds_count{{http_request_method="{method}",'
            f'server_address="{host}",http_response_status_code="{status}",error_type="{error}"}} '
        )
        lines = [line for line in self.page.splitlines() if line.startswith(start)]
        return int(float(lines[0].removeprefix(start))) if lines else 0


@asynccontextmanager
async def _both() -> AsyncIterator[Services]:
    us, stranger = Service(), Service()
    async with running(us) as our_port, running(stranger) as strange_port:
        yield Services(us, stranger, our_port, strange_port)


@pytest.fixture
async def services():
    """Both services, running."""
    async with _both() as services:
        yield services
