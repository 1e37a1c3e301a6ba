"""
What no sequence of operations, costs and clocks does to a store in memory.
"""

from __future__ import annotations

import pytest

from tests.support.quotas import ACME, admitted, limiter_of
from twh_platform.quotas import Calendar, Capacity, Concurrency, MemoryQuotaStore, Rate

LARGEST = 2**53 - 1


class SystemClock:
    """A clock that is set, ahead and back."""

    now = 1_800_000_000.0

    def __call__(self):
        """Seconds since 1970."""
        return self.now


@pytest.mark.parametrize("wrong", [5, 86_400, 366 * 86_400])
async def test_a_clock_that_ran_ahead_stops_nothing(wrong):
    """Once it is put right, what refills goes on to refill: at half the speed, never anew."""
    clock = SystemClock()
    limiter = limiter_of(
        MemoryQuotaStore(clock=clock), Rate(name="rate", limit=10, per=10), clock=clock
    )
    clock.now += wrong
    assert await admitted(limiter, 20) == 10
    clock.now -= wrong

    assert await admitted(limiter, 20) == 0
    for half in (1, 0, 1, 0, 1):
        clock.now += 1.0001
        assert await admitted(limiter, 20) == 1 - half


async def test_a_clock_that_is_put_back_gives_nothing():
    """Neither a rate nor a slot comes back by it."""
    clock = SystemClock()
    rules = Rate(name="rate", limit=3, per=10), Concurrency(name="slots", limit=5)
    limiter = limiter_of(MemoryQuotaStore(clock=clock), *rules, clock=clock)
    assert await admitted(limiter, 9) == 3

    for back in (0.001, 1, 100, 10_000):
        clock.now -= back
        assert await admitted(limiter, 9) == 0


@pytest.mark.parametrize(
    "rule",
    [
        Calendar(name="year", limit=5, period="year", mode="soft"),
        Capacity(name="year", limit=5, mode="soft"),
    ],
)
async def test_a_count_ends_where_the_numbers_do(rule):
    """What is soft counts on, and no count leaves what every store can keep."""
    limiter = limiter_of(MemoryQuotaStore(), rule)
    for _ in range(3):
        decision = await limiter.take(ACME, cost=2**52, only=["year"])
        assert decision.allowed

    [part] = decision.parts
    assert part.outcome.states[0][1] == LARGEST
