"""
Plans and overrides as a service author writes them; checked, never run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import assert_type

from twh_platform import Tenant, subscribe
from twh_platform.quotas import (
    Capacity,
    Limit,
    Limiter,
    MemoryOverrideStore,
    MemoryQuotaStore,
    OverriddenPlans,
    Override,
    OverrideChange,
    OverrideStore,
    Plan,
    Plans,
    PlanSource,
    QuotaOverrideChanged,
    QuotaOverridesStale,
    Rate,
    Rule,
)
from twh_platform.quotas.postgres.overrides import PostgresOverrideStore, overrides_sql
from twh_platform.tenancy.postgres.directory import directory_pool

ACME = Tenant(id="acme", tier="GROWTH")

free = Plan(name="FREE", rules=(Rate(name="minute", limit=10, per=60),))
plans = Plans([free], default="FREE", common=[Rate(name="login", limit=5, per=60, scope="client")])  # type: ignore[arg-type]

assert_type(plans, Plans)
assert_type(plans["FREE"], Plan)
assert_type(plans.default, Plan | None)
assert_type(plans.common, tuple[Rule, ...])
assert_type(plans.for_tenant(ACME).rule("minute"), Rule)
assert_type(plans.for_tenant(ACME).capacity("items"), Capacity)
assert_type(Plans.example(), Plans)
assert_type(Plans.from_toml(Path("plans.toml")), Plans)
assert_type(Plans.from_text("", source="x"), Plans)
by_name: Mapping[str, Plan] = plans
as_source: PlanSource = plans

free.name = "GOLD"  # type: ignore[misc]
Plan("FREE", ())  # type: ignore[call-arg]


@asynccontextmanager
async def lifespan(dsn: str) -> AsyncIterator[Limiter]:
    """Keep overrides in the app's lifespan."""
    async with (
        directory_pool(dsn) as pool,
        OverriddenPlans(Plans.example(), PostgresOverrideStore(pool), interval=0.5) as own,
    ):
        assert_type(own, OverriddenPlans)
        yield Limiter(MemoryQuotaStore(), plans=own)


async def change(own: OverriddenPlans) -> None:
    """Change one tenant's limits."""
    put = await own.put(ACME, {"minute": 5, "x": Limit(limit=1, burst=2)}, actor="a", reason="b")
    assert_type(put, Override)
    assert_type(put.limits, Mapping[str, Limit])
    assert_type(await own.delete("acme", actor="a", reason="b"), Override | None)
    assert_type(own.override_of("acme"), Override | None)
    assert_type(await own.store.history("acme"), Sequence[Override])
    assert_type(own.age, float)
    await own.put(ACME, {"minute": 5})  # type: ignore[call-arg]


async def store(kept: OverrideStore) -> OverrideChange:
    """Write to a store."""
    return await kept.put("acme", {"minute": Limit(limit=5)}, actor="a", reason="b")


stores: list[OverrideStore] = [MemoryOverrideStore()]
sql: str = overrides_sql(role="directory", administrators=["support"])
told: list[object] = []
subscribe(QuotaOverrideChanged, lambda signal: told.append(signal.after["minute"]["limit"]))
subscribe(QuotaOverridesStale, lambda signal: told.append(signal.age))
