"""
Claims on webhooks in PostgreSQL, for the middleware (extra: `psycopg`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias, TypeVar, final

from ..._extras import missing_extra
from ...errors import ConfigurationError
from ...tenancy.postgres._psycopg_steps import carry_out_async
from ...tenancy.postgres._steps import Steps
from .._replay import Claim, ClaimToken, store_unavailable
from ._claims import claim_steps, commit_steps, purge_steps, release_steps

try:
    import psycopg
except ImportError as cause:
    raise missing_extra("psycopg", cause) from cause

__all__ = ["PostgresReplayStore"]

T = TypeVar("T")
Connect: TypeAlias = Callable[[], AbstractAsyncContextManager["psycopg.AsyncConnection[Any]"]]


@final
class PostgresReplayStore:
    """
    Remembers deliveries of the current tenant in the table that `webhooks_sql` makes.

    Each step is a transaction of its own, so a handler that dies after its effect and
    before the commit is run again when the lease ends.  For an effect that happens
    exactly once, claim in the handler's own transaction instead:
    `twh_platform.webhooks.postgres.psycopg.claim_in`.

        >>> from psycopg_pool import AsyncConnectionPool
        >>> from twh_platform.tenancy.postgres.psycopg import AsyncTenantConnection
        >>> pool = AsyncConnectionPool(
        ...     dsn, connection_class=AsyncTenantConnection, open=False
        ... )  # doctest: +SKIP
        >>> store = PostgresReplayStore(pool.connection)  # doctest: +SKIP

    Args:
        connect: Gives tenant connections, such as the method `connection` of a
            `psycopg_pool.AsyncConnectionPool` of
            `twh_platform.tenancy.postgres.psycopg.AsyncTenantConnection`.

        timeout: Seconds that a step may take.

    Raises:
        twh_platform.errors.ConfigurationError: For a timeout that is not above zero.
    """

    def __init__(self, connect: Connect, *, timeout: float = 2.0) -> None:
        if not timeout > 0:
            message = f"timeout={timeout!r} is not above zero"
            raise ConfigurationError(message)
        self._connect = connect
        self._timeout = timeout

    async def claim(self, key: bytes, fingerprint: bytes, *, lease: float, ttl: float) -> Claim:
        """
        See `ReplayStore.claim`.

        Raises:
            twh_platform.errors.BackendUnavailableError: With code
                ``replay_store_unavailable``, if the database does not answer in time
                or answers with an error.

            twh_platform.errors.NoCurrentTenantError: If no tenant is bound.
        """
        return await self._carry_out(claim_steps(key, fingerprint, lease=lease, ttl=ttl))

    async def commit(self, token: ClaimToken) -> bool:
        """
        See `ReplayStore.commit`.

        Raises:
            twh_platform.errors.BackendUnavailableError: As `claim`.
        """
        return await self._carry_out(commit_steps(token))

    async def release(self, token: ClaimToken) -> bool:
        """
        See `ReplayStore.release`.

        Raises:
            twh_platform.errors.BackendUnavailableError: As `claim`.
        """
        return await self._carry_out(release_steps(token))

    async def purge(self, *, limit: int = 1000) -> int:
        """
        Delete claims of the current tenant that have ended; return how many.

        Args:
            limit: The most of them.

        Raises:
            twh_platform.errors.BackendUnavailableError: As `claim`.
        """
        return await self._carry_out(purge_steps(limit))

    async def _carry_out(self, steps: Steps[T]) -> T:
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._connect() as connection,
                connection.transaction(),
            ):
                return await carry_out_async(steps, connection)
        except (psycopg.Error, TimeoutError, OSError) as error:
            raise store_unavailable("PostgreSQL", error) from error
