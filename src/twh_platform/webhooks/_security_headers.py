"""
The middleware that tells browsers what not to do with an answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

from .._asgi import ASGIApp, Message, Receive, Scope, Send
from ..errors import ConfigurationError
from ._path_table import PathTable

__all__ = ["SecurityHeaders", "SecurityHeadersMiddleware"]

_VALUE: Final = re.compile(r"[\x20-\x7e]*")
_HSTS: Final = b"strict-transport-security"
_STARTS: Final = frozenset(
    {"http.response.start", "websocket.accept", "websocket.http.response.start"}
)

Pairs = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityHeaders:
    """
    The headers of one kind of answer; the defaults are those of an API.

    An API's answers are data: no page may frame them, nothing in them may run or
    load, and no feature of the browser is theirs.  Pages of HTML need a policy of
    their own: `dataclasses.replace(SecurityHeaders(), content_security_policy=...)`.

    A field that is "" is not sent.

    Attributes:
        strict_transport_security: Browsers come by TLS only (RFC 6797); sent
            over TLS only.  A year, without the hosts below: add
            ``; includeSubDomains`` if all of them have TLS.

        content_security_policy: What an answer may load, run, and be framed by.

        x_content_type_options: Browsers believe the type that is sent.

        x_frame_options: For browsers that do not know ``frame-ancestors``.

        referrer_policy: What links tell about where they were.

        permissions_policy: Which features of the browser an answer may use.

        cross_origin_opener_policy: Which windows share a process with it.

        cross_origin_resource_policy: Which sites may embed it without CORS.

    Raises:
        twh_platform.errors.ConfigurationError: For a value with anything but
            printable ASCII.
    """

    strict_transport_security: str = "max-age=31536000"
    content_security_policy: str = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    x_content_type_options: str = "nosniff"
    x_frame_options: str = "DENY"
    referrer_policy: str = "no-referrer"
    permissions_policy: str = (
        "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()"
    )
    cross_origin_opener_policy: str = "same-origin"
    cross_origin_resource_policy: str = "same-origin"

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if not isinstance(value, str) or not _VALUE.fullmatch(value):
                message = f"{one.name}={value!r} has more than printable ASCII"
                raise ConfigurationError(message)

    def pairs(self, *, https: bool) -> list[tuple[bytes, bytes]]:
        """
        As ASGI writes them.

        Args:
            https: Whether the answer goes over TLS.
        """
        values = {
            one.name.replace("_", "-").encode(): getattr(self, one.name) for one in fields(self)
        }
        return [
            (name, value.encode())
            for name, value in values.items()
            if value and (https or name != _HSTS)
        ]


_API: Final = SecurityHeaders()


class SecurityHeadersMiddleware:
    """
    Add the security headers to each answer, and to the handshake of websockets.

    What the app has set itself stays, and is not doubled.  Wrap the whole app in
    it: an answer that is made outside, such as the 500 that Starlette makes
    outside of its middleware, does not get them.

        app = SecurityHeadersMiddleware(app, paths={"/docs": pages})

    Args:
        app: The ASGI app inside.

        headers: The headers; those of an API if nothing else is given.

        paths: Others, for a path (``/docs``) or, with ``/*`` at its end, all below
            one.  A path that can be read in two ways gets *headers*.

        https: Whether clients come over TLS.  None: what the server says,
            which behind a proxy it has to be told by the proxy.

    Raises:
        twh_platform.errors.ConfigurationError: For a path that is none.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        headers: SecurityHeaders = _API,
        paths: Mapping[str, SecurityHeaders] | None = None,
        https: bool | None = None,
    ) -> None:
        self.app = app
        self._https = https
        self._pairs = _both(headers)
        self._paths = PathTable({path: _both(one) for path, one in (paths or {}).items()})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Serve one connection scope.
        """
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        pairs = self._pairs_of(scope)
        settable = scope["type"] == "http" or _takes_headers(scope)

        async def send_wrapper(message: Message) -> None:
            kind = message["type"]
            if kind in _STARTS and (settable or kind != "websocket.accept"):
                given = list(message.get("headers", ()))
                names = {bytes(name).lower() for name, _ in given}
                added = [one for one in pairs if one[0] not in names]
                message = {**message, "headers": given + added}
            await send(message)

        await self.app(scope, receive, send_wrapper)

    def _pairs_of(self, scope: Scope) -> Pairs:
        both = self._pairs
        if self._paths and not self._paths.doubtful(scope):
            both = self._paths.find(scope) or both
        https = self._https
        if https is None:
            https = scope.get("scheme") in {"https", "wss"}
        return both[https]


def _both(headers: SecurityHeaders) -> tuple[Pairs, Pairs]:
    return headers.pairs(https=False), headers.pairs(https=True)


def _takes_headers(scope: Scope) -> bool:
    # Since version 2.1 of the specification.
    version: str = scope.get("asgi", {}).get("spec_version", "2.0")
    return version != "2.0"
