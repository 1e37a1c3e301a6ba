"""
The client that talks to an app in this process.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from twh_platform import Tenant, bind_tenant, current_tenant
from twh_platform.errors import ConfigurationError
from twh_platform.testing import AppClient, AppRequest


async def answer(send: Any, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    """
    Answer a request.
    """
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def echo(scope, receive, send) -> None:
    """An app that tells what it was asked."""
    names = ("method", "path", "raw_path", "query_string", "headers")
    body = (await receive())["body"]
    told = {**{name: repr(scope[name]) for name in names}, "body": body.decode()}
    await answer(send, 201, json.dumps(told).encode(), (b"X-One", b"1"))


async def test_the_app_is_asked_as_by_a_server():
    """Path, query, headers and body arrive as ASGI says."""
    request = AppRequest.of("PUT /a%2Fb/ö?c=%20d", json=[1], headers={"X-Who": "me"})

    got = await AppClient(echo).send(request)

    told = got.json()
    assert (got.status, got.header("X-One")) == (201, "1")
    assert (told["path"], told["raw_path"]) == ("'/a/b/ö'", "b'/a%2Fb/%C3%B6'")
    assert (told["query_string"], told["body"]) == ("b'c=%20d'", "[1]")
    assert "(b'x-who', b'me')" in told["headers"]
    assert "(b'content-length', b'3')" in told["headers"]


def test_a_header_takes_the_place_of_its_like():
    """The second authorization is the one that counts."""
    request = AppRequest.of("GET /", headers={"Authorization": "a"})

    assert request.with_header("authorization", "b").headers == (("authorization", "b"),)
    assert str(request.with_path("/t/acme/")) == "GET /t/acme/"


def test_a_path_begins_with_a_slash():
    """A request that names no path is a mistake."""
    with pytest.raises(ConfigurationError, match="slash"):
        AppRequest.of("/items")


async def test_no_tenant_reaches_the_app():
    """A tenant that the test has bound is not the app's."""

    async def who(scope, receive, send) -> None:
        await answer(send, 200, str(current_tenant()).encode())

    with bind_tenant(Tenant(id="acme")):
        got = await AppClient(who).send(AppRequest.of("GET /"))

    assert got.text == "None"


async def test_an_app_that_raises_has_answered_500():
    """The error is kept for the one who asks."""

    async def broken(scope, receive, send) -> None:
        raise RuntimeError("boom")

    got = await AppClient(broken).send(AppRequest.of("GET /"))

    assert (got.status, repr(got.error)) == (500, "RuntimeError('boom')")


async def test_a_stream_without_end_is_given_up():
    """What came so far is the answer, and the app is told to stop."""
    ended = asyncio.Event()

    async def ticking(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"tick ", "more_body": True})
                await asyncio.sleep(0)
        finally:
            ended.set()

    full = await AppClient(ticking, max_body_bytes=12).send(AppRequest.of("GET /"))
    short = await AppClient(ticking, timeout=0.01).send(AppRequest.of("GET /"))

    assert (full.body, full.complete) == (b"tick tick ti", False)
    assert (short.body[:4], short.complete) == (b"tick", False)
    assert ended.is_set()


async def test_an_app_that_says_nothing_has_answered_504():
    """A hang is an answer too."""

    async def silent(scope, receive, send) -> None:
        await asyncio.Event().wait()

    got = await AppClient(silent, timeout=0.01).send(AppRequest.of("GET /"))

    assert (got.status, got.complete) == (504, False)


class Living:
    """
    An app with a lifespan.
    """

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.said: list[str] = []

    async def __call__(self, scope, receive, send) -> None:
        """Serve the lifespan, or tell its state."""
        if scope["type"] == "http":
            await answer(send, 200, scope["state"]["greeting"].encode())
            return
        scope["state"]["greeting"] = "hello"
        for event in ("startup", "shutdown"):
            self.said.append((await receive())["type"])
            failed = ".failed" if self.fails == event else ".complete"
            await send({"type": f"lifespan.{event}{failed}", "message": "no"})


async def test_the_lifespan_is_around_the_requests():
    """The app starts up, shares its state, and shuts down."""
    app = Living()

    async with AppClient(app) as client:
        got = await client.send(AppRequest.of("GET /"))
        before = list(app.said)

    assert got.text == "hello"
    assert (before, app.said) == (
        ["lifespan.startup"],
        ["lifespan.startup", "lifespan.shutdown"],
    )


async def test_a_failed_startup_is_said():
    """An app that cannot start is not asked anything."""
    with pytest.raises(ConfigurationError, match="failed at startup: no"):
        async with AppClient(Living("startup")):
            pass


async def test_an_app_without_lifespan_is_fine():
    """An app that knows requests alone is asked all the same."""
    async with AppClient(echo) as client:
        assert (await client.send(AppRequest.of("GET /"))).status == 201
