"""
Which place a scope shows, by the identity of what routers left in it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .._asgi import Scope
from ._routes_scan import Scan, path_inside
from ._routes_walk import Place, look, signposts

__all__ = ["RouteMap", "weak"]


class RouteMap:
    """
    The places of some apps, by the objects that scopes show for them.

    Args:
        apps: What is read; not kept alive, where Python allows it.

        root: Stands before every template.

        known: Filled with the template by the id of each route that leads to
            one place alone, and emptied of all others.

    Attributes:
        scan: All places.

        templates: Those that a request can end at.
    """

    def __init__(self, apps: Iterable[Any], root: str, known: dict[int, str]) -> None:
        self._known = known
        self._routes: dict[int, _Choice] = {}
        self._endpoints: dict[int, _Choice] = {}
        self._kept: list[Callable[[], Any]] = []
        places: dict[Place, None] = {}
        for app in apps:
            for place, routes, endpoint in signposts(app, root=root):
                places[place] = None
                for route in routes:
                    self._put(self._routes, route, place)
                self._put(self._endpoints, endpoint, place)
        self.scan = Scan(places)
        self.templates = frozenset(one.template for one in places if not one.is_open)
        self._make_known()

    def find(self, scope: Scope) -> tuple[Place | None, bool]:
        """
        The place that the scope shows, and whether all it shows is on the map.
        """
        found, is_known = None, True
        for route in _routes_shown(scope):
            choice = self._routes.get(id(route))
            if choice is None:
                is_known = False
                continue
            found = choice.only or choice.fitting(scope)
            if found and not found.is_mount:
                return found, True
        return self._of_endpoint(scope, found, is_known=is_known)

    def _of_endpoint(
        self, scope: Scope, found: Place | None, *, is_known: bool
    ) -> tuple[Place | None, bool]:
        # An app below a mount may leave an endpoint alone, with the mount still as the route.
        endpoint = scope.get("endpoint")
        if endpoint is None:
            return found, is_known
        choice = self._endpoints.get(id(endpoint))
        if found and choice and choice.only is found:
            return found, is_known
        place = choice and choice.fitting(scope)
        return (place, is_known) if place else (found, False)

    def _put(self, on: dict[int, _Choice], thing: Any, place: Place) -> None:
        if thing is None:
            return
        if id(thing) not in on:
            on[id(thing)] = _Choice()
            self._kept.append(weak(thing, self._forget))
        on[id(thing)].add(place)

    def _make_known(self) -> None:
        known = self._known
        alone = {key: one.only for key, one in self._routes.items()}
        new = {key: one.template for key, one in alone.items() if one and not one.is_mount}
        for key in known.keys() - new.keys():
            known.pop(key, None)
        known.update(new)

    def _forget(self, key: int) -> None:
        # The id may soon be that of another object.
        self._known.pop(key, None)
        self._routes.pop(key, None)
        self._endpoints.pop(key, None)


class _Choice:
    """
    The places that one object leads to.

    Attributes:
        only: Where there is but one template.
    """

    __slots__ = ("_places", "_scan", "only")

    def __init__(self) -> None:
        self._places: list[Place] = []
        self._scan: Scan | None = None
        self.only: Place | None = None

    def add(self, place: Place) -> None:
        """
        Add one more; the first of one template is the one to find.
        """
        if not self._places or (self.only and self.only.template == place.template):
            self.only = self.only or place
        else:
            self.only = None
        self._places.append(place)

    def fitting(self, scope: Scope) -> Place | None:
        """
        The one that the path is for; an open mount is for what is below it.
        """
        if self._scan is None:
            self._scan = Scan(self._places)
        return self._scan.find(scope, path_inside(scope)) or self._open()

    def _open(self) -> Place | None:
        return next((one for one in self._places if one.is_open), None)


def _routes_shown(scope: Scope) -> Iterator[Any]:
    """
    The routes that were left in the scope, the surest first.

    FastAPI leaves the route as it was declared and, from 0.137, beside it the
    context in which it was included.
    """
    route = scope.get("route")
    if route is None:
        return
    fastapi = scope.get("fastapi")
    if isinstance(fastapi, dict):
        context = fastapi.get("effective_route_context")
        if context is not None and look(context, "original_route") is route:
            yield context
    yield route


def weak(thing: Any, forget: Callable[[int], None] | None = None) -> Callable[[], Any]:
    """
    A function that returns *thing* while it lives, and None afterwards.

    What cannot be referred to weakly is kept alive.

    Args:
        thing: Any object.

        forget: Told its id when it is gone.
    """
    key = id(thing)
    try:
        return weakref.ref(thing, None if forget is None else lambda _: forget(key))
    except TypeError:
        return lambda: thing
