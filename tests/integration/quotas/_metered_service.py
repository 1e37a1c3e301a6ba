"""
A process that serves and meters until it is killed: it says how much it has admitted.
"""

from __future__ import annotations

import asyncio
import sys

from redis.asyncio import Redis

from tests.support.quotas import ACME, limiter_of
from twh_platform.quotas import Calendar, UsageMeter
from twh_platform.quotas.postgres.usage import PostgresUsageLedger
from twh_platform.quotas.redis import RedisQuotaStore
from twh_platform.tenancy.postgres.directory import directory_pool

MONTH = Calendar(name="month", limit=10_000_000, period="month")


async def serve(redis_url: str, dsn: str) -> None:
    """Take from eight tasks at once, and refund every fifth."""
    store = RedisQuotaStore(lambda: Redis.from_url(redis_url), timeout=5, patience=10)
    async with (
        directory_pool(dsn) as pool,
        UsageMeter(PostgresUsageLedger(pool), interval=0.1) as meter,
    ):
        limiter = limiter_of(store, MONTH, meter=meter)

        async def take() -> None:
            while True:
                for number in range(5):
                    decision = await limiter.take(ACME, cost=3)
                    if number == 0:
                        await decision.receipt.commit(1)
                sys.stdout.write("5\n")
                sys.stdout.flush()

        await asyncio.gather(*(take() for _ in range(8)))


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
