"""
The receivers of examples/webhooks, served and sent what receivers are sent.
"""

from __future__ import annotations

import base64
import importlib
import re
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from wsgiref.simple_server import WSGIRequestHandler, make_server

import flask
import httpx
import pytest

from tests.support.serving import PATIENCE, running
from twh_platform.webhooks import Signer, StandardSecret, new_event_id

ASGI = {"starlette": "app", "fastapi": "app"}
WSGI = {"flask": "app", "django": "application", "wsgi": "application"}
SERVED = pytest.mark.parametrize("name", [*ASGI, *WSGI])

# Spaces, an order and an escape that nobody would write again the same way.
BODY = b'{ "type":"order.paid",  "data" : {"z": 1.0, "a": "\\u00e9"} }'
EVENT = {"type": "order.paid", "data": {"z": 1.0, "a": "é"}}

REQUEST_ID = re.compile(rb"[0-9a-f]{32}")

SECRET = StandardSecret.generate()
SIGNER = Signer(SECRET)


@pytest.fixture(autouse=True)
def secret(monkeypatch):
    """Where the receivers look for it."""
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET.reveal())


def receiver(name):
    """The module, which has handled nothing yet."""
    module = importlib.import_module(f"examples.webhooks.{name}_receiver")
    module.handled.clear()
    return module


class Quiet(WSGIRequestHandler):
    """Says nothing of requests."""

    def log_message(self, *_):
        """Nowhere."""


@contextmanager
def running_wsgi(app):
    """Serve with the standard library on loopback, in a thread; give the port."""
    server = make_server("127.0.0.1", 0, app, handler_class=Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@asynccontextmanager
async def serving(name):
    """Serve a receiver; give it and its port."""
    module = receiver(name)
    if name in ASGI:
        async with running(module.app) as port:
            yield module, port
    else:
        with running_wsgi(getattr(module, WSGI[name])) as port:
            yield module, port


async def post(port, body, headers, content_type="application/json"):
    """One delivery."""
    pairs = [*dict(headers).items()] if not isinstance(headers, list) else headers
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        return await client.post(
            f"http://127.0.0.1:{port}/webhooks",
            content=body,
            headers=[*pairs, ("content-type", content_type)],
        )


@SERVED
async def test_a_genuine_event_is_handled_once(name):
    """Delivered twice, signed anew for each attempt under one id."""
    event_id = new_event_id()
    async with serving(name) as (module, port):
        for _ in range(2):
            request = SIGNER.sign(BODY, event_id=event_id)
            assert (await post(port, BODY, request.headers)).is_success

    assert module.handled == {event_id: EVENT}


@SERVED
@pytest.mark.parametrize(
    "content_type",
    ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain"],
)
async def test_the_bytes_are_verified_whatever_they_are_called(name, content_type):
    """A framework that parses by the content type first has none left."""
    async with serving(name) as (module, port):
        request = SIGNER.sign(BODY)
        answer = await post(port, BODY, request.headers, content_type)

    assert answer.status_code == 204
    assert module.handled == {request.id: EVENT}


@SERVED
async def test_forgeries_get_one_answer(name):
    """Tampered with, old, ahead, of another key, with a header twice, with none."""
    good = SIGNER.sign(BODY).headers
    forged = [
        (BODY.replace(b"paid", b"lost"), good),
        (BODY, SIGNER.sign(BODY, timestamp=int(time.time()) - 3_600).headers),
        (BODY, SIGNER.sign(BODY, timestamp=int(time.time()) + 3_600).headers),
        (BODY, Signer(StandardSecret.generate()).sign(BODY).headers),
        (BODY, [*good.items(), ("Webhook-Id", good["webhook-id"])]),
        (BODY, {}),
    ]
    async with serving(name) as (module, port):
        answers = [await post(port, body, headers) for body, headers in forged]

    assert [one.status_code for one in answers] == [401] * len(forged)
    assert len({REQUEST_ID.sub(b"", one.content) for one in answers}) == 1
    assert module.handled == {}


@SERVED
async def test_what_is_genuine_and_no_json_is_told_apart(name):
    """The sender made a mistake, and nobody attacks."""
    body = b'{"type": NaN}'
    async with serving(name) as (module, port):
        answer = await post(port, body, SIGNER.sign(body).headers)

    assert answer.status_code == 400
    assert module.handled == {}


@SERVED
async def test_what_is_too_large_is_refused(name):
    """Whoever signed it."""
    body = b'"' + b"x" * 65_536 + b'"'
    async with serving(name) as (module, port):
        answer = await post(port, body, SIGNER.sign(body).headers)

    assert answer.status_code == 413
    assert module.handled == {}


def version_1(body, headers, *, encoded):
    """What a REST API of the gateway hands to a function."""
    pairs = headers if isinstance(headers, list) else [(k.title(), v) for k, v in headers.items()]
    several = {}
    for header, value in pairs:
        several.setdefault(header, []).append(value)
    return {
        "version": "1.0",
        "httpMethod": "POST",
        "headers": dict(pairs),
        "multiValueHeaders": several,
        "body": base64.b64encode(body).decode() if encoded else body.decode(),
        "isBase64Encoded": encoded,
    }


def version_2(body, headers, *, encoded):
    """What an HTTP API of the gateway, or a function URL, hands to a function."""
    pairs = headers if isinstance(headers, list) else list(headers.items())
    joined = {}
    for header, value in pairs:
        joined[header] = f"{joined[header]},{value}" if header in joined else value
    return {
        "version": "2.0",
        "headers": joined,
        "body": base64.b64encode(body).decode() if encoded else body.decode(),
        "isBase64Encoded": encoded,
    }


GATEWAYS = pytest.mark.parametrize("gateway", [version_1, version_2])
ENCODED = pytest.mark.parametrize("encoded", [True, False])


@GATEWAYS
@ENCODED
def test_lambda_handles_a_genuine_event_once(gateway, encoded):
    """As text and in base64, with letters beyond ASCII."""
    module, body = receiver("lambda"), '{"name": "Zoë"}'.encode()
    for _ in range(2):
        request = SIGNER.sign(body, event_id="msg_1")
        event = gateway(body, request.headers, encoded=encoded)
        assert module.handler(event, None) == {"statusCode": 204}

    assert module.handled == {"msg_1": {"name": "Zoë"}}


@GATEWAYS
@ENCODED
def test_lambda_gives_forgeries_one_answer(gateway, encoded):
    """Tampered with, old, with a header twice, with none."""
    module, good = receiver("lambda"), SIGNER.sign(BODY).headers
    forged = [
        (BODY + b" ", good),
        (BODY, SIGNER.sign(BODY, timestamp=int(time.time()) - 3_600).headers),
        (BODY, [*good.items(), ("webhook-id", good["webhook-id"])]),
        (BODY, {}),
    ]
    answers = [module.handler(gateway(*one, encoded=encoded), None) for one in forged]

    assert answers == [{"statusCode": 401}] * len(forged)


@GATEWAYS
@pytest.mark.parametrize("body", ["e30", "e30=\n", "e3 0=", "e3-_", "é", "=", "{}"])
def test_lambda_refuses_what_is_no_base64(gateway, body, caplog):
    """The log says what it is and nothing of it; Python alone skips what it does not know."""
    event = gateway(b"{}", SIGNER.sign(b"{}").headers, encoded=True)

    answer = receiver("lambda").handler({**event, "body": body}, None)

    assert answer == {"statusCode": 400}
    assert caplog.messages == [
        "webhook refused: its body is not in the encoding that the event says"
    ]


def test_lambda_refuses_text_that_is_none():
    """An escape of JSON that stands for half a character has no bytes."""
    assert receiver("lambda").handler({"body": "\ud800"}, None) == {"statusCode": 400}


def test_lambda_takes_what_a_gateway_leaves_out():
    """No body, no headers, null for either."""
    module = receiver("lambda")
    for event in ({}, {"headers": None, "body": None}, {"isBase64Encoded": True}):
        assert module.handler(event, None) == {"statusCode": 401}


def test_the_bytes_are_gone_for_who_looks_late():
    """Control: why Flask's receiver keeps them before anybody reads the form."""
    app = flask.Flask("late")

    @app.post("/")
    def late():
        assert flask.request.form is not None
        return flask.request.get_data()

    answer = app.test_client().post(
        "/", data=b"a=1", content_type="application/x-www-form-urlencoded"
    )
    assert answer.data == b""
