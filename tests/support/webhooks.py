"""
What the tests of receiving share: signed requests by hand, and an app that says what it got.
"""

from __future__ import annotations

import asyncio
from typing import Any

from tests.support.tenancy import Answer, exchange, http_scope
from twh_platform.errors import BackendUnavailableError
from twh_platform.tenancy import current_tenant
from twh_platform.webhooks import Signer, StandardSecret

SECRET = StandardSecret.generate()
BODY = b'{"type":"order.paid"}'


class App:
    """An app that keeps what it was given and answers as it is told."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.bodies: list[bytes] = []
        self.pieces: list[int] = []
        self.scopes: list[Any] = []
        self.tenants: list[str | None] = []

    async def __call__(self, scope, receive, send) -> None:
        """Read the body, and answer."""
        self.scopes.append(scope)
        tenant = current_tenant()
        self.tenants.append(tenant and tenant.id)
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            self.pieces.append(len(message.get("body", b"")))
            if not message.get("more_body"):
                break
        self.bodies.append(body)
        await self.answer(receive, send)

    async def answer(self, _receive, send) -> None:
        """Answer in two messages, as frameworks do."""
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})


class BrokenStore:
    """A labelled stand-in: a store that does not answer."""

    async def claim(self, key, fingerprint, *, lease, ttl):
        """Nobody there."""
        await asyncio.sleep(0)
        raise BackendUnavailableError("down", code="replay_store_unavailable")

    async def commit(self, token):
        """Nobody there."""
        raise BackendUnavailableError("down", code="replay_store_unavailable")

    async def release(self, token):
        """Nobody there."""
        raise BackendUnavailableError("down", code="replay_store_unavailable")


def signed_headers(body: bytes = BODY, *, secret=SECRET, **options: Any) -> list[tuple[str, str]]:
    """The headers of a webhook."""
    signer = Signer(secret, **{k: v for k, v in options.items() if k in {"profile", "clock"}})
    more = {k: v for k, v in options.items() if k in {"event_id", "timestamp"}}
    return list(signer.sign(body, **more).headers.items())


def chunks(body: bytes, size: int = 8) -> list[dict[str, Any]]:
    """A body in pieces, as a server gives it."""
    parts = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
    messages = [{"type": "http.request", "body": one, "more_body": True} for one in parts]
    messages[-1]["more_body"] = False
    return messages


async def deliver(
    app, body: bytes = BODY, headers=None, *, path="/hooks/orders", size=8, messages=None, **more
) -> Answer:
    """Deliver one webhook."""
    headers = signed_headers(body) if headers is None else headers
    scope = http_scope(path, *headers, **{"method": "POST", **more})
    return await exchange(app, scope, *(messages or chunks(body, size)))
