"""
What an app can do: its operations, from an OpenAPI document or a route table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..errors import ConfigurationError
from ._harvest import snake
from ._steps import OWN, WalkStep

__all__ = ["declared_by", "documented_steps", "routed_operations"]

_METHODS = frozenset({"get", "put", "post", "delete", "patch", "head", "options", "trace", "query"})
_CONVERTER = re.compile(r"\{(\w+):\w+\}")
_IDENTITY = re.compile(r"(?:^|_)(?:id|uuid|guid)$")
_MARK = "mk00000001"
_MARKED = ("{mark}", "{mark}@twh.example")
_FORMATS = {
    "uuid": "{uuid}",
    "email": "{mark}@twh.example",
    "date": "2030-01-01",
    "date-time": "2030-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "uri": "https://twh.example/{mark}",
    "hostname": "{mark}.twh.example",
    "ipv4": "192.0.2.1",
}
_DEEPEST = 16
_IDEMPOTENCY_KEY = "idempotency-key"
_OF_THE_CALLER = frozenset({"authorization", "cookie", "accept", "content-type"})

Schema = Mapping[str, Any]


def declared_by(app: Any) -> tuple[Mapping[str, Any], Iterable[Any]]:
    """
    The OpenAPI document and the route table that an app has, as FastAPI and Starlette do.
    """
    document = getattr(app, "openapi", None)
    routes = getattr(app, "routes", ())
    return document() if callable(document) else {}, routes


def routed_operations(routes: Iterable[Any], prefix: str = "") -> Iterator[str]:
    """
    Yield the operations of a route table of Starlette's shape, or of strings.

    What is no plain route, such as a websocket or a mounted app without a
    table of its own, is yielded under a method that says so.
    """
    for route in routes:
        if isinstance(route, str):
            yield _CONVERTER.sub(r"{\1}", route)
            continue
        inner = getattr(route, "routes", None)
        path = prefix + _CONVERTER.sub(r"{\1}", getattr(route, "path", ""))
        if inner:
            yield from routed_operations(inner, path)
        elif methods := getattr(route, "methods", None):
            # HEAD is answered by what answers GET.
            shown = set(methods) - ({"HEAD"} if "GET" in methods else set())
            yield from (f"{method} {path}" for method in sorted(shown))
        else:
            yield f"{type(route).__name__.upper()} {path or '/'}"


def documented_steps(document: Mapping[str, Any]) -> dict[str, list[WalkStep]]:
    """
    Make steps for every operation of an OpenAPI 3 document.

    Args:
        document: The document; its references stay within it.

    Returns:
        The steps by operation; none where a body is of a kind that is not
        understood.
    """
    return {
        f"{method.upper()} {path}": list(_Operation(document, path, method, item).steps())
        for path, item in document.get("paths", {}).items()
        for method in item
        if method in _METHODS
    }


class _Operation:
    def __init__(self, document: Schema, path: str, method: str, item: Schema) -> None:
        self._document = document
        self._name = f"{method.upper()} {path}"
        self._partial = method == "patch"
        self._operation = item[method]
        listed = [*item.get("parameters", ()), *self._operation.get("parameters", ())]
        resolved = [self._resolve(one) for one in listed]
        self._parameters = list({(one["in"], one["name"]): one for one in resolved}.values())

    def steps(self) -> Iterator[WalkStep]:
        for body in self._bodies():
            yield WalkStep(self._name, query=self._query(), headers=self._headers(), **body)
        # What narrows a list is tried alone: together they would find nothing.
        for one in self._in("query"):
            if not one.get("required"):
                query = {**self._query(), one["name"]: f"{{{_placeholder(one['name'])}}}"}
                for body in self._bodies():
                    yield WalkStep(self._name, query=query, headers=self._headers(), **body)

    def _in(self, place: str) -> list[Schema]:
        return [one for one in self._parameters if one["in"] == place]

    def _query(self) -> dict[str, str]:
        required = [one for one in self._in("query") if one.get("required")]
        return {one["name"]: str(self._value(one)) for one in required}

    def _headers(self) -> dict[str, str]:
        found = {}
        for one in self._in("header"):
            name = one["name"].lower()
            if name == _IDEMPOTENCY_KEY:
                found[name] = "{mark}"
            elif name == "if-match" and one.get("required"):
                found[name] = "*"
            elif one.get("required") and name not in _OF_THE_CALLER:
                found[name] = str(self._value(one))
        return found

    def _value(self, parameter: Schema) -> Any:
        schema = parameter.get("schema", {"type": "string"})
        return self._make(schema, snake(parameter["name"]), _example(parameter))

    def _bodies(self) -> list[dict[str, Any]]:
        content = self._resolve(self._operation.get("requestBody", {})).get("content", {})
        for kind, media in content.items():
            schema, given = media.get("schema", {}), _example(media)
            if kind.partition(";")[0].endswith("json"):
                return [{"json": one} for one in self._json_bodies(schema, given)]
            if kind == "application/x-www-form-urlencoded":
                made = self._make(schema, "", given)
                return [{"form": {key: str(one) for key, one in made.items()}}]
        return [] if content else [{}]

    def _json_bodies(self, schema: Schema, given: Any) -> Iterator[Any]:
        made = self._make(schema, "", given)
        yield made
        if given is not None and (shown := _with_places(given)) != made:
            yield shown
        # An id that may be left out is tried too, each alone.
        for key in self._optional_ids(schema, made):
            yield {**made, key: f"{{{snake(key)}}}"}

    def _optional_ids(self, schema: Schema, made: Any) -> list[str]:
        properties = self._resolve(schema).get("properties", {})
        return [
            key
            for key in properties
            if isinstance(made, dict) and key not in made and _placed(snake(key))
        ]

    def _resolve(self, schema: Schema) -> Schema:
        seen = 0
        while "$ref" in schema:
            pointer, seen = schema["$ref"], seen + 1
            found: Any = self._document
            for part in pointer.removeprefix("#/").split("/"):
                found = found.get(part.replace("~1", "/").replace("~0", "~"), {})
            if not pointer.startswith("#/") or seen > 10:  # noqa: PLR2004 -- a circle
                message = f"{self._name}: the reference {pointer!r} leads out of the document"
                raise ConfigurationError(message)
            schema = {**found, **{key: one for key, one in schema.items() if key != "$ref"}}
        return schema

    def _make(self, schema: Schema, name: str, given: Any, depth: int = 0) -> Any:
        """
        Make a value of this schema, with places for ids and for marks.
        """
        if depth > _DEEPEST:  # a schema may contain itself
            return None
        schema = self._resolve(schema)
        given = _example(schema) if given is None else given
        if "const" in schema or schema.get("enum"):
            return schema["const"] if "const" in schema else schema["enum"][0]
        for choice in ("oneOf", "anyOf"):
            if options := [one for one in schema.get(choice, ()) if one.get("type") != "null"]:
                kept = {key: one for key, one in schema.items() if key != choice}
                merged = {**kept, **self._resolve(options[0])}
                return self._make(merged, name, given, depth + 1)
        if parts := schema.get("allOf"):
            return self._make(_merged(map(self._resolve, parts)), name, given, depth + 1)
        return self._typed(_type_of(schema), schema, name, given, depth)

    def _typed(self, kind: str, schema: Schema, name: str, given: Any, depth: int) -> Any:
        if kind == "object":
            return self._object(schema, name, given, depth)
        if kind == "array":
            shown = given[0] if isinstance(given, list) and given else None
            count = schema.get("minItems", 0) or (shown is not None)
            items = schema.get("items", {})
            return [self._make(items, name, shown, depth + 1) for _ in range(count)]
        if kind in {"integer", "number"}:
            return _placed(name) or _number(schema, given)
        if kind == "boolean":
            return bool(given)
        return _text(schema, name, given) if kind == "string" else None

    def _object(self, schema: Schema, name: str, given: Any, depth: int) -> dict[str, Any]:
        properties = schema.get("properties", {})
        required = schema.get("required", ())
        shown = given if isinstance(given, Mapping) else {}
        whole = self._partial and not name  # the body itself has no name
        return {
            key: self._make(one, snake(key), shown.get(key), depth + 1)
            for key, one in properties.items()
            if (key in required or key in shown or whole) and not self._resolve(one).get("readOnly")
        }


def _type_of(schema: Schema) -> str:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        return next((str(one) for one in kind if one != "null"), "null")
    return str(kind)


def _placeholder(name: str) -> str:
    return snake(name) or "id"


def _placed(name: str) -> str | None:
    if name in OWN or (_IDENTITY.search(name) and name not in {"id", "uuid", "guid"}):
        return f"{{{name}}}"
    return None


def _text(schema: Schema, name: str, given: Any) -> str:
    if place := _placed(name):
        return place
    if schema.get("format") in _FORMATS:
        return _FORMATS[str(schema["format"])]
    # The expressions are JavaScript's; what Python cannot read, the example answers.
    for marked in _MARKED:
        sample = marked.replace("{mark}", _MARK)
        if len(sample) <= schema.get("maxLength", len(sample)) and _matches(schema, sample):
            missing = int(schema.get("minLength", 0)) - len(sample)
            return marked + "x" * max(missing, 0)
    return str(given) if given is not None else "x" * max(schema.get("minLength", 1), 1)


def _matches(schema: Schema, sample: str) -> bool:
    try:
        return re.search(schema.get("pattern", ""), sample) is not None
    except re.error:
        return False


def _number(schema: Schema, given: Any) -> int | float:
    if isinstance(given, int | float):
        return given
    made: int | float = 1
    if "minimum" in schema or "exclusiveMinimum" in schema:
        made = max(made, schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1))
    if "maximum" in schema or "exclusiveMaximum" in schema:
        made = min(made, schema.get("maximum", schema.get("exclusiveMaximum", 0) - 1))
    return made


def _merged(parts: Iterable[Schema]) -> Schema:
    merged: dict[str, Any] = {}
    for part in parts:
        properties = {**merged.get("properties", {}), **part.get("properties", {})}
        required = [*merged.get("required", ()), *part.get("required", ())]
        merged = {**merged, **part, "properties": properties, "required": required}
    return merged if merged.get("properties") else {**merged, "properties": {}}


def _example(schema: Schema) -> Any:
    """
    The example of a schema, parameter or media type, else its default.
    """
    examples = schema.get("examples")
    if isinstance(examples, Mapping) and examples:
        return next(iter(examples.values())).get("value")
    if isinstance(examples, list) and examples:
        return examples[0]
    return schema.get("example", schema.get("default"))


def _with_places(given: Any, name: str = "") -> Any:
    """
    An example as it stands, but for its ids: they are nobody's.
    """
    if isinstance(given, Mapping):
        return {key: _with_places(one, snake(key)) for key, one in given.items()}
    if isinstance(given, list):
        return [_with_places(one, name) for one in given]
    return _placed(name) or given
