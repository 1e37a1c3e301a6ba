"""
What a tenant was shown: every value, under the names that requests use for it.

The id in the answer to ``POST /sales_orders`` is a ``sales_order_id``; so is
that of ``{"sales_order": {"id": ...}}``, and what is called that itself.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
import string
from collections.abc import Collection, Iterator
from typing import Any
from uuid import UUID

from ._http import AppAnswer
from ._leaks import UUID_TEXT, Needle

__all__ = ["Harvest", "absent_like", "is_identity", "resource_of", "singular", "snake"]

_IDS = frozenset({"id", "uuid", "pk", "guid"})
# What lists come in; each as a plural may be written.
_ENVELOPES = frozenset(
    {"", "content", "data", "edge", "entry", "node", "page", "record", "result", "row", "value"}
)
_IDENTITY = re.compile(r"(?:^|_)(?:id|uuid|pk|guid|key|slug|ref|reference|cursor|handle)$")
_NUMBERED = re.compile(r"(?:^|_)(?:id|pk)$")
_TIME = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d.*)?")
_SHORTEST = 8  # a shorter text stands in answers by chance
_SHORTEST_TAIL = 4

Name = str
Scalar = str | int


class Harvest:
    """
    The values that one tenant was shown or sent.

    Args:
        ignore: Names of members whose values belong to nobody.
    """

    def __init__(self, ignore: Collection[str] = ()) -> None:
        self._ignore = frozenset(map(snake, ignore))
        self._values: dict[Name, list[Scalar]] = {}
        self._texts: dict[str, str] = {}
        self._numbers: dict[tuple[Name, int], str] = {}

    def keep(self, name: Name, value: Any) -> None:
        """
        Remember a value under a name; the latest comes first when it is asked for.
        """
        if isinstance(value, str | int) and not isinstance(value, bool):
            values = self._values.setdefault(name, [])
            if value not in values:
                values.append(value)

    def take(self, operation: str, answer: AppAnswer) -> None:
        """
        Remember what an answer shows.
        """
        resource = resource_of(operation.partition(" ")[2])
        location = (answer.header("location") or "").partition("?")[0].rstrip("/")
        if location and "/" in location:
            self.keep(f"{resource}_id", _number(location.rpartition("/")[2]))
        for name, value in _members(answer.find_json(), resource, 0):
            self.keep(name, value)
            if name not in self._ignore:
                self._note(name, value, operation)

    def _note(self, name: Name, value: Scalar, operation: str) -> None:
        what = f"{name} of {operation}"
        if isinstance(value, int):
            if _NUMBERED.search(name):
                self._numbers.setdefault((name, value), what)
        elif len(value) >= _SHORTEST and not _TIME.fullmatch(value):
            self._texts.setdefault(value, what)

    def named(self, name: Name) -> list[Scalar]:
        """
        Find the values for a parameter of this name, the latest first.

        Without any of just this name, those of the longest name that ends the
        other: ``from_location_id`` takes a ``location_id``.
        """
        if name in self._values:
            return self._values[name][::-1]
        near = [one for one in self._values if _ends(name, one) or _ends(one, name)]
        return self._values[max(near, key=len)][::-1] if near else []

    def needles(self, *, unlike: Harvest) -> list[Needle]:
        """
        The texts that the tenant was shown and the one of *unlike* was not.
        """
        return [
            Needle(text, what) for text, what in self._texts.items() if text not in unlike._texts
        ]

    def identities(self) -> list[Needle]:
        """
        The texts that tell one record from another, by their name or their form.
        """
        return [
            Needle(text, what)
            for text, what in self._texts.items()
            if is_identity(what.partition(" ")[0], text)
        ]

    def numbers_in(self, operation: str, answer: AppAnswer, *, unlike: Harvest) -> list[Needle]:
        """
        The ids of ours, being numbers, that stand under their name in an answer.
        """
        members = _members(answer.find_json(), resource_of(operation.partition(" ")[2]), 0)
        return [
            Needle(str(pair[1]), self._numbers[pair])
            for pair in dict.fromkeys(members)
            if pair in self._numbers and pair not in unlike._numbers
        ]


def _ends(name: Name, ending: Name) -> bool:
    return name.endswith(f"_{ending}")


def _members(value: Any, resource: str, depth: int, name: str = "") -> Iterator[tuple[Name, Any]]:
    """
    Yield every scalar with its name; an id takes the name of what it identifies.
    """
    if isinstance(value, dict):
        for key, one in value.items():
            if snake(key) in _IDS and depth == 1 and name not in _ENVELOPES:
                # {"items": [{"id": ...}]} of GET /orders: the key may say either.
                yield from _members(one, resource, depth + 1, f"{resource}_id")
            owner = "" if name in _ENVELOPES else name
            yield from _members(one, resource, depth + 1, _qualified(snake(key), owner, resource))
    elif isinstance(value, list):
        for one in value:
            yield from _members(one, resource, depth, singular(name))
    elif isinstance(value, str | int) and not isinstance(value, bool):
        yield name or f"{resource}_id", value


def _qualified(key: str, owner: str, resource: str) -> Name:
    return f"{owner or resource}_id" if key in _IDS else key


def resource_of(path: str) -> str:
    """
    Name what a path template is about, in the singular: ``/items/{id}`` is ``item``.
    """
    parts = [part for part in path.split("/") if part]
    fixed = [number for number, part in enumerate(parts) if "{" not in part]
    before = [n for n in fixed if n + 1 < len(parts) and "{" in parts[n + 1]]
    chosen = before[-1:] or fixed[-1:]
    return singular(snake(parts[chosen[0]])) if chosen else ""


def singular(name: str) -> str:
    """
    Return the singular of an English plural, as names of resources are made.
    """
    if name.endswith("ies"):
        return f"{name[:-3]}y"
    if name.endswith(("sses", "xes", "ches", "shes")):
        return name[:-2]
    return name[:-1] if name.endswith("s") and not name.endswith(("ss", "us", "is")) else name


def snake(name: str) -> str:
    """
    Return a name in lower case with underscores: ``itemId`` is ``item_id``.
    """
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"\W+", "_", split).lower().strip("_")


def is_identity(name: Name, value: Scalar) -> bool:
    """
    Whether a value tells one record from another, to judge by its name or its form.
    """
    return bool(_IDENTITY.search(name)) or (
        isinstance(value, str) and UUID_TEXT.fullmatch(value) is not None
    )


def _number(text: str) -> Scalar:
    return int(text) if text.isascii() and text.isdigit() else text


def absent_like(value: Scalar) -> Scalar | None:
    """
    Make a value of the same form that nobody has; None if the form is not understood.

    A UUID keeps its version, a prefixed id its prefix, a text in base64 what
    is not an id in it.
    """
    if isinstance(value, int):
        return 2_000_000_000 + secrets.randbelow(100_000_000)
    if UUID_TEXT.fullmatch(value):
        return _absent_uuid(value)
    if inner := _base64_text(value):
        return _absent_inside(value, inner)
    if value.isascii() and value.isdigit():
        return str(absent_like(int(value)))
    head, mark, tail = re.fullmatch(r"(.*?)([-_:.]?)([A-Za-z0-9]*)", value, re.DOTALL).groups()  # type: ignore[union-attr]
    if len(tail) < _SHORTEST_TAIL:
        return None  # by chance it would be one that somebody has
    hexadecimal = set(tail) <= set(string.hexdigits)
    made = tail
    while made == tail:
        made = "".join(_another(one, hexadecimal=hexadecimal) for one in tail)
    return head + mark + made


def _absent_uuid(value: str) -> str:
    known = UUID(value)
    kept = (1 << 128) - (1 << 80) | 0xF << 76 | 0b11 << 62  # time of version 7, version, variant
    made = UUID(int=known.int & kept | secrets.randbits(128) & ~kept)
    return str(made).upper() if value.isupper() else str(made)


def _base64_text(value: str) -> str:
    padded = value.encode() + b"=" * (-len(value) % 4)
    try:
        plain = base64.b64decode(padded.replace(b"-", b"+").replace(b"_", b"/"), validate=True)
        text = plain.decode("ascii")
    except (ValueError, binascii.Error):
        return ""
    return text if len(value) >= _SHORTEST and text.isprintable() else ""


def _absent_inside(value: str, inner: str) -> str | None:
    changed = UUID_TEXT.sub(lambda match: _absent_uuid(match[0]), inner)
    if changed == inner:
        changed = re.sub(r"\d+", lambda match: str(absent_like(int(match[0]))), inner)
    if changed == inner:
        return None
    made = base64.urlsafe_b64encode(changed.encode()).decode()
    return made if value.endswith("=") or len(value) % 4 == 0 else made.rstrip("=")


def _another(character: str, *, hexadecimal: bool) -> str:
    if character.isdigit():
        return secrets.choice(string.digits)
    letter = secrets.choice("abcdef" if hexadecimal else string.ascii_lowercase)
    return letter.upper() if character.isupper() else letter
