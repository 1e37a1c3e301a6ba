"""
Steps on psycopg connections.
"""

from __future__ import annotations

from functools import partial
from typing import Any, TypeVar

from ..._extras import missing_extra
from ._psycopg_cursors import cursor_kind
from ._steps import Ask, Rows, Steps, drive, drive_async

try:
    import psycopg
    from psycopg.rows import tuple_row
except ImportError as cause:
    raise missing_extra("psycopg", cause) from cause

__all__ = ["carry_out", "carry_out_async"]

T = TypeVar("T")


def carry_out(steps: Steps[T], connection: psycopg.Connection[Any]) -> T:
    """
    Carry steps out in the connection's transaction; errors are psycopg's.
    """
    return drive(steps, partial(_ask, connection))


async def carry_out_async(steps: Steps[T], connection: psycopg.AsyncConnection[Any]) -> T:
    """
    The same on a `psycopg.AsyncConnection`.
    """
    return await drive_async(steps, partial(_ask_async, connection))


# Raw cursors know $1 and leave a percent sign alone.  They are made here, not by
# the connection, whose factories are the caller's.


def _ask(connection: psycopg.Connection[Any], ask: Ask) -> Rows:
    kind = cursor_kind(connection, psycopg.RawCursor)
    with kind(connection, row_factory=tuple_row) as cursor:
        return cursor.execute(ask.sql.encode(), ask.parameters or None).fetchall()


async def _ask_async(connection: psycopg.AsyncConnection[Any], ask: Ask) -> Rows:
    kind = cursor_kind(connection, psycopg.AsyncRawCursor)
    async with kind(connection, row_factory=tuple_row) as cursor:
        await cursor.execute(ask.sql.encode(), ask.parameters or None)
        return await cursor.fetchall()
