"""
Claiming a webhook in a SQLAlchemy session's own transaction (extra: `sqlalchemy`).

    >>> with Session(engine) as session, session.begin():  # doctest: +SKIP
    ...     claim_in(session, webhook_delivery(scope))
    ...     session.add(Payment(...))
"""

from __future__ import annotations

from ...tenancy.postgres._sqlalchemy_steps import AsyncWork, Work, carry_out, carry_out_async
from .._delivery import Delivery
from .._replay import Retention
from ._claims import purge_steps, transaction_claim_steps

__all__ = ["claim_in", "claim_in_async", "purge_in", "purge_in_async"]

_KEPT = Retention()


def claim_in(work: Work, delivery: Delivery, *, retention: Retention = _KEPT) -> None:
    """
    Remember a delivery as handled, in the transaction that handles it.

    See `twh_platform.webhooks.postgres.psycopg.claim_in`; for engines of
    `twh_platform.tenancy.postgres.sqlalchemy.bind_engine`.  Errors of the database
    are SQLAlchemy's.  It is no statement of the ORM, so nothing is flushed before it.

    Args:
        work: A `Session` or a `Connection`, in the transaction of the handler.

        delivery: Of `webhook_delivery` or `delivery_of`.

        retention: For how long it is remembered.

    Raises:
        twh_platform.errors.WebhookError: With code ``replayed`` or ``id_conflict``.

        twh_platform.errors.NoCurrentTenantError: If no tenant is bound.

        twh_platform.errors.ConfigurationError: With code ``retention_too_short``, if
            it would be forgotten while its signature is good.
    """
    carry_out(transaction_claim_steps(delivery, retention), work)


async def claim_in_async(
    work: AsyncWork, delivery: Delivery, *, retention: Retention = _KEPT
) -> None:
    """
    The same in an `AsyncSession`, or on an `AsyncConnection`.
    """
    steps = transaction_claim_steps(delivery, retention)
    await carry_out_async(steps, work)


def purge_in(work: Work, *, limit: int = 1000) -> int:
    """
    Delete claims of the current tenant that have ended; return how many.
    """
    return carry_out(purge_steps(limit), work)


async def purge_in_async(work: AsyncWork, *, limit: int = 1000) -> int:
    """
    The same in an `AsyncSession`, or on an `AsyncConnection`.
    """
    return await carry_out_async(purge_steps(limit), work)
