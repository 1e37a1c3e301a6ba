"""
The routes of Starlette and FastAPI: matched as the app matches.
"""

from __future__ import annotations

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.convertors import CONVERTOR_TYPES, Convertor
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute

from tests.support.quotas import limiter_of
from tests.support.tenancy import exchange, http_scope, websocket_scope
from twh_platform.errors import ConfigurationError
from twh_platform.quotas import MemoryQuotaStore, QuotaMiddleware, Rate, RouteTable


def route(table: RouteTable, path: str, method: str = "GET") -> str | None:
    """The answer for a request."""
    return table(http_scope(path, method=method))


async def endpoint(request) -> PlainTextResponse:
    """Answer with what was matched."""
    return PlainTextResponse("found")


async def asgi(scope, receive, send) -> None:
    """An app that shows no routes."""
    await PlainTextResponse("asgi")(scope, receive, send)


async def live(websocket) -> None:
    """A websocket endpoint."""
    await websocket.close()


class Slug(Convertor[str]):
    """A convertor of the service's own, with groups of its own."""

    regex = "([a-z]+)(-[a-z]+)*"

    def convert(self, value: str) -> str:
        """As it is."""
        return value

    def to_string(self, value: str) -> str:
        """As it is."""
        return value


@pytest.fixture
def routes(monkeypatch):
    """The routes of a Starlette app with one of everything."""
    monkeypatch.setitem(CONVERTOR_TYPES, "slug", Slug())
    inner = [Route("/", endpoint), Route("/{id:int}", endpoint, methods=["DELETE"])]
    return [
        Route("/items/{id}", endpoint),
        Route("/items/never", endpoint),
        Route("/any", PlainTextResponse("any method")),
        Route("/posts/{slug:slug}/{page:int}", endpoint),
        WebSocketRoute("/live/{room}", live),
        Mount("/admin/{area}", routes=inner),
        Mount("/static", app=asgi),
        Host("api.example.com", app=Router([Route("/hosted", endpoint)])),
        Route("/last/{id}", endpoint, methods=["PUT", "POST"]),
    ]


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/items/never", "GET /items/{id}"),
        ("POST", "/items/1", "/items/{id}"),
        ("PATCH", "/any", "PATCH /any"),
        ("GET", "/posts/a-b-c/7", "GET /posts/{slug}/{page}"),
        ("GET", "/posts/a-1/7", None),
        ("DELETE", "/admin/x/7", "DELETE /admin/{area}/{id}"),
        ("GET", "/admin/x/", "GET /admin/{area}/"),
        ("GET", "/admin/x/y", None),
        ("GET", "/static/a/b.css", "GET /static/{path}"),
        ("GET", "/hosted", "GET /hosted"),
        ("PUT", "/last/1", "PUT /last/{id}"),
        ("GET", "/live/1", "/live/{room}"),
    ],
)
def test_the_routes_of_starlette_are_read_in_order(routes, method, path, expected):
    """Mounts, hosts, convertors of one's own; the first that fits, as in the app."""
    assert route(RouteTable.of_starlette(routes), path, method) == expected


def test_the_websocket_routes_of_starlette_are_read(routes):
    """Under the method that they have here."""
    assert RouteTable.of_starlette(routes)(websocket_scope("/live/7")) == "WEBSOCKET /live/{room}"


def test_the_routes_of_fastapi_are_read():
    """Those of included routers, however deep, with all prefixes."""
    app, outer, inner = FastAPI(openapi_url=None), APIRouter(prefix="/v1"), APIRouter()
    inner.post("/items/{id:int}/parts")(endpoint)
    inner.mount("/static", asgi)
    outer.include_router(inner, prefix="/shop")
    app.include_router(outer, prefix="/api")
    table = RouteTable.of_starlette(app.routes)

    assert (
        route(table, "/api/v1/shop/items/7/parts", "POST") == "POST /api/v1/shop/items/{id}/parts"
    )
    assert route(table, "/api/v1/shop/items/x/parts", "POST") is None
    assert route(table, "/api/v1/shop/static/a.css") == "GET /api/v1/shop/static/{path}"


def test_routes_declared_later_count():
    """The table is made when the first request comes."""
    app = FastAPI(openapi_url=None)
    table = RouteTable.of_starlette(app.routes)
    app.get("/late")(endpoint)

    assert route(table, "/late") == "GET /late"
    assert table.names() >= {"GET /late", "/late"}


def test_routes_of_another_framework_are_refused():
    """A table that is silently empty would count nothing."""
    table = RouteTable.of_starlette([object()])

    with pytest.raises(ConfigurationError, match="object is no route of Starlette"):
        table.names()


LOGINS = [
    Route("/auth/login", endpoint, methods=["POST"]),
    Route("/users/{id}/login", endpoint, methods=["POST"]),
    Route("/users/{id:int}", endpoint, methods=["POST"]),
    Mount("/mounted", routes=[Route("/login", endpoint, methods=["POST"])]),
    Mount("/files", app=asgi),
]


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "/", "\r", " ", "%0A", "\x00"])
@pytest.mark.parametrize(
    "path",
    ["/auth/login", "/users/7/login", "/users/7", "/mounted/login", "/files/a", "//auth/login"],
)
async def test_whatever_the_app_finds_the_table_finds(path, end):
    """Else a line break at the end would reach the handler and get round its limit."""
    scope = http_scope(path + end, method="POST")
    found = RouteTable.of_starlette(LOGINS)(scope)
    answer = await exchange(Starlette(routes=LOGINS), dict(scope))

    assert (answer.status == 200) <= (found is not None)


async def test_a_line_break_at_the_end_reaches_the_handler():
    """Control: looking the path up as it stands finds no route where the app does."""
    scope = http_scope("/auth/login\n", method="POST")
    answer = await exchange(Starlette(routes=LOGINS), dict(scope))

    assert answer.status == 200
    assert scope["path"] != "/auth/login"
    assert RouteTable.of_starlette(LOGINS)(scope) == "POST /auth/login"


async def test_a_line_break_at_the_end_reaches_another_route_inside_a_mount():
    """Which no table tells: the mounted routes are asked with the mount's own path."""
    app = Starlette(
        routes=[Mount("/api", routes=[Route("/{shop}/login", endpoint, methods=["POST"])])]
    )
    limiter = limiter_of(MemoryQuotaStore(), Rate(name="minute", limit=9, per=60))
    limited = QuotaMiddleware(app, limiter=limiter)
    scope = http_scope("/api/login\n", method="POST")
    control = await exchange(app, dict(scope))
    refusal = await exchange(limited, dict(scope))

    assert (control.status, RouteTable.of_starlette(app.routes)(scope)) == (200, None)
    assert (refusal.status, refusal.json["code"]) == (404, "not_found")
    assert (await exchange(limited, http_scope("/api/7/login", method="POST"))).status == 200
