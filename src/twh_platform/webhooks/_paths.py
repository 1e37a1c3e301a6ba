"""
Which paths are verified: every path that something inside could read as one of them.

This is a guard, and a `PathTable` is a choice.  To a guard a path that can be read in
two ways is ours if one of the readings is, and nobody's if none is; it has no value
to give.  A choice needs one value for a path, and of such a path it knows only that
it does not know.  Each would do harm as the other: a table that guards would refuse
all doubtful paths of the service, and a guard that chooses would let a spelling have
another path's value.  They have their patterns in common: `read_pattern`.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from urllib.parse import unquote

from .._asgi import Scope, route_path
from ..errors import ConfigurationError

__all__ = ["VerifiedPaths", "read_pattern"]

_PATTERN = re.compile(r"/|(?:/[A-Za-z0-9._~-]+)+/?|(?:/[A-Za-z0-9._~-]+)*/\*")
_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_MOST_LAYERS = 4


def read_pattern(pattern: str) -> tuple[str, bool]:
    """
    Read ``/hooks/orders``, or ``/hooks/*`` for all below it.

    Returns:
        The path, and whether it is all below: then it ends with its slash.

    Raises:
        twh_platform.errors.ConfigurationError: If it is no such path: it would
            never be met.
    """
    if not _PATTERN.fullmatch(pattern) or {".", ".."} & set(pattern.split("/")):
        message = f"path {pattern!r} is not like '/hooks/orders' or '/hooks/*'"
        raise ConfigurationError(message)
    return pattern.removesuffix("*"), pattern.endswith("/*")


class VerifiedPaths:
    """
    A set of exact paths (``/hooks/orders``) and whole subtrees (``/hooks/*``).

    ``/hooks/*`` covers ``/hooks`` too.  Frameworks differ in what they make of a
    slash at the end, of upper case, dots and a second layer of percent-encoding, so
    a path that is one of them under any such reading is covered.  It is no
    `PathTable`, as that finds nothing where a path can be read in two ways.

    Args:
        patterns: The paths, as the app inside routes on them.

    Raises:
        twh_platform.errors.ConfigurationError: If one is not such a path.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        exact, trees = set(), []
        for path, is_subtree in map(read_pattern, patterns):
            plain = _plain(path)
            exact.add(plain)
            if is_subtree:
                trees.append(plain.rstrip("/") + "/")
        self._exact = frozenset(exact)
        self._trees = tuple(trees)

    def cover(self, scope: Scope) -> bool:
        """
        Whether the path of this http scope is one of them.
        """
        if scope["path"] in self._exact:  # as nearly all webhooks are
            return True
        for path in {route_path(scope), scope["path"]}:
            plain = _plain(path)
            if plain in self._exact or plain.startswith(self._trees):
                return True
            # Whoever resolves no dots still routes on what stands before them.
            if path.startswith(self._trees):
                return True
        return False


def _plain(path: str) -> str:
    for _ in range(_MOST_LAYERS):
        decoded = unquote(path)
        if decoded == path:
            break
        path = decoded
    path = _CONTROL.sub("", path.replace("\\", "/"))
    return posixpath.normpath("/" + path.lstrip("/")).casefold()
