"""
The numbers behind a real server, with both of its HTTP parsers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute

from tests.support.serving import PATIENCE, eventually, running
from tests.support.telemetry import Watched

DURATION = "http_server_request_duration_seconds_count"
OPEN = "http_server_event_streams_active"
PARSERS = ["h11", "httptools"]


async def item(request):
    """An answer in one part."""
    return PlainTextResponse("item")


async def upload(request):
    """Read all of the body."""
    return PlainTextResponse(str(len(await request.body())))


async def broken(request):
    """Fail."""
    raise LookupError


async def background(request):
    """Go on after the answer."""
    return PlainTextResponse("soon", background=BackgroundTask(asyncio.sleep, 0.3))


async def events(request):
    """An event now and then, for ever."""

    async def parts():
        while True:
            yield b"data: 1\n\n"
            await asyncio.sleep(0.02)

    return StreamingResponse(parts(), media_type="text/event-stream")


async def echo(socket):
    """Send back what comes."""
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(text)


def shop(**options) -> Watched:
    """The app under the middleware."""
    routes = [
        Mount("/shops/{shop}", routes=[Route("/items/{id}", item)]),
        Route("/upload", upload, methods=["POST"]),
        Route("/broken", broken),
        Route("/background", background),
        Route("/events", events),
        WebSocketRoute("/echo", echo),
    ]
    return Watched(Starlette(routes=routes), **options)


@pytest.fixture(params=PARSERS)
async def served(request) -> AsyncIterator[tuple[Watched, int]]:
    """The shop behind uvicorn with this parser."""
    pytest.importorskip(request.param)
    watched = shop()
    async with running(watched.app, http=request.param, log_config=None) as port:
        yield watched, port


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to the server."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield reader, writer
        finally:
            writer.close()


def request(path: str, *headers: str, method: str = "GET") -> bytes:
    """A request without a body."""
    lines = [f"{method} {path} HTTP/1.1", "host: localhost", *headers, "", ""]
    return "\r\n".join(lines).encode()


async def all_told(watched: Watched, count: int) -> None:
    """Wait until that many have ended."""

    async def enough() -> bool:
        return len(watched.ended) >= count

    await eventually(enough)


async def test_keep_alive_and_pipelining_are_counted_exactly(served):
    """Ten at once and ten after another on one connection, one template for all."""
    watched, port = served
    async with connected(port) as (reader, writer):
        writer.write(b"".join(request(f"/shops/a{at}/items/{at}") for at in range(10)))
        for _ in range(10):
            assert b"200" in await reader.readuntil(b"item")
        for at in range(10):
            writer.write(request(f"/shops/b/items/{at}"))
            await reader.readuntil(b"item")

    await all_told(watched, 20)
    assert watched.value(DURATION, http_route="/shops/{shop}/items/{id}") == 20
    assert watched.value(DURATION) == 20
    assert watched.active == 0


async def test_a_hundred_clients_at_once_are_counted_exactly(served):
    """Each with a request that fails, one that is not found, and one that is."""
    watched, port = served

    async def client(number: int) -> None:
        async with connected(port) as (reader, writer):
            for path in (f"/shops/x/items/{number}", f"/nowhere/{number}"):
                writer.write(request(path))
                await reader.readuntil(b"\r\n\r\n")
            writer.write(request("/broken", "connection: close"))
            await reader.read()

    await asyncio.gather(*(client(number) for number in range(100)))

    await all_told(watched, 300)
    for status, outcome in (("200", ""), ("404", ""), ("500", "LookupError")):
        labels = {"http_response_status_code": status, "error_type": outcome}
        assert watched.value(DURATION, **labels) == 100
    assert watched.labels(DURATION, "http_route") == {"/shops/{shop}/items/{id}", "", "/broken"}
    assert watched.active == 0


async def test_a_client_that_leaves_in_its_upload_is_no_error(served):
    """It said a thousand bytes and sent ten."""
    watched, port = served
    async with connected(port) as (_, writer):
        writer.write(request("/upload", "content-length: 1000", method="POST") + b"x" * 10)
        await writer.drain()
        await asyncio.sleep(0.1)

    await all_told(watched, 1)
    assert watched.seen == [("client_disconnect", 0, "")]
    assert watched.ended[0].request_bytes == 10
    assert watched.active == 0


async def test_a_client_that_leaves_a_stream_is_no_error(served):
    """The stream was open while it was there, and is not any more."""
    watched, port = served
    async with connected(port) as (reader, writer):
        writer.write(request("/events"))
        await reader.readuntil(b"data: 1")
        assert watched.value(OPEN, http_route="/events") == 1

    await all_told(watched, 1)
    assert watched.seen == [("client_disconnect", 200, "")]
    assert watched.value(OPEN) == watched.active == 0
    assert watched.value(DURATION) == 0


async def test_background_work_is_not_in_the_duration(served):
    """The answer was there long before."""
    watched, port = served
    async with connected(port) as (reader, writer):
        writer.write(request("/background"))
        await reader.readuntil(b"soon")

    await all_told(watched, 1)
    assert watched.ended[0].duration < 0.25
    assert watched.seen == [("success", 200, "")]


async def test_bytes_on_the_wire_are_the_bytes_that_are_counted(served):
    """In chunks, and both ways."""
    watched, port = served
    async with connected(port) as (reader, writer):
        writer.write(request("/upload", "transfer-encoding: chunked", method="POST"))
        for _ in range(8):
            writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
        writer.write(b"0\r\n\r\n")
        await reader.readuntil(b"8192")

    await all_told(watched, 1)
    assert (watched.ended[0].request_bytes, watched.ended[0].response_bytes) == (8192, 4)


async def test_a_websocket_is_one_connection(served):
    """With its messages, and closed by the client."""
    websockets = pytest.importorskip("websockets")
    watched, port = served
    async with websockets.connect(f"ws://127.0.0.1:{port}/echo") as socket:
        for at in range(20):
            await socket.send(str(at))
            assert await socket.recv() == str(at)
        assert watched.value("websocket_connections_active", http_route="/echo") == 1

    await all_told(watched, 1)
    assert watched.seen == [("success", 101, "")]
    assert watched.value("websocket_messages_total", http_route="/echo") == 40
    assert watched.value("websocket_connections_active") == 0


async def test_a_websocket_that_nobody_serves_is_refused(served):
    """A route that is not there."""
    websockets = pytest.importorskip("websockets")
    watched, port = served
    with pytest.raises(websockets.exceptions.InvalidStatus):
        await websockets.connect(f"ws://127.0.0.1:{port}/nowhere")

    await all_told(watched, 1)
    assert watched.seen == [("client_error", 403, "")]


async def test_a_server_that_stops_ends_what_is_open():
    """Requests that it cancels are no errors of the service."""
    watched = shop()
    async with running(watched.app, timeout_graceful_shutdown=0, log_config=None) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("/events"))

        async def is_open() -> bool:
            return watched.value(OPEN) == 1

        await eventually(is_open)
    writer.close()

    await all_told(watched, 1)
    assert [one[0] for one in watched.seen] == ["client_disconnect"]
    assert watched.value(OPEN) == watched.active == 0
