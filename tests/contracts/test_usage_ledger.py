"""
What every ledger of usage does, in memory and in PostgreSQL.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from twh_platform.quotas import (
    MemoryUsageLedger,
    QuotaNotice,
    UsageCounter,
    UsageLedger,
    UsageQuery,
    UsageRow,
)
from twh_platform.quotas.postgres.usage import PostgresUsageLedger, usage_sql
from twh_platform.tenancy.postgres.directory import directory_pool
from twh_platform.testing import PostgresDatabase

OWNER, METER = "twh_test_owner", "twh_test_meter"
START = datetime(2026, 9, 1, tzinfo=UTC)
END = datetime(2026, 10, 1, tzinfo=UTC)
SEPTEMBER = UsageQuery(first=date(2026, 9, 1), until=date(2026, 10, 1))
MONTH = UsageCounter(
    tenant_id="acme",
    rule="month",
    scope="",
    birth=1_788_220_800_000_001,
    instance="",
    unit="requests",
    period_start=START,
    period_end=END,
    taken=10,
    refunded=2,
)
NOTICE = QuotaNotice(
    tenant_id="acme",
    rule="month",
    scope="",
    unit="requests",
    threshold=80,
    used=80,
    limit=100,
    period_start=START,
    period_end=END,
)


@pytest.fixture(scope="module")
def database(twh_database: PostgresDatabase) -> PostgresDatabase:
    """A database with the tables of usage."""
    twh_database.server.create_role(METER)
    twh_database.execute(usage_sql(role=METER), user=OWNER)
    return twh_database


@pytest.fixture(params=["memory", "postgres"])
async def ledger(request: pytest.FixtureRequest) -> AsyncIterator[UsageLedger]:
    """An empty ledger."""
    if request.param == "memory":
        yield MemoryUsageLedger()
        return
    database: PostgresDatabase = request.getfixturevalue("database")
    database.execute("TRUNCATE twh.quota_usage, twh.quota_notices", user=OWNER)
    async with directory_pool(database.dsn(user=METER), max_size=8) as pool:
        yield PostgresUsageLedger(pool)


async def rows(ledger: UsageLedger, query: UsageQuery = SEPTEMBER, size: int = 100):
    """All rows of a query, page by page."""
    found: list[UsageRow] = []
    while page := await ledger.page(query, after=found[-1] if found else None, size=size):
        found += page
    return found


async def counts(ledger: UsageLedger, query: UsageQuery = SEPTEMBER):
    """What was taken and refunded, by row."""
    return [(row.taken, row.refunded) for row in await rows(ledger, query)]


async def test_a_counter_comes_back_as_it_went_in(ledger):
    """Every field of it, and the offsets of the tenant's clock."""
    berlin = timezone(timedelta(hours=2))
    start, end = START.replace(tzinfo=berlin), END.replace(tzinfo=berlin)
    await ledger.record([replace(MONTH, scope="u.42", period_start=start, period_end=end)])
    (row,) = await rows(ledger)

    assert (row.tenant_id, row.rule, row.scope, row.unit) == ("acme", "month", "u.42", "requests")
    assert (row.taken, row.refunded, row.used) == (10, 2, 8)
    assert row.period_start.isoformat() == "2026-09-01T00:00:00+02:00"
    assert row.period_end.isoformat() == "2026-10-01T00:00:00+02:00"


async def test_nothing_is_fine(ledger):
    """An empty batch, and a period without usage."""
    await ledger.record([])

    assert await rows(ledger) == []


async def test_the_greatest_of_each_is_kept(ledger):
    """In whatever order, and however often, a counter is written."""
    seen = [(10, 2), (30, 2), (20, 5), (30, 2), (1, 0)]
    for order in itertools.permutations(seen, 3):
        await ledger.record([replace(MONTH, taken=a, refunded=b) for a, b in order[:1]])
        await ledger.record([replace(MONTH, taken=a, refunded=b) for a, b in order[1:2]])
    for taken, refunded in seen:
        await ledger.record([replace(MONTH, taken=taken, refunded=refunded)])

    assert await counts(ledger) == [(30, 5)]


async def test_births_and_instances_add_up(ledger):
    """A counter that began anew is another one, and so is another process's own."""
    await ledger.record(
        [
            MONTH,
            replace(MONTH, birth=MONTH.birth + 1, taken=7, refunded=0),
            replace(MONTH, instance="0a", taken=5, refunded=1),
            replace(MONTH, instance="0b", taken=5, refunded=1),
        ]
    )

    assert await counts(ledger) == [(27, 4)]


async def test_tenants_rules_scopes_and_periods_do_not_add_up(ledger):
    """Each is a row of its own, by day, tenant, rule and scope."""
    later = {"period_start": START + timedelta(days=1), "birth": 2**50 + 1}
    counters = [
        MONTH,
        replace(MONTH, tenant_id="Zed"),
        replace(MONTH, rule="day"),
        replace(MONTH, scope="u.42"),
        replace(MONTH, **later),
    ]
    await ledger.record(counters[::-1])
    found = [
        (row.period_start.day, row.tenant_id, row.rule, row.scope) for row in await rows(ledger)
    ]

    assert found == [
        (1, "Zed", "month", ""),
        (1, "acme", "day", ""),
        (1, "acme", "month", ""),
        (1, "acme", "month", "u.42"),
        (2, "acme", "month", ""),
    ]


async def test_a_counter_that_moves_to_another_period_is_counted_once(ledger):
    """As when a tenant moves to another zone: the period is that of the latest word."""
    moved = replace(MONTH, taken=11, period_start=START - timedelta(hours=2))
    moved = replace(moved, period_start=moved.period_start.astimezone(timezone(timedelta(hours=2))))
    await ledger.record([MONTH])
    await ledger.record([moved])
    await ledger.record([MONTH])
    (row,) = await rows(ledger)

    assert (row.taken, row.period_start.isoformat()) == (11, "2026-09-01T00:00:00+02:00")


async def test_the_days_are_those_of_the_tenants_clock(ledger):
    """Kiritimati's September begins when it is August in UTC, and Honolulu's in September."""
    counters = []
    for tenant, hours in (("kiritimati", 14), ("honolulu", -10)):
        zone = timezone(timedelta(hours=hours))
        for month in (8, 9, 10):
            start = datetime(2026, month, 1, tzinfo=zone)
            one = replace(MONTH, tenant_id=tenant, period_start=start, birth=10**15 + month)
            counters.append(replace(one, period_end=start + timedelta(days=28)))
    await ledger.record(counters)
    found = await rows(ledger)

    assert [row.tenant_id for row in found] == ["honolulu", "kiritimati"]
    assert {row.period_start.month for row in found} == {9}


async def test_one_tenant_can_be_asked_for(ledger):
    """And nobody else's rows come."""
    await ledger.record([MONTH, replace(MONTH, tenant_id="globex")])
    query = replace(SEPTEMBER, tenant_id="globex")

    assert [row.tenant_id for row in await rows(ledger, query)] == ["globex"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
async def test_pages_of_every_size_make_the_same_whole(size, ledger):
    """No row twice, none left out, also where rows differ in little."""
    hour = timedelta(hours=1)
    counters = [
        replace(
            MONTH,
            tenant_id=tenant,
            scope=scope,
            birth=10**15 + number,
            period_start=START + number % 4 * hour,
            period_end=START + (number % 4 + 1) * hour,
        )
        for number, (tenant, scope) in enumerate(
            itertools.product(("a", "B", "_c", "-d"), ("", "u.1", "u.10", "u.2", "k.x"))
        )
    ]
    await ledger.record(counters)
    found = await rows(ledger, size=size)

    assert found == sorted(found, key=lambda row: row.place)
    assert len({row.place for row in found}) == len(found) == len(counters)


async def test_many_instances_write_the_same_counters_at_once(ledger):
    """In batches that overlap in another order: nothing is lost, and nobody waits for ever."""
    scopes = [f"u.{number}" for number in range(50)]

    async def write(count: int) -> None:
        batch = [replace(MONTH, scope=scope, taken=count, refunded=count // 2) for scope in scopes]
        await ledger.record(batch if count % 2 else batch[::-1])

    await asyncio.gather(*(write(count) for count in range(1, 31)))

    assert await counts(ledger) == [(30, 15)] * 50


async def test_a_notice_is_given_once(ledger):
    """Of many who ask at the same time, one is told to."""
    claims = await asyncio.gather(*(ledger.claim(NOTICE, crossed=True) for _ in range(20)))

    assert sorted(claims) == [False] * 19 + [True]
    assert not await ledger.claim(NOTICE, crossed=False)


@pytest.mark.parametrize(
    "other",
    [
        {"tenant_id": "globex"},
        {"rule": "day"},
        {"scope": "u.42"},
        {"threshold": 90},
        {"period_start": END},
    ],
)
async def test_another_notice_is_another(other, ledger):
    """Tenant, rule, scope, threshold and period tell notices apart."""
    await ledger.claim(NOTICE, crossed=True)

    assert await ledger.claim(replace(NOTICE, **other), crossed=False)


async def test_a_raised_limit_that_is_used_up_again_is_told_again(ledger):
    """But not by whoever only sees the level, nor when the limit comes back down."""
    await ledger.claim(NOTICE, crossed=True)
    raised = replace(NOTICE, limit=200, used=160)

    assert not await ledger.claim(raised, crossed=False)
    assert await ledger.claim(raised, crossed=True)
    assert not await ledger.claim(raised, crossed=True)
    assert not await ledger.claim(NOTICE, crossed=True)
