"""
One request, or one websocket, while it is answered: its clock, its ids, its outcome.

Span, metrics, exemplar, access log and log lines all read this one object, so
they agree.  It is the only place that a request's state is kept in.
"""

from __future__ import annotations

from asyncio import CancelledError, current_task
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import perf_counter
from typing import Any, Final, Protocol

from .._asgi import RESOLUTION, Message, Receive, Scope, Send
from ._instruments import BoundGauge
from ._labels import error_name
from ._request_kinds import NO_KIND, RequestKind
from ._routes import RouteHolder, current_route_holder
from ._trace_context import TraceContext, new_span_id, new_trace_id
from ._trust import NOTHING, Inbound

__all__ = ["Exchange", "Watcher", "WebSocketExchange", "current_exchange"]

_EVENT_STREAM = b"text/event-stream"
# RFC 9110, sections 15.5 and 15.6
_CLIENT_ERROR: Final = 400
_SERVER_ERROR: Final = 500
_REFUSED = 403  # what servers answer when an app closes before it accepts
_FILES = frozenset({"http.response.pathsend", "http.response.zerocopysend"})
_NO_CODE, _INTERNAL = 1005, 1011  # RFC 6455, section 7.4.1


class Watcher(Protocol):
    """
    What an exchange tells.

    Attributes:
        header: The response header for its ids; empty for none.
    """

    header: bytes

    def streaming(self, exchange: Exchange) -> None:
        """
        An event stream, or a websocket, has begun.
        """
        ...

    def ended(self, exchange: Exchange) -> None:
        """
        It is over: everything about it is known.
        """
        ...


def current_exchange() -> Exchange | None:
    """
    The request or websocket that is being served here; None outside of one.
    """
    holder = current_route_holder.get()
    return holder if isinstance(holder, Exchange) else None


class Exchange(RouteHolder):
    """
    What is known about one request or websocket.

    A client that has left by the time of the end makes it `client_disconnect`,
    whatever the app did about that: a message ``http.disconnect`` told so, or
    sending failed with an `OSError`, or the app was cancelled.

    Attributes:
        seen: The scope that the middleware was given.

        method: The method as a label; empty for a websocket.

        inbound: What a peer said about its trace, as far as it is believed.

        sampled: Whether it is recorded.

        kept: Why it is recorded although it was not sampled: ``error``, ``slow``.

        started: When it arrived, in seconds of `time.perf_counter`.

        duration: Seconds from then to its end; 0 until it has ended.

        first_byte: Seconds to the first part of a response in several parts; 0 before.

        status: The status of the response; 0 while there is none.

        request_bytes: How much of the request's body was read.

        response_bytes: How much of the response's body was sent.

        outcome: ``success``, ``client_error``, ``server_error``,
            ``client_disconnect``; empty until it has ended.

        error_type: The class of the exception or the status as text; empty
            where there was no error.

        error: The exception, if one came out of the app; while it is told alone.

        is_stream: Whether the response came in several parts.

        is_event_stream: Whether it is ``text/event-stream``.

        silent_since: When it last sent something, of an event stream.

        operation: The business operation that it is for, once one has begun.

        disconnected: Whether the client is known to have left.

        kind: What it shares with others of its method, scheme and version.

        is_last: Whether the last part of the response is being sent, or was.

        has_ended: Whether the duration stands.

        active: The gauge that counts it while it lasts.

        route: The template of its route, once it was asked for.

        entered: What tracing keeps.

        number: Its trace id before anybody has asked for it, if that was drawn
            already; 0 otherwise.
    """

    __slots__ = (
        "_headers",
        "_receive",
        "_send",
        "_span_id",
        "_trace_id",
        "_watcher",
        "active",
        "disconnected",
        "duration",
        "entered",
        "error",
        "error_type",
        "first_byte",
        "has_ended",
        "inbound",
        "is_event_stream",
        "is_last",
        "is_stream",
        "kept",
        "kind",
        "method",
        "number",
        "operation",
        "outcome",
        "request_bytes",
        "response_bytes",
        "route",
        "sampled",
        "seen",
        "silent_since",
        "started",
        "status",
    )

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        watcher: Watcher,
        kind: RequestKind = NO_KIND,
    ) -> None:
        self.started = perf_counter()
        self.template = self.scope = None
        self.seen = scope
        self.inbound: Inbound = NOTHING
        self.kind = kind
        self.method = kind.method
        self.active: BoundGauge | None = kind.active
        self._trace_id = self._span_id = self.outcome = self.error_type = self.kept = ""
        self.operation = ""
        self.route: str | None = None
        self.status = self.request_bytes = self.response_bytes = self.number = 0
        self.duration = self.first_byte = 0.0
        self.sampled = self.disconnected = self.has_ended = self.is_last = False
        self.is_stream = self.is_event_stream = False
        self.error: BaseException | None = None
        self.entered: Any = None
        self._receive, self._send = receive, send
        self._watcher = watcher
        self._headers: Sequence[tuple[bytes, bytes]] = ()

    @property
    def trace_id(self) -> str:
        """
        The id of its trace: 32 hexadecimal digits, made when it is first asked for.
        """
        if not self._trace_id:
            parent = self.inbound.parent
            if parent is not None:
                made = parent.trace_id
            else:
                made = self.number.to_bytes(16).hex() if self.number else new_trace_id()
            # Another thread may have asked meanwhile, and has its answer.  Where there is a GIL,
            # none runs between the load and the store: see `_instruments`.
            self._trace_id = self._trace_id or made
        return self._trace_id

    @property
    def span_id(self) -> str:
        """
        The id of its span: 16 hexadecimal digits, made when it is first asked for.
        """
        if not self._span_id:
            made = new_span_id()
            self._span_id = self._span_id or made  # as above
        return self._span_id

    def rename(self, trace_id: str, span_id: str) -> None:
        """
        Take the ids of a span that was made with other ones.
        """
        self._trace_id, self._span_id = trace_id, span_id

    @property
    def response_headers(self) -> Sequence[tuple[bytes, bytes]]:
        """
        The headers of the response, once it has begun.
        """
        return self._headers

    def before_answer(self, act: Callable[[], None]) -> None:
        """
        Call *act* when the response begins, before the server is told.
        """
        send = self._send

        async def acting(message: Message) -> None:
            if message["type"] == "http.response.start":
                act()
            await send(message)

        self._send = acting

    @property
    def place(self) -> TraceContext:
        """
        Where it is in its trace, for what it calls.
        """
        parent = self.inbound.parent
        return TraceContext(
            trace_id=self.trace_id,
            span_id=self.span_id,
            sampled=self.sampled,
            random=parent is None or parent.random,
            state="" if parent is None else parent.state,
        )

    @property
    def tenant_id(self) -> str | None:
        """
        The verified tenant, once it is known.
        """
        resolution = self.seen.get(RESOLUTION)
        return None if resolution is None else resolution.tenant.id

    @property
    def user_id(self) -> str | None:
        """
        The verified user, once it is known.
        """
        resolution = self.seen.get(RESOLUTION)
        return None if resolution is None else resolution.user_id

    async def receive(self) -> Message:
        """
        Hand on the next message from the client, counted.
        """
        receive = self._receive
        message = await receive()
        kind = message["type"]
        if kind == "http.request":
            body = message.get("body")
            if body:
                self.request_bytes += len(body)
        elif kind == "http.disconnect" and not self.is_last:
            self.disconnected = True
        return message

    async def send(self, message: Message) -> None:
        """
        Hand on a message of the app, counted; the last one is the end.
        """
        # What is no method is looked up faster apart from its call.
        send = self._send
        kind = message["type"]
        try:
            if kind == "http.response.body":
                body = message.get("body")
                if body:
                    self.response_bytes += len(body)
                if message.get("more_body"):
                    if body and not self.is_stream:
                        self._begin_stream()
                    await send(message)
                    if self.is_event_stream:
                        self.silent_since = perf_counter()
                    return
                self.is_last = True
                await send(message)
                if not self.has_ended:
                    self._end()
            elif kind == "http.response.start":
                await send(self._start(message))
            else:
                self._other(message)
                await send(message)
                if self.is_last and not self.has_ended:
                    self._end()
        except OSError:  # ASGI, "Send": the connection is closed
            self.disconnected = True
            raise

    def close(self, error: BaseException | None) -> None:
        """
        The app has returned, or raised *error*: what is not over ends here.
        """
        if self.outcome:
            return
        if not self.has_ended:
            self._stop()
            if self.disconnected or _was_stopped(error):
                self._tell("client_disconnect")
                return
            self.error_type = "incomplete_response"
            self.status = self.status or _SERVER_ERROR  # which servers answer then
        else:
            self.error_type = str(self.status)
        if error is not None:
            self.error, self.error_type = error, error_name(error)
        self._tell("server_error")
        self.error = None  # it holds frames that hold us

    def _start(self, message: Message) -> Message:
        if not self.disconnected:  # else nobody gets it
            self.status = message["status"]
        headers = message.get("headers", ())
        header = self._watcher.header
        if header or type(headers) is not list:
            headers = list(headers)  # ASGI has any iterable, also one that can be read once
            if header:
                value = f"00-{self.trace_id}-{self.span_id}-0{self.sampled:d}"
                headers.append((header, value.encode()))
            message = {**message, "headers": headers}
        for name, value in headers:
            if name == b"content-type":
                is_first = not (self.is_event_stream or self.has_ended)
                if is_first and value[:17].lower() == _EVENT_STREAM:
                    self.is_event_stream, self.silent_since = True, perf_counter()
                    self._watcher.streaming(self)
                break
        self._headers = headers
        return message

    def _begin_stream(self) -> None:
        self.first_byte = perf_counter() - self.started
        self.is_stream = True

    def _other(self, message: Message) -> None:
        if message["type"] not in _FILES:
            return
        # How much a server takes out of the file, nobody but the app can say.
        size = message.get("count")
        if size is None:
            size = next((value for name, value in self._headers if name == b"content-length"), 0)
        with suppress(ValueError):  # what an app wrote into the header
            self.response_bytes += max(0, int(size))
        self.is_last = not message.get("more_body")

    def _stop(self) -> None:
        self.duration = perf_counter() - self.started
        self.has_ended = True
        if self.active is not None:
            self.active.dec()
        if self.method == "HEAD":
            self.response_bytes = 0  # servers leave out what apps send

    def _end(self) -> None:
        self._stop()
        status = self.status
        if self.disconnected:
            self.outcome = "client_disconnect"
        elif status < _CLIENT_ERROR:
            self.outcome = "success"
        elif status < _SERVER_ERROR:
            self.outcome = "client_error"
        else:
            return  # what was answered for an exception is told when that comes out
        self._watcher.ended(self)

    def _tell(self, outcome: str) -> None:
        self.outcome = outcome
        self._watcher.ended(self)


class WebSocketExchange(Exchange):
    """
    What is known about one websocket.

    Its status is 101 once it is accepted, and what it was refused with
    otherwise.  A client that leaves is its normal end.

    Attributes:
        received: How many messages the client sent.

        sent: How many the app sent.

        close_code: The code that either side closed it with; 0 before.
    """

    __slots__ = ("close_code", "received", "sent")

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        watcher: Watcher,
    ) -> None:
        super().__init__(scope, receive, send, watcher)
        self.received = self.sent = self.close_code = 0

    async def receive(self) -> Message:
        """
        Hand on the next message from the client, counted.
        """
        message = await self._receive()
        kind = message["type"]
        if kind == "websocket.receive":
            self.received += 1
            self.request_bytes += _size(message)
        elif kind == "websocket.disconnect":
            self.disconnected = True
            self.close_code = self.close_code or message.get("code") or _NO_CODE
        return message

    async def send(self, message: Message) -> None:
        """
        Hand on a message of the app, counted.
        """
        try:
            await self._send(message)
        except OSError:
            self.disconnected = True
            raise
        kind = message["type"]
        if kind == "websocket.send":
            self.sent += 1
            self.response_bytes += _size(message)
        elif kind == "websocket.accept":
            self.status = 101
            self._watcher.streaming(self)
        elif kind == "websocket.close":
            self.status = self.status or _REFUSED
            self.close_code = message.get("code", 1000)
        elif kind == "websocket.http.response.start":
            self.status = message["status"]

    def close(self, error: BaseException | None) -> None:
        """
        The app has returned, or raised *error*: it is over.
        """
        self._stop()
        left = self.disconnected or _was_stopped(error)
        if not left and error is not None:
            self.error, self.error_type = error, error_name(error)
        elif not left and not self.status:
            self.error_type = "incomplete_response"
        elif self.status >= _SERVER_ERROR:
            self.error_type = str(self.status)
        elif self.close_code == _INTERNAL:
            self.error_type = str(_INTERNAL)
        if self.error_type:
            self.status = self.status or _SERVER_ERROR
            self._tell("server_error")
        elif self.status >= _CLIENT_ERROR:
            self._tell("client_error")
        else:
            self._tell("success" if self.status else "client_disconnect")
        self.error = None  # as above


def _was_stopped(error: BaseException | None) -> bool:
    """
    Whether an app was stopped from outside, which servers do when the client is gone.

    A cancellation that it met in what it awaited is a fault of its own, and so
    is an `OSError`: a database that is down raises it too.
    """
    if not isinstance(error, CancelledError):
        return isinstance(error, GeneratorExit)
    try:
        task = current_task()
    except RuntimeError:  # an event loop of another kind
        return True
    return task is None or task.cancelling() > 0


def _size(message: Message) -> int:
    data = message.get("bytes")
    # Characters of text, not bytes: what they take on the wire is the server's affair.
    return len(data if data is not None else message.get("text") or "")
