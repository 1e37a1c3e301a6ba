"""
Which paths need no tenant.

Whole segments are compared, on the path that the app routes on.  A path that
could be read in two ways is not public.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .._asgi import Scope, route_path
from ..errors import ConfigurationError

__all__ = ["PublicPaths"]

_PATTERN = re.compile(r"/|(?:/[A-Za-z0-9._~-]+)+/?|(?:/[A-Za-z0-9._~-]+)+/\*")
# Backslash, a second layer of percent-encoding, control characters.
_DOUBTFUL = re.compile(r"[\\%\x00-\x1f\x7f]")


class PublicPaths:
    """
    A set of exact paths (``/healthz``) and whole subtrees (``/docs/*``).

    ``/docs/*`` covers what is below ``/docs/``, not ``/docs`` itself.

    Args:
        patterns: The paths, as the app inside routes on them.

    Raises:
        twh_platform.errors.ConfigurationError: If one is not such a path, or
            if it would open everything.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        exact: set[str] = set()
        subtrees: list[str] = []
        for pattern in patterns:
            if not _PATTERN.fullmatch(pattern) or {".", ".."} & set(pattern.split("/")):
                message = f"public path {pattern!r} is not like '/healthz' or '/docs/*'"
                raise ConfigurationError(message)
            if pattern.endswith("/*"):
                subtrees.append(pattern[:-1])
            else:
                exact.add(pattern)
        self._exact = frozenset(exact)
        self._subtrees = tuple(subtrees)

    def cover(self, scope: Scope) -> bool:
        """
        Whether the path of this http or websocket scope is public.
        """
        path = route_path(scope)
        if path in self._exact:
            raw: bytes | None = scope.get("raw_path")
            # An encoded spelling would be decoded here and routed there.
            return raw is None or b"%" not in raw.partition(b"?")[0]
        return bool(self._subtrees) and self._below(scope, path)

    def _below(self, scope: Scope, path: str) -> bool:
        if not path.startswith(self._subtrees) or _DOUBTFUL.search(path):
            return False
        segments = path.split("/")[1:]
        if "." in segments or ".." in segments or "" in segments[:-1]:
            return False
        raw: bytes | None = scope.get("raw_path")
        # An encoded slash: more segments after decoding than before.
        return raw is None or raw.partition(b"?")[0].count(b"/") == scope["path"].count("/")
