"""
Route templates as the frameworks themselves leave them.

The newest FastAPI is installed.  What 0.115 and 0.136 leave behind was checked
with the same apps: before 0.137 an included route was an object of its own.
"""

from __future__ import annotations

import gc
import sys
import weakref

import pytest

pytest.importorskip("starlette")

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute
from starlette.staticfiles import StaticFiles

from tests.support.routes import Copying, scope_of, serve, told
from twh_platform.telemetry import (
    RouteTemplates,
    RouteWitness,
    django_routes,
    set_route,
    watch_quart,
)
from twh_platform.tenancy import MemoryTenantDirectory, PathResolver, Tenant, TenantMiddleware


async def answer(_request):
    """
    Answer anything.
    """
    return PlainTextResponse("answer")


async def talk(websocket):
    """
    Accept and leave.
    """
    await websocket.accept()
    await websocket.close()


def inner_routes(folder):
    """
    Build the routes of an app to be mounted.
    """
    return [
        Route("/in/{b:int}", answer),
        Mount("/static", StaticFiles(directory=folder)),
        WebSocketRoute("/feed/{name}", talk),
    ]


@pytest.fixture
def starlette(tmp_path):
    """
    An app with every kind of route, one mounted app twice.
    """
    twice = Starlette(routes=inner_routes(tmp_path))
    return Starlette(
        routes=[
            Route("/", answer),
            Route("/items/{id:int}", answer, methods=["POST"]),
            Mount("/t/{tenant}", twice),
            Mount("/u", twice),
            Mount("/wrapped", Copying(Starlette(routes=[Route("/w/{z}", answer)]))),
            Mount("/nested", Router([Mount("/deep/{d}", Router([Route("/{leaf}", answer)]))])),
            Host("{area}.example.org", Router([Route("/area/{a}", answer)])),
        ]
    )


STARLETTE = [
    ("/", "/"),
    ("POST /items/2", "/items/{id}"),
    ("/items/2", "/items/{id}"),  # 405
    ("/items/2/", "/items/{id}"),  # 307
    ("/items/x", None),
    ("/t/acme/in/1", "/t/{tenant}/in/{b}"),
    ("/t/globex/in/2", "/t/{tenant}/in/{b}"),
    ("/u/in/7", "/u/in/{b}"),
    ("/t/acme/static/a.css", "/t/{tenant}/static/{path}"),
    ("/u/static/b/c.js", "/u/static/{path}"),
    ("/t/acme/nowhere", None),
    ("/nowhere", None),
    ("/wrapped/w/1", "/wrapped/w/{z}"),
    ("/wrapped/nowhere", None),
    ("/nested/deep/1/2", "/nested/deep/{d}/{leaf}"),
    ("WEBSOCKET /u/feed/news", "/u/feed/{name}"),
    ("WEBSOCKET /t/acme/feed/news", "/t/{tenant}/feed/{name}"),
    ("WEBSOCKET /nowhere", None),
]


@pytest.mark.parametrize(("request_", "template"), STARLETTE)
async def test_starlette_leads_to_the_full_template(request_, template, starlette):
    """Mounts, hosts and twice mounted apps give one whole template for each way."""
    assert await told(starlette, request_) == template


@pytest.mark.parametrize(("request_", "template"), STARLETTE)
async def test_a_copied_scope_leads_to_the_same_template(request_, template, starlette):
    """Control: the scope outside shows no route; the template is found all the same."""
    scope = scope_of(request_)
    await serve(Copying(starlette), scope)

    assert "route" not in scope
    assert await told(Copying(starlette), request_) == template


async def test_a_host_of_its_own_keeps_its_routes(starlette):
    """A route below a host has its path as template."""
    headers = [(b"host", b"north.example.org:8000")]

    assert await told(starlette, "/area/1", headers=headers) == "/area/{a}"
    assert await told(Copying(starlette), "/area/1", headers=headers) == "/area/{a}"
    assert await told(Copying(starlette), "/area/1") is None


@pytest.mark.parametrize("root", ["/api", "/t/acme"])
async def test_the_root_path_is_no_part_of_the_template(root, starlette):
    """What a server or a tenant puts before the path is not in the label."""
    scope = {"root_path": root}

    assert await told(starlette, f"{root}/u/in/7", **scope) == "/u/in/{b}"
    assert await told(Copying(starlette), f"{root}/u/in/7", **scope) == "/u/in/{b}"


async def test_middleware_of_every_kind_may_stand_between(tmp_path):
    """Telemetry around the app, inside it, and behind BaseHTTPMiddleware sees the same."""

    class Base(BaseHTTPMiddleware):
        async def dispatch(self, request, call_next):
            return await call_next(request)

    app = Starlette(routes=inner_routes(tmp_path), middleware=[Middleware(Base)])

    assert await told(app, "/in/3") == "/in/{b}"
    assert await told(Base(Copying(app)), "/in/3") == "/in/{b}"


async def test_a_rewritten_path_is_seen_by_the_witness():
    """Middleware that changes the path in its copy hides the route, but not from the witness."""

    class Rewriting(Copying):
        async def __call__(self, scope, receive, send):
            await self.app({**scope, "path": "/new/1"}, receive, send)

    app = Starlette(routes=[Route("/new/{id}", answer)])

    assert await told(Rewriting(app), "/old/1") is None
    assert await told(Rewriting(RouteWitness(app)), "/old/1") == "/new/{id}"


async def test_a_tenant_in_the_path_gives_one_template():
    """`TenantMiddleware` hands on a copy without the tenant; the template is found in it."""
    tenants = [Tenant(id=name) for name in ("acme", "globex")]
    app = TenantMiddleware(
        Starlette(routes=[Mount("/v1", Router([Route("/items/{id}", answer)]))]),
        resolver=PathResolver("/t/{tenant}", decides=True),
        directory=MemoryTenantDirectory(tenants),
    )
    templates = RouteTemplates(app)

    found = {await told(app, f"/t/{one.id}/v1/items/1", templates=templates) for one in tenants}

    assert found == {"/v1/items/{id}"}
    assert await told(app, "/t/nobody/v1/items/1", templates=templates) is None


async def test_a_route_that_comes_later_is_found():
    """A route that was added after the first request gets its template at its first request."""
    app = Starlette(routes=[Route("/one", answer)])
    templates = RouteTemplates(app)
    await told(app, "/one", templates=templates)

    app.router.mount("/two", Router([Route("/{x}", answer)]))

    assert await told(app, "/two/2", templates=templates) == "/two/{x}"


async def test_an_app_is_met_where_none_was_named():
    """Without an app, the router that is left in the scope is read."""
    templates = RouteTemplates()
    first = Starlette(routes=[Route("/a/{x}", answer)])
    second = Starlette(routes=[Mount("/b", Router([Route("/{y}", answer)]))])

    assert await told(first, "/a/1", templates=templates) == "/a/{x}"
    assert await told(second, "/b/1", templates=templates) == "/b/{y}"


async def test_an_app_that_is_gone_leaves_nothing_behind():
    """The map keeps neither app nor route, nor the id of one that is gone."""
    templates = RouteTemplates()
    app = Starlette(routes=[Route("/a/{x}", answer)])
    await told(app, "/a/1", templates=templates)
    gone = weakref.ref(app)

    del app
    gc.collect()

    assert gone() is None
    assert templates.known.keys() <= {id(answer)}


async def test_sixty_routes_before_cost_no_look():
    """A finished route is found by identity: no expression is tried, however many come before."""
    routes = [Route(f"/r{n}/{{x}}", answer) for n in range(60)]
    app = Starlette(routes=[*routes, Route("/last/{x}", answer)])
    templates = RouteTemplates(app)
    await told(app, "/last/1", templates=templates)
    templates._map.scan = None

    assert await told(app, "/last/2", templates=templates) == "/last/{x}"


fastapi = pytest.importorskip("fastapi")


@pytest.fixture
def shared():
    """
    A router that is included in several places.
    """
    router = fastapi.APIRouter()

    @router.get("/in/{b}")
    async def get_it(b: str) -> str:
        return b

    @router.websocket("/ws/{b}")
    async def talk_to_it(websocket: fastapi.WebSocket, b: str) -> None:
        await talk(websocket)

    router.add_route("/plain/{c:path}", answer)
    return router


@pytest.fixture
def fast(shared):
    """
    A FastAPI app with prefixes, nested routers, and one sub-app twice.
    """
    middle = fastapi.APIRouter(prefix="/mid")
    middle.include_router(shared, prefix="/deep")
    sub = fastapi.FastAPI()
    sub.include_router(shared, prefix="/k")
    app = fastapi.FastAPI()
    app.include_router(shared, prefix="/p1")
    app.include_router(shared, prefix="/p2")
    app.include_router(middle)
    app.include_router(middle, prefix="/again")
    app.mount("/sub/{tenant}", sub)
    app.mount("/sub2", sub)

    @app.get("/first/{x}")
    @app.get("/second/{x}")
    async def both(x: str) -> str:
        return x

    return app


FASTAPI = [
    ("/p1/in/1", "/p1/in/{b}"),
    ("/p2/in/1", "/p2/in/{b}"),
    ("POST /p2/in/1", "/p2/in/{b}"),
    ("/p2/in/1/", "/p2/in/{b}"),
    ("/mid/deep/in/1", "/mid/deep/in/{b}"),
    ("/again/mid/deep/in/1", "/again/mid/deep/in/{b}"),
    ("/p1/plain/a/b", "/p1/plain/{c}"),
    ("/sub/acme/k/in/1", "/sub/{tenant}/k/in/{b}"),
    ("/sub2/k/in/1", "/sub2/k/in/{b}"),
    ("/sub2/k/plain/1", "/sub2/k/plain/{c}"),
    ("/first/1", "/first/{x}"),
    ("/second/1", "/second/{x}"),
    ("/docs", "/docs"),
    ("/sub/acme/docs", "/sub/{tenant}/docs"),
    ("/sub/acme/nowhere", None),
    ("/nowhere", None),
    ("WEBSOCKET /p1/ws/1", "/p1/ws/{b}"),
    ("WEBSOCKET /p2/ws/1", "/p2/ws/{b}"),
    ("WEBSOCKET /sub2/k/ws/1", "/sub2/k/ws/{b}"),
]


@pytest.mark.parametrize(("request_", "template"), FASTAPI)
async def test_fastapi_leads_to_the_full_template(request_, template, fast):
    """Prefixes of routers and of sub-apps are in the template, also below Starlette."""
    method, _, path = request_.rpartition(" ")
    below = Starlette(routes=[Mount("/f", fast)])

    assert await told(fast, request_) == template
    assert await told(Copying(fast), request_) == template
    assert await told(below, f"{method} /f{path}".strip()) == (template and f"/f{template}")


async def test_what_fastapi_leaves_is_not_the_template(fast):
    """Control: two prefixes leave one path in the scope, so a label made of it collides."""
    left = []
    for path in ("/p1/in/1", "/p2/in/1"):
        scope = scope_of(path)
        await serve(fast, scope)
        left.append(scope["route"].path)

    if not hasattr(fastapi.routing, "iter_route_contexts"):
        pytest.skip("before 0.137 the path of an included route was whole")
    assert left == ["/in/{b}", "/in/{b}"]


async def test_the_root_path_of_fastapi_is_no_part_of_the_template(fast):
    """Behind a proxy that strips its prefix, and before one that does not."""
    assert await told(fast, "/api/p1/in/1", root_path="/api") == "/p1/in/{b}"
    assert await told(fast, "/p1/in/1", root_path="/api") == "/p1/in/{b}"
    assert await told(fast, "/api/sub2/k/in/1", root_path="/api") == "/sub2/k/in/{b}"


async def test_a_router_that_is_included_later_is_found(fast, shared):
    """A new router is met at its first request; one that is met already, after a refresh."""
    templates = RouteTemplates(fast)
    await told(fast, "/p1/in/1", templates=templates)

    late = fastapi.APIRouter()
    late.add_api_route("/late/{x}", lambda x: x)
    fast.include_router(late, prefix="/v9")
    fast.include_router(shared, prefix="/p3")

    assert await told(fast, "/v9/late/1", templates=templates) == "/v9/late/{x}"
    assert templates.refresh()
    assert await told(fast, "/p3/in/1", templates=templates) == "/p3/in/{b}"


async def test_a_frontend_is_one_template(tmp_path):
    """FastAPI's folders of files leave no route; they are one template each."""
    if not hasattr(fastapi.FastAPI, "frontend"):
        pytest.skip("this FastAPI has no frontends")
    (tmp_path / "index.html").write_text("hello")
    app = fastapi.FastAPI()
    app.frontend("/app", directory=tmp_path)

    assert await told(app, "/app/index.html") == "/app/{path}"
    assert await told(app, "/other") is None


async def test_streams_and_errors_have_their_template():
    """A stream and a handler that raises are told as their route."""

    async def stream(_request):
        async def parts():
            yield b"one"

        return StreamingResponse(parts())

    async def fail(_request):
        raise ZeroDivisionError

    app = Starlette(routes=[Route("/stream/{id}", stream), Route("/fail/{id}", fail)])
    templates, scope = RouteTemplates(app), scope_of("/fail/1")
    with pytest.raises(ZeroDivisionError):
        await serve(app, scope)

    assert templates.template(scope) == "/fail/{id}"
    assert await told(app, "/stream/1", templates=templates) == "/stream/{id}"


@pytest.fixture
def litestar():
    """
    A Litestar app with a router and a mounted app.
    """
    framework = pytest.importorskip("litestar")

    @framework.get("/items/{id:int}", sync_to_thread=False)
    def item() -> str:
        return "item"

    @framework.get("/", sync_to_thread=False)
    def index() -> str:
        return "index"

    inner = Router([Route("/x", answer)])
    mounted = framework.asgi("/mounted", is_mount=True, copy_scope=True)(_typed(inner))
    router = framework.Router("/v1", route_handlers=[item, mounted])
    return framework.Litestar([router, index], openapi_config=None)


def _typed(app):
    from litestar.types import Receive, Scope, Send

    async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)

    mounted.__annotations__ = {"scope": Scope, "receive": Receive, "send": Send, "return": None}
    return mounted


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/", "/"),
        ("/v1/items/3", "/v1/items/{id}"),
        ("/v1/items/x", None),
        ("/v1/mounted/x", "/v1/mounted/{path}"),
        ("/nowhere", None),
    ],
)
async def test_litestar_leads_to_its_template(path, template, litestar):
    """What Litestar leaves is told without convertors, and by the witness from a copy."""
    below = Starlette(routes=[Mount("/l", litestar)])

    assert await told(litestar, path) == template
    assert await told(Copying(RouteWitness(litestar)), path) == template
    assert await told(below, f"/l{path}") == f"/l{template or '/{path}'}"


@pytest.fixture
def quart():
    """
    A watched Quart app with a blueprint.
    """
    framework = pytest.importorskip("quart")
    app, blueprint = framework.Quart("app"), framework.Blueprint("b", "b", url_prefix="/b")

    @blueprint.get("/items/<int:id>/<path:rest>")
    async def item(id, rest):  # noqa: A002 -- the name in the rule
        return rest

    @app.websocket("/feed/<name>")
    async def feed(name):
        await framework.websocket.accept()

    app.register_blueprint(blueprint)
    watch_quart(app)
    return app


@pytest.mark.parametrize(
    ("request_", "template"),
    [
        ("/b/items/3/some/where", "/b/items/{id}/{rest}"),
        ("/b/items/x/y", None),
        ("/nowhere", None),
        ("WEBSOCKET /feed/news", "/feed/{name}"),
    ],
)
async def test_quart_tells_its_rule(request_, template, quart):
    """One line tells the rule, whoever copies the scope, and below a mount."""
    below, under = Starlette(routes=[Mount("/q", quart)]), request_.replace("/", "/q/", 1)

    assert await told(Copying(quart), request_) == template
    assert await told(below, under) == f"/q{template or '/{path}'}"


async def _django_async(request, **_):
    from django.http import HttpResponse

    return HttpResponse("async")


def _django_sync(request, **_):
    from django.http import HttpResponse

    return HttpResponse("sync")


def _django_fails(request, **_):
    raise ZeroDivisionError


@pytest.fixture(scope="module")
def django():
    """
    A Django site behind its ASGI handler.
    """
    pytest.importorskip("django")
    from django.conf import settings
    from django.core.asgi import get_asgi_application
    from django.urls import include, path, re_path
    from django.utils.functional import empty

    below = [path("pages/<slug:page>/", _django_async)]
    site = type(sys)("tests_of_routes_site")
    site.urlpatterns = [
        path("items/<int:pk>/", _django_async),
        path("sync/<str:name>/", _django_sync),
        path("fails/<int:pk>/", _django_fails),
        re_path(r"^year/(?P<year>[0-9]{4}(?:-[0-9]+)?)/(\w+)\.html$", _django_async),
        path("below/<int:site>/", include(below)),
    ]
    sys.modules[site.__name__] = site
    # Django has one site in a process; others have tests too.
    others, settings._wrapped = settings._wrapped, empty
    settings.configure(
        ROOT_URLCONF=site.__name__,
        ALLOWED_HOSTS=["*"],
        SECRET_KEY="for tests of routes",
        MIDDLEWARE=["twh_platform.telemetry.django_routes"],
        LOGGING_CONFIG=None,
    )
    yield get_asgi_application()
    settings._wrapped = others


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/items/3/", "/items/{pk}/"),
        ("/sync/x/", "/sync/{name}/"),
        ("/fails/3/", "/fails/{pk}/"),
        ("/year/2026-1/may.html", "/year/{year}/{value}.html"),
        ("/below/3/pages/first/", "/below/{site}/pages/{page}/"),
        ("/items/x/", None),
        ("/nowhere", None),
    ],
)
@pytest.mark.filterwarnings("ignore:.*StreamingHttpResponse.*")
async def test_django_tells_its_route(path, template, django):
    """The middleware tells paths and expressions as templates, also through a copy."""
    assert await told(Copying(django), path) == template


def test_django_is_told_by_views_that_do_not_wait():
    """Under WSGI the middleware is a plain function."""
    request = type("Request", (), {"resolver_match": None})()

    assert django_routes(lambda _: "answer")(request) == "answer"
    assert set_route("/outside") is None
