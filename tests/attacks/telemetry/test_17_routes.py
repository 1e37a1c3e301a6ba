"""
Attacks 17, 19, 23 and 27: labels out of routes, what they cost, and on which versions.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import tomllib

import pytest

pytest.importorskip("starlette")
pytest.importorskip("fastapi")

from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from tests.attacks.telemetry._peers import anchor
from tests.support.routes import scope_of, serve
from tests.support.telemetry import Watched, http

DURATION = "http_server_request_duration_seconds_count"


async def answer(request):
    """Answer."""
    return PlainTextResponse("x")


async def test_17_has_two_routes_told_as_one(twh_attack):
    """A template is the whole way through the app, by the identity of its last route."""
    attack = twh_attack(number=17, title="has several routes told as one")
    routes = [Route("/in/{b}", answer)]
    app = Starlette(routes=[Mount("/p1", routes=routes), Mount("/p2/{t}", routes=list(routes))])
    watched, left = Watched(app), []
    for path in ("/p1/in/1", "/p2/acme/in/1", "/p2/evil/in/2"):
        scope = scope_of(path)
        await serve(app, scope)
        left.append(scope["route"].path)
        await watched.get(http(path))
    attack.control(2 - len(set(left)))

    templates = {"/p1/in/{b}", "/p2/{t}/in/{b}"}
    attack.ours(templates ^ watched.labels(DURATION, "http_route"))


def test_19_is_held_to_one_version_of_the_sdk(project_root, twh_attack):
    """Ours asks for a lowest version, and imports no names out of a package that may change."""
    anchor("opentelemetry.instrumentation.asgi")
    attack = twh_attack(number=19, title="holds an SDK to one version")
    asked = importlib.metadata.requires("opentelemetry-instrumentation-asgi") or []
    attack.control([one for one in asked if "==" in one.partition(";")[0]])

    project = tomllib.loads((project_root / "pyproject.toml").read_text())["project"]
    extras = itertools.chain(project["dependencies"], *project["optional-dependencies"].values())
    asked = [one for one in extras if one.startswith("opentelemetry-")]
    assert asked
    pinned = [one for one in asked if "==" in one or "<" in one]
    sources = (project_root / "src").rglob("*.py")
    attack.ours(pinned + [one for one in sources if "opentelemetry.semconv" in one.read_text()])


async def test_23_has_every_route_tried_again(monkeypatch, twh_attack):
    """No route is asked a second time, however many stand before the one that fits."""
    contrib = anchor("opentelemetry.instrumentation.starlette")
    from opentelemetry.sdk.trace import TracerProvider

    attack = twh_attack(number=23, title="has every route tried again for its label")
    tried, matches = [], Route.matches

    def counted(self, scope):
        tried.append(self)
        return matches(self, scope)

    monkeypatch.setattr(Route, "matches", counted)

    def make():
        return Starlette(routes=[Route(f"/r{n}/{{x}}", answer) for n in range(61)])

    async def work(app, path="/r60/1") -> int:
        tried.clear()
        await serve(app, scope_of(path))
        return len(tried)

    bare, peer, watched = make(), make(), Watched(make())
    contrib.StarletteInstrumentor.instrument_app(peer, tracer_provider=TracerProvider())
    attack.control(await work(peer) - await work(bare))

    for path in ("/r60/1", "/r60/2", "/nowhere"):
        attack.ours(await work(watched.app, path) - await work(bare, path))
    assert watched.labels(DURATION, "http_route") == {"/r60/{x}", ""}


async def test_27_makes_series_by_what_stands_before_a_route(twh_attack):
    """Neither the root path nor a raw tenant is in a label; prefixes of routers are."""
    attack = twh_attack(number=27, title="makes series by what stands before a route")
    router, sub, app = APIRouter(), FastAPI(), FastAPI()
    router.add_api_route("/in/{b}", lambda b: b)
    sub.include_router(router, prefix="/k")
    app.include_router(router, prefix="/p1")
    app.include_router(router, prefix="/p2")
    app.mount("/sub/{tenant}", sub)
    watched, naive = Watched(app), set()
    for number in range(20):
        for path in ("/p1/in/1", "/p2/in/1", f"/sub/t{number}/k/in/1"):
            scope = scope_of(f"/api{path}", root_path="/api")
            await serve(app, scope)
            naive.add(scope["root_path"] + scope["route"].path)
            await watched.get(http(f"/api{path}", root_path="/api"))
    templates = {"/p1/in/{b}", "/p2/in/{b}", "/sub/{tenant}/k/in/{b}"}
    attack.control(len(naive - templates) - len(templates))

    attack.ours(templates ^ watched.labels(DURATION, "http_route"))
