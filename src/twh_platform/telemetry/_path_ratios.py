"""
Ratios by path, found before a router has spoken.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache

from ..errors import ConfigurationError

__all__ = ["PathRatios"]

_SEGMENT = re.compile(r"[^{}*]*|\{[A-Za-z_]\w*(?::[A-Za-z_]\w*)?\}", re.ASCII)
_ANY = "{}"
_BELOW = "/*"
_MOST_KNOWN = 1024
_LONGEST_KNOWN = 200


class _Node:
    # A place in the tree of segments: the values of what ends here, and of all below.
    __slots__ = ("below", "exact", "inner")

    def __init__(self) -> None:
        self.exact: int | None = None
        self.below: int | None = None
        self.inner: dict[str, _Node] = {}


class PathRatios:
    """
    Find the value of the most particular template that a path fits.

    A template is matched as a whole, segment by segment; ``{name}`` stands for
    one that is not empty, ``{name:path}`` or ``*`` at its end for whatever
    follows.  A literal segment counts more than a ``{name}``, a longer template
    more than a shorter one.

        >>> ratios = PathRatios({"/items/{id}": 1, "/items/*": 2})
        >>> ratios.find("/items/7"), ratios.find("/items/7/parts"), ratios.find("/")
        (1, 2, None)

    Args:
        values: Templates to values.

    Raises:
        twh_platform.errors.ConfigurationError: For what is no template.
    """

    def __init__(self, values: Mapping[str, int]) -> None:
        self._root = _Node()
        self._depth = 1
        for template, value in values.items():
            self._add(template, value)
        self._known: Callable[[str], int | None] = lru_cache(_MOST_KNOWN)(self._find)

    def find(self, path: str) -> int | None:
        """
        The value for *path*; None where no template fits.
        """
        return self._known(path) if len(path) <= _LONGEST_KNOWN else self._find(path)

    def _find(self, path: str) -> int | None:
        # One segment more than the longest template has is enough to tell that none fits.
        return _look(self._root, path.split("/", self._depth)[1:], 0)

    def _add(self, template: str, value: int) -> None:
        whole = re.sub(r"/\{[A-Za-z_]\w*:path\}\Z", _BELOW, template, flags=re.ASCII)
        segments = whole.removesuffix(_BELOW).split("/")
        if not whole.startswith("/") or not all(_SEGMENT.fullmatch(one) for one in segments):
            message = f"path {template!r} is not like '/items/{{id}}' or '/items/*'"
            raise ConfigurationError(message)
        node = self._root
        for one in segments[1:]:
            node = node.inner.setdefault(_ANY if one.startswith("{") else one, _Node())
        self._depth = max(self._depth, len(segments))
        if whole.endswith(_BELOW):
            node.below = value
        else:
            node.exact = value


def _look(node: _Node, segments: list[str], at: int) -> int | None:
    if at == len(segments):
        return node.below if node.exact is None else node.exact
    segment = segments[at]
    found: int | None = None
    if (literal := node.inner.get(segment)) is not None:
        found = _look(literal, segments, at + 1)
    if found is None and segment and (some := node.inner.get(_ANY)) is not None:
        found = _look(some, segments, at + 1)
    return node.below if found is None else found
