"""
Body limits and security headers behind a real server, with both of its parsers.
"""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
import websockets
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute

from tests.support.serving import PATIENCE, running
from twh_platform.errors import WebhookError
from twh_platform.webhooks import (
    BodyLimitMiddleware,
    SecurityHeadersMiddleware,
    StandardSecret,
    WebhookMiddleware,
    sign,
)

LIMIT = 64 * 1024
PARSERS = pytest.mark.parametrize("http", ["h11", "httptools"])

reads = []


async def size(request):
    """How much came; what the app saw of it is kept."""
    try:
        return PlainTextResponse(str(len(await request.body())))
    except WebhookError as error:
        reads.append(error.code)
        raise


async def failing(request):
    """An error that nobody has foreseen."""
    raise ZeroDivisionError


async def echo(websocket):
    """Accepts, says one thing, and goes."""
    await websocket.accept(headers=[(b"x-mine", b"1")])
    await websocket.send_text("hello")
    await websocket.close()


ROUTES = [
    Route("/", size, methods=["GET", "POST"]),
    Route("/failing", failing),
    WebSocketRoute("/ws", echo),
]


@pytest.fixture(autouse=True)
def nothing_read():
    """What apps saw is of one test."""
    reads.clear()


async def said(port: int, *parts: bytes) -> bytes:
    """What a server answers to these bytes until it hangs up."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for part in parts:
            writer.write(part)
            await writer.drain()
        answer = await reader.read()
        writer.close()
        return answer


def problem(answer: bytes) -> tuple[bytes, str]:
    """The status line and the code."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.split(b"\r\n")[0].split(b" ")[1], json.loads(body)["code"]


async def posted(port: int, content, headers=None) -> httpx.Response:
    """The answer to a request with a body, or with the chunks of one."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client:
        return await client.post("/", content=content, headers=headers)


async def chunks(count: int):
    """A body of so many times 8 KiB that does not say how long it is."""
    for _ in range(count):
        yield b"x" * 8192


@PARSERS
async def test_a_body_of_the_limit_is_taken(http):
    """With its length, and without."""
    async with running(
        BodyLimitMiddleware(Starlette(routes=ROUTES), limit=LIMIT), http=http
    ) as port:
        declared = await posted(port, b"x" * LIMIT)
        chunked = await posted(port, chunks(8))

    assert declared.text == chunked.text == str(LIMIT)


@PARSERS
async def test_a_declared_body_is_refused_before_it_is_sent(http):
    """A client that asks for leave to send gets its answer in place of it."""
    app = BodyLimitMiddleware(Starlette(routes=ROUTES), limit=LIMIT)
    head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 65537\r\nexpect: 100-continue\r\n\r\n"
    async with running(app, http=http) as port:
        answer = await said(port, head)

    assert b"100 Continue" not in answer
    assert problem(answer) == (b"413", "body_too_large")
    assert reads == []


@PARSERS
async def test_an_endless_body_is_refused_at_the_limit(http):
    """The app sees why, the client too, and the connection is closed on it."""
    app = BodyLimitMiddleware(Starlette(routes=ROUTES), limit=LIMIT, linger=0.1)
    head = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    chunk = b"2000\r\n" + b"x" * 8192 + b"\r\n"
    async with running(app, http=http) as port:
        answer = await said(port, head, chunk * 8 + b"1\r\nx\r\n")

    assert problem(answer) == (b"413", "body_too_large")
    assert reads == ["body_too_large"]


@PARSERS
@pytest.mark.parametrize("linger", [PATIENCE, 0])
async def test_who_sends_all_before_it_listens_gets_the_answer(http, linger):
    """Control: with the connection closed at once it sees a reset."""
    app = BodyLimitMiddleware(Starlette(routes=ROUTES), limit=LIMIT, linger=linger)
    seen = []
    async with running(app, http=http) as port:
        for content in (b"x" * 20_000_000, chunks(2_000)):
            try:
                seen.append((await posted(port, content)).status_code)
            except (httpx.ReadError, httpx.WriteError):
                seen.append("reset")

    assert seen == ([413, 413] if linger else ["reset", "reset"])


@PARSERS
@pytest.mark.parametrize("inside", [True, False])
async def test_starlette_answers_nothing_else(http, inside):
    """Its own 500 for an error in a handler is not sent, wherever the limit stands."""
    middleware = [Middleware(BodyLimitMiddleware, limit=LIMIT)] if inside else []
    app = Starlette(routes=ROUTES, middleware=middleware)
    served = app if inside else BodyLimitMiddleware(app, limit=LIMIT)
    async with running(served, http=http) as port:
        answer = await posted(port, chunks(9))

    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


async def test_base_http_middleware_changes_nothing():
    """It runs the app in a task of its own, and wraps errors in groups."""

    async def passing(request, call_next):
        return await call_next(request)

    app = Starlette(routes=ROUTES, middleware=[Middleware(BaseHTTPMiddleware, dispatch=passing)])
    async with running(BodyLimitMiddleware(app, limit=LIMIT)) as port:
        answer = await posted(port, chunks(9))

    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(("limit", "inner"), [(LIMIT, 2 * LIMIT), (2 * LIMIT, LIMIT)])
async def test_around_webhooks_the_lower_limit_counts(limit, inner):
    """With one answer, and a genuine body below both is taken."""
    secret = StandardSecret.generate()
    app = Starlette(routes=ROUTES)
    app = BodyLimitMiddleware(WebhookMiddleware(app, secret, limit=inner), limit=limit)
    good = sign(b"x" * LIMIT, secret)
    async with running(app) as port:
        refused = await posted(port, chunks(9), headers=good.headers)
        taken = await posted(port, good.body, headers=good.headers)

    assert (refused.status_code, refused.json()["code"]) == (413, "body_too_large")
    assert taken.text == str(LIMIT)


async def test_fastapi_does_not_call_it_a_parsing_error():
    """It makes a 400 of any error while it reads; the client gets ours."""
    app = FastAPI()

    @app.post("/")
    async def typed(item: dict[str, str]):
        """Never called."""

    async with running(BodyLimitMiddleware(app, limit=LIMIT)) as port:
        answer = await posted(port, chunks(9))

    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


@PARSERS
async def test_a_client_that_hangs_up_ends_the_request(http):
    """Less came than was said: the app sees the disconnect, and is not kept waiting."""
    ended = asyncio.Event()

    async def app(scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass
        ended.set()

    async with running(BodyLimitMiddleware(app, limit=LIMIT), http=http) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nxx")
        await writer.drain()
        writer.close()
        async with asyncio.timeout(PATIENCE):
            await ended.wait()


@PARSERS
async def test_a_length_that_lies_hides_no_second_request(http):
    """Chunked wins in the server; what was declared beside it is held against the request."""
    app = BodyLimitMiddleware(Starlette(routes=ROUTES), limit=LIMIT)
    head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n"
    async with running(app, http=http) as port:
        answer = await said(port, head, b"8\r\n12345678\r\n0\r\n\r\n")

    assert answer.split(b" ")[1] == b"400"


@PARSERS
async def test_answers_have_the_security_headers(http):
    """Those of the app and our own refusals, and HSTS only where we are told of TLS."""
    app = BodyLimitMiddleware(Starlette(routes=ROUTES), limit=LIMIT)
    async with running(SecurityHeadersMiddleware(app, https=True), http=http) as port:
        good = await posted(port, b"x")
        refused = await posted(port, b"x" * (LIMIT + 1))
    async with running(SecurityHeadersMiddleware(app), http=http) as port:
        plain = await posted(port, b"x")

    assert good.headers["x-content-type-options"] == refused.headers["x-content-type-options"]
    assert "strict-transport-security" in good.headers
    assert "strict-transport-security" not in plain.headers


async def test_starlettes_last_answer_needs_the_middleware_outside():
    """Control: what is added with add_middleware stands within what answers 500."""
    around = SecurityHeadersMiddleware(Starlette(routes=ROUTES))
    within = Starlette(routes=ROUTES, middleware=[Middleware(SecurityHeadersMiddleware)])
    answers = []
    for app in (around, within):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
            answers.append(await client.get("/failing"))

    assert [one.status_code for one in answers] == [500, 500]
    assert ["x-frame-options" in one.headers for one in answers] == [True, False]


async def test_handshakes_have_the_security_headers():
    """Beside what the app has set."""
    app = SecurityHeadersMiddleware(Starlette(routes=ROUTES), https=True)
    async with (
        running(app) as port,
        websockets.connect(f"ws://127.0.0.1:{port}/ws") as connection,
    ):
        headers = connection.response.headers
        assert await connection.recv() == "hello"

    assert (headers["x-mine"], headers["x-frame-options"]) == ("1", "DENY")
    assert headers["strict-transport-security"] == "max-age=31536000"
