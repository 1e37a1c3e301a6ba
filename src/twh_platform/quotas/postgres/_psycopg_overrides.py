"""
Overrides in PostgreSQL through psycopg.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..._extras import missing_extra
from ...errors import BackendUnavailableError
from .._limits import Limit, Override, check_statement, limits_as_json, read_limits
from .._overrides import OverrideChange, changed_since
from ._overrides_sql import CHANGE, CHANGED_SQLSTATE, CHANGES, CURRENT, HISTORY

try:
    import psycopg
    from psycopg.types.json import Jsonb
    from psycopg_pool import AsyncConnectionPool
except ImportError as error:
    raise missing_extra("psycopg", error) from error

__all__ = ["PostgresOverrideStore"]


class PostgresOverrideStore:
    """
    Keep overrides in the table that `overrides_sql` makes.

    Each method is one statement in a transaction of its own.

    Args:
        pool: An open pool of a login role that `overrides_sql` was given, as
            `twh_platform.tenancy.postgres.directory.directory_pool` makes it.

        administrators: A pool of one of its administrators, through which
            overrides are changed; if None, that is *pool* too.
    """

    def __init__(
        self,
        pool: AsyncConnectionPool[Any],
        *,
        administrators: AsyncConnectionPool[Any] | None = None,
    ) -> None:
        self._pool = pool
        self._administrators = pool if administrators is None else administrators

    async def put(
        self,
        tenant_id: str,
        limits: Mapping[str, Limit],
        *,
        actor: str,
        reason: str,
        expected: int | None = None,
    ) -> OverrideChange:
        """
        Replace all of a tenant's own limits.

        Raises:
            twh_platform.errors.ConfigurationError: With code
                ``override_invalid``.

            twh_platform.errors.BackendUnavailableError: With code
                ``override_store_unavailable``.
        """
        check_statement(tenant_id=tenant_id, actor=actor, reason=reason)
        said = Jsonb(limits_as_json(read_limits(limits)))
        *before, after = await self._change(tenant_id, said, actor, reason, expected)
        return OverrideChange(before[0] if before else None, after)

    async def delete(
        self, tenant_id: str, *, actor: str, reason: str, expected: int | None = None
    ) -> OverrideChange | None:
        """
        Take a tenant's own limits away; None if it has none.

        Raises:
            twh_platform.errors.ConfigurationError: As `put`.

            twh_platform.errors.BackendUnavailableError: As `put`.
        """
        check_statement(tenant_id=tenant_id, actor=actor, reason=reason)
        rows = await self._change(tenant_id, Jsonb({}), actor, reason, expected)
        return OverrideChange(rows[0], rows[1]) if rows else None

    async def get(self, tenant_id: str) -> Override | None:
        """
        Return what a tenant has now.

        Raises:
            twh_platform.errors.BackendUnavailableError: As `put`.
        """
        rows = await self._ask(CURRENT, tenant_id)
        return rows[0] if rows and not rows[0].deleted else None

    async def changes(self, since: int, *, limit: int = 1000) -> Sequence[Override]:
        """
        Return the newest version of each tenant, as far as it is above *since*.

        Raises:
            twh_platform.errors.BackendUnavailableError: As `put`.
        """
        return await self._ask(CHANGES, since, limit)

    async def history(self, tenant_id: str, *, limit: int = 100) -> Sequence[Override]:
        """
        Return a tenant's versions, the newest first.

        Raises:
            twh_platform.errors.BackendUnavailableError: As `put`.
        """
        return await self._ask(HISTORY, tenant_id, limit)

    async def _change(self, *values: object) -> list[Override]:
        return await self._ask(CHANGE, *values, pool=self._administrators)

    async def _ask(
        self, query: str, *values: object, pool: AsyncConnectionPool[Any] | None = None
    ) -> list[Override]:
        try:
            async with (pool or self._pool).connection() as connection:
                cursor = await connection.execute(query.encode(), values)
                rows = await cursor.fetchall()
        except psycopg.Error as error:
            if error.sqlstate == CHANGED_SQLSTATE:
                raise changed_since(str(values[0])) from error
            kind = f"{type(error).__name__}, SQLSTATE {error.sqlstate}"
            message = f"the overrides cannot be reached: {kind}"
            raise BackendUnavailableError(message, code="override_store_unavailable") from error
        return [_override(row) for row in rows]


def _override(row: tuple[Any, ...]) -> Override:
    tenant_id, version, limits, actor, reason, changed_at = row
    return Override(
        tenant_id=tenant_id,
        version=version,
        limits=read_limits(limits) if limits else {},
        actor=actor,
        reason=reason,
        changed_at=changed_at,
    )
