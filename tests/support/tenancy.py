"""
What the tests of tenancy share: scopes by hand, one exchange, signed tokens.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from twh_platform._signals import subscribe
from twh_platform.tenancy import TenantClaim, current_tenant

SECRET = b"a shared secret of thirty-two bytes or more"
AUDIENCE, ISSUER = "warehouse", "https://id.example.com"


def http_scope(path="/items", *headers: tuple[str, str | bytes], **more: Any) -> dict[str, Any]:
    """An http connection scope as a server would make it."""
    return {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(name.encode(), _bytes(value)) for name, value in headers],
        **more,
    }


def websocket_scope(path="/ws", *headers: tuple[str, str | bytes], **more: Any) -> dict[str, Any]:
    """A websocket connection scope as a server would make it."""
    scope = http_scope(path, *headers, **more)
    del scope["method"]
    return {**scope, "type": "websocket", "subprotocols": []}


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("latin-1")


@dataclass(frozen=True)
class Answer:
    """What the app sent."""

    messages: list[Mapping[str, Any]]

    @property
    def status(self) -> int:
        """The status of the response."""
        return self.messages[0]["status"]

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the response."""
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(one.get("body", b"") for one in self.messages[1:])

    @property
    def json(self) -> dict[str, Any]:
        """The body, read as JSON."""
        return json.loads(self.body)


async def exchange(app, scope, *incoming: Mapping[str, Any]) -> Answer:
    """Call an ASGI app once and return what it sent."""
    first = "websocket.connect" if scope["type"] == "websocket" else "http.request"
    waiting = list(incoming) or [{"type": first}]
    sent: list[Mapping[str, Any]] = []

    async def receive():
        return waiting.pop(0)

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    return Answer(sent)


async def respond(send, body: str, status: int = 200) -> None:
    """Send a whole response."""
    length = (b"content-length", str(len(body.encode())).encode())
    await send({"type": "http.response.start", "status": status, "headers": [length]})
    await send({"type": "http.response.body", "body": body.encode()})


async def name_tenant(scope, receive, send) -> None:
    """An app that answers with the id of the current tenant."""
    tenant = current_tenant()
    await respond(send, tenant.id if tenant else "nobody")


class Says:
    """A source that always says the same, or raises it."""

    def __init__(self, outcome: TenantClaim | Exception | str | None, **claim: Any) -> None:
        if isinstance(outcome, str):
            outcome = TenantClaim(tenant_id=outcome, **{"source": "says", "decides": True, **claim})
        self.outcome = outcome
        self.asked = 0

    async def resolve(self, scope) -> TenantClaim | None:
        """What it was told to say."""
        self.asked += 1
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@contextmanager
def heard(*signals: type) -> Iterable[list[Any]]:
    """Collect the announcements of these classes."""
    collected: list[Any] = []
    ends = [subscribe(signal, collected.append) for signal in signals]
    try:
        yield collected
    finally:
        for end in ends:
            end()


def payload(**changes: Any) -> dict[str, Any]:
    """The claims of a good token for the tenant ``acme``; None takes one out."""
    claims = {
        "tenant_id": "acme",
        "sub": "user-1",
        "aud": AUDIENCE,
        "iss": ISSUER,
        # Parameters of tests are made long before the last of them runs.
        "exp": time.time() + 86400,
        **changes,
    }
    return {name: value for name, value in claims.items() if value is not None}
