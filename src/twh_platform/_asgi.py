"""
ASGI types, header access, and the problem response that refuses a request.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from .errors import ConfigurationError

__all__ = [
    "INNER_SCOPE",
    "REQUEST_ID",
    "RESOLUTION",
    "TENANT_KNOWN",
    "ASGIApp",
    "Message",
    "Problem",
    "Receive",
    "Scope",
    "Send",
    "header_values",
    "innermost",
    "request_id",
    "route_path",
]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

INNER_SCOPE = "twh.inner_scope"
"""
Where middleware of ours that hands on a copy of the scope leaves the copy, so
that outer middleware can see what was routed on.
"""

REQUEST_ID = "twh.request_id"
"""
Where the id of a request is kept in its scope, once `request_id` has made it.
"""

RESOLUTION = "twh.resolution"
"""
Where tenancy leaves, in the scope that it was given, how it resolved the tenant.
"""

TENANT_KNOWN = "twh.tenant_known"
"""
Where outer middleware leaves a function that tenancy calls once with the tenant's
id, before anything inside runs.  It is quick, and never raises.
"""

_MOST_SCOPES = 8
_MEMBERS = frozenset({"type", "title", "status", "detail", "code", "request_id"})


def header_values(scope: Scope, name: bytes) -> list[bytes]:
    """
    Every value of the header *name* (in lower case), in the order received.
    """
    return [value for key, value in scope["headers"] if key.lower() == name]


def innermost(scope: Scope) -> Scope:
    """
    The scope that was routed on, after the copies that `INNER_SCOPE` leads to.
    """
    for _ in range(_MOST_SCOPES):
        inner = scope.get(INNER_SCOPE)
        if inner is None:
            break
        scope = inner
    return scope


def request_id(scope: Scope) -> str:
    """
    The id of this request: 32 hexadecimal digits, made on first use.

    It is ours.  What the client calls its request is not taken over, because
    it would reach logs and answers unchecked.
    """
    found: str | None = scope.get(REQUEST_ID)
    if found is None:
        found = scope[REQUEST_ID] = os.urandom(16).hex()
    return found


def route_path(scope: Scope) -> str:
    """
    The path that the app inside routes on: `path` without `root_path`.

    The same reading as Starlette's, so that what is decided here about a path
    holds for the route that is then taken.  A server that leaves `root_path`
    out of `path` is understood too.
    """
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in {"", "/"}:
        return path[len(root) :]
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """
    A refusal as `application/problem+json` (RFC 9457); also an ASGI app.

    Every body carries two extension members: `code`, stable and meant for
    programs, and `request_id`, which is in the logs too.  As an ASGI app it
    can be returned by an exception handler of Starlette or FastAPI.  A
    websocket that is not yet accepted is refused with the same answer where
    the server has the `websocket.http.response` extension, else closed with
    code 1008 (RFC 6455, section 7.4.1).

        >>> Problem(status=409, code="stock_short", title="Not enough stock").status
        409

    Args:
        status: The HTTP status, 400 to 599.

        code: The stable code.

        title: The same short sentence for every problem with this code.

        detail: What is particular to this occurrence; safe for the client.

        type: A URI that names the kind of problem.

        headers: Further response headers; copied.

        extensions: Further members of the body, under names of their own; copied.

    Raises:
        twh_platform.errors.ConfigurationError: For another status, or an
            extension with the name of a member above.
    """

    status: int
    code: str
    title: str
    detail: str = ""
    type: str = "about:blank"
    headers: Mapping[str, str] = field(default_factory=dict)
    extensions: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 400 <= self.status <= 599:  # noqa: PLR2004 -- RFC 9110, sections 15.5 and 15.6
            message = f"status={self.status!r} is not from 400 to 599"
            raise ConfigurationError(message)
        if taken := sorted(_MEMBERS & self.extensions.keys()):
            message = f"extensions={taken!r} are members of their own"
            raise ConfigurationError(message)
        for name in ("headers", "extensions"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Answer the request, or refuse the websocket, that *scope* describes.
        """
        if scope["type"] == "websocket":
            await self._refuse_websocket(scope, receive, send)
        else:
            await self._respond(scope, send, "http.response")

    def body(self, request_id: str) -> bytes:
        """
        The response body for the request with this id: UTF-8 JSON.
        """
        members: dict[str, Any] = {
            "type": self.type,
            "title": self.title,
            "status": self.status,
            "code": self.code,
            "request_id": request_id,
        }
        if self.detail:
            members["detail"] = self.detail
        return json.dumps({**members, **self.extensions}).encode()

    async def _refuse_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # the websocket.connect event that must come first
        if "websocket.http.response" in scope.get("extensions", {}):
            await self._respond(scope, send, "websocket.http.response")
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": self.code})

    async def _respond(self, scope: Scope, send: Send, message: str) -> None:
        identifier = request_id(scope)
        body = self.body(identifier)
        headers = {
            "content-type": "application/problem+json",
            "content-length": str(len(body)),
            "cache-control": "no-store",
            "x-request-id": identifier,
            **self.headers,
        }
        await send(
            {
                "type": f"{message}.start",
                "status": self.status,
                "headers": [
                    (name.lower().encode("latin-1"), value.encode("latin-1"))
                    for name, value in headers.items()
                ],
            }
        )
        await send({"type": f"{message}.body", "body": body})
