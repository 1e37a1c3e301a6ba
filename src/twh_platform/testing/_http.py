"""
Requests to an ASGI app in this process: no socket, no client library.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, unquote

from .._asgi import ASGIApp, Message
from ..errors import ConfigurationError
from ..tenancy import create_clean_task

__all__ = ["AppAnswer", "AppClient", "AppRequest"]

_LEFT_AS_IS = "/:?#[]@!$&'()*+,;=%-._~"  # RFC 3986, section 2: reserved, escaped, unreserved

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AppRequest:
    """
    One HTTP request.

        >>> AppRequest.of("POST /items", json={"sku": "A"}).body
        b'{"sku": "A"}'

    Args:
        method: The method, in capitals.

        path: The path with its query, percent-encoded as in a URL.

        headers: Names and values, in order.

        body: The body.
    """

    method: str
    path: str
    headers: Pairs = ()
    body: bytes = b""

    def __post_init__(self) -> None:
        if not self.path.startswith("/"):
            message = f"path={self.path!r} does not begin with a slash"
            raise ConfigurationError(message)
        object.__setattr__(self, "path", quote(self.path, safe=_LEFT_AS_IS))

    @classmethod
    def of(
        cls, request: str, *, json: Any = None, headers: Mapping[str, str] | None = None
    ) -> Self:
        """
        Write a request in short: ``AppRequest.of("GET /items?limit=1")``.

        Args:
            request: The method and the path with its query.

            json: What to send as JSON; None for no body.

            headers: Header names and values.
        """
        method, _, path = request.partition(" ")
        made = cls(method=method, path=path, headers=tuple((headers or {}).items()))
        return made if json is None else made.with_json(json)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    def with_header(self, name: str, value: str) -> Self:
        """
        Return the same request with this header, in place of those of that name.
        """
        kept = tuple(one for one in self.headers if one[0].lower() != name.lower())
        return replace(self, headers=(*kept, (name, value)))

    def with_path(self, path: str) -> Self:
        """
        Return the same request for another path.
        """
        return replace(self, path=path)

    def with_json(self, value: Any) -> Self:
        """
        Return the same request with *value* as its JSON body.
        """
        made = replace(self, body=json.dumps(value).encode())
        return made.with_header("content-type", "application/json")


@dataclass(frozen=True, slots=True, kw_only=True)
class AppAnswer:
    """
    What the app answered.

    Attributes:
        status: The HTTP status; 500 if the app raised before it answered, 504
            if it did not begin to answer in time.

        headers: Names in lower case and values, in order.

        body: The body as it was sent, at most as much as the client takes.

        complete: Whether the answer came to its end.

        error: What the app raised, during the answer or in place of one.
    """

    status: int
    headers: Pairs = ()
    body: bytes = b""
    complete: bool = True
    error: Exception | None = field(default=None, compare=False)

    @property
    def content(self) -> bytes:
        """
        The body with `Content-Encoding` undone, if it is gzip or deflate.
        """
        encoding = (self.header("content-encoding") or "").lower()
        try:
            if encoding == "gzip":
                return gzip.decompress(self.body)
            return zlib.decompress(self.body) if encoding == "deflate" else self.body
        except (OSError, EOFError, zlib.error):
            return self.body

    @property
    def text(self) -> str:
        """
        The content as text.
        """
        return self.content.decode(errors="replace")

    def header(self, name: str) -> str | None:
        """
        Return the first value of a header, or None.
        """
        return next((value for key, value in self.headers if key == name.lower()), None)

    def json(self) -> Any:
        """
        Return the content as JSON.

        Raises:
            ValueError: If it is none.
        """
        return json.loads(self.content)

    def find_json(self) -> Any:
        """
        Return the content as JSON, or None if it is none.
        """
        try:
            return self.json()
        except ValueError:
            return None


class AppClient:
    """
    Sends requests to an app in this event loop, each in a context of its own.

    No tenant that is bound around the call reaches the app.  As an `async with`
    it also runs the app's lifespan; without, the app has to be running.  There
    is no cookie jar and redirects are not followed.

    Args:
        app: The ASGI app.

        timeout: Seconds after which a request is given up, such as a stream
            without end; what came so far is the answer.

        max_body_bytes: How much of a body is taken.
    """

    def __init__(
        self, app: ASGIApp, *, timeout: float = 10.0, max_body_bytes: int = 8 * 1024 * 1024
    ) -> None:
        self._app = app
        self._timeout = timeout
        self._max = max_body_bytes
        self._state: dict[str, Any] = {}
        self._lifespan: _Lifespan | None = None

    async def __aenter__(self) -> Self:
        self._lifespan = _Lifespan(self._app, self._state)
        await self._lifespan.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._lifespan is not None:
            await self._lifespan.stop()

    async def send(self, request: AppRequest) -> AppAnswer:
        """
        Send a request and return the whole answer.
        """
        exchange = _Exchange(request, self._max)
        scope = {**_scope(request), "state": dict(self._state)}
        task = create_clean_task(exchange.run(self._app, scope))
        try:
            async with asyncio.timeout(self._timeout):
                await exchange.over.wait()
        except TimeoutError:
            exchange.give_up()
        finally:
            await _end(task)
        return exchange.answer()


async def _end(task: asyncio.Task[None]) -> None:
    # An app that has answered may have background work; it gets its turn.
    if not task.done():
        task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class _Exchange:
    def __init__(self, request: AppRequest, limit: int) -> None:
        self._request = request
        self._limit = limit
        self._asked = False
        self._start: Message | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._answered = asyncio.Event()
        self._error: Exception | None = None
        self.over = asyncio.Event()
        self.complete = True

    async def run(self, app: ASGIApp, scope: dict[str, Any]) -> None:
        try:
            await app(scope, self._receive, self._send)
        except Exception as error:  # noqa: BLE001 -- a server answers for the app
            self._error = error
        finally:
            self._answered.set()
            self.over.set()

    def give_up(self) -> None:
        # Work that goes on behind a whole answer takes nothing from it.
        self.complete = self.complete and self._answered.is_set()

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self._request.body, "more_body": False}
        await self._answered.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
        elif message["type"] == "http.response.body" and not self._answered.is_set():
            part = bytes(message.get("body", b""))[: self._limit - self._size]
            self._parts.append(part)
            self._size += len(part)
            if self._size >= self._limit:
                self.complete = False
                self.over.set()
            if not message.get("more_body", False) or not self.complete:
                self._answered.set()

    def answer(self) -> AppAnswer:
        if self._start is None:
            status = 500 if self.complete else 504
            return AppAnswer(status=status, complete=self.complete, error=self._error)
        return AppAnswer(
            status=self._start["status"],
            headers=tuple(
                (name.decode("latin-1").lower(), value.decode("latin-1"))
                for name, value in self._start.get("headers", ())
            ),
            body=b"".join(self._parts),
            complete=self.complete,
            error=self._error,
        )


def _scope(request: AppRequest) -> dict[str, Any]:
    """
    The connection scope of a request (ASGI HTTP, version 2.4).
    """
    path, _, query = request.path.partition("?")
    given = [(name.lower(), value) for name, value in request.headers]
    names = {name for name, _ in given}
    if "host" not in names:
        given.insert(0, ("host", "testserver"))
    if request.body and "content-length" not in names:
        given.append(("content-length", str(len(request.body))))
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode("ascii"),
        "query_string": query.encode("ascii"),
        "root_path": "",
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in given],
        "client": ("127.0.0.1", 50_000),
        "server": ("testserver", 80),
        "extensions": {},
    }


class _Lifespan:
    """
    The lifespan of an app (ASGI lifespan, version 2.0), in a task of its own.
    """

    def __init__(self, app: ASGIApp, state: dict[str, Any]) -> None:
        self._app = app
        self._state = state
        self._events: asyncio.Queue[Message] = asyncio.Queue()
        self._said: asyncio.Queue[Message] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = create_clean_task(self._run())
        await self._tell("startup")

    async def stop(self) -> None:
        if self._task is not None and not self._task.done():
            await self._tell("shutdown")
            await self._task

    async def _tell(self, event: str) -> None:
        await self._events.put({"type": f"lifespan.{event}"})
        said = await self._said.get()
        if said["type"] == f"lifespan.{event}.failed":
            message = f"the app failed at {event}: {said.get('message', '')}"
            raise ConfigurationError(message, code="test_app_failed")

    async def _run(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self._state,
        }
        try:
            await self._app(scope, self._events.get, self._said.put)
        except Exception:  # noqa: BLE001, S110 -- an app without lifespan raises; so says the specification
            pass
        finally:
            # Whoever waits is not left waiting, whatever the app did.
            await self._said.put({"type": "lifespan.over"})
