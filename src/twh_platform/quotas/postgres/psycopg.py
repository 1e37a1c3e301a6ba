"""
Capacity on psycopg connections, in the caller's own transaction (extra: `psycopg`).

    >>> from twh_platform.quotas import Capacity
    >>> items = Capacity(name="items", limit=100)
    >>> capacity = PostgresCapacity()
    >>> capacity.take(connection, items)  # doctest: +SKIP
    CapacityTaken(tenant_id='acme', rule=Capacity(...), before=41, after=42)
"""

from __future__ import annotations

from typing import Any

from ..._extras import missing_extra
from ...tenancy.postgres._psycopg_steps import carry_out, carry_out_async
from ._capacity import CapacitySteps, CapacityTaken, Costs, RuleName
from ._reconcile import CapacityCount, Counts, reconcile_steps

try:
    import psycopg
except ImportError as cause:
    raise missing_extra("psycopg", cause) from cause

__all__ = ["AsyncPostgresCapacity", "PostgresCapacity"]


class PostgresCapacity(CapacitySteps):
    """
    Takes and gives back capacity on a `psycopg.Connection`.

    Every call is one statement in the transaction that is open, or that it
    opens.  What is taken belongs to that transaction: it is kept by a commit
    and given back by a rollback, also of a savepoint, and by whatever else ends
    the transaction.  From then until its end, other transactions of the same
    tenant that take from the same rule wait.

    Give it a tenant connection: on another one the database refuses.  Errors of
    the database are psycopg's, as for every statement.

    Args:
        plans: Which rules a tenant has, such as `twh_platform.quotas.Plans`;
            then rules can be named.
    """

    def take(
        self, connection: psycopg.Connection[Any], rule: RuleName, *, cost: int | None = None
    ) -> CapacityTaken:
        """
        Take from one rule of the current tenant.

        Args:
            connection: In the transaction that makes what is counted.

            rule: A `twh_platform.quotas.Capacity`, or the name of one in the
                tenant's plan.

            cost: How many units; the rule's own cost if None.  0 takes nothing
                and locks the level.

        Returns:
            The level before and after.  A rule that is soft or shadow is
            counted beyond its limit too: see `CapacityTaken.exceeded`.

        Raises:
            twh_platform.errors.QuotaExceededError: If there is not enough left.
                Nothing was taken, and the transaction can go on.

            twh_platform.errors.QuotaCostError: If the cost is above the limit.

            twh_platform.errors.NoCurrentTenantError: If no tenant is bound.

            twh_platform.errors.ConfigurationError: With code
                ``capacity_rule_invalid`` or ``cost_invalid``.
        """
        return carry_out(self._take_one(rule, cost), connection)

    def take_all(
        self, connection: psycopg.Connection[Any], costs: Costs
    ) -> tuple[CapacityTaken, ...]:
        """
        Take from several rules, or from none of them: one statement.

        Args:
            connection: As for `take`.

            costs: Units, by rule.

        Returns:
            In the order of the rules' names.

        Raises:
            twh_platform.errors.QuotaExceededError: As for `take`, if one of
                them has not enough left.
        """
        return carry_out(self._take(costs), connection)

    def give_back(
        self, connection: psycopg.Connection[Any], rule: RuleName, *, amount: int | None = None
    ) -> CapacityTaken:
        """
        Give back to one rule of the current tenant.

        The level does not go below zero.  Where it would, more is given back
        than was taken: that is announced as `CapacityDrift`.

        Args:
            connection: In the transaction that deletes what was counted.

            rule: As for `take`.

            amount: How many units; the rule's own cost if None.
        """
        return carry_out(self._give_back_one(rule, amount), connection)

    def give_back_all(
        self, connection: psycopg.Connection[Any], amounts: Costs
    ) -> tuple[CapacityTaken, ...]:
        """
        Give back to several rules: one statement.
        """
        return carry_out(self._give_back(amounts), connection)

    def levels(self, connection: psycopg.Connection[Any]) -> dict[str, int]:
        """
        Read the levels of the current tenant, by rule; no lock is taken.
        """
        return carry_out(self._levels(), connection)

    def reconcile(
        self, connection: psycopg.Connection[Any], counts: Counts, *, correct: bool = True
    ) -> tuple[CapacityCount, ...]:
        """
        Compare levels of the current tenant with what is there, and put them right.

        It is exact while others take and give back.  A level that is wrong is
        locked until the transaction ends, so give each tenant one of its own.
        Drift is announced as `CapacityDrift`.

        Args:
            connection: A tenant connection of the owner of the tables, or of
                one of the *reconcilers* of `capacity_sql`.

            counts: By rule, a query whose one value is what is there
                (``SELECT count(*) FROM items``), or a function of the tenant
                that counts what is in no database.

            correct: Whether to put levels right; else they are looked at only.

        Returns:
            In the order of the rules' names.

        Raises:
            twh_platform.errors.ConfigurationError: With code
                ``capacity_login_unheld``, for a login that policies do not
                hold: it would count the rows of all tenants.
        """
        return carry_out(reconcile_steps(counts, correct=correct), connection)


class AsyncPostgresCapacity(CapacitySteps):
    """
    The same on a `psycopg.AsyncConnection`; see `PostgresCapacity`.
    """

    async def take(
        self, connection: psycopg.AsyncConnection[Any], rule: RuleName, *, cost: int | None = None
    ) -> CapacityTaken:
        """
        Take from one rule of the current tenant.
        """
        return await carry_out_async(self._take_one(rule, cost), connection)

    async def take_all(
        self, connection: psycopg.AsyncConnection[Any], costs: Costs
    ) -> tuple[CapacityTaken, ...]:
        """
        Take from several rules, or from none of them.
        """
        return await carry_out_async(self._take(costs), connection)

    async def give_back(
        self,
        connection: psycopg.AsyncConnection[Any],
        rule: RuleName,
        *,
        amount: int | None = None,
    ) -> CapacityTaken:
        """
        Give back to one rule of the current tenant.
        """
        steps = self._give_back_one(rule, amount)
        return await carry_out_async(steps, connection)

    async def give_back_all(
        self, connection: psycopg.AsyncConnection[Any], amounts: Costs
    ) -> tuple[CapacityTaken, ...]:
        """
        Give back to several rules.
        """
        return await carry_out_async(self._give_back(amounts), connection)

    async def levels(self, connection: psycopg.AsyncConnection[Any]) -> dict[str, int]:
        """
        Read the levels of the current tenant, by rule.
        """
        return await carry_out_async(self._levels(), connection)

    async def reconcile(
        self, connection: psycopg.AsyncConnection[Any], counts: Counts, *, correct: bool = True
    ) -> tuple[CapacityCount, ...]:
        """
        Compare levels with what is there; a function that counts may be async.
        """
        steps = reconcile_steps(counts, correct=correct)
        return await carry_out_async(steps, connection)
