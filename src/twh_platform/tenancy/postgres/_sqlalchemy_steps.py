"""
Steps in SQLAlchemy sessions and on SQLAlchemy connections.

They are no statements of the ORM, so nothing is flushed before them.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TypeAlias, TypeVar

from ..._extras import missing_extra
from ._steps import Ask, Rows, Steps, drive, drive_async

try:
    from sqlalchemy import Connection, text
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
    from sqlalchemy.orm import Session
except ImportError as cause:
    raise missing_extra("sqlalchemy", cause) from cause

__all__ = ["AsyncWork", "Work", "carry_out", "carry_out_async"]

T = TypeVar("T")
Work: TypeAlias = Session | Connection
AsyncWork: TypeAlias = AsyncSession | AsyncConnection


def carry_out(steps: Steps[T], work: Work) -> T:
    """
    Carry steps out in the transaction of *work*; errors are SQLAlchemy's.
    """
    return drive(steps, partial(_ask, work))


async def carry_out_async(steps: Steps[T], work: AsyncWork) -> T:
    """
    The same in an `AsyncSession`, or on an `AsyncConnection`.
    """
    return await drive_async(steps, partial(_ask_async, work))


def _ask(work: Work, ask: Ask) -> Rows:
    return _asked(work.connection() if isinstance(work, Session) else work, ask)


async def _ask_async(work: AsyncWork, ask: Ask) -> Rows:
    connection = await work.connection() if isinstance(work, AsyncSession) else work
    return await connection.run_sync(_asked, ask)


def _asked(connection: Connection, ask: Ask) -> Rows:
    if ask.parameters:
        named = text(re.sub(r"\$(\d)::(\w+(\[\])?)", r"CAST(:p\1 AS \2)", ask.sql))
        values = {f"p{at}": value for at, value in enumerate(ask.parameters, 1)}
        result = connection.execute(named, values)
    else:
        # The SQL may be the caller's: text() would read its colons.
        formats = connection.dialect.paramstyle in {"format", "pyformat"}
        result = connection.exec_driver_sql(ask.sql.replace("%", "%%") if formats else ask.sql)
    return [tuple(row) for row in result]
