"""
Requests driven by hand through the telemetry middleware, and its page read back.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from twh_platform.telemetry import Exchange, Registry, TelemetryMiddleware

__all__ = ["Client", "Watched", "answer", "http", "read", "samples", "websocket"]

_LINE = re.compile(r"^(?P<name>[a-z_]+)(?:\{(?P<labels>.*?)\})? (?P<value>\S+)(?: # .*)?$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def http(path: str = "/", **more: Any) -> dict[str, Any]:
    """A request as a server describes it."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "surrogatepass"),
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "client": ("192.0.2.1", 4711),
        "server": ("192.0.2.2", 80),
        **more,
    }


def websocket(path: str = "/", **more: Any) -> dict[str, Any]:
    """A websocket as a server describes it."""
    scope = http(path, type="websocket", scheme="ws", subprotocols=[])
    del scope["method"]
    return {**scope, **more}


def answer(status: int = 200, body: bytes = b"hi", kind: bytes = b"text/plain") -> Any:
    """An app that answers in one part."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(
            {"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]}
        )
        await send({"type": "http.response.body", "body": body})

    return app


class Client:
    """
    The other side of one connection: messages for the app, and what it has sent.

    Like a server's, its receive() waits for good once there is nothing more.
    """

    def __init__(self, *messages: Any, refuses: type[OSError] | None = None) -> None:
        self.messages = list(messages)
        self.sent: list[Any] = []
        self.refuses = refuses
        self.more = asyncio.Event()

    def say(self, message: Any) -> None:
        """One more message for the app."""
        self.messages.append(message)
        self.more.set()

    async def receive(self) -> Any:
        """The next message."""
        while not self.messages:
            self.more.clear()
            await self.more.wait()
        return self.messages.pop(0)

    async def send(self, message: Any) -> None:
        """Take a message, or fail as servers do once the client is gone."""
        if self.refuses is not None and self.sent:
            raise self.refuses
        self.sent.append(message)
        await asyncio.sleep(0)


class Watched:
    """
    An app under the middleware, with its registry and what has ended.
    """

    def __init__(self, app: Any, **options: Any) -> None:
        self.registry = Registry()
        self.ended: list[Exchange] = []
        self.seen: list[tuple[str, int, str]] = []
        self.app = TelemetryMiddleware(
            app, **{"metrics": self.registry, "access": self._note, **options}
        )

    def _note(self, exchange: Exchange) -> None:
        self.ended.append(exchange)
        self.seen.append((exchange.outcome, exchange.status, exchange.error_type))

    async def get(self, scope: Any = None, client: Client | None = None) -> Client:
        """Serve one scope to its end."""
        client = client or Client({"type": "http.request", "body": b"", "more_body": False})
        await self.app(http() if scope is None else scope, client.receive, client.send)
        return client

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples with these labels."""
        return read(self.registry, name, **labels)

    def labels(self, name: str, label: str) -> set[str]:
        """The values of one label."""
        return {found[label] for found, _ in samples(self.registry, name)}

    @property
    def active(self) -> float:
        """How many requests are being answered, by the gauge."""
        return self.value("http_server_active_requests")


def samples(registry: Registry, name: str) -> list[tuple[dict[str, str], float]]:
    """The lines of the page with this name, read."""
    found = []
    for line in registry.page().decode().splitlines():
        match = _LINE.match(line)
        if match and match["name"] == name:
            found.append((dict(_LABEL.findall(match["labels"] or "")), float(match["value"])))
    return found


def read(registry: Registry, name: str, **labels: str) -> float:
    """The sum of the samples of this name with these labels."""
    found = samples(registry, name)
    return sum(value for has, value in found if labels.items() <= has.items())
