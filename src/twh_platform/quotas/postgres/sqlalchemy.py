"""
Capacity in SQLAlchemy sessions, in the caller's own transaction (extra: `sqlalchemy`).

    >>> from twh_platform.quotas import Capacity
    >>> items = Capacity(name="items", limit=100)
    >>> capacity = PostgresCapacity()
    >>> capacity.take(session, items)  # doctest: +SKIP
    CapacityTaken(tenant_id='acme', rule=Capacity(...), before=41, after=42)
"""

from __future__ import annotations

from ...tenancy.postgres._sqlalchemy_steps import AsyncWork, Work, carry_out, carry_out_async
from ._capacity import CapacitySteps, CapacityTaken, Costs, RuleName
from ._reconcile import CapacityCount, Counts, reconcile_steps

__all__ = ["AsyncPostgresCapacity", "PostgresCapacity"]


class PostgresCapacity(CapacitySteps):
    """
    Takes and gives back capacity in a `Session`, or on a `Connection`, of SQLAlchemy.

    It is `twh_platform.quotas.postgres.psycopg.PostgresCapacity`, for engines
    of `twh_platform.tenancy.postgres.sqlalchemy.bind_engine`.  Errors of the
    database are SQLAlchemy's.  It is no statement of the ORM, so nothing is
    flushed before it.

    Args:
        plans: Which rules a tenant has; then rules can be named.
    """

    def take(self, work: Work, rule: RuleName, *, cost: int | None = None) -> CapacityTaken:
        """
        Take from one rule of the current tenant.
        """
        return carry_out(self._take_one(rule, cost), work)

    def take_all(self, work: Work, costs: Costs) -> tuple[CapacityTaken, ...]:
        """
        Take from several rules, or from none of them.
        """
        return carry_out(self._take(costs), work)

    def give_back(self, work: Work, rule: RuleName, *, amount: int | None = None) -> CapacityTaken:
        """
        Give back to one rule of the current tenant.
        """
        return carry_out(self._give_back_one(rule, amount), work)

    def give_back_all(self, work: Work, amounts: Costs) -> tuple[CapacityTaken, ...]:
        """
        Give back to several rules.
        """
        return carry_out(self._give_back(amounts), work)

    def levels(self, work: Work) -> dict[str, int]:
        """
        Read the levels of the current tenant, by rule.
        """
        return carry_out(self._levels(), work)

    def reconcile(
        self, work: Work, counts: Counts, *, correct: bool = True
    ) -> tuple[CapacityCount, ...]:
        """
        Compare levels with what is there, and put them right.
        """
        return carry_out(reconcile_steps(counts, correct=correct), work)


class AsyncPostgresCapacity(CapacitySteps):
    """
    The same in an `AsyncSession`, or on an `AsyncConnection`.
    """

    async def take(
        self, work: AsyncWork, rule: RuleName, *, cost: int | None = None
    ) -> CapacityTaken:
        """
        Take from one rule of the current tenant.
        """
        return await carry_out_async(self._take_one(rule, cost), work)

    async def take_all(self, work: AsyncWork, costs: Costs) -> tuple[CapacityTaken, ...]:
        """
        Take from several rules, or from none of them.
        """
        return await carry_out_async(self._take(costs), work)

    async def give_back(
        self, work: AsyncWork, rule: RuleName, *, amount: int | None = None
    ) -> CapacityTaken:
        """
        Give back to one rule of the current tenant.
        """
        return await carry_out_async(self._give_back_one(rule, amount), work)

    async def give_back_all(self, work: AsyncWork, amounts: Costs) -> tuple[CapacityTaken, ...]:
        """
        Give back to several rules.
        """
        return await carry_out_async(self._give_back(amounts), work)

    async def levels(self, work: AsyncWork) -> dict[str, int]:
        """
        Read the levels of the current tenant, by rule.
        """
        return await carry_out_async(self._levels(), work)

    async def reconcile(
        self, work: AsyncWork, counts: Counts, *, correct: bool = True
    ) -> tuple[CapacityCount, ...]:
        """
        Compare levels with what is there; a function that counts may be async.
        """
        steps = reconcile_steps(counts, correct=correct)
        return await carry_out_async(steps, work)
