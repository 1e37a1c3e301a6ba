"""
The middleware in Starlette and FastAPI apps, behind a real server, with clients that go away.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import fastapi
import httpx
import pytest
import websockets
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute

from tests.support.quotas import ACME, limiter_of
from tests.support.serving import eventually, running
from twh_platform.quotas import (
    ClientAddress,
    Concurrency,
    Limiter,
    MemoryQuotaStore,
    QuotaMiddleware,
    Rate,
    Rule,
    charge_actual,
)
from twh_platform.tenancy import HeaderResolver, MemoryTenantDirectory, TenantMiddleware

HOUR = Rate(name="hour", limit=100, per=3600)
IN_FLIGHT = Concurrency(name="in-flight", limit=2)
WHO = {"x-tenant-id": "acme"}


def made_of(*rules: Rule) -> Limiter:
    """A limiter in memory."""
    return limiter_of(MemoryQuotaStore(), *rules)


def stack(limiter: Limiter, **options) -> list[Middleware]:
    """The middlewares as a service lists them, the outermost first."""
    return [
        Middleware(
            TenantMiddleware,
            resolver=HeaderResolver(decides=True),
            directory=MemoryTenantDirectory([ACME]),
        ),
        Middleware(QuotaMiddleware, limiter=limiter, **options),
    ]


async def left(limiter: Limiter, name: str) -> int:
    """What is left of a rule."""
    decision = await limiter.peek(ACME)
    return next(one.remaining for one in decision.statuses if one.rule.name == name)


async def until_left(limiter: Limiter, name: str, amount: int) -> None:
    """Return when so much is left of a rule."""

    async def there() -> bool:
        return await left(limiter, name) == amount

    await eventually(there)


@contextlib.asynccontextmanager
async def client_of(app, **options) -> AsyncIterator[httpx.AsyncClient]:
    """Serve the app, and call it."""
    async with (
        running(app, **options) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=WHO) as client,
    ):
        yield client


def fastapi_app(limiter: Limiter, **options) -> fastapi.FastAPI:
    """An app whose routes are declared after its middleware."""
    app = fastapi.FastAPI(openapi_url=None, middleware=stack(limiter, **options))
    router = fastapi.APIRouter(prefix="/items")

    @router.get("/{item_id}")
    async def read(item_id: int, request: fastapi.Request) -> int:
        return item_id

    app.include_router(router)
    return app


def starlette_app(limiter: Limiter, **options) -> Starlette:
    """The same in Starlette, with a mount."""

    async def read(request) -> PlainTextResponse:
        return PlainTextResponse(str(request.path_params["item_id"]))

    routes = [Mount("/items", routes=[Route("/{item_id:int}", read)])]
    return Starlette(routes=routes, middleware=stack(limiter, **options))


@pytest.mark.parametrize("app_of", [fastapi_app, starlette_app])
async def test_the_fourth_request_in_an_hour_is_refused(app_of):
    """In both frameworks, with the routes found by themselves and fields on every answer."""
    hour = Rate(name="hour", limit=3, per=3600, routes=("GET /items/{item_id}",))
    async with client_of(app_of(made_of(hour))) as client:
        answers = [await client.get(f"/items/{number}") for number in range(4)]
        elsewhere = await client.get("/nowhere")

    assert [one.status_code for one in answers] == [200, 200, 200, 429]
    assert answers[0].headers["ratelimit"] == '"hour";r=2;t=1200'
    assert answers[3].json()["violated-policies"] == ["hour"]
    assert 1200 <= int(answers[3].headers["retry-after"]) <= 1260
    assert elsewhere.status_code == 404


async def test_costs_are_checked_against_the_routes_of_the_app():
    """A mistake shows when the middlewares are put together: at the start."""
    app = starlette_app(made_of(HOUR), costs={"GET /items/{id}": 5})

    with pytest.raises(ValueError, match=r"GET /items/\{id\}"):
        app.build_middleware_stack()


async def test_a_client_that_leaves_a_stream_frees_its_slot():
    """The app is told so by the server and stops; the charge stays."""
    limiter = made_of(HOUR, IN_FLIGHT)

    async def endless():
        while True:
            yield b"x" * 1000
            await asyncio.sleep(0.001)

    async def stream(_request) -> StreamingResponse:
        return StreamingResponse(endless())

    app = Starlette(routes=[Route("/stream", stream)], middleware=stack(limiter))
    async with client_of(app) as client:
        async with client.stream("GET", "/stream") as answer:
            await anext(answer.aiter_bytes())
            assert await left(limiter, "in-flight") == 1
        await until_left(limiter, "in-flight", 2)

    assert await left(limiter, "hour") == 99


async def test_a_stream_is_charged_what_it_really_was():
    """Stated while it runs, charged when it is over."""
    limiter = made_of(HOUR, IN_FLIGHT)

    async def rows(scope):
        for number in range(1, 8):
            charge_actual(scope, number)
            yield b"row\n"

    async def export(request) -> StreamingResponse:
        return StreamingResponse(rows(request.scope))

    app = Starlette(routes=[Route("/export", export)], middleware=stack(limiter))
    async with client_of(app) as client:
        await client.get("/export")

    assert await left(limiter, "hour") == 93
    assert await left(limiter, "in-flight") == 2


async def test_work_after_the_answer_holds_no_slot():
    """A background task runs when the client has everything."""
    limiter, seen = made_of(IN_FLIGHT), asyncio.Queue()

    async def work() -> None:
        seen.put_nowait(await left(limiter, "in-flight"))

    async def endpoint(_request) -> PlainTextResponse:
        return PlainTextResponse("ok", background=BackgroundTask(work))

    app = Starlette(routes=[Route("/", endpoint)], middleware=stack(limiter))
    async with client_of(app) as client:
        await client.get("/")
        remaining = await asyncio.wait_for(seen.get(), 30)

    assert remaining == 2


class Deadline:
    """A middleware that gives up on its app."""

    def __init__(self, app) -> None:
        self.app = app

    async def __call__(self, scope, receive, send) -> None:
        """Answer 504 after a moment."""
        try:
            async with asyncio.timeout(0.05):
                await self.app(scope, receive, send)
        except TimeoutError:
            await PlainTextResponse("too late", 504)(scope, receive, send)


async def test_a_request_that_is_given_up_on_gives_back():
    """It was cancelled before the answer began."""
    limiter = made_of(HOUR, IN_FLIGHT)

    async def hang(_request) -> None:
        await asyncio.Event().wait()

    app = Starlette(routes=[Route("/", hang)], middleware=[Middleware(Deadline), *stack(limiter)])
    async with client_of(app) as client:
        answer = await client.get("/")

    assert answer.status_code == 504
    assert await left(limiter, "hour") == 100
    assert await left(limiter, "in-flight") == 2


async def test_a_server_that_stops_gives_back_what_it_did_not_answer():
    """It cancels what still runs."""
    limiter, begun = made_of(HOUR, IN_FLIGHT), asyncio.Event()

    async def hang(_request) -> None:
        begun.set()
        await asyncio.Event().wait()

    app = Starlette(routes=[Route("/", hang)], middleware=stack(limiter))
    options = {"timeout_graceful_shutdown": 0.01, "log_level": "critical"}
    async with client_of(app, **options) as client:
        request = asyncio.create_task(client.get("/"))
        await begun.wait()
        assert await left(limiter, "hour") == 99
    with contextlib.suppress(httpx.HTTPError):
        await request

    await until_left(limiter, "hour", 100)
    assert await left(limiter, "in-flight") == 2


async def test_other_middleware_may_stand_in_between():
    """Also such that runs the app in a task of its own."""
    limiter = made_of(HOUR, IN_FLIGHT)

    async def dispatch(request, call_next):
        return await call_next(request)

    async def endpoint(_request) -> PlainTextResponse:
        return PlainTextResponse("ok")

    layers = [*stack(limiter), Middleware(BaseHTTPMiddleware, dispatch=dispatch)]
    app = Starlette(routes=[Route("/", endpoint)], middleware=layers)
    async with client_of(app) as client:
        answers = [await client.get("/") for _ in range(3)]

    assert [one.headers["ratelimit"].split(";")[1] for one in answers] == ["r=99", "r=98", "r=97"]
    assert await left(limiter, "in-flight") == 2


async def test_attempts_to_log_in_are_limited_by_address():
    """On the client's address alone: what the client writes into a header changes nothing."""
    login = Rate(name="login", limit=3, per=3600, scope="client", routes=("POST /auth/login",))

    async def refuse(_request) -> PlainTextResponse:
        return PlainTextResponse("wrong", 401)

    gate = Middleware(
        QuotaMiddleware,
        limiter=limiter_of(MemoryQuotaStore(), login),
        client_address=ClientAddress(),
    )
    app = Starlette(routes=[Route("/auth/login", refuse, methods=["POST"])], middleware=[gate])
    async with client_of(app, proxy_headers=False) as client:
        answers = [
            await client.post("/auth/login", headers={"x-forwarded-for": f"6.6.6.{number}"})
            for number in range(5)
        ]

    assert [one.status_code for one in answers] == [401, 401, 401, 429, 429]
    assert "ratelimit" not in answers[0].headers


def chat(limiter: Limiter) -> Starlette:
    """An app with one websocket that says everything back."""

    async def echo(websocket) -> None:
        await websocket.accept()
        async for message in websocket.iter_text():
            await websocket.send_text(message)

    return Starlette(routes=[WebSocketRoute("/chat", echo)], middleware=stack(limiter))


async def test_websockets_hold_slots_until_they_close():
    """The third is refused with 429; when one goes, politely or not, another may come."""
    limiter = made_of(IN_FLIGHT)
    async with running(chat(limiter)) as port:
        url = f"ws://127.0.0.1:{port}/chat"
        polite = await websockets.connect(url, additional_headers=WHO)
        rude = await websockets.connect(url, additional_headers=WHO)
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(url, additional_headers=WHO)
        await polite.close()
        await until_left(limiter, "in-flight", 1)
        rude.transport.abort()
        await until_left(limiter, "in-flight", 2)

    assert refused.value.response.status_code == 429
    assert polite.response.headers["ratelimit"] == '"in-flight";r=1'


async def test_a_websocket_is_charged_once_however_long_it_talks():
    """At its handshake."""
    limiter = made_of(HOUR)
    async with running(chat(limiter)) as port:
        url = f"ws://127.0.0.1:{port}/chat"
        async with websockets.connect(url, additional_headers=WHO) as websocket:
            for number in range(20):
                await websocket.send(str(number))
                assert await websocket.recv() == str(number)

    assert await left(limiter, "hour") == 99
