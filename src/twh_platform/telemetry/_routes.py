"""
The route template of a request: never a path, which is the client's choice.

What a router leaves in the scope is its innermost route.  The prefixes that led
there are missing from it, so templates are looked up by the identity of what
was left, in a map that is drawn once for each app.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from .._asgi import ASGIApp, Receive, Scope, Send, innermost
from ._routes_map import RouteMap, weak
from ._routes_scan import path_inside
from ._routes_walk import Place, look, plain

__all__ = [
    "RouteHolder",
    "RouteTemplates",
    "RouteWitness",
    "current_route_holder",
    "set_route",
]

_logger = logging.getLogger("twh_platform.telemetry")

_MOST_ROOTS = 16
# Templates that are told, not found: a service that tells paths instead fills no more than this.
_MOST_TOLD = 1_000
_LONGEST_TOLD = 256
# A walk takes about 20 microseconds for each route, and the loop waits for it.
_WALKS_AT_ONCE = 8
_SECONDS_PER_WALK = 10.0


class RouteHolder:
    """
    What is told about the route of one request while it runs.

    It is shared by all copies of the scope and of the context, so it is seen
    where it was opened whoever copied between.

    Attributes:
        template: The template by `set_route`.

        scope: The scope by `RouteWitness`.
    """

    __slots__ = ("scope", "template")

    def __init__(self) -> None:
        self.template: str | None = None
        self.scope: Scope | None = None


current_route_holder: ContextVar[RouteHolder | None] = ContextVar(
    "twh_platform.telemetry.route", default=None
)
"""
The holder of the request that is being served: telemetry opens it.
"""


def set_route(template: str) -> None:
    """
    Tell the route template of the request that is being served.

    For frameworks that leave nothing in the scope.  Outside a request, and
    where no telemetry listens, it does nothing.  Of all told templates the
    first thousand different ones count.

    Args:
        template: Out of a closed list, ``/items/{id}``; never the path.
    """
    holder = current_route_holder.get()
    if holder is not None:
        holder.template = template


class RouteWitness:
    """
    Show the scope that is routed on, where middleware hands on a copy of it.

    Put it inside all other middleware; it costs a look at a ContextVar.

    Args:
        app: The ASGI app inside.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Serve one connection scope.
        """
        holder = current_route_holder.get()
        if holder is not None:
            holder.scope = scope
        await self.app(scope, receive, send)


class RouteTemplates:
    """
    Tell the route template of a request from its scope, or from its holder.

    Apps are read at the first request.  A route that is met later and is on no
    map has the maps drawn again, eight times at once and then once in ten
    seconds, so that an app which makes routes for each request costs no more.
    Apps that are met and routes that are read are not kept alive, where Python
    allows it.

    No route is needed for an answer: what middleware answered, or routed on a
    copy of the scope, gets the template that its path is for.  A path that no
    template fits gets None, and so does whatever goes wrong, which is logged
    once.

        >>> templates = RouteTemplates()
        >>> templates.template({"type": "http", "method": "GET", "path": "/1"}) is None
        True

    Args:
        app: The app that telemetry wraps; without it, each app is read when a
            request of it is finished.

        root: Stands before every template, where the app is served below a
            fixed path.

        clock: Seconds that never go back.

    Attributes:
        known: The template by the id of each route that leads to one place
            alone.  It stays the same dictionary, so that a caller may look
            there first: ``known.get(id(scope.get("route")))``.
    """

    def __init__(
        self,
        app: ASGIApp | None = None,
        *,
        root: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._clock = clock
        self._roots: list[Callable[[], Any]] = [] if app is None else [lambda: app]
        self.known: dict[int, str] = {}
        self._map = RouteMap((), "", self.known)
        self._told: dict[str, str] = {}
        self._walks = float(_WALKS_AT_ONCE)
        self._walked_at: float | None = None
        self._complained = False

    def template(self, scope: Scope, holder: RouteHolder | None = None) -> str | None:
        """
        The route template of a request, ``/items/{id}``.

        Args:
            scope: As it is when the request is finished, or has been routed.

            holder: The one that was opened for the request.
        """
        told = None
        if holder is not None:
            told, scope = holder.template, holder.scope or scope
        if told is None and (found := self.known.get(id(scope.get("route")))) is not None:
            return found
        try:
            return self._find(innermost(scope), told)
        except Exception:  # a label is never worth a request
            if not self._complained:
                self._complained = True
                _logger.exception("the route template of a request could not be found")
            return None

    def refresh(self) -> bool:
        """
        Read the apps again, unless that was done too often; tell whether it was done.

        To be called now and then where routes that have a template get a
        second one while requests run: a router that is included once more.
        """
        if not self._may_walk():
            return False
        self._draw()
        return True

    def templates(self) -> frozenset[str]:
        """
        All templates that were read, told ones apart.
        """
        if self._walked_at is None:
            self.refresh()
        return self._map.templates

    def _find(self, scope: Scope, told: str | None) -> str | None:
        found = self._of_shown(scope)
        spelled = self._spelled(told)
        if found is None:
            return spelled or self._of_litestar(scope) or self._by_path(scope)
        if not found.is_mount:
            return spelled or found.template
        below = spelled or self._of_litestar(scope)
        if below:
            return found.prefix + below
        return self._in_mount(scope) if found.is_open else found.template

    def _of_shown(self, scope: Scope) -> Place | None:
        found, is_known = self._map.find(scope)
        if found is None or not is_known:
            met = self._meet(scope.get("router") or scope.get("app"))
            if met or (not is_known and self.refresh()):
                found, _ = self._map.find(scope)
        return found

    def _of_litestar(self, scope: Scope) -> str | None:
        handler = scope.get("route_handler")
        if handler is None:
            return None
        if not look(handler, "is_mount"):
            return self._spelled(scope.get("path_template"))
        # The template of what Litestar mounts is left empty.
        for route in look(scope.get("litestar_app"), "routes") or ():
            if look(route, "route_handler") is handler:
                return self._spelled(f"{route.path}/{{path}}")
        return None

    def _by_path(self, scope: Scope) -> str | None:
        router, path = scope.get("router"), path_inside(scope)
        # A router that was seen found no route for the path as it is.
        if router is None or "frontend_path" in (scope.get("fastapi") or ()):
            return self._template(scope, path) or self._redirected(scope, path)
        return self._redirected(scope, path)

    def _in_mount(self, scope: Scope) -> str | None:
        # Of the routers below nothing is seen: they found nothing, or found it in a copy.
        path = path_inside(scope)
        return self._template(scope, path) or self._redirected(scope, path)

    def _redirected(self, scope: Scope, path: str) -> str | None:
        # Starlette redirects to where a slash more or less leads to a route.
        if scope["type"] != "http" or look(scope.get("router"), "redirect_slashes") is False:
            return None
        return self._template(scope, path.rstrip("/") if path.endswith("/") else f"{path}/")

    def _template(self, scope: Scope, path: str) -> str | None:
        place = self._map.scan.find(scope, path)
        return None if place is None else place.template

    def _spelled(self, told: object) -> str | None:
        if not isinstance(told, str):
            return None
        spelled = self._told.get(told)
        if spelled is None and len(told) <= _LONGEST_TOLD and len(self._told) < _MOST_TOLD:
            spelled = self._told[told] = plain(told)
        return spelled

    def _meet(self, app: Any) -> bool:
        """
        Read this app too; tell whether the maps were drawn.
        """
        if app is None or any(root() is app for root in self._roots):
            return self._walked_at is None and self.refresh()
        self._roots = [root for root in self._roots if root() is not None]
        if len(self._roots) >= _MOST_ROOTS or not self._may_walk():
            return False
        self._roots.append(weak(app))
        self._draw()
        return True

    def _may_walk(self) -> bool:
        now = self._clock()
        since = 0.0 if self._walked_at is None else now - self._walked_at
        walks = min(self._walks + since / _SECONDS_PER_WALK, _WALKS_AT_ONCE)
        self._walks, self._walked_at = walks, now
        if walks < 1:
            return False
        self._walks = walks - 1
        return True

    def _draw(self) -> None:
        # A whole new map, for requests that are looked up meanwhile in other threads.
        apps = [app for root in self._roots if (app := root()) is not None]
        self._map = RouteMap(apps, self._root, self.known)
