"""
Steps on asyncpg connections.
"""

from __future__ import annotations

from functools import partial
from typing import TypeVar

from ..._extras import missing_extra
from ._steps import Ask, Rows, Steps, drive_async

try:
    import asyncpg
except ImportError as cause:
    raise missing_extra("asyncpg", cause) from cause

__all__ = ["carry_out"]

T = TypeVar("T")


async def carry_out(steps: Steps[T], connection: asyncpg.Connection) -> T:
    """
    Carry steps out in the connection's transaction; errors are asyncpg's.
    """
    return await drive_async(steps, partial(_ask, connection))


async def _ask(connection: asyncpg.Connection, ask: Ask) -> Rows:
    return [tuple(row) for row in await connection.fetch(ask.sql, *ask.parameters)]
