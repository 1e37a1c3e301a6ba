"""
Attacks 9 to 12, 16 to 18 and 29: what lies in Redis, and what happens when Redis fails.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster as ClusterClient
from redis.crc import key_slot
from redis.exceptions import RedisClusterException, RedisError

from tests.support.quotas import ACME, admitted, limiter_of
from twh_platform import Tenant
from twh_platform.errors import PlatformError
from twh_platform.quotas import (
    Calendar,
    Capacity,
    Concurrency,
    FallbackQuotaStore,
    Rate,
    SlidingWindow,
)
from twh_platform.quotas.redis import RedisQuotaStore

on_redis = pytest.mark.parametrize("server", ["redis"], indirect=True)

ALL = [
    Rate(name="a", limit=10, per=60),
    SlidingWindow(name="b", limit=10, per=60),
    Calendar(name="c", limit=10, period="month"),
    Concurrency(name="d", limit=10),
    Rate(name="e", limit=10, per=60, scope="user"),
    Rate(name="f", limit=10, per=60, scope="client"),
    Capacity(name="g", limit=10),
]


@asynccontextmanager
async def client_of(server, **options):
    """A client of redis-py, closed afterwards."""
    client = Redis.from_url(server.url, **options)
    try:
        yield client
    finally:
        await client.aclose()


async def errors_of(times, call, kind=Exception):
    """How many of these calls ended with an error of this kind."""
    count = 0
    for _ in range(times):
        try:
            await call()
        except kind:
            count += 1
    return count


@on_redis
async def test_09_leaves_keys_for_ever(store, server, throttled, twh_attack):
    """Every key has a life time from its first write on."""
    attack = twh_attack(number=9, title="leaves keys in Redis for ever")
    kept = throttled.asyncio.RedisStore(server=server.url)
    quota = throttled.asyncio.rate_limiter.per_min(10)
    for number in range(20):
        naive = throttled.asyncio.Throttled(using="leaking_bucket", quota=quota, store=kept)
        await naive.limit(f"user {number}")
    attack.control(lasting(server))
    await kept._backend.get_client().connection_pool.disconnect()

    server.command("FLUSHALL")
    limiter = limiter_of(store, *ALL)
    for number in range(20):
        decision = await limiter.take(ACME, user=str(number), client="::1", cost=2)
        await (decision.receipt.commit(1) if number % 2 else decision.receipt.refund())
    await limiter.take(ACME, only=["g"], cost=3)
    await limiter.give_back(ACME, "g", 1)
    attack.ours(lasting(server))
    assert len(server.command("KEYS", "*")) > 20


def lasting(server):
    """How many keys have no life time."""
    return sum(server.command("PTTL", key) == -1 for key in server.command("KEYS", "*"))


@on_redis
@pytest.mark.parametrize("how", ["SCRIPT FLUSH", "restart"])
async def test_10_comes_after_a_flush_of_scripts(how, store, server, pyrate_limiter, twh_attack):
    """A script that is gone is sent again, in the same call."""
    attack = twh_attack(number=10, title="comes when the scripts are gone", form=how)
    rates = [pyrate_limiter.Rate(100, pyrate_limiter.Duration.MINUTE)]
    async with client_of(server) as client:
        bucket = await pyrate_limiter.RedisBucket.init(rates, client, "bucket")
        limiter = limiter_of(store, Rate(name="x", limit=100, per=60))
        assert await admitted(limiter, 3) == 3
        if how == "restart":
            await asyncio.to_thread(server.restart)
        else:
            server.command("SCRIPT", "FLUSH")
        # What a restart has cut off fails once, for either; scripts are another matter.
        for call in (client.ping, partial(limiter.take, ACME)):
            with suppress(RedisError, PlatformError):
                await call()

        async def naive():
            await bucket.put(pyrate_limiter.RateItem("x", 0))

        attack.control(await errors_of(5, naive, RedisError))
    attack.ours(5 - await admitted(limiter, 5))


@on_redis
async def test_11_waits_for_a_frozen_redis(server, twh_attack):
    """Whoever asks is answered, by the rule's policy."""
    attack = twh_attack(number=11, title="waits for a Redis that is frozen")
    async with client_of(server) as client, fallback_of(server) as store:
        await client.ping()
        limiter = limiter_of(store, Rate(name="x", limit=100, per=60))
        assert await admitted(limiter, 5) == 5
        with server.frozen():
            attack.control(await unanswered(client.incr("x") for _ in range(5)))
            attack.ours(await unanswered(limiter.take(ACME) for _ in range(5)))


async def unanswered(calls):
    """How many of these are not answered after a second, one after the other."""
    count = 0
    for call in calls:
        task = asyncio.ensure_future(call)
        await asyncio.wait({task}, timeout=1)
        count += not task.done()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    return count


@asynccontextmanager
async def fallback_of(server, **options):
    """As a service has it: Redis, and its stand-in."""
    redis = RedisQuotaStore(lambda: Redis.from_url(server.url), patience=0.2)
    store = FallbackQuotaStore(redis, instances=1, **options)
    try:
        yield store
    finally:
        await store.aclose()


@on_redis
async def test_11_stops_the_whole_process(server, limits, twh_attack):
    """While one waits, the others go on."""
    attack = twh_attack(number=11, title="stops the whole process by waiting")
    naive = limits.strategies.FixedWindowRateLimiter(
        limits.storage.RedisStorage(server.url, socket_timeout=0.5)
    )
    naive.hit(limits.parse("100/minute"), "x")

    async def stuck():
        with suppress(RedisError):
            naive.hit(limits.parse("100/minute"), "x")

    async with fallback_of(server, failures=100) as store:
        limiter = limiter_of(store, Rate(name="x", limit=100, per=60))
        await limiter.take(ACME)
        with server.frozen():
            attack.control(not await turns_during(stuck()))
            attack.ours(not await turns_during(limiter.take(ACME)))
    naive.storage.storage.close()


async def turns_during(call):
    """How often somebody else had a turn meanwhile."""
    turns = 0

    async def other():
        nonlocal turns
        while True:
            await asyncio.sleep(0.001)
            turns += 1

    task = asyncio.ensure_future(other())
    await asyncio.sleep(0)
    await call
    task.cancel()
    return turns


@pytest.fixture
def full(server):
    """Fills the Redis up; it has room again afterwards."""

    def fill(policy):
        server.command("CONFIG", "SET", "maxmemory-policy", policy)
        server.command("CONFIG", "SET", "maxmemory", "1")

    yield fill
    server.command("CONFIG", "SET", "maxmemory", "0")
    server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")


@on_redis
async def test_12_meets_a_redis_that_is_full(store, server, full, limits, twh_attack):
    """No error of the driver gets out; the rule's policy holds."""
    attack = twh_attack(number=12, title="has an error of the driver shown to it by a full Redis")
    storage = limits.storage.RedisStorage(server.url)
    naive = limits.strategies.FixedWindowRateLimiter(storage)
    rule = Rate(name="x", limit=3, per=86_400)
    full("noeviction")

    async def hit():
        naive.hit(limits.parse("100/minute"), "x")

    attack.control(await errors_of(5, hit, RedisError))
    storage.storage.close()
    bare = limiter_of(store, rule)

    async def take():
        with suppress(PlatformError):
            await bare.take(ACME)

    attack.ours(await errors_of(5, take))
    async with fallback_of(server, budget=1) as standing_in:
        attack.ours(await admitted(limiter_of(standing_in, rule), 20) - 3)


@on_redis
async def test_12_has_its_count_evicted(store, server, full, twh_attack):
    """A Redis that evicts forgets what was taken: it has to be told not to."""
    attack = twh_attack(number=12, title="has its count evicted by filling Redis", kind="residual")
    limiter = limiter_of(store, Rate(name="x", limit=10, per=86_400))
    assert await admitted(limiter, 20) == 10
    full("allkeys-random")
    server.command("EVAL", "return redis.call('PING')", 0)
    async with client_of(server) as client:
        with suppress(RedisError):
            await client.set("junk", "x")
    server.command("CONFIG", "SET", "maxmemory", "0")

    attack.ours(await admitted(limiter, 20))


async def test_16_has_keys_in_several_slots(redis_cluster, twh_attack):
    """All rules of a request that lie together have keys of one slot."""
    attack = twh_attack(number=16, title="breaks what needs keys of several slots")
    url = redis_cluster.url
    client = ClusterClient.from_url(url)
    script = "redis.call('INCR', KEYS[1]) return redis.call('INCR', KEYS[2])"

    async def naive():
        await client.execute_command("EVAL", script, 2, "minute:acme", "hour:acme")

    attack.control(await errors_of(5, naive, (RedisError, RedisClusterException)))
    await client.aclose()
    store = RedisQuotaStore(lambda: ClusterClient.from_url(url, socket_timeout=2), timeout=2)
    limiter = limiter_of(store, *ALL)
    tenants = [Tenant(id=f"tenant-{number}") for number in range(30)]
    takes = [limiter.take(one, user="u", client="::1", api_key="k") for one in tenants]
    decisions = await asyncio.gather(*takes, return_exceptions=True)
    attack.ours([one for one in decisions if isinstance(one, BaseException)])
    assert sum(one.allowed for one in decisions) == 10  # the client's rule
    await store.aclose()


@on_redis
async def test_16_changes_the_kind_of_a_rule(store, server, limits, twh_attack):
    """The kind is part of the key: another one finds nothing that it cannot read."""
    attack = twh_attack(number=16, title="breaks a rule that has become one of another kind")
    storage = limits.storage.RedisStorage(server.url)
    fixed = limits.strategies.FixedWindowRateLimiter(storage)
    moving = limits.strategies.MovingWindowRateLimiter(storage)
    fixed.hit(limits.parse("10/minute"), "x")

    async def naive():
        moving.hit(limits.parse("10/minute"), "x")

    attack.control(await errors_of(5, naive, RedisError))
    storage.storage.close()

    async def take(rule):
        return await limiter_of(store, rule).take(ACME, only=["x"])

    spans = [{"per": 60}, {"per": 60}, {"period": "day"}, {}, {}]
    kinds = [Rate, SlidingWindow, Calendar, Concurrency, Capacity]
    rules = [kind(name="x", limit=10, **span) for kind, span in zip(kinds, spans, strict=True)]
    decisions = [await take(rule) for rule in rules]
    attack.ours(sum(one.statuses[0].remaining != 9 for one in decisions))


@on_redis
async def test_17_steers_its_keys_to_one_shard(store, server, limits, twh_attack):
    """A brace in a name is encoded: the slot is that of the partition."""
    attack = twh_attack(number=17, title="steers its keys to one shard of a cluster")
    names = [f"{{hot}}{number}" for number in range(50)]
    theirs = [limits.parse("9/minute").key_for(one) for one in names]
    hot = key_slot(b"hot")
    attack.control(sum(key_slot(one.encode()) == hot for one in theirs))

    limiter = limiter_of(store, *ALL[4:6])
    for one in names:
        await limiter.take(ACME, client=one, user=f"}}{one}")
    slots = {key: key_slot(key.encode()) for key in server.command("KEYS", "*")}
    attack.ours(sum(slot == hot for slot in slots.values()))
    of_tenant = {slot for key, slot in slots.items() if "{t.acme}" in key}
    assert (len(slots), of_tenant) == (100, {key_slot(b"t.acme")})


POLICIES = {"closed": 0, "share": 5}


@on_redis
@pytest.mark.parametrize("policy", POLICIES)
async def test_18_makes_redis_slow(policy, server, twh_attack):
    """What cannot be asked is no permission, unless the rule says so."""
    attack = twh_attack(number=18, title="makes Redis slow, and is not counted", form=policy)

    async def naive(client):
        """Fail open after a while, as some do."""
        try:
            return await asyncio.wait_for(client.incr("x"), 0.02) <= 5
        except TimeoutError:
            return True

    async with client_of(server) as client, fallback_of(server) as store:
        rule = Rate(name="x", limit=5, per=86_400, on_failure=policy)
        limiter = limiter_of(store, rule)
        await client.ping()
        with server.frozen():
            theirs = sum([await naive(client) for _ in range(30)])
            ours = await admitted(limiter, 30)
    attack.control(theirs - 5)
    attack.ours(max(0, ours - POLICIES[policy]))


@on_redis
async def test_29_dies_between_two_trips(store, server, throttled, twh_attack):
    """One trip writes the state and its life time."""
    attack = twh_attack(number=29, title="dies between the trip that counts and that which ends it")
    kept = throttled.asyncio.RedisStore(server=server.url)
    quota = throttled.asyncio.rate_limiter.per_min(10)
    naive = throttled.asyncio.Throttled(using="fixed_window", quota=quota, store=kept)
    limiter = limiter_of(store, *ALL[:5])
    await limiter.take(ACME, user="the script is loaded")

    server.command("CONFIG", "RESETSTAT")
    for number in range(10):
        await naive.limit(f"user {number}")
    attack.control(sent(server, "incrby", "expire") - 10)
    server.command("CONFIG", "RESETSTAT")
    for number in range(10):
        await limiter.take(ACME, user=str(number))
    attack.ours(sent(server, "evalsha", "eval") - 10)
    await kept._backend.get_client().connection_pool.disconnect()


def sent(server, *names):
    """How often these commands were called."""
    stats = server.info("commandstats")
    counts = [stats.get(f"cmdstat_{one}", "calls=0").split(",")[0][6:] for one in names]
    return sum(map(int, counts))
