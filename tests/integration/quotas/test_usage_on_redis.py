"""
Usage counted in Redis: exact whatever is killed, flushed or written twice.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections.abc import AsyncIterator
from datetime import date

import pytest
from redis.asyncio import Redis

from tests.integration.quotas._metered_service import MONTH
from tests.support.quotas import ACME, GLOBEX, limiter_of
from tests.support.tenancy import heard
from twh_platform.quotas import (
    Calendar,
    FallbackQuotaStore,
    LeasingQuotaStore,
    Limiter,
    QuotaNotice,
    UsageMeter,
    UsageQuery,
    UsageRow,
)
from twh_platform.quotas.postgres.usage import PostgresUsageLedger, usage_sql
from twh_platform.quotas.redis import RedisQuotaStore
from twh_platform.tenancy.postgres.directory import directory_pool
from twh_platform.testing import PostgresDatabase, RedisServer

OWNER, METER = "twh_test_owner", "twh_test_usage_on_redis"
ALL = UsageQuery(first=date(2000, 1, 1), until=date(2100, 1, 1))


@pytest.fixture(scope="module")
def database(twh_database: PostgresDatabase) -> PostgresDatabase:
    """A database with the tables of usage."""
    twh_database.server.create_role(METER)
    twh_database.execute(usage_sql(role=METER), user=OWNER)
    return twh_database


@pytest.fixture
async def ledger(database: PostgresDatabase) -> AsyncIterator[PostgresUsageLedger]:
    """An empty ledger."""
    database.execute("TRUNCATE twh.quota_usage, twh.quota_notices", user=OWNER)
    async with directory_pool(database.dsn(user=METER)) as pool:
        yield PostgresUsageLedger(pool)


@pytest.fixture
def redis(redis_server: RedisServer) -> RedisServer:
    """An empty Redis."""
    redis_server.command("FLUSHALL")
    return redis_server


@pytest.fixture
async def instances(redis, ledger) -> AsyncIterator[list[tuple[Limiter, UsageMeter]]]:
    """Two instances of a service, each with its own connections and meter."""
    made = []
    for _ in range(2):
        store = RedisQuotaStore(lambda: Redis.from_url(redis.url), timeout=5, patience=10)
        meter = UsageMeter(ledger)
        made.append((limiter_of(store, MONTH, meter=meter), meter))
    yield made
    for limiter, _ in made:
        await limiter.store.aclose()


async def rows(ledger) -> dict[str, UsageRow]:
    """What was used, by tenant."""
    return {row.tenant_id: row for row in await ledger.page(ALL, after=None, size=100)}


async def counted(limiter: Limiter) -> int:
    """What Redis itself has counted for acme."""
    (status,) = (await limiter.peek(ACME)).statuses
    return MONTH.limit - status.remaining


async def serve_until(redis, dsn: str, takes: int) -> int:
    """Run a service until it has admitted so much, and kill it in the middle."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.integration.quotas._metered_service", redis.url, dsn),
        stdout=asyncio.subprocess.PIPE,
    )
    admitted = 0
    while admitted < takes:
        line = await asyncio.wait_for(process.stdout.readline(), 60)
        assert line, "the service ended by itself"
        admitted += int(line)
    process.send_signal(signal.SIGKILL)
    await process.wait()
    return admitted


async def test_a_process_that_is_killed_in_mid_traffic_loses_nothing(
    redis, database, ledger, instances
):
    """What it had not written comes with the next sight of the counter, by whomever."""
    dsn = database.dsn(user=METER)
    admitted = sum([await serve_until(redis, dsn, 500 * number) for number in (1, 2, 3)])
    limiter, meter = instances[0]
    before = (await rows(ledger))["acme"].used
    truth = await counted(limiter)  # a look is a sight
    await meter.flush()
    after = (await rows(ledger))["acme"]

    assert before <= truth == after.used
    assert truth >= admitted / 5 * 13  # five takes use four times 3 and once 1
    assert after.refunded > 0


async def test_what_was_written_never_goes_back(redis, database, ledger, instances):
    """Though instances write late, and in any order."""
    (one, first), (other, second) = instances
    seen = []
    for _ in range(10):
        await one.take(ACME, cost=2)
        await (await other.take(ACME, cost=1)).receipt.refund()
        for meter in random.sample([first, second], 2):
            await meter.flush()
            row = (await rows(ledger))["acme"]
            seen.append((row.taken, row.refunded))

    assert seen == sorted(seen)
    assert [sorted(one) for one in zip(*seen, strict=True)] == [
        list(one) for one in zip(*seen, strict=True)
    ]
    assert seen[-1] == (30, 10)


async def test_a_flushed_redis_loses_nothing_that_was_answered(redis, ledger, instances):
    """Control: the counter in Redis has forgotten."""
    (one, first), (other, second) = instances
    for _ in range(3):
        for limiter in (one, other):
            await limiter.take(ACME, cost=7)
        redis.command("FLUSHALL")
    await one.take(ACME, cost=1)
    await asyncio.gather(first.flush(), second.flush())

    assert await counted(one) == 1
    assert (await rows(ledger))["acme"].used == 43


async def test_a_redis_that_was_killed_loses_nothing_that_was_answered(redis, ledger, instances):
    """It starts empty; what it had answered is in the meters."""
    limiter, meter = instances[0]
    await limiter.take(ACME, cost=7)
    redis.kill()
    redis.start()
    async with asyncio.timeout(60):
        while True:
            try:
                await limiter.take(ACME, cost=5)
                break
            except Exception:  # noqa: BLE001 -- until it is back
                await asyncio.sleep(0.05)
    await meter.flush()

    assert (await rows(ledger))["acme"].used == 12


async def test_refunds_corrections_and_batches_in_any_order_add_up(redis, ledger, instances):
    """Two instances, hundreds of requests at once; the ledger has what the receipts say."""
    chance = random.Random(4711)
    truth = {"acme": [0, 0], "globex": [0, 0]}

    async def work(number: int) -> None:
        limiter, meter = instances[number % 2]
        tenant = chance.choice([ACME, GLOBEX])
        for _ in range(20):
            cost, actual = chance.randint(1, 9), chance.randint(0, 12)
            decision = await limiter.take(tenant, cost=cost)
            await decision.receipt.commit(actual)
            await decision.receipt.commit(0)  # once is enough
            truth[tenant.id][0] += max(cost, actual)
            truth[tenant.id][1] += max(0, cost - actual)
            if chance.random() < 0.1:
                await meter.flush()

    await asyncio.gather(*(work(number) for number in range(20)))
    for _, meter in instances:
        await meter.flush()
    found = await rows(ledger)

    assert {name: [row.taken, row.refunded] for name, row in found.items()} == truth


async def test_a_threshold_is_told_once_by_two_instances(redis, ledger):
    """The step that crosses is one step of Redis, whoever asked for it."""
    rule = Calendar(name="day", limit=100, period="day")
    made = []
    for _ in range(2):
        store = RedisQuotaStore(lambda: Redis.from_url(redis.url), timeout=5, patience=10)
        meter = UsageMeter(ledger)
        made.append((limiter_of(store, rule, meter=meter), meter))
    with heard(QuotaNotice) as told:
        for _ in range(10):
            await asyncio.gather(*(made[n % 2][0].take(ACME) for n in range(12)))
            await asyncio.gather(*(meter.flush() for _, meter in made))
    for limiter, _ in made:
        await limiter.store.aclose()

    assert [notice.threshold for notice in told] == [80, 90, 100]


async def test_what_was_leased_and_not_used_is_not_billed(redis, ledger):
    """Control: before the meter looks again it is, for units are taken in advance."""
    inner = RedisQuotaStore(lambda: Redis.from_url(redis.url), timeout=5, patience=10)
    leasing = LeasingQuotaStore(inner, chunk=50, hot=2, lease=0.3)
    store = FallbackQuotaStore(leasing, instances=1, budget=5)
    meter = UsageMeter(ledger)
    limiter = limiter_of(store, MONTH, meter=meter)
    for _ in range(20):
        assert (await limiter.take(ACME)).allowed
    await meter.flush()
    before = (await rows(ledger))["acme"].used
    async with asyncio.timeout(30):
        while await counted(limiter_of(inner, MONTH)) != 20:  # noqa: ASYNC110 -- nobody announces it
            await asyncio.sleep(0.02)
    for _ in range(2):
        await meter.look_again()
    await meter.flush()
    await store.aclose()

    assert before > 20
    assert (await rows(ledger))["acme"].used == 20
