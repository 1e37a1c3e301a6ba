"""
One transaction on a connection that somebody gives, and errors without the server's text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, TypeAlias

from ..._extras import missing_extra
from ...errors import PlatformError, TenantMismatchError
from ...tenancy.postgres._psycopg_cursors import cursor_kind
from .._owner import require_owner

try:
    import psycopg
    from psycopg.rows import tuple_row
except ImportError as error:
    raise missing_extra("psycopg", error) from error

__all__ = ["NOT_ALLOWED", "Ask", "Connect", "Row", "Values", "ensure_current", "kind_of", "opened"]

NOT_ALLOWED = "42501"
"""The SQLSTATE for what the login is not granted, and for a row that policies refuse."""

Row: TypeAlias = tuple[Any, ...]
Values: TypeAlias = Sequence[object] | Mapping[str, object]
Ask: TypeAlias = Callable[[str, Values], list[Row]]
Connect: TypeAlias = Callable[[], AbstractContextManager["psycopg.Connection[Any]"]]


@contextmanager
def opened(connect: Connect, told: Callable[[psycopg.Error], PlatformError]) -> Iterator[Ask]:
    """
    Open a transaction, and give what runs statements in it.

    Args:
        connect: Gives the connection.

        told: Makes our error of the driver's.

    Raises:
        twh_platform.errors.PlatformError: What *told* made.
    """
    try:
        with connect() as connection, connection.transaction():
            yield partial(_ask, connection)
    except psycopg.Error as error:
        raise told(error) from error


def ensure_current(tenant_id: str) -> None:
    """
    Return if this is the tenant whose connection will be given.

    Raises:
        twh_platform.errors.TenantMismatchError: If another one is bound.
    """
    current = require_owner().id
    if current != tenant_id:
        message = f"keys of tenant {tenant_id!r} are asked for by {current!r}"
        raise TenantMismatchError(message)


def kind_of(error: psycopg.Error) -> str:
    """
    What an error is, without the server's text, which quotes values.
    """
    return f"{type(error).__name__}, SQLSTATE {error.sqlstate}"


# The cursor is made here: the factories of a connection are the caller's.
def _ask(connection: psycopg.Connection[Any], sql: str, values: Values) -> list[Row]:
    kind = cursor_kind(connection, psycopg.Cursor)
    with kind(connection, row_factory=tuple_row) as cursor:
        cursor.execute(sql.encode(), values or None)
        return cursor.fetchall() if cursor.description else []
