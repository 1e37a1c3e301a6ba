"""
Stores that stand in and lease, as a service writes them; checked, never run.
"""

from __future__ import annotations

from typing import assert_type

from twh_platform import subscribe
from twh_platform.quotas import (
    FallbackQuotaStore,
    FallbackStats,
    LeasingQuotaStore,
    LeasingStats,
    Limiter,
    MemoryQuotaStore,
    Outcome,
    QuotaStore,
    QuotaStoreDegraded,
    QuotaStoreRestored,
    Rate,
    Take,
)


def number_of_instances() -> int:
    """
    Stand for a question to the deployment.
    """
    return 4


def stores() -> Limiter:
    """
    Stack the stores; a number of instances, or a function.
    """
    leasing = LeasingQuotaStore(MemoryQuotaStore(), chunk=50, lease=0.5, hot=20, denial=0.5)
    fallback = FallbackQuotaStore(leasing, instances=number_of_instances, budget=0.03)
    as_store: QuotaStore = FallbackQuotaStore(fallback, instances=4)
    assert_type(leasing.over_admission(Rate(name="api", limit=100, per=1), instances=4), int)
    assert_type(fallback.stats, FallbackStats)
    assert_type(fallback.degraded, bool)
    assert_type(leasing.stats, LeasingStats)
    assert_type(leasing.stats.held_at_most, dict[str, int])
    return Limiter(as_store)


async def use(store: FallbackQuotaStore, leasing: LeasingQuotaStore, take: Take) -> None:
    """
    Take, and close at the end.
    """
    assert_type(await store.take(take), Outcome)
    assert_type(leasing.take_nowait(take), Outcome | None)
    await store.aclose()


def listen() -> None:
    """
    Hear of outages.
    """

    def degraded(signal: QuotaStoreDegraded) -> None:
        assert_type(signal.reason, str)
        assert_type(signal.since, float)

    def restored(signal: QuotaStoreRestored) -> None:
        assert_type(signal.seconds, float)
        assert_type(signal.admitted_locally + signal.admitted_uncounted + signal.refused, int)

    subscribe(QuotaStoreDegraded, degraded)
    subscribe(QuotaStoreRestored, restored)
