"""
Usage, notices and the quotas' app as a service author uses them; checked, never run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, assert_type

from twh_platform import Tenant, subscribe
from twh_platform._asgi import ASGIApp
from twh_platform.errors import CredentialsError
from twh_platform.quotas import (
    Capacity,
    Limiter,
    MemoryOverrideStore,
    MemoryQuotaStore,
    MemoryUsageLedger,
    OverriddenPlans,
    Plans,
    QuotaApp,
    QuotaNotice,
    UsageCounter,
    UsageLedger,
    UsageLedgerDegraded,
    UsageMeter,
    UsageQuery,
    UsageRow,
    announce_capacity_notices,
    capacity_notices,
    thresholds_crossed,
)
from twh_platform.quotas.postgres import CapacityTaken
from twh_platform.quotas.postgres.usage import PostgresUsageLedger, usage_sql
from twh_platform.tenancy import MemoryTenantDirectory
from twh_platform.tenancy.postgres.directory import directory_pool

assert_type(usage_sql(role="shop_meter", readers=["shop_billing"]), str)
assert_type(thresholds_crossed(79, 95, 100), tuple[int, ...])


async def administrator(scope: Mapping[str, Any]) -> str:
    """
    Whoever has signed in as one.
    """
    if "administrator" not in scope.get("state", {}):
        raise CredentialsError("not signed in")
    return "ada@example.com"


async def levels(tenant: Tenant) -> dict[str, int]:
    """
    What PostgreSQL has counted.
    """
    return {"items": len(tenant.id)}


async def serve(dsn: str) -> None:
    """
    The parts, put together.
    """
    async with (
        directory_pool(dsn) as pool,
        UsageMeter(PostgresUsageLedger(pool), thresholds=(50, 100)) as meter,
        OverriddenPlans(Plans.example(), MemoryOverrideStore()) as plans,
    ):
        limiter = Limiter(MemoryQuotaStore(), plans=plans, meter=meter)
        app: ASGIApp = QuotaApp(
            limiter,
            administrator=administrator,
            overrides=plans,
            ledger=PostgresUsageLedger(pool),
            directory=MemoryTenantDirectory().get,
            levels=levels,
        )
        assert_type(await meter.flush(), bool)
        assert_type((meter.pending, meter.failures, meter.lost), tuple[int, int, int])
        UsageMeter(plans)  # type: ignore[arg-type]
        QuotaApp(limiter, administrator=lambda _scope: "ada")  # type: ignore[arg-type, return-value]
        await app({}, None, None)  # type: ignore[arg-type]


async def bill(ledger: UsageLedger) -> int:
    """
    Read a month, page by page.
    """
    query = UsageQuery(first=date(2026, 9, 1), until=date(2026, 10, 1), tenant_id="acme")
    rows = await ledger.page(query, after=None, size=1000)
    assert_type(rows, Sequence[UsageRow])
    UsageQuery(date(2026, 9, 1), date(2026, 10, 1))  # type: ignore[call-arg]
    return sum(row.used for row in rows)


async def another_ledger(counters: list[UsageCounter]) -> None:
    """
    A ledger in memory is one, and a batch is any sequence.
    """
    ledger: UsageLedger = MemoryUsageLedger()
    await ledger.record(counters)


def notices(taken: CapacityTaken) -> None:
    """
    Of levels in PostgreSQL, and of everything else.
    """
    announce_capacity_notices(taken)
    rule = Capacity(name="items", limit=100, unit="items")
    assert_type(capacity_notices("acme", rule, 79, 81), tuple[QuotaNotice, ...])
    subscribe(QuotaNotice, lambda notice: print(notice.threshold))  # noqa: T201 -- an example
    subscribe(UsageLedgerDegraded, lambda signal: print(signal.pending))  # noqa: T201
