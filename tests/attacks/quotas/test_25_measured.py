"""
Attacks 25 to 32: what the measurements of other libraries found.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.support.quotas import ACME, admitted, limiter_of
from twh_platform.quotas import (
    Calendar,
    Capacity,
    Concurrency,
    MemoryQuotaStore,
    Rate,
    SlidingWindow,
)

HUNDRED = {"limit": 100, "per": 1}


def naive_fixed_window(clock, limit, per):
    """A counter that starts anew with each window of the clock."""
    counts = {}

    def hit():
        window = clock() // per
        counts[window] = counts.get(window, 0) + 1
        return counts[window] <= limit

    return hit


@pytest.mark.parametrize(
    ("rule", "line"), [(Rate(name="x", **HUNDRED), 109), (SlidingWindow(name="x", **HUNDRED), 102)]
)
async def test_25_sends_all_around_a_boundary(rule, line, clock, twh_attack):
    """There is no moment at which twice the limit fits."""
    attack = twh_attack(number=25, title="sends all around a boundary", form=type(rule).__name__)
    limiter = limiter_of(MemoryQuotaStore(clock=clock), rule)
    naive = naive_fixed_window(clock, 100, 1)
    theirs, ours = 1, await admitted(limiter, 1)
    for pause, count in ((0.43, 99), (0.085, 100)):
        clock.advance(pause)
        theirs += sum(naive() for _ in range(count))
        ours += await admitted(limiter, count)

    attack.control(theirs - line)
    attack.ours(max(0, ours - line))


async def test_27_asks_for_more_than_a_log_can_bear(store, server, limits, twh_attack):
    """A large cost is one number more, and one that is too large is not asked at all."""
    attack = twh_attack(number=27, title="has the store write down a huge cost")
    memory = limits.storage.MemoryStorage()
    naive = limits.strategies.MovingWindowRateLimiter(memory)
    naive.hit(limits.parse("1000000/hour"), "acme", cost=500_000)
    [events] = memory.events.values()
    attack.control(len(events) - 1)

    limiter = limiter_of(store, Rate(name="x", limit=1_000_000, per=3600))
    assert (await limiter.take(ACME, cost=500_000)).allowed
    refused = await limiter.take(ACME, cost=1_000_001)
    attack.ours(state_length(server, store) - 1)
    assert (refused.code, refused.origin) == ("quota_cost_too_large", "limiter")


def state_length(server, store):
    """How many states are there."""
    if server is None:
        return len(store._kept)
    [key] = server.command("KEYS", "*")
    [value] = server.command("HVALS", key)
    assert len(value) < 40
    return 1


async def test_28_slows_all_down_by_many_keys(limits, twh_attack):
    """What a hit costs does not depend on how many others there are."""
    attack = twh_attack(number=28, title="slows all down by many keys")

    async def slowed(hit):
        """How many times as long a hit takes after 20 000 keys as before."""
        few = await hit_time(hit, range(100))
        for number in range(20_000):
            await hit(f"key {number}")
        return int(await hit_time(hit, range(5)) / few)

    naive = limits.aio.strategies.FixedWindowRateLimiter(limits.aio.storage.MemoryStorage())
    rule = limits.parse("100/hour")
    attack.control(await slowed(lambda key: naive.hit(rule, key)) // 10)
    limiter = limiter_of(MemoryQuotaStore(), Rate(name="x", limit=9, per=3600, scope="user"))
    attack.ours(await slowed(lambda key: limiter.take(ACME, user=key)) // 10)


async def hit_time(hit, numbers):
    """The processor time of a hit, with whatever it starts on the loop; the best of some."""
    times = []
    for number in numbers:
        begin = time.thread_time()
        await hit(f"fresh {number}")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        times.append(time.thread_time() - begin)
    return sorted(times)[len(times) // 2]


def naive_bucket(clock, capacity, per):
    """A token bucket that refuses only when it is empty, and charges first."""
    tokens, last = float(capacity), clock()

    def hit(cost):
        nonlocal tokens, last
        tokens, last = min(capacity, tokens + (clock() - last) * capacity / per), clock()
        if tokens <= 0:
            return False
        tokens -= cost
        return tokens >= 0

    return hit


@pytest.mark.parametrize("cost", [50, 10_000_000])
async def test_30_pins_a_bucket_by_one_cost(cost, clock, twh_attack):
    """A refused cost is no debt."""
    attack = twh_attack(number=30, title="pins a bucket by one refused cost", form=str(cost))
    naive = naive_bucket(clock, 10, 60)
    limiter = limiter_of(MemoryQuotaStore(clock=clock), Rate(name="x", limit=10, per=60))
    naive(1)
    assert await admitted(limiter, 1) == 1
    naive(cost)
    assert not (await limiter.take(ACME, cost=cost)).allowed

    attack.control(9 - sum(naive(1) for _ in range(9)))
    attack.ours(9 - await admitted(limiter, 9))


RULES = [
    Rate(name="x", limit=10, per=60),
    SlidingWindow(name="x", limit=10, per=60),
    Calendar(name="x", limit=10, period="day"),
    Capacity(name="x", limit=10),
    Concurrency(name="x", limit=0),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda one: type(one).__name__)
async def test_32_is_told_to_come_again_for_ever(rule, store, limits, twh_attack):
    """What can never be admitted is refused once and for all."""
    attack = twh_attack(
        number=32,
        title="is told to come again for what is never admitted",
        form=type(rule).__name__,
    )
    naive = limits.strategies.FixedWindowRateLimiter(limits.storage.MemoryStorage())
    ten = limits.parse("10/second")
    attack.control(sum(retries(naive.hit(ten, "acme", cost=11), 1.0) for _ in range(5)))

    limiter = limiter_of(store, rule)
    told = [await limiter.take(ACME, cost=11, only=["x"]) for _ in range(5)]
    attack.ours(sum(retries(one.allowed, one.retry_after) for one in told))
    assert {one.code for one in told} == {"quota_cost_too_large"}


def retries(allowed, retry_after):
    """Whether a client that does as it is told comes again."""
    return not allowed and retry_after is not None
