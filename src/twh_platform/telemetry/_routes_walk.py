"""
The places that the routes of an app lead to, read once, by their attributes.

Starlette and FastAPI are read as they are found, so neither need be installed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple

__all__ = ["Place", "Signpost", "look", "plain", "signposts"]

_PARAMETER = re.compile(r"\{([A-Za-z_]\w*)(?::([^{}]*))?\}", re.ASCII)
_GROUP_NAME = re.compile(r"\(\?P<\w+>")
_WITHIN_SEGMENT = r"[^/]+"
_ANYTHING = r".*"
# Apps that are mounted in themselves end here, and so does a tree that doubles at each floor.
_DEEPEST = 16
_MOST_PLACES = 20_000
_MOST_WRAPPERS = 64


class Place(NamedTuple):
    """
    One way to one route.

    Attributes:
        template: Without convertors: ``/items/{id}``.

        pattern: What its paths look like, without the app's own root.

        host: What its hosts look like; None for any.

        kind: ``http``, ``websocket``, or ``mount`` for both and all below.

        methods: For which; None for all.

        is_open: A mount whose own routes have places too, so that it is
            nobody's destination.

        prefix: The template of what stands below a mount begins with it.
    """

    template: str
    pattern: str
    host: str | None
    kind: str
    methods: frozenset[str] | None
    is_open: bool = False
    prefix: str = ""

    @property
    def is_mount(self) -> bool:
        """
        Whether another app goes on from here.
        """
        return self.kind == "mount"


class Signpost(NamedTuple):
    """
    A place, and the objects that a scope may show for it.

    Attributes:
        routes: Each leads to this place; to others too, where it was included
            or mounted more than once.

        endpoint: May also stand behind routes that are on no map.
    """

    place: Place
    routes: tuple[Any, ...]
    endpoint: Any = None


class _Way(NamedTuple):
    """
    What led to a list of routes.
    """

    template: str
    pattern: str = ""
    host: str | None = None
    above: tuple[int, ...] = ()


def signposts(app: Any, *, root: str = "") -> Iterator[Signpost]:
    """
    Every place of *app*, in the order in which it would look for a request.

    Middleware around the app and around its mounted apps is looked through
    where it keeps what it wraps as `app`, as Starlette's does.  An app that
    shows no routes of Starlette's kind has no places.

    Args:
        app: An ASGI app or a router.

        root: Stands before every template.
    """
    yield from islice(_below(app, _Way(root)), _MOST_PLACES)


def look(thing: Any, name: str) -> Any:
    """
    An attribute, or None where it is missing or cannot be read.
    """
    try:
        return getattr(thing, name, None)
    except Exception:  # noqa: BLE001 -- a property of somebody's app; it costs a label, no request
        return None


def plain(path: str) -> str:
    """
    A template without convertors: ``/items/{id:int}`` is ``/items/{id}``.
    """
    return _PARAMETER.sub(r"{\1}", path)


def _below(app: Any, way: _Way) -> Iterator[Signpost]:
    router, routes = _router(app)
    if routes is None or id(routes) in way.above or len(way.above) >= _DEEPEST:
        return
    way = way._replace(above=(*way.above, id(routes)))
    for route in list(routes):
        with suppress(Exception):  # a route that cannot be read hides no other
            yield from _of_route(route, way)
    for group, prefix in _frontends(router):
        yield from _of_frontends(group, way, prefix)


def _router(app: Any) -> tuple[Any, Any]:
    """
    The innermost app that shows routes, and these.
    """
    for _ in range(_MOST_WRAPPERS):
        routes = look(app, "routes")
        if isinstance(routes, list | tuple):
            # Litestar's have other attributes, and are never seen in a scope.
            starlettes = not routes or any(callable(look(one, "matches")) for one in routes)
            return (look(app, "router") or app, routes) if starlettes else (None, None)
        app = look(app, "app")
        if app is None:
            break
    return None, None


def _of_route(route: Any, way: _Way) -> Iterator[Signpost]:
    contexts = look(route, "effective_route_contexts")  # FastAPI's included routers, from 0.137
    if callable(contexts):
        for context in contexts():
            made = look(context, "starlette_route")
            original = look(context, "original_route")
            yield from _of_one(made or context, way, (context, original))
    else:
        yield from _of_one(route, way, ())


def _of_one(route: Any, way: _Way, also: tuple[Any, ...]) -> Iterator[Signpost]:
    path, endpoint, app = look(route, "path"), look(route, "endpoint"), look(route, "app")
    shown = (route, *also)
    if not isinstance(path, str):
        # A host, or a kind of route that we do not know: then what is below is told by its path.
        host = look(look(route, "host_regex"), "pattern")
        yield from _of_mount(way._replace(host=host), app, shown)
        return
    convertors = look(route, "param_convertors")
    here = way._replace(
        template=way.template + plain(path),
        pattern=way.pattern + _pattern(path, convertors or {}),
    )
    if endpoint is None and app is not None:
        yield from _of_mount(here, app, shown)
    else:
        yield Signpost(_leaf(route, here), shown, endpoint)


def _of_mount(here: _Way, app: Any, shown: tuple[Any, ...]) -> Iterator[Signpost]:
    _, routes = _router(app)
    place = Place(
        template=f"{here.template}/{{path}}",
        pattern=f"{here.pattern}/{_ANYTHING}",
        host=here.host,
        kind="mount",
        methods=None,
        is_open=routes is not None or app is None,
        prefix=here.template,
    )
    yield Signpost(place, shown, app)
    yield from _below(app, here)


def _leaf(route: Any, here: _Way) -> Place:
    # A route of websockets has no attribute `methods`; one for all methods has None there.
    kind = "http" if hasattr(route, "methods") else "websocket"
    methods = frozenset(look(route, "methods") or ()) or None
    return Place(here.template or "/", here.pattern, here.host, kind, methods)


def _frontends(router: Any) -> Iterator[tuple[Any, str]]:
    # FastAPI's folders of static files, which come after all routes and are shown in no scope.
    for group in look(router, "_low_priority_routes") or ():
        yield group, ""
    for route in look(router, "routes") or ():
        contexts = look(route, "effective_low_priority_routes")
        for context in contexts() if callable(contexts) else ():
            yield look(context, "original_route"), look(context, "frontend_prefix") or ""


def _of_frontends(group: Any, way: _Way, prefix: str) -> Iterator[Signpost]:
    folders = [f"{prefix}{one.path}".rstrip("/") for one in look(group, "routes") or ()]
    for folder in sorted(folders, key=len, reverse=True):  # the longest is theirs
        template = f"{way.template}{folder}/{{path}}"
        pattern = f"{way.pattern}{re.escape(folder)}(?:/{_ANYTHING})?"
        yield Signpost(Place(template, pattern, way.host, "http", None), ())


def _pattern(path: str, convertors: Mapping[str, Any]) -> str:
    pattern, position = "", 0
    for parameter in _PARAMETER.finditer(path):
        pattern += f"{re.escape(path[position : parameter.start()])}(?:"
        pattern += _of_parameter(parameter, convertors) + ")"
        position = parameter.end()
    return pattern + re.escape(path[position:])


def _of_parameter(parameter: re.Match[str], convertors: Mapping[str, Any]) -> str:
    regex = look(convertors.get(parameter[1]), "regex")
    if isinstance(regex, str):
        return _GROUP_NAME.sub("(?:", regex)  # its name may stand in another template too
    return _ANYTHING if parameter[2] == "path" else _WITHIN_SEGMENT
