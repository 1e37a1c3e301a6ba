"""
Claiming a webhook in the handler's own transaction, on psycopg connections (extra: `psycopg`).

    >>> with pool.connection() as connection, connection.transaction():  # doctest: +SKIP
    ...     claim_in(connection, webhook_delivery(scope))
    ...     connection.execute("INSERT INTO payments ...")
"""

from __future__ import annotations

from typing import Any

from ..._extras import missing_extra
from ...tenancy.postgres._psycopg_steps import carry_out, carry_out_async
from .._delivery import Delivery
from .._replay import Retention
from ._claims import purge_steps, transaction_claim_steps

try:
    import psycopg
except ImportError as cause:
    raise missing_extra("psycopg", cause) from cause

__all__ = ["claim_in", "claim_in_async", "purge_in", "purge_in_async"]

_KEPT = Retention()


def claim_in(
    connection: psycopg.Connection[Any], delivery: Delivery, *, retention: Retention = _KEPT
) -> None:
    """
    Remember a delivery as handled, in the transaction that handles it.

    What the handler does in this transaction happens exactly once: claim and effect
    are committed together, or neither is.  Call it first.  Another transaction that
    claims the same delivery waits until this one ends.

    Errors of the database are psycopg's, as for every statement.  Under REPEATABLE
    READ and SERIALIZABLE a race ends in a serialization failure: try again.

    Args:
        connection: A tenant connection, in the transaction of the handler.

        delivery: Of `webhook_delivery` or `delivery_of`.

        retention: For how long it is remembered.

    Raises:
        twh_platform.errors.WebhookError: With code ``replayed``, if it was handled:
            answer 2xx, so that the sender stops.  With ``id_conflict``, if its id is
            known with another body.  The transaction can go on.

        twh_platform.errors.NoCurrentTenantError: If no tenant is bound.

        twh_platform.errors.ConfigurationError: With code ``retention_too_short``, if
            it would be forgotten while its signature is good.
    """
    carry_out(transaction_claim_steps(delivery, retention), connection)


async def claim_in_async(
    connection: psycopg.AsyncConnection[Any], delivery: Delivery, *, retention: Retention = _KEPT
) -> None:
    """
    The same on a `psycopg.AsyncConnection`; see `claim_in`.
    """
    steps = transaction_claim_steps(delivery, retention)
    await carry_out_async(steps, connection)


def purge_in(connection: psycopg.Connection[Any], *, limit: int = 1000) -> int:
    """
    Delete claims of the current tenant that have ended; return how many.

    Args:
        connection: A tenant connection.

        limit: The most of them.
    """
    return carry_out(purge_steps(limit), connection)


async def purge_in_async(connection: psycopg.AsyncConnection[Any], *, limit: int = 1000) -> int:
    """
    The same on a `psycopg.AsyncConnection`.
    """
    return await carry_out_async(purge_steps(limit), connection)
