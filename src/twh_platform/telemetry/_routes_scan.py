"""
Which of several places a path is for: one expression for each method.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import groupby

from .._asgi import Scope, header_values, route_path
from ._methods import known_method
from ._routes_walk import Place

__all__ = ["Scan", "path_inside"]

_WEBSOCKET = "websocket"


class Scan:
    """
    Find the place for a scope as a router would: the first that fits.

    A place for another method is found where there is none for this one, as a
    router answers 405 for it.

    Args:
        places: In the order of the router.
    """

    def __init__(self, places: Iterable[Place]) -> None:
        self._places = [one for one in places if not one.is_open]
        self._by_method: dict[str, list[_Host]] = {}

    def find(self, scope: Scope, path: str) -> Place | None:
        """
        The place of *path*; None if it is for none.
        """
        if scope["type"] == _WEBSOCKET:
            return self._search(_WEBSOCKET, scope, path)
        method = known_method(scope["method"])[0]
        return self._search(method, scope, path) or self._search("", scope, path)

    def _search(self, method: str, scope: Scope, path: str) -> Place | None:
        hosts = self._by_method.get(method)
        if hosts is None:
            hosts = self._by_method[method] = self._arranged(method)
        for host in hosts:
            if (place := host.find(scope, path)) is not None:
                return place
        return None

    def _arranged(self, method: str) -> list[_Host]:
        fitting = [one for one in self._places if _is_for(one, method)]
        return [_Host(host, list(some)) for host, some in groupby(fitting, lambda one: one.host)]


class _Host:
    """
    Places of one host that stand together.
    """

    __slots__ = ("_host", "_match", "_places")

    def __init__(self, host: str | None, places: list[Place]) -> None:
        self._host = host and re.compile(host, re.IGNORECASE)
        self._places: dict[int | None, Place] = {}
        self._match = self._compiled(places)

    def find(self, scope: Scope, path: str) -> Place | None:
        found = self._match(path)
        if found is None or (self._host and not self._host.match(_host(scope))):
            return None
        return self._places[found.lastindex]

    def _compiled(self, places: list[Place]) -> Callable[[str], re.Match[str] | None]:
        # An empty group closes each: the last group that took part tells which it was.
        group, patterns = 0, []
        for place in places:
            try:
                group += re.compile(place.pattern).groups + 1
            except re.error:  # of a convertor that we read wrongly
                continue
            self._places[group] = place
            patterns.append(f"{place.pattern}$()")
        return re.compile("|".join(patterns) or r"(?!)").match


def path_inside(scope: Scope) -> str:
    """
    The path that the outermost router looked at.

    Mounts move `root_path` on in the scope itself.  They leave the first one
    in `app_root_path`.
    """
    root = scope.get("app_root_path")
    if root is None:
        root = scope.get("root_path", "")
    return route_path({"path": scope["path"], "root_path": root})


def _is_for(place: Place, method: str) -> bool:
    if place.is_mount:
        return True
    if _WEBSOCKET in {method, place.kind}:
        return method == place.kind
    return not method or place.methods is None or method in place.methods


def _host(scope: Scope) -> str:
    values = header_values(scope, b"host")
    host = values[0].decode("latin-1") if values else ""
    return re.sub(r":[0-9]*$", "", host)
