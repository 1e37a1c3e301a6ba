"""
Capacity on asyncpg connections, in the caller's own transaction (extra: `asyncpg`).

    >>> capacity = PostgresCapacity()
    >>> await capacity.take(connection, items)  # doctest: +SKIP
    CapacityTaken(tenant_id='acme', rule=Capacity(...), before=41, after=42)
"""

from __future__ import annotations

from ..._extras import missing_extra
from ...tenancy.postgres._asyncpg_steps import carry_out
from ._capacity import CapacitySteps, CapacityTaken, Costs, RuleName
from ._reconcile import CapacityCount, Counts, reconcile_steps

try:
    import asyncpg
except ImportError as cause:
    raise missing_extra("asyncpg", cause) from cause

__all__ = ["PostgresCapacity"]


class PostgresCapacity(CapacitySteps):
    """
    Takes and gives back capacity on an `asyncpg.Connection`.

    It is `twh_platform.quotas.postgres.psycopg.PostgresCapacity` with methods
    to await.  Open a transaction first: outside of one no tenant is bound, and
    the database refuses.  Errors of the database are asyncpg's.

    Args:
        plans: Which rules a tenant has; then rules can be named.
    """

    async def take(
        self, connection: asyncpg.Connection, rule: RuleName, *, cost: int | None = None
    ) -> CapacityTaken:
        """
        Take from one rule of the current tenant.
        """
        return await carry_out(self._take_one(rule, cost), connection)

    async def take_all(
        self, connection: asyncpg.Connection, costs: Costs
    ) -> tuple[CapacityTaken, ...]:
        """
        Take from several rules, or from none of them.
        """
        return await carry_out(self._take(costs), connection)

    async def give_back(
        self, connection: asyncpg.Connection, rule: RuleName, *, amount: int | None = None
    ) -> CapacityTaken:
        """
        Give back to one rule of the current tenant.
        """
        return await carry_out(self._give_back_one(rule, amount), connection)

    async def give_back_all(
        self, connection: asyncpg.Connection, amounts: Costs
    ) -> tuple[CapacityTaken, ...]:
        """
        Give back to several rules.
        """
        return await carry_out(self._give_back(amounts), connection)

    async def levels(self, connection: asyncpg.Connection) -> dict[str, int]:
        """
        Read the levels of the current tenant, by rule.
        """
        return await carry_out(self._levels(), connection)

    async def reconcile(
        self, connection: asyncpg.Connection, counts: Counts, *, correct: bool = True
    ) -> tuple[CapacityCount, ...]:
        """
        Compare levels with what is there; a function that counts may be async.
        """
        steps = reconcile_steps(counts, correct=correct)
        return await carry_out(steps, connection)
