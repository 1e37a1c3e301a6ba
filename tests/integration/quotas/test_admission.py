"""
What fifty clients get of a hundred a second: never more than the line.

The line of a `Rate` is ``rate * time + burst``, in every stretch from one
admission to another, by the clock of the store.  Nothing is compared with how
long the test took.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from tests.support.quotas import ACME, limiter_of
from twh_platform.quotas import LeasingQuotaStore, MemoryQuotaStore, Rate, SlidingWindow
from twh_platform.quotas.redis import RedisQuotaStore
from twh_platform.testing import ManualClock

S = 1_000_000
LIMIT = 100
CLIENTS = 50
SECONDS = 5
RATE = Rate(name="x", limit=LIMIT, per=1)
WINDOW = SlidingWindow(name="x", limit=LIMIT, per=1)


def most_beyond(admissions, *, extra=0):
    """By how many units the line was passed in the worst stretch; 0 or less if never."""
    starts = sorted(start for start, _ in admissions)
    ends = sorted(end for _, end in admissions)
    worst = -LIMIT * S
    for first, start in enumerate(starts):
        for last in range(first, len(ends)):
            room = (ends[last] - start) * LIMIT + (LIMIT + extra) * S
            worst = max(worst, (last - first + 1) * S - room)
    return worst


def by_window(admissions):
    """How many were admitted in each second of the clock."""
    return Counter(start // S for start, _ in admissions)


def moment(decision):
    """When the store decided."""
    now = decision.parts[-1].outcome.now
    return now, now


@asynccontextmanager
async def redis_store(url):
    """The store, and an empty Redis."""
    async with Redis.from_url(url) as client:
        await client.flushall()
        store = RedisQuotaStore(client, timeout=5, patience=5)
        yield store
        await store.aclose()


async def clients(takes, *, when=moment):
    """Fifty clients that ask again and again for five seconds; what was admitted when."""
    admissions, stop = [], time.monotonic() + SECONDS

    async def client(take):
        while time.monotonic() < stop:
            before = time.time_ns() // 1000
            decision = await take()
            if decision.allowed:
                admissions.append(when(decision) if when else (before, time.time_ns() // 1000))
            await asyncio.sleep(0.01)

    await asyncio.gather(*(client(takes[number % len(takes)]) for number in range(CLIENTS)))
    return admissions


def take_of(limiter):
    """A client's request."""
    return lambda: limiter.take(ACME)


async def simulated(clock, takes, *, every=0.01):
    """The same in no time: by a clock that is advanced."""
    admissions = []
    for _ in range(round(SECONDS / every)):
        for number in range(CLIENTS):
            decision = await takes[number % len(takes)]()
            if decision.allowed:
                now = round(clock.now() * S)
                admissions.append((now, now))
        clock.advance(every)
    return admissions


def test_the_line_is_able_to_be_passed():
    """Control: a counter for each second passes it, where one ends and the next begins."""
    fixed, hits = Counter(), []
    for now in range(950_000, 1_060_000, 500):
        fixed[now // S] += 1
        if fixed[now // S] <= LIMIT:
            hits.append((now, now))

    assert most_beyond(hits) > 0
    assert most_beyond([(number * 10_000, number * 10_000) for number in range(500)]) <= 0


@pytest.mark.parametrize("skew", [0, 30])
async def test_a_rate_on_redis(redis_url, skew):
    """Also if half of the clients are early by half a minute, and the others late."""
    async with redis_store(redis_url) as store:
        limiters = [
            limiter_of(store, RATE, clock=lambda by=by: time.time() + by) for by in (skew, -skew)
        ]
        admissions = await clients([take_of(one) for one in limiters])

    span = max(admissions)[0] - min(admissions)[0]
    assert most_beyond(admissions) <= 0
    assert len(admissions) * S >= span * LIMIT // 2  # and it admits at all


async def test_a_window_on_redis(redis_url):
    """No second of the clock has more than the limit, and no five have more than five."""
    async with redis_store(redis_url) as store:
        admissions = await clients([take_of(limiter_of(store, WINDOW))])
    windows = by_window(admissions)

    assert max(windows.values()) <= LIMIT
    assert len(admissions) <= len(windows) * LIMIT


@pytest.mark.parametrize("every", [0.001, 0.01, 0.07, 1.0])
async def test_a_rate_in_memory(every):
    """It admits exactly what the line allows."""
    clock = ManualClock(start=1_700_000_000.25)
    limiter = limiter_of(MemoryQuotaStore(clock=clock), RATE)
    admissions = await simulated(clock, [take_of(limiter)], every=every)

    span = max(admissions)[0] - min(admissions)[0]
    assert most_beyond(admissions) <= 0
    assert len(admissions) == LIMIT + span * LIMIT // S or every * LIMIT > CLIENTS


async def test_a_window_in_memory():
    """After the first window it keeps to the limit within two of a hundred, and to nothing less."""
    clock = ManualClock(start=1_700_000_000.0)
    limiter = limiter_of(MemoryQuotaStore(clock=clock), WINDOW)
    windows = by_window(await simulated(clock, [take_of(limiter)]))

    assert all(LIMIT * 0.98 <= count <= LIMIT for count in windows.values())


@pytest.mark.parametrize(("rule", "most"), [(RATE, 109), (WINDOW, 102)])
async def test_a_burst_at_the_boundary_in_memory(rule, most):
    """A full limit just before a second ends, and another just after: 95 ms in all."""
    clock = ManualClock(start=1_700_000_000.92)
    take = take_of(limiter_of(MemoryQuotaStore(clock=clock), rule))
    before = [(await take()).allowed for _ in range(100)]
    clock.advance(0.095)
    after = [(await take()).allowed for _ in range(100)]

    assert sum(before) + sum(after) <= most
    assert most_beyond_of_naive(0.095) > 0


def most_beyond_of_naive(pause):
    """Control: what a counter for each second admits of the same."""
    first, second = 1_700_000_000_920_000, round(1_700_000_000_920_000 + pause * S)
    return most_beyond([(first, first)] * 100 + [(second, second)] * 100)


@pytest.mark.parametrize("rule", [RATE, WINDOW], ids=["rate", "window"])
async def test_a_burst_at_the_boundary_on_redis(redis_url, rule):
    """The same by the clock of Redis, whenever exactly the requests come through."""
    async with redis_store(redis_url) as store, Redis.from_url(redis_url) as client:
        take = take_of(limiter_of(store, rule))
        _, microseconds = await client.time()
        await asyncio.sleep((950_000 - microseconds % S) % S / S)
        before = await asyncio.gather(*(take() for _ in range(100)))
        await asyncio.sleep(0.05)
        after = await asyncio.gather(*(take() for _ in range(100)))
        admissions = [moment(one) for one in (*before, *after) if one.allowed]

    last = max(moment(one)[0] for one in after)
    windows = by_window(admissions)
    weighted = -(-windows[last // S - 1] * (S - last % S) // S) + windows[last // S]
    assert most_beyond(admissions) <= 0 if rule is RATE else weighted <= LIMIT


async def test_leases_on_redis(redis_url):
    """Three instances that lease pass the line by no more than they say."""
    async with redis_store(redis_url) as redis:
        stores = [LeasingQuotaStore(redis, lease=0.5) for _ in range(3)]
        takes = [take_of(limiter_of(one, RATE)) for one in stores]
        admissions = await clients(takes, when=None)
        bound = stores[0].over_admission(RATE, instances=3)
        for one in stores:
            await one.aclose()

    assert bound == 15
    assert most_beyond(admissions, extra=bound) <= 0
    assert sum(one.stats.leased for one in stores) > 0


@pytest.mark.parametrize("chunk", [5, 20])
async def test_leases_in_memory(chunk):
    """The same by a clock that is advanced; the bound is a number."""
    clock = ManualClock()
    memory = MemoryQuotaStore(clock=clock)
    stores = [
        LeasingQuotaStore(memory, chunk=chunk, lease=0.5, monotonic=clock.monotonic)
        for _ in range(3)
    ]
    takes = [take_of(limiter_of(one, RATE)) for one in stores]
    admissions = await simulated(clock, takes)
    for one in stores:
        await one.aclose()

    bound = stores[0].over_admission(RATE, instances=3)
    assert bound == 3 * chunk
    assert most_beyond(admissions, extra=bound) <= 0
    assert sum(one.stats.leased for one in stores) > 0
