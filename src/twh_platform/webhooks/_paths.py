"""
Which paths are verified: every path that something inside could read as one of them.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from urllib.parse import unquote

from .._asgi import Scope, route_path
from ..errors import ConfigurationError

__all__ = ["VerifiedPaths"]

_PATTERN = re.compile(r"/|(?:/[A-Za-z0-9._~-]+)+/?|(?:/[A-Za-z0-9._~-]+)*/\*")
_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_MOST_LAYERS = 4


class VerifiedPaths:
    """
    A set of exact paths (``/hooks/orders``) and whole subtrees (``/hooks/*``).

    ``/hooks/*`` covers ``/hooks`` too.  Frameworks differ in what they make of a
    slash at the end, of upper case, dots and a second layer of percent-encoding, so
    a path that is one of them under any such reading is covered.

    Args:
        patterns: The paths, as the app inside routes on them.

    Raises:
        twh_platform.errors.ConfigurationError: If one is not such a path.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        exact, trees = set(), []
        for pattern in patterns:
            if not _PATTERN.fullmatch(pattern) or {".", ".."} & set(pattern.split("/")):
                message = f"path {pattern!r} is not like '/hooks/orders' or '/hooks/*'"
                raise ConfigurationError(message)
            tree = pattern.endswith("/*")
            plain = _plain(pattern.removesuffix("*"))
            exact.add(plain)
            if tree:
                trees.append(plain.rstrip("/") + "/")
        self._exact = frozenset(exact)
        self._trees = tuple(trees)

    def cover(self, scope: Scope) -> bool:
        """
        Whether the path of this http scope is one of them.
        """
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
