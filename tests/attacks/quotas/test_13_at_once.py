"""
Attacks 13 to 15, 19, 23, 24, 26 and 31: many at once, other loops, other clocks, lost processes.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import signal
import subprocess
import sys
import time
import warnings

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import WatchError

from tests.support.quotas import ACME, admitted, limiter_of
from twh_platform import bind_tenant
from twh_platform.quotas import (
    Calendar,
    Concurrency,
    MemoryQuotaStore,
    QuotaMiddleware,
    Rate,
    RouteTable,
    SlidingWindow,
)
from twh_platform.quotas.redis import RedisQuotaStore

on_redis = pytest.mark.parametrize("server", ["redis"], indirect=True)
MANY = 200


@on_redis
async def test_13_exhausts_the_pool(store, server, twh_attack):
    """Few connections serve any number of requests."""
    attack = twh_attack(number=13, title="has more requests at once than the pool connections")
    client = Redis.from_url(server.url, max_connections=10)
    answers = await asyncio.gather(*(client.incr("x") for _ in range(MANY)), return_exceptions=True)
    attack.control([one for one in answers if isinstance(one, RedisConnectionError)])
    await client.aclose()

    limiter = limiter_of(store, Rate(name="x", limit=MANY, per=86_400))
    decisions = await asyncio.gather(*(limiter.take(ACME) for _ in range(MANY)))
    attack.ours(MANY - sum(one.allowed for one in decisions))


@on_redis
async def test_13_opens_a_storm_of_connections(store, server, twh_attack):
    """Nor do they open more."""
    attack = twh_attack(number=13, title="has a connection opened for each request")
    before = connections(server) + 1  # to ask takes one
    client = Redis.from_url(server.url, max_connections=10 * MANY)
    await asyncio.gather(*(client.incr("x") for _ in range(MANY)))
    attack.control(connections(server) - before - 2)
    await client.aclose()

    before = connections(server) + 1
    limiter = limiter_of(store, Rate(name="x", limit=MANY, per=86_400))
    await asyncio.gather(*(limiter.take(ACME) for _ in range(MANY)))
    attack.ours(max(0, connections(server) - before - 2))


def connections(server):
    """How many have ever been opened."""
    return int(server.info("stats")["total_connections_received"])


async def cancelled(call, turns):
    """Start it, and cancel it after so many turns of the loop; whether it was answered."""
    task = asyncio.ensure_future(call)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    [answer] = await asyncio.gather(task, return_exceptions=True)
    return not isinstance(answer, BaseException)


@on_redis
async def test_14_has_those_charged_who_went_away(store, server, twh_attack):
    """A take whose caller was cancelled on the way is given back."""
    attack = twh_attack(number=14, title="is charged for what was cancelled on the way")
    client = Redis.from_url(server.url)
    limiter = limiter_of(store, Calendar(name="x", limit=10_000, period="year"))
    await asyncio.gather(*(client.incrby("x", 0) for _ in range(20)), limiter.take(ACME))
    got = [await cancelled(limiter.take(ACME), turns % 12) for turns in range(MANY)]
    with server.frozen():
        calls = [asyncio.ensure_future(client.incr("x")) for _ in range(20)]
        calls += [asyncio.ensure_future(limiter.take(ACME)) for _ in range(20)]
        await asyncio.sleep(0.1)
        for one in calls:
            one.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    attack.ours(await settled_at(limiter, 9_999 - sum(got)))
    attack.control(int(await client.get("x")))
    await client.aclose()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # nor does redis-py close all of them
        del client, calls
        gc.collect()


async def settled_at(limiter, expected):
    """By how much less is left than was expected, once what is on its way has come."""
    left = 0
    for _ in range(100):
        left = (await limiter.peek(ACME)).statuses[0].remaining
        if left == expected:
            break
        await asyncio.sleep(0.02)
    return expected - left


@on_redis
async def test_14_reads_the_answer_of_another(store, twh_attack):
    """After any cancellation each caller gets its own answer."""
    attack = twh_attack(
        number=14, title="reads the answer of somebody who was cancelled", kind="fact"
    )
    rule = Calendar(name="x", limit=10_000, period="year", scope="user")
    limiter = limiter_of(store, rule)
    wrong = 0
    for turns in range(100):
        await cancelled(limiter.take(ACME, user="away", cost=1000), turns % 12)
        user = f"user {turns}"
        first, second = await asyncio.gather(
            limiter.take(ACME, user=user, cost=turns + 1), limiter.take(ACME, user=f"{user} b")
        )
        left = (first.statuses[0].remaining, second.statuses[0].remaining)
        wrong += left != (10_000 - turns - 1, 9_999)

    attack.ours(wrong)


@pytest.mark.parametrize(("refunds", "kind"), [(True, "paid nothing"), (False, "paid")])
async def test_14_hangs_up_before_the_answer(refunds, kind, twh_attack):
    """Where the server cancels what nobody waits for, its work was for nothing: see the advice."""
    attack = twh_attack(
        number=14,
        title="hangs up before each answer, and pays nothing",
        kind="residual",
        form=f"refund_unanswered={refunds}",
    )

    async def slow(scope, receive, send):
        await asyncio.sleep(60)

    limiter = limiter_of(MemoryQuotaStore(), Rate(name="x", limit=5, per=86_400))
    app = QuotaMiddleware(
        slow, limiter=limiter, routes=RouteTable(["GET /"]), refund_unanswered=refunds
    )
    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    refused = []

    async def send(message):
        refused.append(message)

    with bind_tenant(ACME):
        for _ in range(20):
            await cancelled(app(scope, None, send), 20)
    started = 20 - sum(one["type"] == "http.response.start" for one in refused)
    attack.ours(started - 5)
    assert (started > 5) == (kind == "paid nothing")


async def test_15_makes_others_wait(pyrate_limiter, twh_attack):
    """Whoever is refused is told so: nobody waits, and nobody holds a lock."""
    attack = twh_attack(number=15, title="makes all others wait by waiting itself")

    class Buckets(pyrate_limiter.BucketFactory):
        """A bucket for each name."""

        def __init__(self):
            self.buckets = {}

        def wrap_item(self, name, weight=1):
            return pyrate_limiter.RateItem(name, round(time.time() * 1000), weight=weight)

        def get(self, item):
            rates = [pyrate_limiter.Rate(1, 2_000)]
            new = pyrate_limiter.InMemoryBucket(rates)
            return self.buckets.setdefault(item.name, new)

    naive = pyrate_limiter.Limiter(Buckets())
    await naive.try_acquire_async("mine")
    waiting = asyncio.ensure_future(naive.try_acquire_async("mine"))
    await asyncio.sleep(0.05)
    attack.control(await unserved(naive.try_acquire_async("theirs")))
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    limiter = limiter_of(MemoryQuotaStore(), Rate(name="x", limit=1, per=2, scope="user"))
    await limiter.take(ACME, user="mine")
    waiting = asyncio.ensure_future(limiter.take(ACME, user="mine"))
    await asyncio.sleep(0.05)
    attack.ours(await unserved(limiter.take(ACME, user="theirs")))
    assert not (await waiting).allowed


async def unserved(call):
    """Whether a second is not enough."""
    task = asyncio.ensure_future(call)
    done, _ = await asyncio.wait({task}, timeout=1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return not done


HOLDER = """
import asyncio, sys
from redis.asyncio import Redis
from tests.support.quotas import ACME, limiter_of
from twh_platform.quotas import Concurrency
from twh_platform.quotas.redis import RedisQuotaStore

async def main():
    client = Redis.from_url(sys.argv[1])
    for _ in range(3):
        await client.incr("naive")
    store = RedisQuotaStore(client, timeout=5, patience=5)
    limiter = limiter_of(store, Concurrency(name="x", limit=3, lease=1, maximum_hold=60))
    decisions = [await limiter.take(ACME) for _ in range(3)]
    print(sum(one.allowed for one in decisions), flush=True)
    await asyncio.sleep(60)
    await client.decr("naive", 3)

asyncio.run(main())
"""


@on_redis
async def test_19_dies_holding_slots(store, server, project_root, twh_attack):
    """A slot is a lease: nobody renews those of a process that was killed."""
    attack = twh_attack(number=19, title="is killed while it holds all slots")
    await asyncio.to_thread(hold_and_die, server.url, project_root)
    limiter = limiter_of(store, Concurrency(name="x", limit=3, lease=1, maximum_hold=60))

    free = 0
    for _ in range(100):
        free += await admitted(limiter, 3 - free)
        if free == 3:
            break
        await asyncio.sleep(0.1)
    attack.control(int(server.command("GET", "naive")))
    attack.ours(3 - free)


def hold_and_die(url, folder):
    """Have a process take all slots, and kill it."""
    command = [sys.executable, "-c", HOLDER, url]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline().strip() == "3"
        holder.send_signal(signal.SIGKILL)


async def test_19_outlives_the_counter(clock, twh_attack):
    """Each slot has an end of its own, which its holder puts off."""
    attack = twh_attack(number=19, title="holds a slot for longer than the counter of slots lives")
    naive, expires = 0, clock() + 60  # set when the first slot was taken
    limiter = limiter_of(
        MemoryQuotaStore(clock=clock), Concurrency(name="x", limit=3, lease=60, maximum_hold=900)
    )
    held = [(await limiter.take(ACME)).receipt for _ in range(3)]
    naive += 3
    for _ in range(4):
        clock.advance(30)
        assert all([await one.renew() for one in held])
    naive = naive if clock() < expires else 0

    attack.control(3 - naive)
    attack.ours(await admitted(limiter, 3))


async def test_19_renews_for_ever(clock, twh_attack):
    """What is held for too long is free, however often it is renewed."""
    attack = twh_attack(number=19, title="renews a slot that it has forgotten, for ever")
    limiter = limiter_of(
        MemoryQuotaStore(clock=clock), Concurrency(name="x", limit=1, lease=60, maximum_hold=600)
    )
    held = (await limiter.take(ACME)).receipt
    naive = clock() + 60
    for _ in range(30):
        clock.advance(30)
        await held.renew()
        naive = clock() + 60

    attack.control(naive > clock())
    attack.ours(1 - await admitted(limiter, 1))


@on_redis
def test_23_is_used_in_another_loop(server, twh_attack):
    """Each event loop has a client of its own."""
    attack = twh_attack(number=23, title="asks in another event loop than was asked first")
    made = []

    def make():
        made.append(Redis.from_url(server.url))
        return made[-1]

    store = RedisQuotaStore(make, timeout=5, patience=5)
    limiter = limiter_of(store, Rate(name="x", limit=100, per=60))

    async def ours():
        return (await limiter.take(ACME)).allowed

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # nobody can close what is left
        attack.control(failing_loops(shared_client(server.url)))
        gc.collect()
    attack.ours(failing_loops(ours, store.aclose))
    assert len(made) == 3


def shared_client(url):
    """A call over a client that was made once."""
    client = Redis.from_url(url)

    async def call():
        await client.ping()
        return True

    return call


def failing_loops(call, close=None):
    """In how many of three loops, one after the other, it fails."""

    async def run():
        try:
            return await call()
        finally:
            if close is not None:
                await close()

    count = 0
    for _ in range(3):
        try:
            count += not asyncio.run(run())
        except RuntimeError:
            count += 1
    return count


async def test_24_comes_between_check_and_count(store, twh_attack):
    """To check and to count is one step."""
    attack = twh_attack(number=24, title="comes between the check and the count")
    naive = {"x": 0}

    async def hit():
        seen = naive["x"]
        await asyncio.sleep(0)  # the first trip
        if seen >= 5:
            return False
        naive["x"] = seen + 1
        return True

    attack.control(sum(await asyncio.gather(*(hit() for _ in range(50)))) - 5)
    rules = [Rate(name="x", limit=5, per=86_400), Concurrency(name="y", limit=20)]
    limiter = limiter_of(store, *rules, Calendar(name="z", limit=20, period="year"))
    decisions = await asyncio.gather(*(limiter.take(ACME) for _ in range(50)))
    attack.ours(sum(one.allowed for one in decisions) - 5)


KINDS = {
    "Rate": Rate(name="x", limit=100, per=86_400),
    "SlidingWindow": SlidingWindow(name="x", limit=100, per=86_400),
    "Calendar": Calendar(name="x", limit=100, period="year"),
}


@pytest.fixture
def moving_window(limits, server):
    """A log by the clock of whoever asks: a hit, of a hundred in ten seconds."""
    storage = limits.storage.RedisStorage(server.url)
    naive = limits.strategies.MovingWindowRateLimiter(storage)
    yield lambda: naive.hit(limits.parse("100/10seconds"), "acme")
    storage.storage.close()


SKEWS = [30, -30, 400 * 86_400, -400 * 86_400]


@on_redis
@pytest.mark.parametrize("spot", [*itertools.product(KINDS, SKEWS)])
async def test_26_has_another_clock(spot, store, moving_window, monkeypatch, twh_attack):
    """The clock of Redis alone counts."""
    kind, seconds = spot
    attack = twh_attack(
        number=26, title="has another clock than the others", form=f"{kind}, {seconds:+} s"
    )
    assert all(moving_window() for _ in range(100))
    assert await admitted(limiter_of(store, KINDS[kind]), 100) == 100

    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + abs(seconds))
    attack.control(sum(moving_window() for _ in range(100)))
    monkeypatch.setattr(time, "time", lambda: real() + seconds)
    attack.ours(await admitted(limiter_of(store, KINDS[kind]), 100))


@on_redis
@pytest.mark.parametrize("kind", KINDS)
async def test_26_starves_those_whose_clock_is_right(kind, store, monkeypatch, twh_attack):
    """Nor does a clock that is ahead leave anything behind for the others."""
    attack = twh_attack(number=26, title="starves those whose clock is right", form=kind)
    arrival, real = 0.0, time.time
    skewed = limiter_of(store, KINDS[kind], clock=lambda: real() + 30)
    for _ in range(10):
        arrival = max(arrival, real() + 30) + 0.01  # a rate's next moment, by the wrong clock
    attack.control(sum(arrival > real() + number * 0.01 for number in range(90)))

    monkeypatch.setattr(time, "time", lambda: real() + 30)
    assert await admitted(skewed, 10) == 10
    monkeypatch.undo()
    attack.ours(90 - await admitted(limiter_of(store, KINDS[kind]), 90))


@on_redis
async def test_31_keeps_others_trying(store, server, twh_attack):
    """Nothing is tried again: a hit is one call, also on a key that all want."""
    attack = twh_attack(number=31, title="keeps others trying again on a hot key")
    client = Redis.from_url(server.url)
    trips = 0

    async def compare_and_swap():
        nonlocal trips
        async with client.pipeline() as pipe:
            while True:
                trips += 1
                await pipe.watch("x")
                value = int(await pipe.get("x") or 0)
                pipe.multi()
                pipe.set("x", value + 1)
                try:
                    await pipe.execute()
                except WatchError:
                    continue
                return

    await asyncio.gather(*(compare_and_swap() for _ in range(30)))
    attack.control(trips - 30)
    await client.aclose()

    limiter = limiter_of(store, Rate(name="x", limit=100, per=86_400))
    await limiter.take(ACME)
    server.command("CONFIG", "RESETSTAT")
    await asyncio.gather(*(limiter.take(ACME) for _ in range(30)))
    stats = server.info("commandstats")
    calls = int(stats["cmdstat_evalsha"].split(",")[0].removeprefix("calls="))
    attack.ours(max(0, calls - 30))
