"""
Claiming a webhook in the handler's own transaction, on asyncpg connections (extra: `asyncpg`).

    >>> async with pool.acquire() as connection, connection.transaction():  # doctest: +SKIP
    ...     await claim_in(connection, webhook_delivery(scope))
    ...     await connection.execute("INSERT INTO payments ...")
"""

from __future__ import annotations

from ..._extras import missing_extra
from ...tenancy.postgres._asyncpg_steps import carry_out
from .._delivery import Delivery
from .._replay import Retention
from ._claims import purge_steps, transaction_claim_steps

try:
    import asyncpg
except ImportError as cause:
    raise missing_extra("asyncpg", cause) from cause

__all__ = ["claim_in", "purge_in"]

_KEPT = Retention()


async def claim_in(
    connection: asyncpg.Connection, delivery: Delivery, *, retention: Retention = _KEPT
) -> None:
    """
    Remember a delivery as handled, in the transaction that handles it.

    See `twh_platform.webhooks.postgres.psycopg.claim_in`.  Errors of the database are
    asyncpg's.
    """
    steps = transaction_claim_steps(delivery, retention)
    await carry_out(steps, connection)


async def purge_in(connection: asyncpg.Connection, *, limit: int = 1000) -> int:
    """
    Delete claims of the current tenant that have ended; return how many.
    """
    return await carry_out(purge_steps(limit), connection)
