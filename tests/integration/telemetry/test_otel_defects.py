"""
What is known to be wrong with public instrumentation, shown on it and held by ours.
"""

from __future__ import annotations

import asyncio
import time

import pytest

pytest.importorskip("opentelemetry.sdk")
pytest.importorskip("opentelemetry.instrumentation.asgi")
pytest.importorskip("fastapi.telemetry")

from fastapi import FastAPI
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware as Contrib
from opentelemetry.trace import StatusCode
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from tests.support.spans import Watch, answering, call
from twh_platform.telemetry import HeadSampler


def _theirs(watch, app):
    return Contrib(app, tracer_provider=watch.telemetry.provider)


async def _item(request):
    return PlainTextResponse("x")


async def test_a_path_is_in_no_name():
    """Theirs names a span after what the client sent; ours after the template or nothing."""
    watch = Watch()
    app = Starlette(routes=[Mount("/t/{tenant}", routes=[Route("/items/{item}", _item)])])

    await call(_theirs(watch, app), "/t/acme/items/7")
    theirs = watch.server_spans[-1].name
    await call(watch.around(app), "/t/acme/items/7")
    await call(watch.around(app), "/wp-login.php")

    assert theirs == "GET /t/acme/items/7"
    assert watch.server_spans[-2].name == "GET /t/{tenant}/items/{item}"
    assert watch.server_spans[-1].name == "GET"


async def test_background_work_is_in_neither_span_nor_metric():
    """Ours ends with the last message, and both read the same clock."""
    watch, ended = Watch(), []

    def work():
        time.sleep(0.2)

    async def item(request):
        return PlainTextResponse("x", background=BackgroundTask(work))

    app = Starlette(routes=[Route("/", item)])
    await call(watch.around(app, access=ended.append))

    length = watch.span.end_time - watch.span.start_time
    assert length == round(ended[0].duration * 1e9)
    assert length < 0.2e9


async def test_a_client_that_leaves_is_told():
    """FastAPI's own makes it an error, contrib's says nothing; ours is an outcome."""
    watch = Watch()
    app = FastAPI(telemetry={"tracer_provider": watch.telemetry.provider})

    @app.get("/")
    async def slow():
        await asyncio.Event().wait()

    async def leaving(scope, receive, send):
        await slow()

    async def left(app):
        task = asyncio.create_task(call(app))
        await asyncio.sleep(0.1)
        task.cancel()
        await task

    for one in (app, _theirs(watch, leaving), watch.around(app)):
        with pytest.raises(asyncio.CancelledError):
            await left(one)

    native, contrib, ours = watch.server_spans
    assert native.status.status_code is StatusCode.ERROR
    assert "http.response.status_code" not in contrib.attributes
    assert ours.status.status_code is StatusCode.UNSET
    assert ours.attributes["platform.outcome"] == "client_disconnect"


async def _talk(app, messages):
    inbox = [{"type": "websocket.connect"}]
    inbox += [{"type": "websocket.receive", "text": "x"}] * messages
    inbox += [{"type": "websocket.disconnect", "code": 1000}]
    waiting = iter(inbox)

    async def receive():
        return next(waiting)

    async def send(message):
        pass

    scope = {"type": "websocket", "path": "/", "headers": [], "server": ("127.0.0.1", 80)}
    await app({**scope, "scheme": "ws", "query_string": b"", "root_path": ""}, receive, send)


async def _echo(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": "x"})


async def test_a_websocket_is_one_span():
    """Theirs makes one for each message."""
    watch = Watch()

    await _talk(_theirs(watch, _echo), 20)
    theirs = len(watch.spans)
    watch.memory.clear()
    await _talk(watch.around(_echo), 20)

    assert theirs == 44
    assert len(watch.spans) == 1


async def test_a_strangers_flag_costs_nothing():
    """Theirs records all of 300, since each says that it is to be recorded."""
    watch = Watch(ratio=0.01)
    app, theirs = watch.around(answering), _theirs(watch, answering)

    for one in (theirs, app):
        watch.memory.clear()
        for number in range(1, 301):
            sent = f"00-{number:032x}-b7ad6b7169203331-01".encode()
            await call(one, headers=[(b"traceparent", sent)])
        if one is theirs:
            assert len(watch.server_spans) == 300

    assert len(watch.server_spans) < 30


async def test_secrets_are_in_no_span():
    """Query, cookie, authorization, the text of an exception: not one of them."""
    watch = Watch(tracing={"traces": True, "request_headers": ["x-shop"]})
    secret = b"hunter2"
    headers = [(b"authorization", b"Bearer " + secret), (b"cookie", b"s=" + secret)]

    async def app(scope, receive, send):
        message = scope["query_string"].decode()
        raise LookupError(message)

    for ratio in (1.0, 0.0):
        watched = watch.around(app, sampler=HeadSampler(ratio=ratio))
        with pytest.raises(LookupError):
            await call(watched, query=b"password=" + secret, headers=headers)

    assert len(watch.spans) == 2
    assert not any("hunter2" in span.to_json() for span in watch.spans)
