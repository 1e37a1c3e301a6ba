"""
Capacity in PostgreSQL as a service author takes it; checked, never run.
"""

from __future__ import annotations

from typing import assert_type

import asyncpg
import psycopg
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from twh_platform.errors import QuotaExceededError
from twh_platform.quotas import Capacity, Plans
from twh_platform.quotas.postgres import (
    QUOTA_LEVELS,
    CapacityCount,
    CapacityRefusal,
    CapacityTaken,
    capacity_sql,
)
from twh_platform.quotas.postgres import asyncpg as by_asyncpg
from twh_platform.quotas.postgres import psycopg as by_psycopg
from twh_platform.quotas.postgres import sqlalchemy as by_sqlalchemy
from twh_platform.tenancy import Tenant
from twh_platform.tenancy.postgres import administrator_sql

ITEMS = Capacity(name="items", limit=100, unit="items")
BYTES = Capacity(name="storage", limit=10**9, unit="bytes")

assert_type(capacity_sql(role="app", reconcilers=["nightly"]), str)
assert_type(administrator_sql([QUOTA_LEVELS], role="support"), str)


def psycopg_capacity(connection: psycopg.Connection) -> None:
    """
    Rules are values, or names of the tenant's plan.
    """
    capacity = by_psycopg.PostgresCapacity(Plans.example())
    taken = capacity.take(connection, "items")
    assert_type(taken, CapacityTaken)
    assert_type((taken.before, taken.limit), tuple[int, int])
    assert_type(taken.exceeded, bool)
    capacity.take(connection, ITEMS, cost=3)
    assert_type(capacity.take_all(connection, {ITEMS: 1, BYTES: 4096}), tuple[CapacityTaken, ...])
    capacity.take_all(connection, {"items": 1, "storage": 4096})
    capacity.take(connection, 3)  # type: ignore[arg-type]
    capacity.give_back(connection, "items", amount=3)
    capacity.give_back_all(connection, {BYTES: 4096})
    assert_type(capacity.levels(connection), dict[str, int])


def what_was_refused(error: QuotaExceededError) -> None:
    """
    The refusal says what is left of each rule.
    """
    if isinstance(error.decision, CapacityRefusal):
        assert_type(
            [(one.rule.name, one.remaining) for one in error.decision.violated],
            list[tuple[str, int]],
        )


def count(tenant: Tenant) -> int:
    """
    Files of a tenant.
    """
    return len(tenant.id)


async def count_later(tenant: Tenant) -> int:
    """
    The same, awaited.
    """
    return len(tenant.id)


async def reconciled(connection: psycopg.AsyncConnection, other: asyncpg.Connection) -> None:
    """
    What is there is counted by a query or by a function.
    """
    capacity = by_psycopg.AsyncPostgresCapacity()
    found = await capacity.reconcile(
        connection,
        {"items": "SELECT count(*) FROM items", "storage": count_later},
        correct=False,
    )
    queries = {"items": "SELECT count(*) FROM items"}
    await capacity.reconcile(connection, queries)
    assert_type(found, tuple[CapacityCount, ...])
    assert_type(found[0].drift, int)
    assert_type(await capacity.take(connection, ITEMS), CapacityTaken)
    await by_asyncpg.PostgresCapacity().reconcile(other, {"storage": count})
    assert_type(await by_asyncpg.PostgresCapacity().take(other, ITEMS), CapacityTaken)


def sqlalchemy_capacity(session: Session, connection: Connection) -> None:
    """
    Sessions and connections alike.
    """
    capacity = by_sqlalchemy.PostgresCapacity()
    assert_type(capacity.take(session, ITEMS), CapacityTaken)
    assert_type(capacity.give_back(connection, ITEMS), CapacityTaken)


async def sqlalchemy_async(session: AsyncSession, connection: AsyncConnection) -> None:
    """
    And those that are awaited.
    """
    capacity = by_sqlalchemy.AsyncPostgresCapacity()
    assert_type(await capacity.take(session, ITEMS), CapacityTaken)
    assert_type(await capacity.levels(connection), dict[str, int])
