"""
Bodies in parts, event streams, files and websockets.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from tests.support.telemetry import Client, Watched, answer, http, websocket

DURATION = "http_server_request_duration_seconds"
FIRST_BYTE = "http_server_time_to_first_byte_seconds"
ENDED = "http_server_response_stream_total"
OPEN = "http_server_event_streams_active"
SILENCE = "http_server_event_stream_silence_seconds"
EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> dict:
    """How an answer begins."""
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def part(body: bytes = b"part", *, more: bool = True) -> dict:
    """A part of a body."""
    return {"type": "http.response.body", "body": body, "more_body": more}


def sends(*messages: dict | float):
    """An app that sends these, and sleeps where there is a number."""

    async def app(scope, receive, send):
        for message in messages:
            await (send(message) if isinstance(message, dict) else asyncio.sleep(message))

    return app


@pytest.mark.parametrize(
    "messages",
    [
        [start(200, EVENTS), start(200, EVENTS), part(), part(b"", more=False)],
        [start(200), part(b"", more=False), start(200, EVENTS)],
    ],
    ids=["begun twice", "begun after the end"],
)
async def test_an_event_stream_is_open_once(messages):
    """Whatever an app sends, none stays open."""
    watched = Watched(sends(*messages))
    await watched.get()

    assert watched.value(OPEN) in {None, 0}
    assert len(watched.ended) == 1


async def test_a_length_that_is_none_is_not_counted():
    """What an app wrote into a header fails no request."""
    length = (b"content-length", b"abc")
    file = {"type": "http.response.pathsend", "path": "/nowhere"}
    watched = Watched(sends(start(200, length), file))
    await watched.get()

    assert watched.ended[0].response_bytes == 0
    assert watched.ended[0].outcome == "success"


async def test_the_bytes_of_bodies_are_counted_not_declared():
    """In both directions, whatever the headers claim."""

    async def app(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        await sends(start(200, (b"content-length", b"7")), part(b"12345"), part(b"67", more=False))(
            scope, receive, send
        )

    client = Client(
        {"type": "http.request", "body": b"x" * 100, "more_body": True},
        {"type": "http.request", "body": b"x" * 23},
    )
    watched = Watched(app)
    await watched.get(http(headers=[(b"content-length", b"9999")]), client)

    assert (watched.ended[0].request_bytes, watched.ended[0].response_bytes) == (123, 7)
    assert watched.value("http_server_request_body_size_bytes_sum") == 123
    assert watched.value("http_server_response_body_size_bytes_sum") == 7


async def test_what_has_no_body_is_in_no_histogram_of_sizes():
    """A GET has none, and a 204 neither."""
    watched = Watched(answer(204, b""))
    await watched.get()

    assert watched.value("http_server_request_body_size_bytes_count") == 0
    assert watched.value("http_server_response_body_size_bytes_count") == 0


async def test_an_answer_to_head_has_no_bytes():
    """Apps send the body, and servers leave it out."""
    watched = Watched(answer())
    await watched.get(http(method="HEAD"))

    assert watched.ended[0].response_bytes == 0
    assert watched.value(f"{DURATION}_count", http_request_method="HEAD") == 1


@pytest.mark.parametrize("size", [3, None])
async def test_a_file_that_the_server_sends_is_the_end(size):
    """Its size is the one of the header, or none."""
    headers = [(b"content-length", b"%d" % size)] if size else []
    file = {"type": "http.response.pathsend", "path": "/etc/hosts"}
    watched = Watched(sends(start(200, *headers), file))
    await watched.get()

    assert watched.seen == [("success", 200, "")]
    assert watched.ended[0].response_bytes == (size or 0)


async def test_a_file_in_pieces_ends_with_the_last():
    """Of the zero-copy extension."""
    piece = {"type": "http.response.zerocopysend", "file": 7, "count": 5, "more_body": True}
    watched = Watched(sends(start(), piece, piece, {**piece, "more_body": False}))
    await watched.get()

    assert watched.seen == [("success", 200, "")]
    assert watched.ended[0].response_bytes == 15


async def test_messages_of_extensions_pass():
    """They are no end and no part."""
    hint = {"type": "http.response.early_hint", "links": []}
    watched = Watched(sends(hint, start(), part(more=False), {"type": "http.response.trailers"}))
    client = await watched.get()

    assert len(client.sent) == 4
    assert watched.seen == [("success", 200, "")]


async def test_the_first_byte_of_a_stream_is_timed():
    """The first part that is not empty."""
    watched = Watched(sends(start(), part(b""), 0.02, part(), 0.02, part(b"", more=False)))
    await watched.get()
    one = watched.ended[0]

    assert 0.02 <= one.first_byte <= one.duration - 0.02
    assert watched.value(f"{FIRST_BYTE}_sum") == one.first_byte
    assert watched.value(ENDED, outcome="completed") == 1


async def test_an_answer_in_one_part_is_no_stream():
    """Its first byte is its last."""
    watched = Watched(answer())
    await watched.get()

    assert watched.value(f"{FIRST_BYTE}_count") == watched.value(ENDED) == 0


@pytest.mark.parametrize(
    ("more", "messages", "outcome"),
    [([], [ValueError], "error"), ([{"type": "http.disconnect"}], [], "client_disconnect")],
)
async def test_streams_say_how_they_ended(more, messages, outcome):
    """An error, or a client that left."""

    async def app(scope, receive, send):
        await send(start())
        await send(part())
        for error in messages:
            raise error
        await receive()

    watched = Watched(app)
    with suppress(ValueError):
        await watched.get(client=Client(*more))

    assert watched.value(ENDED, outcome=outcome) == watched.value(ENDED) == 1


async def test_an_event_stream_is_seen_while_it_is_open():
    """Before its first event, too; and how long it has been silent."""
    said, go_on = asyncio.Event(), asyncio.Event()

    async def app(scope, receive, send):
        await send(start(200, EVENTS))
        said.set()
        await go_on.wait()
        await send(part(b"data: 1\n\n"))
        await send(part(b"", more=False))

    watched = Watched(app)
    task = asyncio.create_task(watched.get())
    await said.wait()
    await asyncio.sleep(0.02)
    assert watched.value(OPEN) == 1
    assert watched.value(SILENCE) >= 0.02
    go_on.set()
    await task

    assert watched.value(OPEN) == watched.value(SILENCE) == watched.active == 0


async def test_an_event_ends_the_silence():
    """It is counted from the last one."""
    silences = []

    async def app(scope, receive, send):
        await send(start(200, EVENTS))
        await asyncio.sleep(0.05)
        silences.append(watched.value(SILENCE))
        await send(part(b"data: 1\n\n"))
        silences.append(watched.value(SILENCE))
        await send(part(b"", more=False))

    watched = Watched(app)
    await watched.get()

    assert silences[0] >= 0.05
    assert silences[1] < silences[0]


@pytest.mark.parametrize("kind", [EVENTS[1], b"Text/Event-Stream"])
async def test_an_event_stream_is_in_no_request_duration(kind):
    """It has a histogram of its own, and its first byte counts."""
    watched = Watched(sends(start(200, (b"content-type", kind)), part(), part(b"", more=False)))
    await watched.get()

    assert watched.value(f"{DURATION}_count") == 0
    assert watched.value("http_server_event_stream_duration_seconds_count") == 1
    assert watched.value(f"{FIRST_BYTE}_count") == 1


@pytest.mark.parametrize("way", ["message", "cancel", "error", "raise"])
async def test_an_event_stream_is_never_open_for_ever(way):
    """However it ends, the gauges go back."""

    async def app(scope, receive, send):
        await send(start(200, EVENTS))
        await send(part())
        if way == "raise":
            raise ValueError
        await receive()

    watched = Watched(app)
    client = Client(*[{"type": "http.disconnect"}] if way == "message" else [])
    client.refuses = OSError if way == "error" else None
    task = asyncio.create_task(watched.get(client=client))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    task.cancelled() or task.exception()

    outcome = "server_error" if way == "raise" else "client_disconnect"
    assert [one[0] for one in watched.seen] == [outcome]
    assert watched.value(OPEN) == watched.value(SILENCE) == watched.active == 0


ACCEPT = {"type": "websocket.accept"}
CONNECT, GONE = {"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1001}


async def echoes(scope, receive, send):
    """Send back what comes."""
    await receive()
    await send(ACCEPT)
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


async def test_a_websocket_is_one_connection_and_counted_messages():
    """It is in no histogram of requests."""
    texts = [{"type": "websocket.receive", "text": "x" * 10} for _ in range(20)]
    watched = Watched(echoes)
    await watched.get(websocket(), Client(CONNECT, *texts, GONE))
    one = watched.ended[0]

    assert watched.seen == [("success", 101, "")]
    assert (one.received, one.sent, one.close_code, one.response_bytes) == (20, 20, 1001, 200)
    assert watched.value("websocket_messages_total", direction="received") == 20
    assert watched.value("websocket_messages_total", direction="sent") == 20
    assert watched.value("websocket_connection_duration_seconds_count", outcome="success") == 1
    assert watched.value(f"{DURATION}_count") == 0


async def test_a_websocket_is_seen_while_it_is_open():
    """From its acceptance to its end."""
    watched = Watched(echoes)
    client = Client(CONNECT)
    task = asyncio.create_task(watched.get(websocket(), client))
    await asyncio.sleep(0.01)
    assert watched.value("websocket_connections_active") == 1
    client.say(GONE)
    await task

    assert watched.value("websocket_connections_active") == 0
    assert watched.value("websocket_connection_duration_seconds_sum") == watched.ended[0].duration


CLOSE = {"type": "websocket.close"}
RESPONSE = {"type": "websocket.http.response.start", "status": 404, "headers": []}
WEBSOCKETS = [
    ("refused", [CLOSE], None, ("client_error", 403, "")),
    ("answered", [RESPONSE], None, ("client_error", 404, "")),
    ("answered 503", [{**RESPONSE, "status": 503}], None, ("server_error", 503, "503")),
    ("nothing", [], None, ("server_error", 500, "incomplete_response")),
    ("raises at once", [], ValueError, ("server_error", 500, "ValueError")),
    ("raises", [ACCEPT], ValueError, ("server_error", 101, "ValueError")),
    ("no database", [ACCEPT], TimeoutError, ("server_error", 101, "TimeoutError")),
    ("closed", [ACCEPT, CLOSE], None, ("success", 101, "")),
    ("closed as broken", [ACCEPT, {**CLOSE, "code": 1011}], None, ("server_error", 101, "1011")),
    ("cancelled", [ACCEPT], asyncio.CancelledError, ("success", 101, "")),
    ("cancelled at once", [], asyncio.CancelledError, ("client_disconnect", 0, "")),
]


@pytest.mark.parametrize(
    ("messages", "error", "seen"),
    [one[1:] for one in WEBSOCKETS],
    ids=[one[0] for one in WEBSOCKETS],
)
async def test_a_websocket_ends_in_many_ways(messages, error, seen):
    """And nothing stays open."""

    async def app(scope, receive, send):
        for message in messages:
            await send(message)
        if error is asyncio.CancelledError:
            asyncio.current_task().cancel()
            await asyncio.sleep(0)
        if error:
            raise error

    watched = Watched(app)
    task = asyncio.create_task(watched.get(websocket(), Client(CONNECT)))
    await asyncio.wait([task])
    task.cancelled() or task.exception()

    assert watched.seen == [seen]
    assert watched.value("websocket_connections_active") == 0


async def test_sending_to_a_websocket_that_is_gone_is_no_error():
    """Servers raise an `OSError`, and frameworks something else for it."""

    async def app(scope, receive, send):
        await send(ACCEPT)
        try:
            await send({"type": "websocket.send", "text": "x"})
        except OSError as error:
            raise LookupError from error

    watched = Watched(app)
    with pytest.raises(LookupError):
        await watched.get(websocket(), Client(CONNECT, refuses=ConnectionResetError))

    assert watched.seen == [("success", 101, "")]
    assert watched.ended[0].sent == 0
