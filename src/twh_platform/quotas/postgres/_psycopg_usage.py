"""
The ledger of usage in PostgreSQL through psycopg.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timezone
from typing import Any

from ..._extras import missing_extra
from ...errors import BackendUnavailableError
from .._announcements import QuotaNotice
from .._usage_ledger import UsageCounter, UsageQuery, UsageRow
from ._usage_sql import CLAIM, PAGE, RECORD

try:
    import psycopg
    from psycopg_pool import AsyncConnectionPool
except ImportError as error:
    raise missing_extra("psycopg", error) from error

__all__ = ["PostgresUsageLedger"]

# What `PAGE` calls the parts of `UsageRow.place`.
_PLACE = (
    "day",
    "tenant",
    "rule",
    "period_start",
    "scope",
    "unit",
    "period_end",
    "start_offset",
    "end_offset",
)


class PostgresUsageLedger:
    """
    Keep usage in the tables that `usage_sql` makes.

    Each method is one statement in a transaction of its own.

    Args:
        pool: An open pool of the login role that `usage_sql` was given, as
            `twh_platform.tenancy.postgres.directory.directory_pool` makes it;
            only to read pages, of one of its readers.
    """

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def record(self, counters: Sequence[UsageCounter], /) -> None:
        """
        Keep the greatest `taken` and `refunded` of each counter: all, or none.

        Raises:
            twh_platform.errors.BackendUnavailableError: With code
                ``usage_ledger_unavailable``.
        """
        if counters:
            columns = zip(*map(_values, counters), strict=True)
            await self._ask(RECORD, tuple(map(list, columns)))

    async def claim(self, notice: QuotaNotice, /, *, crossed: bool) -> bool:
        """
        Say whether this notice is to be given, and remember that it was.

        Raises:
            twh_platform.errors.BackendUnavailableError: As `record`.
        """
        values = (
            notice.tenant_id,
            notice.rule,
            notice.scope,
            notice.period_start,
            notice.threshold,
            notice.limit,
            crossed,
        )
        return bool(await self._ask(CLAIM, values))

    async def page(
        self, query: UsageQuery, /, *, after: UsageRow | None, size: int
    ) -> Sequence[UsageRow]:
        """
        Return the next rows in the order of `UsageRow.place`.

        Raises:
            twh_platform.errors.BackendUnavailableError: As `record`.
        """
        place = (None,) * len(_PLACE) if after is None else after.place
        values = {
            "first": query.first,
            "until": query.until,
            "tenant_id": query.tenant_id,
            "size": size,
            **dict(zip(_PLACE, place, strict=True)),
        }
        return [_row(row) for row in await self._ask(PAGE, values)]

    async def _ask(self, query: str, values: Any) -> list[tuple[Any, ...]]:
        try:
            async with self._pool.connection() as connection:
                cursor = await connection.execute(query.encode(), values)
                return [] if cursor.description is None else await cursor.fetchall()
        except psycopg.Error as error:
            kind = f"{type(error).__name__}, SQLSTATE {error.sqlstate}"
            message = f"the ledger of usage cannot be reached: {kind}"
            raise BackendUnavailableError(message, code="usage_ledger_unavailable") from error


def _values(one: UsageCounter) -> tuple[Any, ...]:
    return (
        one.tenant_id,
        one.rule,
        one.scope,
        one.birth,
        one.instance,
        one.unit,
        one.period_start,
        one.period_end,
        one.period_start.utcoffset(),
        one.period_end.utcoffset(),
        one.taken,
        one.refunded,
    )


def _row(row: tuple[Any, ...]) -> UsageRow:
    _, tenant_id, rule, start, scope, unit, end, start_offset, end_offset, taken, refunded = row
    return UsageRow(
        tenant_id=tenant_id,
        rule=rule,
        unit=unit,
        scope=scope,
        period_start=start.astimezone(timezone(start_offset)),
        period_end=end.astimezone(timezone(end_offset)),
        taken=taken,
        refunded=refunded,
    )
