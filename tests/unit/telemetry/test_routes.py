"""
Route templates without a framework: bounds, holders, and apps that do odd things.
"""

from __future__ import annotations

import asyncio
import gc

import pytest

from tests.support.routes import Copying, scope_of, serve, told
from twh_platform._asgi import INNER_SCOPE
from twh_platform.telemetry import RouteTemplates, RouteWitness, set_route
from twh_platform.telemetry._routes import RouteHolder, current_route_holder
from twh_platform.telemetry._routes_frameworks import _django_template
from twh_platform.telemetry._routes_walk import plain, signposts
from twh_platform.testing import ManualClock


class Leaf:
    """
    A route as a router of Starlette's kind has it.
    """

    methods = None

    def __init__(self, path, endpoint=None):
        self.path = path
        self.endpoint = endpoint or object()

    def matches(self, scope):
        """
        Never be asked: routing is the framework's.
        """
        raise AssertionError(scope)


class Floor:
    """
    A mount.
    """

    def __init__(self, path, app):
        self.path = path
        self.app = app

    matches = Leaf.matches


class App:
    """
    An app with routes, which answers nothing.
    """

    redirect_slashes = True

    def __init__(self, *routes):
        self.routes = list(routes)


def walks_of(templates):
    """
    Count the walks of *templates* from now on.
    """
    drawn = []
    draw = templates._draw
    templates._draw = lambda: (drawn.append(1), draw())
    return drawn


def test_a_finished_route_is_known_by_identity():
    """An equal path on another object is another route."""
    first, second = Leaf("/{x}"), Leaf("/{x}")
    templates = RouteTemplates(App(Floor("/a", App(first)), Floor("/b", App(second))))

    assert templates.template(scope_of("/a/1", route=first)) == "/a/{x}"
    assert templates.template(scope_of("/anything", route=second)) == "/b/{x}"


def test_one_route_in_two_places_is_told_by_its_path():
    """Only where one object leads to two templates does the path decide."""
    leaf = Leaf("/{x:int}")
    app = App(leaf)
    templates = RouteTemplates(App(Floor("/a/{tenant}", app), Floor("/b", app)))

    assert templates.template(scope_of("/a/acme/1", route=leaf)) == "/a/{tenant}/{x}"
    assert templates.template(scope_of("/b/1", route=leaf)) == "/b/{x}"
    assert templates.template(scope_of("/c/1", route=leaf)) is None


def test_two_templates_of_one_endpoint_stay_two():
    """An endpoint that two routes lead to is told by the path."""
    endpoint = object()
    templates = RouteTemplates(App(Leaf("/a/{x}", endpoint), Leaf("/b/{x}", endpoint)))

    assert templates.template(scope_of("/a/1", endpoint=endpoint, router=0)) == "/a/{x}"
    assert templates.template(scope_of("/b/1", endpoint=endpoint, router=0)) == "/b/{x}"


def test_a_root_stands_before_every_template():
    """A service that is served below a fixed path may say so."""
    leaf = Leaf("/{x}")
    templates = RouteTemplates(App(leaf), root="/api")

    assert templates.template(scope_of("/1", route=leaf)) == "/api/{x}"
    assert templates.templates() == {"/api/{x}"}


def test_the_known_routes_stay_one_dictionary():
    """A caller may keep it: a refresh changes what is in it, also where a route got company."""
    leaf, other = Leaf("/{x}"), Leaf("/other")
    inner, app = App(leaf), App(other)
    app.routes.append(Floor("/a", inner))
    templates = RouteTemplates(app)
    templates.templates()
    known = templates.known
    assert known == {id(leaf): "/a/{x}", id(other): "/other"}

    app.routes.append(Floor("/b", inner))
    templates.refresh()

    assert templates.known is known
    assert known == {id(other): "/other"}
    assert templates.template(scope_of("/b/1", route=leaf)) == "/b/{x}"


def test_strange_routes_do_not_walk_without_end():
    """An app that makes a route for each request is read eight times, then once in ten seconds."""
    clock = ManualClock()
    templates = RouteTemplates(App(Leaf("/known")), clock=clock.monotonic)
    walks = walks_of(templates)

    for _ in range(1_000):
        assert templates.template(scope_of("/x", route=Leaf("/x"), router=0)) is None
    assert len(walks) == 8
    clock.advance(10)
    for _ in range(1_000):
        templates.template(scope_of("/x", route=Leaf("/x"), router=0))
    assert len(walks) == 9


def test_unmatched_paths_do_not_walk_at_all():
    """Ten thousand unknown paths are one label, and read no app again."""
    app = App(Leaf("/known"))
    templates = RouteTemplates(app)
    templates.templates()
    templates.template(scope_of("/x", router=app))
    walks = walks_of(templates)

    found = {templates.template(scope_of(f"/{n}", router=app)) for n in range(10_000)}

    assert found == {None}
    assert walks == []


def test_told_templates_are_bounded():
    """Control of a mistake: a service that tells paths fills a thousand labels, not more."""
    templates = RouteTemplates()
    holder = RouteHolder()
    found = set()
    for n in range(5_000):
        holder.template = f"/users/{n}"
        found.add(templates.template(scope_of("/"), holder))
    holder.template = "/" + "x" * 300

    assert len(found - {None}) == 1_000
    assert templates.template(scope_of("/"), holder) is None


async def test_set_route_reaches_the_outside_from_other_tasks():
    """What is told in a task or a thread of the request counts; outside a request nothing does."""

    async def app(scope, receive, send):
        await asyncio.create_task(asyncio.to_thread(set_route, "/told/{id:int}"))
        await send({"type": "http.response.start", "status": 200})

    set_route("/lost")
    assert await told(Copying(app), "/told/1") == "/told/{id}"
    assert current_route_holder.get() is None


async def test_the_witness_is_silent_where_nobody_listens():
    """Without telemetry around it the witness passes everything on."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 204})

    assert await serve(RouteWitness(app), scope_of("/")) == 204


def test_a_copy_that_was_left_in_the_scope_is_looked_into():
    """The scope that middleware of ours handed on is the one that counts, for eight floors."""
    leaf = Leaf("/{x}")
    templates = RouteTemplates(App(leaf))
    scope = scope_of("/t/acme/1", **{INNER_SCOPE: scope_of("/1", route=leaf)})
    endless = scope_of("/nowhere/at/all")
    endless[INNER_SCOPE] = endless

    assert templates.template(scope) == "/{x}"
    assert templates.template(endless) is None


def test_an_app_within_itself_comes_to_an_end():
    """A mount that leads back up is read once; a tree that doubles at each floor is cut."""
    app = App(Leaf("/leaf"))
    app.routes.append(Floor("/again", app))
    tree = App(Leaf("/leaf"))
    for _ in range(15):
        tree = App(Floor("/l", tree), Floor("/r", tree))

    assert {one.place.template for one in signposts(app)} == {"/leaf", "/again/{path}"}
    assert sum(1 for _ in signposts(tree)) == 20_000


class Broken:
    """
    An app whose attributes cannot be read.
    """

    def __getattr__(self, name):
        raise RuntimeError(name)


def test_what_cannot_be_read_costs_a_label_alone(caplog):
    """Routes that raise, and scopes that are none, have no template and raise nothing."""
    templates = RouteTemplates(App(Broken(), Floor("/b", Broken()), Leaf("/ok")))

    assert templates.template(scope_of("/ok")) == "/ok"
    assert templates.template(scope_of("/b/1")) == "/b/{path}"
    assert templates.template({"type": "http"}) is None
    assert "could not be found" in caplog.text


def test_a_convertor_that_cannot_be_compiled_hides_its_route_alone():
    """Somebody's broken expression takes no other route with it."""
    bad = Leaf("/bad/{x:odd}")
    bad.param_convertors = {"x": type("Odd", (), {"regex": "("})()}
    templates = RouteTemplates(App(bad, Leaf("/good/{x}")))

    assert templates.template(scope_of("/good/1")) == "/good/{x}"
    assert templates.template(scope_of("/bad/1", route=bad)) == "/bad/{x}"


def test_an_id_that_is_used_again_means_nothing():
    """When a route is gone, so is its id from every map."""
    app = App(Leaf("/gone"))
    templates = RouteTemplates(app)
    templates.templates()
    gone = id(app.routes[0])
    assert gone in templates.known

    app.routes.clear()
    gc.collect()

    assert gone not in templates.known
    assert gone not in templates._map._routes


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/items/{id:int}", "/items/{id}"),
        ("/{a}/{b:path}", "/{a}/{b}"),
        ("/v1/{x:custom-kind}.{y}", "/v1/{x}.{y}"),
        ("/plain", "/plain"),
        ("/{broken", "/{broken"),
    ],
)
def test_a_template_has_no_convertors(path, template):
    """The placeholder alone is shown."""
    assert plain(path) == template


@pytest.mark.parametrize(
    ("route", "template"),
    [
        ("items/<int:pk>/", "items/{pk}/"),
        (r"^year/(?P<y>[0-9]{4}(\)|x))/$", "year/{y}/"),
        (r"^(\d+)/a\.b/(?:x|y)$", "{value}/a.b/{value}"),
        (r"^open/(?P<y>[0-9]", "open/{y}"),
        ("", ""),
    ],
)
def test_a_route_of_django_becomes_a_template(route, template):
    """Paths and expressions give placeholders, whatever stands in their groups."""
    assert _django_template(route) == template
