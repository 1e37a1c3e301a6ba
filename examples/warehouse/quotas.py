"""
How much each tenant may use: what counts it, who says how much, what becomes of the counts.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

from psycopg_pool import AsyncConnectionPool
from redis.asyncio import Redis

from twh_platform import subscribe
from twh_platform.quotas import (
    FallbackQuotaStore,
    LeasingQuotaStore,
    Limiter,
    MemoryQuotaStore,
    OverriddenPlans,
    Plans,
    QuotaNotice,
    QuotaOverrideChanged,
    QuotaStore,
    UsageMeter,
)
from twh_platform.quotas.postgres.overrides import PostgresOverrideStore
from twh_platform.quotas.postgres.sqlalchemy import AsyncPostgresCapacity
from twh_platform.quotas.postgres.usage import PostgresUsageLedger
from twh_platform.quotas.redis import RedisQuotaStore
from twh_platform.telemetry import ClientCalls
from twh_platform.telemetry.redis import watch_redis

from .settings import Settings

__all__ = ["COSTS", "Quotas"]

COSTS = {"GET /reports/low_stock": 5}
"""What a request costs that is not worth one: a report reads all items."""

_logger = logging.getLogger("warehouse")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """
    One set per running app.

    Attributes:
        limiter: Asks all rules that a request meets.

        plans: The tiers, and over them what the administrator has given a tenant.

        capacity: Takes items and locations in the transaction that adds them.

        usage: What calendars counted, for the administrator to bill by.

        store: Where rates and calendars are counted.

        meter: Writes down what calendars count.
    """

    limiter: Limiter
    plans: OverriddenPlans
    capacity: AsyncPostgresCapacity
    usage: PostgresUsageLedger
    store: QuotaStore
    meter: UsageMeter

    @classmethod
    def of(
        cls,
        settings: Settings,
        *,
        directory: AsyncConnectionPool[Any],
        administrator: AsyncConnectionPool[Any],
        calls: ClientCalls,
    ) -> Self:
        """
        Put them together.

        Args:
            settings: Where the counts are kept, and who may use how much.

            directory: Reads overrides and writes usage, of all tenants.

            administrator: Changes overrides and reads usage.

            calls: Is told of what Redis is asked.
        """
        file = settings.plan_file
        tiers = Plans.example() if file is None else Plans.from_toml(file)
        overrides = PostgresOverrideStore(directory, administrators=administrator)
        plans = OverriddenPlans(tiers, overrides)
        store = _store(settings.redis_url, calls)
        meter = UsageMeter(PostgresUsageLedger(directory))
        return cls(
            limiter=Limiter(store, plans=plans, rules=tiers.common, meter=meter),
            plans=plans,
            capacity=AsyncPostgresCapacity(plans),
            usage=PostgresUsageLedger(administrator),
            store=store,
            meter=meter,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """
        Read the overrides and follow them, write usage down; the pools are open.
        """
        async with AsyncExitStack() as stack:
            stack.callback(subscribe(QuotaNotice, _tell_notice))
            stack.callback(subscribe(QuotaOverrideChanged, _tell_override))
            if isinstance(self.store, FallbackQuotaStore):
                stack.push_async_callback(self.store.aclose)
            await stack.enter_async_context(self.plans)
            await stack.enter_async_context(self.meter)
            yield


def _store(redis_url: str | None, calls: ClientCalls) -> QuotaStore:
    if redis_url is None:
        return MemoryQuotaStore()
    redis = RedisQuotaStore(lambda: watch_redis(Redis.from_url(redis_url), calls))
    # The demo is one process; a deployment of ten says ten, and none takes more
    # than a tenth of a limit while Redis does not answer.
    return FallbackQuotaStore(LeasingQuotaStore(redis), instances=1)


def _tell_notice(notice: QuotaNotice) -> None:
    _logger.info("tenant %s has used %d %% of %s", notice.tenant_id, notice.threshold, notice.rule)


def _tell_override(change: QuotaOverrideChanged) -> None:
    _logger.info(
        "%s changed the limits of tenant %s to %s: %s",
        change.actor,
        change.tenant_id,
        dict(change.after),
        change.reason,
    )
