"""
The middleware that lets no body grow beyond what a path takes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from .._asgi import ASGIApp, Message, Receive, Scope, Send, header_values, request_id
from ..errors import ConfigurationError, WebhookError
from ._body_length import announced, length_invalid, length_problem, too_large
from ._path_table import PathTable

__all__ = ["BodyLimitMiddleware"]

_logger = logging.getLogger("twh_platform.webhooks")

_MIB: Final = 1024 * 1024


class BodyLimitMiddleware:
    """
    Refuse a request whose body is larger than its path takes.

    One that says so in `Content-Length` is refused before a byte of it is read,
    and before the server has answered ``Expect: 100-continue``.  One that does
    not say is refused at the byte that is one too many: the client gets the
    answer, and the app, which is waiting for the body, gets a
    `twh_platform.errors.WebhookError` with code ``body_too_large`` from
    `receive`.  Whatever it answers to that is not sent.  The body is passed on
    as it comes; nothing is kept.

    The answer is 413 with code ``body_too_large``, and over HTTP/1 the end of the
    connection.  Before that the rest of the body is thrown away for a while: many
    clients send all of it before they listen, and one whose connection is closed
    meanwhile sees a reset in place of the answer (RFC 9112, section 9.6).

    A `Content-Length` that is no number, stands beside a `Transfer-Encoding`, or is
    not that of the body, is 400 with code ``content_length_invalid``; in the last case
    the app gets an error of that code.  If the app has begun its answer, the error is
    all there is, and it breaks off.

    A client that hangs up is the app's affair: it sees `http.disconnect`.
    Websockets and lifespan pass through.

        app = BodyLimitMiddleware(app, limit=64 * 1024, paths={"/uploads": 10 * 1024 * 1024})

    Args:
        app: The ASGI app inside.

        limit: Bytes, at most.

        paths: Other limits, for a path (``/webhooks``) or, with ``/*`` at its
            end, all below one.  A path that can be read in two ways has the
            lowest of all.

        linger: Seconds for which the rest of a refused body is thrown away.

    Raises:
        twh_platform.errors.ConfigurationError: For a limit that is no whole
            number from 0 on, a path that is none, or *linger* below zero.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limit: int = _MIB,
        paths: Mapping[str, int] | None = None,
        linger: float = 5.0,
    ) -> None:
        if not linger >= 0:
            message = f"linger={linger!r} is not from zero on"
            raise ConfigurationError(message)
        limits = {"limit": limit, **(paths or {})}
        for name, value in limits.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                message = f"{name}={value!r} is no whole number from 0 on"
                raise ConfigurationError(message)
        self.app = app
        self._linger = linger
        self._limit = limit
        self._lowest = min(limits.values())
        self._paths = PathTable(paths or {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Serve one connection scope.
        """
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _Body(scope, receive, send, limit=self._limit_of(scope))
        if await body.acceptable():
            try:
                await self.app(scope, body.receive, body.send)
            except Exception:
                # What comes out need not be what we raised: frameworks wrap it.
                if not body.refused:
                    raise
        if body.refused:
            await body.end(self._linger)

    def _limit_of(self, scope: Scope) -> int:
        if not self._paths:
            return self._limit
        if self._paths.doubtful(scope):
            return self._lowest
        found = self._paths.find(scope)
        return self._limit if found is None else found


class _Body:
    """
    One body on its way in, and the answer on its way out.

    Attributes:
        refused: Whether the client has our answer in place of the app's.
    """

    __slots__ = (
        "_began",
        "_declared",
        "_error",
        "_limit",
        "_over",
        "_receive",
        "_scope",
        "_send",
        "_size",
        "refused",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, limit: int) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._limit = limit
        self._declared: int | None = None
        self._size = 0
        self._began = self._over = self.refused = False
        self._error: WebhookError | None = None

    async def acceptable(self) -> bool:
        """
        Whether the app is called: what the headers say of the body is no reason not to.
        """
        try:
            self._declared, _ = announced(self._scope)
            if self._declared is not None and self._declared > self._limit:
                raise too_large(self._limit)
        except WebhookError as error:
            await self._refuse(error)
        return not self.refused

    async def receive(self) -> Message:
        """
        The next message, or an error once the body has been too large.
        """
        if self._error is not None:
            raise self._error
        message = await self._receive()
        if message["type"] == "http.request" and not self._over:
            self._over = not message.get("more_body", False)
            self._size += len(message.get("body", b""))
            self._error = self._fault()
            if self._error is not None:
                await self._refuse(self._error)
                raise self._error
        return message

    async def send(self, message: Message) -> None:
        """
        Pass a message of the app on, unless the request is refused.
        """
        if self.refused:
            return
        if message["type"] == "http.response.start":
            self._began = True
        await self._send(message)

    def _fault(self) -> WebhookError | None:
        if self._size > self._limit:
            return too_large(self._limit)
        declared = self._declared
        if declared is None:
            return None
        if self._size > declared or (self._over and self._size < declared):
            return length_invalid()
        return None

    async def _refuse(self, error: WebhookError) -> None:
        if self._began:
            return
        self.refused = True
        _logger.info("request %s refused, %s: %s", request_id(self._scope), error.code, error)

        async def send(message: Message) -> None:
            # All of the answer, but for its end, which ends the connection.
            more = {"more_body": True} if message["type"] == "http.response.body" else {}
            await self._send({**message, **more})

        problem = length_problem(error, self._scope, self._limit)
        await problem(self._scope, self._receive, send)

    async def end(self, linger: float) -> None:
        """
        End our answer, once the client has had the time to send what it sends.
        """
        if linger and not self._over and not self._waits():
            try:
                async with asyncio.timeout(linger):
                    while (await self._receive()).get("more_body"):
                        pass
            except TimeoutError:
                _logger.debug("request %s: its body goes on", request_id(self._scope))
        await self._send({"type": "http.response.body", "body": b""})

    def _waits(self) -> bool:
        # Whoever asked for leave to send was refused it, and sends nothing.
        return not self._size and bool(header_values(self._scope, b"expect"))
