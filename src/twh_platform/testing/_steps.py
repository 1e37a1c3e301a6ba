"""
Steps: requests with places that are filled for a tenant.

``{item_id}`` stands for an id that the tenant was shown, ``{mark}`` for a text
that is made for each request and tells whose it is, ``{uuid}`` for a new UUID,
``{tenant}`` for the tenant's id.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any
from urllib.parse import quote, urlencode

from ..errors import ConfigurationError
from ._harvest import Scalar, resource_of, singular, snake
from ._http import AppRequest

__all__ = ["MADE", "OWN", "Slot", "WalkStep"]

MADE = frozenset({"mark", "uuid"})
OWN = frozenset({"tenant", "tenant_id"})

_SLOT = re.compile(r"\{(\w+)\}")
_OPERATION = re.compile(r"[A-Z]+ /\S*")
_IDS = frozenset({"id", "uuid", "pk"})


@dataclass(frozen=True, slots=True)
class Slot:
    """
    A place in a request, and the name of what belongs into it.
    """

    place: str
    name: str

    def __str__(self) -> str:
        return f"{{{self.name}}} in {self.place}"


Choose = Callable[[Slot], Scalar]


@dataclass(frozen=True, slots=True)
class WalkStep:
    """
    A request that the walk makes as each tenant.

    Strings anywhere in it may have places in braces.  ``{item_id}`` is the
    latest id of an item that the tenant was shown, ``{mark}`` a text of ten
    letters and digits that is new in each request, ``{uuid}`` a new UUID,
    ``{tenant}`` the tenant's id.

        >>> WalkStep("POST /items", {"sku": "{mark}"}, keep={"bolt_id": "id"}).path
        '/items'

    Args:
        operation: The method and the path template, as the app declares it.

        json: What is sent as JSON.

        given: What goes into the path's parameters, where it is not what their
            names say: ``{"id": "{shipped_id}"}``.

        query: What goes into the query.

        headers: Further headers.

        form: What is sent as a form, in place of JSON.

        body: What is sent as it is, in place of JSON.

        keep: Names under which later steps find a part of the answer, such as
            ``id`` or ``data.0.id``.
    """

    operation: str
    json: Any = None
    _: KW_ONLY
    given: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str] | None = None
    body: bytes = b""
    keep: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _OPERATION.fullmatch(self.operation):
            message = f"operation={self.operation!r} is not like 'GET /items/{{id}}'"
            raise ConfigurationError(message)

    def __str__(self) -> str:
        return self.operation

    @property
    def method(self) -> str:
        """
        The method.
        """
        return self.operation.partition(" ")[0]

    @property
    def path(self) -> str:
        """
        The path template.
        """
        return self.operation.partition(" ")[2]

    @property
    def safe(self) -> bool:
        """
        Whether the method only reads (RFC 9110, section 9.2.1).
        """
        return self.method in {"GET", "HEAD", "OPTIONS"}

    def slots(self) -> tuple[Slot, ...]:
        """
        The places to fill.
        """
        found: dict[Slot, None] = {}

        def note(slot: Slot) -> Scalar:
            found[slot] = None
            return "0"

        self.fill(note)
        return tuple(found)

    def fill(self, choose: Choose) -> AppRequest:
        """
        Make the request, with what *choose* returns in each place.
        """
        path = _SLOT.sub(lambda match: self._parameter(match[1], choose), self.path)
        query = {name: _fill(value, f"query {name}", choose) for name, value in self.query.items()}
        request = AppRequest(
            method=self.method,
            path=f"{path}?{urlencode(query)}" if query else path,
            headers=tuple(
                (name, str(_fill(value, f"header {name}", choose)))
                for name, value in self.headers.items()
            ),
            body=self.body,
        )
        if self.form is not None:
            form = {name: _fill(value, f"body {name}", choose) for name, value in self.form.items()}
            made = replace(request, body=urlencode(form).encode())
            return made.with_header("content-type", "application/x-www-form-urlencoded")
        return request if self.json is None else request.with_json(_fill(self.json, "body", choose))

    def _parameter(self, name: str, choose: Choose) -> str:
        template = self.given.get(name, f"{{{parameter_name(self.path, name)}}}")
        return quote(str(_fill(template, f"path {name}", choose)), safe="")

    def kept(self, body: Any) -> dict[str, Any]:
        """
        The parts of an answer that are to be kept, by name.
        """
        return {name: _dig(body, place) for name, place in self.keep.items()}

    def spelled(self) -> str:
        """
        Everything that tells one step of an operation from another.
        """
        parts = (self.json, self.given, self.query, self.headers, self.form)
        return json.dumps([self.operation, *map(_plain, parts)], sort_keys=True, default=str)


def parameter_name(path: str, parameter: str) -> str:
    """
    Name what belongs into a path's parameter: the ``id`` below ``/items`` is an ``item_id``.
    """
    before = path.partition(f"{{{parameter}}}")[0]
    owner = next(
        (singular(snake(part)) for part in reversed(before.split("/")) if part and "{" not in part),
        "",
    )
    name = snake(parameter)
    if name in _IDS:
        return f"{owner or resource_of(path)}_id"
    return f"{name}_id" if name == owner else name


def _plain(part: Any) -> Any:
    return dict(part) if isinstance(part, Mapping) else part


def _fill(value: Any, place: str, choose: Choose) -> Any:
    if isinstance(value, str):
        if whole := _SLOT.fullmatch(value):
            return choose(Slot(place, whole[1]))  # an id that is a number stays one
        return _SLOT.sub(lambda match: str(choose(Slot(place, match[1]))), value)
    if isinstance(value, Mapping):
        return {key: _fill(one, f"{place} {key}", choose) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_fill(one, f"{place} {number}", choose) for number, one in enumerate(value)]
    return value


def _dig(body: Any, place: str) -> Any:
    for part in place.split("."):
        body = body[int(part)] if isinstance(body, list) else body[part]
    return body
