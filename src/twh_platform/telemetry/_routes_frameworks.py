"""
One line of set-up for frameworks that leave no route in the scope.

Neither is imported here: what they hand over is all that is needed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Any

from ._routes import set_route

__all__ = ["django_routes", "watch_quart"]

_WERKZEUG = re.compile(r"<(?:[A-Za-z_]\w*(?:\([^<>]*\))?:)?([A-Za-z_]\w*)>")
_DJANGO_GROUP = re.compile(r"\((?:\?P<(\w+)>|(?!\?))|\\.|\(\?")


def watch_quart(app: Any) -> None:
    """
    Tell telemetry the route of each request and websocket of a Quart app.

    ``/items/<int:id>`` is told as ``/items/{id}``.

    Args:
        app: The `quart.Quart`.
    """
    app.before_request(_tell_quart("request"))
    app.before_websocket(_tell_quart("websocket"))


def _tell_quart(name: str) -> Callable[[], Any]:
    async def tell() -> None:
        rule = getattr(getattr(sys.modules["quart"], name), "url_rule", None)
        if rule is not None:
            set_route(_WERKZEUG.sub(r"{\1}", rule.rule))

    return tell


def django_routes(get_response: Callable[..., Any]) -> Callable[..., Any]:
    """
    Tell telemetry the route of each request of a Django site.

    A middleware for ``MIDDLEWARE``, by its name
    ``twh_platform.telemetry.django_routes``, anywhere in the list.  Under ASGI
    and in the test client alike, for views of both kinds.
    ``items/<int:pk>/`` is told as ``/items/{pk}/``, and of a regular expression
    the groups are told: ``^year/(?P<year>[0-9]{4})/$`` is ``/year/{year}/``.
    """
    # Django's own question sees its adapters, which are not coroutine functions to Python 3.11.
    is_async = getattr(sys.modules.get("asgiref.sync"), "iscoroutinefunction", iscoroutinefunction)
    if not is_async(get_response):

        def answer(request: Any) -> Any:
            try:
                return get_response(request)
            finally:
                _tell_django(request)

        return answer

    async def answer_later(request: Any) -> Any:
        try:
            return await get_response(request)
        finally:
            _tell_django(request)

    return answer_later


django_routes.sync_capable = True  # type: ignore[attr-defined]
django_routes.async_capable = True  # type: ignore[attr-defined]


def _tell_django(request: Any) -> None:
    route = getattr(getattr(request, "resolver_match", None), "route", None)
    if isinstance(route, str):
        set_route("/" + _django_template(route).removeprefix("/"))


def _django_template(route: str) -> str:
    """
    The template of Django's route, in which parts of both its kinds may stand.
    """
    parts, position = [], 0
    for group in _DJANGO_GROUP.finditer(route):
        if group.start() < position:  # inside the group before
            continue
        parts.append(_fixed(route[position : group.start()]))
        if group[0].startswith("\\"):
            parts.append(group[0][1:] if not group[0][1].isalnum() else "")
            position = group.end()
        else:
            parts.append("{" + (group[1] or "value") + "}")
            position = _end(route, group.end())
    parts.append(_fixed(route[position:]))
    return "".join(parts)


def _fixed(text: str) -> str:
    return re.sub(r"[\^$?*+]", "", _WERKZEUG.sub(r"{\1}", text))


def _end(route: str, position: int) -> int:
    """
    Where the group ends that is open at *position*.
    """
    depth = 1
    while position < len(route) and depth:
        if route[position] == "\\":
            position += 1
        elif route[position] in "()":
            depth += 1 if route[position] == "(" else -1
        position += 1
    return position
