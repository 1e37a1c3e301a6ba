"""
Which route a request is for: a template out of a closed list, never its path.

A path is the client's choice.  A rule that counted by path would be evaded by
writing the path in another way, and would fill the store.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from .._asgi import Scope, route_path
from ..errors import ConfigurationError

__all__ = ["RouteOf", "RouteTable"]

RouteOf = Callable[[Scope], str | None]
"""
What tells the route of a request: a key out of a closed list, or None.
"""

_METHODS = frozenset(
    {"GET", "HEAD", "QUERY", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}
    | {"WEBSOCKET"}
)
_ROUTE = re.compile(r"(?:([A-Z]+) )?(/[^\n]*)", re.ASCII)
_PARAMETER = re.compile(r"\{([A-Za-z_]\w*)(?::([A-Za-z_]\w*))?\}", re.ASCII)
# As Starlette's, which reads FastAPI's templates too.
_CONVERTORS = {
    "str": r"[^/]+",
    "int": r"[0-9]+",
    "float": r"[0-9]+(?:\.[0-9]+)?",
    "uuid": r"[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}",
    "path": r".*",
}
# Most requests are for a path that has been asked for before.
_MOST_KNOWN = 1024
_LONGEST_KNOWN = 200
_WITHIN_SEGMENT = frozenset({"str", "int", "float", "uuid"})


class RouteTable:
    """
    Tell the route of a request out of a list of templates.

    The answer is the method and the template, ``GET /items/{id}``.  For a
    method that the template is not listed for, or that nobody knows, it is the
    template alone, and for a path that no template fits it is None.  There
    are no other answers: what is kept for each route is bounded.

    ``HEAD`` is told as ``GET``, because the same handler runs, and nobody
    should get round a limit by not asking for the body.  The method of a
    websocket is ``WEBSOCKET``.  Paths are compared as Starlette compares them,
    which lets one line break follow; what it finds for such a path inside a
    mount is told by no table, so `QuotaMiddleware` refuses it.

        >>> table = RouteTable(["/items/{id:int}", "/items/search", "POST /auth/login"])
        >>> table({"type": "http", "method": "GET", "path": "/items/42"})
        'GET /items/{id}'
        >>> table({"type": "http", "method": "HEAD", "path": "/items/search"})
        'GET /items/search'
        >>> table({"type": "http", "method": "GET", "path": "/nowhere"}) is None
        True

    Args:
        templates: ``/items/{id}``, ``/files/{name:path}`` or, for one method,
            ``POST /auth/login``.  Where several fit it is the one without
            parameters, else the first.

    Raises:
        twh_platform.errors.ConfigurationError: For what is no template.
    """

    def __init__(self, templates: Iterable[str]) -> None:
        if isinstance(templates, str):
            message = f"templates={templates!r} is not a list of templates"
            raise ConfigurationError(message)
        read = [_listed(one) for one in templates]
        self._table: _Table | None = _Table(sorted(read, key=lambda one: not one.fixed))
        self._routes: Iterable[Any] = ()

    @classmethod
    def of_starlette(cls, routes: Iterable[Any]) -> RouteTable:
        """
        The routes of a Starlette or FastAPI app: `RouteTable.of_starlette(app.routes)`.

        Routes, the routes of mounted apps, and included routers are read when
        the first request comes, so that those count too which are declared
        after the middleware was added.  Where several fit it is the first, as
        in the app.  A mounted app that shows no routes is one route,
        ``/static/{path}``.

        Raises:
            twh_platform.errors.ConfigurationError: At the first request, for
                routes that are not Starlette's.
        """
        table = cls(())
        table._table, table._routes = None, routes
        return table

    def __call__(self, scope: Scope) -> str | None:
        """
        The route of this http or websocket scope.
        """
        table = self._table or self._read()
        method = scope["method"] if scope["type"] == "http" else "WEBSOCKET"
        path = route_path(scope) if scope.get("root_path") else scope["path"]
        return table.find(method, path)

    def names(self) -> frozenset[str]:
        """
        All answers that there can be, None apart.
        """
        return (self._table or self._read()).names()

    def _read(self) -> _Table:
        self._table = _Table(list(_starlette(self._routes, "", {})))
        return self._table


class _Template(NamedTuple):
    """
    One route.

    Attributes:
        name: Without convertors: ``/items/{id}``.

        methods: For which; None for all.

        parts: Its segments, None for one with a parameter.  They end where a
            parameter may contain slashes.

        least: How many segments its paths have at least.

        pattern: What its paths look like.
    """

    name: str
    methods: frozenset[str] | None
    parts: tuple[str | None, ...]
    least: int
    pattern: str

    @property
    def fixed(self) -> bool:
        return None not in self.parts and len(self.parts) == self.least

    def fits(self, segments: int) -> bool:
        return segments == self.least or (segments > self.least > len(self.parts))

    def part(self, at: int) -> str | None:
        return self.parts[at] if at < len(self.parts) else None

    def key(self, method: str) -> str | None:
        """
        The answer for this method; None if it is for others.
        """
        if method == "HEAD" and (self.methods is None or "GET" in self.methods):
            method = "GET"
        return f"{method} {self.name}" if self.methods is None or method in self.methods else None


_Answers = list[tuple[str, _Template]]


class _Table:
    """
    The templates, arranged for each method at its first request.
    """

    def __init__(self, templates: list[_Template]) -> None:
        self._templates = templates
        self._methods = _METHODS.union(*(one.methods or () for one in templates))
        self._any = _Matcher([(one.name, one) for one in templates])
        self._matchers: dict[str, _Matcher] = {}

    def find(self, method: str, path: str) -> str | None:
        matcher = self._matchers.get(method)
        if matcher is None:
            # Some apps run the same handler for "post".
            method = method.upper()
            if method not in self._methods:
                return self._any.find(path)
            matcher = self._matchers[method] = _Matcher(self._answers(method))
        return matcher.find(path) or self._any.find(path)

    def names(self) -> frozenset[str]:
        keys = {key for method in self._methods for key, _ in self._answers(method)}
        return frozenset(keys.union(one.name for one in self._templates))

    def _answers(self, method: str) -> _Answers:
        return [(key, one) for one in self._templates if (key := one.key(method))]


class _Matcher:
    """
    Templates in order, each with its answer: by path, else by segments.
    """

    def __init__(self, answers: _Answers) -> None:
        most = max((one.least for _, one in answers), default=0)
        self._all = _Ordered(answers)
        self._longer = _Segments([each for each in answers if each[1].fits(most + 1)])
        self._counted = {
            count: _Segments([each for each in answers if each[1].fits(count)])
            for count in range(most + 1)
        }
        self._known: dict[str, str] = {}

    def find(self, path: str) -> str | None:
        found = self._known.get(path)
        if found is not None:
            return found
        found = self._search(path)
        if found and len(path) <= _LONGEST_KNOWN:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[path] = found
        return found

    def _search(self, path: str) -> str | None:
        if path[-1:] == "\n":  # no segment is what it seems
            return self._all.find(path)
        segments = self._counted.get(path.count("/") + 1, self._longer)
        part = path.split("/", segments.at + 1)[segments.at]
        return segments.by_value.get(part, segments.other).find(path)


class _Segments:
    """
    Templates told apart by the segment that tells most of them apart.

    Attributes:
        at: Which segment.

        by_value: Those that may have this value there.

        other: Those that may have any other.
    """

    __slots__ = ("at", "by_value", "other")

    def __init__(self, answers: _Answers) -> None:
        most = max((len(one.parts) for _, one in answers), default=1)
        self.at = at = max(range(most), key=lambda at: len(_values(answers, at)))
        self.by_value = {
            value: _Ordered([each for each in answers if each[1].part(at) in {value, None}])
            for value in _values(answers, at)
        }
        self.other = _Ordered([each for each in answers if each[1].part(at) is None])


class _Ordered:
    """
    One expression for templates in order; made when it is first needed.
    """

    __slots__ = ("_answers", "_keys", "_match")

    def __init__(self, answers: _Answers) -> None:
        self._answers = answers
        self._keys: dict[int | None, str] = {}
        self._match: Callable[[str], re.Match[str] | None] | None = None

    def find(self, path: str) -> str | None:
        match = self._match or self._compile()
        found = match(path)
        return None if found is None else self._keys[found.lastindex]

    def _compile(self) -> Callable[[str], re.Match[str] | None]:
        # An empty group closes each: the last group that took part tells which it was.
        group = 0
        for key, one in self._answers:
            group += re.compile(one.pattern).groups + 1
            self._keys[group] = key
        joined = "|".join(f"{one.pattern}$()" for _, one in self._answers)
        self._match = re.compile(joined or r"(?!)").match
        return self._match


def _values(answers: _Answers, at: int) -> set[str]:
    return {part for _, one in answers if (part := one.part(at)) is not None}


def _listed(route: str) -> _Template:
    found = _ROUTE.fullmatch(route) if isinstance(route, str) else None
    if found is None or (found[1] and found[1] not in _METHODS):
        message = f"route {route!r} is not like '/items/{{id}}' or 'POST /auth/login'"
        raise ConfigurationError(message)
    return _template(found[2], frozenset({found[1]}) if found[1] else None, _CONVERTORS)


def _template(
    text: str, methods: frozenset[str] | None, convertors: Mapping[str, str]
) -> _Template:
    pattern, position = "", 0
    for parameter in _PARAMETER.finditer(text):
        convertor = parameter[2] or "str"
        if convertor not in convertors:
            message = f"route {text!r}: nobody knows the convertor {convertor!r}"
            raise ConfigurationError(message)
        pattern += f"{re.escape(text[position : parameter.start()])}(?:{convertors[convertor]})"
        position = parameter.end()
    pattern += re.escape(text[position:])
    segments = text.split("/")
    parts = [None if _PARAMETER.search(one) else one for one in segments]
    end = next((at for at, one in enumerate(segments) if not _stays_within(one)), len(parts))
    name = _PARAMETER.sub(r"{\1}", text)
    return _Template(name, methods, tuple(parts[:end]), len(segments), pattern)


def _stays_within(segment: str) -> bool:
    return all((one[2] or "str") in _WITHIN_SEGMENT for one in _PARAMETER.finditer(segment))


def _starlette(
    routes: Iterable[Any], prefix: str, convertors: Mapping[str, str]
) -> Iterator[_Template]:
    # By the attributes that Starlette documents, so that it need not be installed.
    for route in routes:
        if contexts := getattr(route, "effective_route_contexts", None):  # FastAPI's routers
            made = (getattr(one, "starlette_route", None) or one for one in contexts())
            yield from _starlette(made, prefix, convertors)
            continue
        path = prefix + getattr(route, "path", "")
        known = {**convertors, **_convertors(route)}
        if children := getattr(route, "routes", None):
            yield from _starlette(children, path, known)
        elif not hasattr(route, "path"):
            message = f"{type(route).__name__} is no route of Starlette"
            raise ConfigurationError(message)
        elif hasattr(route, "endpoint"):
            methods = getattr(route, "methods", {"WEBSOCKET"})
            yield _template(path, frozenset(methods) if methods else None, known)
        else:
            yield _template(f"{path}/{{path:path}}", None, known)


def _convertors(route: Any) -> dict[str, str]:
    # Of the template's own parameters: a service may have registered more kinds than ours.
    made = getattr(route, "param_convertors", {})
    kinds = {one[1]: one[2] or "str" for one in _PARAMETER.finditer(getattr(route, "path", ""))}
    found = {kind: made[name].regex for name, kind in kinds.items() if name in made}
    return {**_CONVERTORS, **found}
