"""
What holds for which path: exact paths, whole subtrees, and a value for each.

A path that can be read in two ways is found under none, so that whoever asks can
take the strictest value there.  Why `VerifiedPaths` is not one of these is said there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Generic, TypeVar

from .._asgi import Scope, route_path
from ._paths import read_pattern

__all__ = ["PathTable"]

T = TypeVar("T")

# Backslash, a second layer of percent-encoding, control characters.
_DOUBTFUL: Final = re.compile(r"[\\%\x00-\x1f\x7f]")


class PathTable(Generic[T]):
    """
    Values by path: ``/webhooks/stripe`` alone, ``/webhooks/*`` for all below it.

    An exact path goes before a subtree, and a longer subtree before a shorter.  It
    stands for itself with a slash behind it, too: frameworks differ there.  Of two
    readings of a path it cannot say which the app takes: ask `doubtful` first.

    Args:
        values: By path, as the app inside routes on it.

    Raises:
        twh_platform.errors.ConfigurationError: If one is not such a path.
    """

    __slots__ = ("_exact", "_subtrees")

    def __init__(self, values: Mapping[str, T]) -> None:
        self._exact: dict[str, T] = {}
        subtrees: list[tuple[str, T]] = []
        for pattern, value in values.items():
            path, is_subtree = read_pattern(pattern)
            if is_subtree:
                subtrees.append((path, value))
            else:
                self._exact[path] = value
        self._subtrees = sorted(subtrees, key=lambda one: -len(one[0]))

    def __bool__(self) -> bool:
        return bool(self._exact or self._subtrees)

    def find(self, scope: Scope) -> T | None:
        """
        The value for the path of this scope, if one was given.
        """
        path = route_path(scope)
        for exact in (path, path.removesuffix("/")):
            if exact in self._exact:
                return self._exact[exact]
        for prefix, value in self._subtrees:
            if path.startswith(prefix):
                return value
        return None

    @staticmethod
    def doubtful(scope: Scope) -> bool:
        """
        Whether the app inside may take the path for another one than it seems.

        Dot segments, empty ones, backslashes, control characters, slashes that are
        encoded, and what is encoded twice.
        """
        path = route_path(scope)
        segments = path.split("/")[1:]
        if _DOUBTFUL.search(path) or {".", ".."} & set(segments) or "" in segments[:-1]:
            return True
        raw: bytes | None = scope.get("raw_path")
        # An encoded slash: more segments after decoding than before.
        return raw is not None and raw.partition(b"?")[0].count(b"/") != scope["path"].count("/")
