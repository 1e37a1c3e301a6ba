"""
The body on its way in: limited, counted, verified and kept, and given out once it holds.

Most bodies are at hand as a whole when the first message is asked for.  Those are
verified as they are, and nothing is copied, timed or put into a `Spool`.  All others
come chunk by chunk.  The two ways refuse the same things for the same reasons.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from hashlib import sha256
from typing import Any, Final, NamedTuple

from .._asgi import Message, Receive, Scope
from ..errors import WebhookError, WebhookUsageError
from ._at_once import Started
from ._body_length import announced, length_invalid, too_large
from ._delivery import Delivery, delivery_of
from ._resolving import PutOff, ReadyEndpoint
from ._spool import Spool
from ._verify import Verification, Verified

__all__ = ["Intake", "Released", "Terms"]

_NOTHING: Final[Message] = {}


class Terms(NamedTuple):
    """
    What a middleware lets in, and how it keeps it.

    Attributes:
        limit: The most bytes of a body.

        spool: How many of them are kept in memory.

        timeout: Seconds in which they have to come; None for any number.

        remembers: Whether a fingerprint is made of them.
    """

    limit: int
    spool: int
    timeout: float | None
    remembers: bool


class Intake:
    """
    One body on its way in.

    Attributes:
        verified: What is true about it, once it was taken in.

        body: Its bytes, or where they are kept.

        spool: Where they are kept, if they did not come as a whole: to be closed.

    Raises:
        twh_platform.errors.WebhookError: If its headers say that it is too long, or
            nothing that can be believed.
    """

    __slots__ = (
        "_declared",
        "_endpoint",
        "_fingerprint",
        "_scope",
        "_terms",
        "_waits",
        "body",
        "spool",
        "verified",
    )

    def __init__(self, scope: Scope, terms: Terms) -> None:
        self._scope = scope
        self._terms = terms
        self._declared, self._waits = announced(scope)
        if self._declared is not None and self._declared > terms.limit:
            raise too_large(terms.limit)
        self.spool: Spool | None = None
        self.body: bytes | Spool
        self.verified: Verified
        self._endpoint: ReadyEndpoint
        self._fingerprint: bytes

    async def take(self, receive: Receive, endpoint: ReadyEndpoint) -> bool:
        """
        Take all of it in, and verify it; False if the sender left.

        Raises:
            twh_platform.errors.WebhookError: If it does not hold, is too long, or not
                as long as it was said to be, or does not come in time.
        """
        self._endpoint = endpoint
        # Asked for a body, servers answer 100: not before the headers are seen to be good.
        if self._waits:
            return await self._take_chunks(receive, None)
        first = Started(receive())
        if first.done and self._take_whole(first.result):
            return True
        try:
            return await self._take_chunks(receive, first)
        finally:
            first.close()

    def delivery(self) -> Delivery:
        """
        What it is remembered by.
        """
        endpoint = self._endpoint
        return delivery_of(
            self.verified,
            endpoint=endpoint.id,
            tenant_id=endpoint.tenant_id or "",
            fingerprint=self._fingerprint,
            window=endpoint.verifier.window,
        )

    def _take_whole(self, message: Message) -> bool:
        body = message.get("body")
        if (
            type(body) is not bytes
            or message["type"] != "http.request"
            or message.get("more_body")
            or len(body) > self._terms.limit
            or len(body) > self._terms.spool
            or self._declared not in (None, len(body))
        ):
            return False
        self.verified = self._endpoint.verify(self._scope, body)
        self.body = body
        if self._terms.remembers:
            self._fingerprint = sha256(body).digest()
        return True

    async def _take_chunks(self, receive: Receive, first: Started[Message] | None) -> bool:
        verification = self._endpoint.begin(self._scope)
        self.body = self.spool = Spool(self._terms.spool)
        chunks = _Chunks(verification, self.spool, self._terms, self._declared)
        if not await self._in_time(chunks.read(receive, first)):
            return False
        self.verified = verification.finish()
        if chunks.digest is not None:
            self._fingerprint = chunks.digest.digest()
        await self.spool.rewind()
        return True

    async def _in_time(self, reading: Coroutine[Any, Any, bool]) -> bool:
        timeout = self._terms.timeout
        deadline = asyncio.timeout(timeout)
        try:
            async with deadline:
                return await reading
        except TimeoutError:
            if not deadline.expired():
                raise
            message = f"the body was not here after {timeout:g} s, or was read before"
            raise WebhookError(message, code="body_timeout") from None


class _Chunks:
    """
    A body that comes in chunks: each is counted, hashed and kept.
    """

    __slots__ = ("_declared", "_limit", "body", "digest", "verification")

    def __init__(
        self, verification: Verification | PutOff, body: Spool, terms: Terms, declared: int | None
    ) -> None:
        self.verification = verification
        self.body = body
        self.digest: Any = sha256() if terms.remembers else None
        self._limit = terms.limit
        self._declared = declared

    async def read(self, receive: Receive, first: Started[Message] | None) -> bool:
        """
        Read all of it; False if the sender left.

        Raises:
            twh_platform.errors.WebhookError: If it is too long, or not as long as it
                was said to be.
        """
        total = 0
        message = await (receive() if first is None else first)
        while message["type"] != "http.disconnect":
            chunk = message.get("body") or b""
            total += len(chunk)
            self._check_room(total)
            if chunk:
                self.verification.update(chunk)
                if self.digest is not None:
                    self.digest.update(chunk)
                await self.body.write(chunk)
            if not message.get("more_body", False):
                self._check_end(total)
                return True
            # Let go of it before there is another.
            message, chunk = _NOTHING, b""
            message = await receive()
        return False

    def _check_room(self, total: int) -> None:
        if total > self._limit:
            raise too_large(self._limit)
        if self._declared is not None and total > self._declared:
            raise length_invalid()

    def _check_end(self, total: int) -> None:
        if self._declared is not None and total < self._declared:
            raise length_invalid() if total else _consumed()


class Released:
    """
    The body for the app, and after it what else the server says.
    """

    __slots__ = ("_body", "_receive")

    def __init__(self, body: bytes | Spool, receive: Receive) -> None:
        self._body: bytes | Spool | None = body
        self._receive = receive

    async def receive(self) -> Message:
        """
        The next message.
        """
        body = self._body
        if body is None:
            message = await self._receive()
            # A body has ended: what is said to be more of it was not verified.
            return {"type": "http.disconnect"} if message["type"] == "http.request" else message
        more = False
        if isinstance(body, Spool):
            body, more = await body.read()
        if not more:
            self._body = None
        return {"type": "http.request", "body": body, "more_body": more}


def _consumed() -> WebhookUsageError:
    message = "the body was read before, by something outside WebhookMiddleware"
    return WebhookUsageError(message, code="body_consumed")
