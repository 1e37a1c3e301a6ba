"""
Cursors that are made past the factories of a connection, for whoever watches it.

The statements of the platform need a cursor of their own kind, whatever factory
the caller has set.  Whoever watches a connection says here what such a cursor is
to be, and so sees these statements too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

__all__ = ["cursor_kind", "watch_cursors"]

_WATCH = "_twh_watched_kind"

K = TypeVar("K", bound=type)


def cursor_kind(connection: Any, kind: K) -> K:
    """
    What to make a cursor of on *connection*: *kind*, or what watches it.

    Args:
        connection: A connection of psycopg.

        kind: A class of cursors.
    """
    watched = getattr(connection, _WATCH, None)
    return kind if watched is None else cast("K", watched(kind))


def watch_cursors(connection: Any, watched: Callable[[Any], Any]) -> None:
    """
    From now on, make cursors on *connection* of what *watched* returns for their class.
    """
    setattr(connection, _WATCH, watched)
