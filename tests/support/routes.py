"""
Requests to an app, with the scope that is left when they are finished.
"""

from __future__ import annotations

import asyncio
from typing import Any

from twh_platform._asgi import ASGIApp, Message, Receive, Scope, Send
from twh_platform.telemetry._routes import RouteHolder, RouteTemplates, current_route_holder


def scope_of(request: str, **more: Any) -> dict[str, Any]:
    """
    The scope of ``POST /items``; ``WEBSOCKET /feed`` is one of a websocket.
    """
    method, _, path = request.rpartition(" ")
    method = method or "GET"
    kind = "websocket" if method == "WEBSOCKET" else "http"
    scope = {
        "type": kind,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"testserver")],
        "scheme": "http" if kind == "http" else "ws",
        "server": ("testserver", 80),
        "client": ("127.0.0.1", 50000),
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "root_path": "",
        "state": {},
    }
    return {**scope, **({"method": method} if kind == "http" else {}), **more}


async def serve(app: ASGIApp, scope: Scope) -> int | None:
    """
    Serve one request without a body; the status, None for a websocket.
    """
    sent: list[Message] = []
    websocket = scope["type"] == "websocket"
    first: Message = {"type": "websocket.connect"} if websocket else {"type": "http.request"}
    messages = [first]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()  # a receive that never blocks makes listeners spin
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0].get("status")


async def told(
    app: ASGIApp, request: str, *, templates: RouteTemplates | None = None, **more: Any
) -> str | None:
    """
    The template of one request to *app*, as telemetry around it would find it.
    """
    templates = templates or RouteTemplates(app)
    scope, holder = scope_of(request, **more), RouteHolder()
    token = current_route_holder.set(holder)
    try:
        await serve(app, scope)
        return templates.template(scope, holder)
    finally:
        current_route_holder.reset(token)


class Copying:
    """
    Middleware that hands on a copy of the scope.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Serve one connection scope.
        """
        await self.app(dict(scope), receive, send)
