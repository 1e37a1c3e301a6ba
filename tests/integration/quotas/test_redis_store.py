"""
The store of quotas on a real Redis: its keys, its pipelining, and what goes wrong.
"""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest

pytest.importorskip("redis")

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import RedisError

from twh_platform.errors import BackendUnavailableError, ConfigurationError
from twh_platform.quotas import (
    Calendar,
    Capacity,
    Concurrency,
    Limiter,
    Rate,
    Settlement,
    SlidingWindow,
    Take,
)
from twh_platform.quotas._takes import charge_of
from twh_platform.quotas.redis import RedisQuotaStore
from twh_platform.tenancy import Tenant
from twh_platform.testing import RedisServer

_numbers = itertools.count()

HOUR = Rate(name="hour", limit=10, per=3600)
ALL = [
    HOUR,
    SlidingWindow(name="window", limit=10, per=3600),
    Calendar(name="month", limit=10, period="month"),
    Capacity(name="items", limit=10),
    Concurrency(name="open", limit=10),
    Rate(name="login", limit=10, per=60, scope="user"),
]


class Plan:
    """One plan for everybody."""

    rules = tuple(ALL)

    def for_tenant(self, tenant):
        """Always itself."""
        return self


@pytest.fixture
def partition():
    """Of no other test."""
    return f"t.test{next(_numbers)}x{time.time_ns():x}"


def take_of(partition, *rules, cost=1, **options):
    """A take from some rules of a tenant."""
    now = time.time_ns() // 1000
    charges = tuple(charge_of(rule, partition, cost, "UTC", now) for rule in rules)
    return Take(partition, charges, **options)


async def eventually(what):
    """Ask until it is so."""
    for _ in range(1000):
        if await what():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it never was")


async def level(store, take):
    """How much the first rule of a take has taken."""
    return (await store.take(take._replace(dry=True))).states[0][1]


async def is_at(wanted, store, take):
    """Whether the first rule has taken so much; not while there is no answer."""
    try:
        return await level(store, take) == wanted
    except BackendUnavailableError:
        return False


@pytest.fixture
async def client(redis_url):
    """A client to look with."""
    async with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
async def store(redis_url):
    """A store that waits for a busy machine."""
    store = RedisQuotaStore(lambda: Redis.from_url(redis_url), timeout=5, patience=10)
    yield store
    await store.aclose()


async def test_every_key_ends_some_day(client, store, partition):
    """After one take, and after its settlement, every key has a life time."""
    tenant = Tenant(id=partition[2:])
    limiter = Limiter(store, plans=Plan())
    for user in ("a", "b"):
        only = [rule.name for rule in ALL]
        decision = await limiter.take(tenant, user=user, only=only, cost=2)
        await decision.receipt.commit({"requests": 1})
    keys = [key async for key in client.scan_iter(f"twh:q:{{{partition}}}*")]

    assert len(keys) == 2 + 1 + 2
    assert min([await client.pttl(key) for key in keys]) > 0


async def test_a_life_is_as_long_as_what_matters_longest(client, store, partition):
    """A short rule in the same hash shortens nothing."""
    short = Rate(name="short", limit=10, per=1)
    await store.take(take_of(partition, Capacity(name="items", limit=9), short))
    await store.take(take_of(partition, short))

    assert await client.pttl(f"twh:q:{{{partition}}}") > 398 * 86_400 * 1000


async def test_a_short_rule_is_soon_forgotten(client, store, partition):
    """Nothing is kept for much longer than it matters."""
    await store.take(take_of(partition, Rate(name="short", limit=10, per=1)))

    assert await client.pttl(f"twh:q:{{{partition}}}") <= 5000


async def test_three_rules_are_one_hash(client, store, partition):
    """The state of a rule is a short text in the hash of its bucket."""
    await store.take(take_of(partition, *ALL[:3]))
    state = await client.hgetall(f"twh:q:{{{partition}}}")

    assert set(state) == {b"rhour", b"wwindow", b"cmonth"}
    assert all(value.endswith(b"1") and len(value) == 17 for value in state.values())


@pytest.mark.parametrize("user", ["a}b{c", "{x}", "a:u.b", "a/b", "ü\n\0", "a b\r\nDEL x"])
async def test_no_name_steers_a_key(user, client, store, partition):
    """Braces, colons and line ends in an id stay an id: the slot is the tenant's."""
    limiter = Limiter(store, plans=Plan())
    decision = await limiter.take(Tenant(id=partition[2:]), user=user, only=["login"])
    keys = [key async for key in client.scan_iter(f"twh:q:{{{partition}}}*")]

    assert decision.allowed
    assert len(keys) == 1
    assert keys[0].count(b"{") == keys[0].count(b"}") == 1
    assert not set(keys[0]) & set(b"/ \r\n\0")


async def test_a_refusal_writes_nothing(client, store, partition):
    """The keys are as they were, byte for byte."""
    await store.take(take_of(partition, *ALL[:4], cost=8))
    key = f"twh:q:{{{partition}}}"
    before = await client.dump(key)
    outcome = await store.take(take_of(partition, *ALL[:4], cost=3))

    assert not outcome.admitted
    assert await client.dump(key) == before


async def test_a_flushed_script_is_loaded_again(client, store, partition):
    """In the same call, whether one asks or many."""
    take = take_of(partition, Capacity(name="items", limit=100))
    await store.take(take)
    await client.script_flush()
    await store.take(take)
    await client.script_flush()
    await asyncio.gather(*(store.take(take) for _ in range(70)))

    assert await level(store, take) == 72


async def test_a_tick_is_one_call(client, store, partition):
    """Sixty tenants at once are not sixty round trips."""
    takes = [take_of(f"{partition}{index}", HOUR) for index in range(60)]
    await store.take(takes[0])
    await client.config_resetstat()
    await asyncio.gather(*(store.take(one) for one in takes))
    calls = (await client.info("commandstats"))["cmdstat_evalsha"]["calls"]

    assert calls == 1


async def test_few_connections_serve_many(redis_url, partition):
    """A thousand at a time share two connections."""
    client = Redis.from_url(redis_url, max_connections=2)
    store = RedisQuotaStore(client, timeout=5, patience=10)
    take = take_of(partition, Capacity(name="items", limit=700))
    outcomes = await asyncio.gather(*(store.take(take) for _ in range(1000)))
    await store.aclose()

    assert sum(one.admitted for one in outcomes) == 700
    await client.aclose()


@pytest.mark.parametrize("delay", [0, 0.0001, 0.001])
async def test_a_cancelled_take_is_given_back(delay, store, partition):
    """Whenever its caller goes away, nothing stays charged, and no answer is another's."""
    take = take_of(partition, Capacity(name="items", limit=10_000))
    await store.take(take)
    for _ in range(40):
        callers = [asyncio.create_task(store.take(take)) for _ in range(5)]
        await asyncio.sleep(delay)
        for caller in callers:
            caller.cancel()
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
        for outcome in outcomes:
            if not isinstance(outcome, BaseException):  # it came in time: it is the caller's
                charges = take.charges
                gone = Settlement(partition, "", charges, (0,), outcome.now, 2**53 - 1)
                await store.settle(gone)

    await eventually(lambda: is_at(1, store, take))


async def test_a_cancelled_slot_is_freed(store, partition):
    """It does not wait for its lease to run out."""
    rule = Concurrency(name="open", limit=1, lease=3600)
    caller = asyncio.create_task(store.take(take_of(partition, rule, lease="gone")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    await eventually(lambda: is_at(0, store, take_of(partition, rule)))

    assert (await store.take(take_of(partition, rule, lease="next"))).admitted


async def test_a_settlement_survives_its_caller(store, partition):
    """A client that goes away while it is settled is settled all the same."""
    take = take_of(partition, Capacity(name="items", limit=10), cost=4)
    outcome = await store.take(take)
    settlement = Settlement(partition, "receipt", take.charges, (1,), outcome.now, 2**53 - 1)
    caller = asyncio.create_task(store.settle(settlement))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    await eventually(lambda: is_at(1, store, take))

    assert not (await store.settle(settlement)).done


def test_each_loop_gets_its_own_client(redis_url, partition):
    """With a function there may be one loop after the other."""
    made = []

    def make():
        made.append(Redis.from_url(redis_url))
        return made[-1]

    store = RedisQuotaStore(make, timeout=5, patience=10)
    take = take_of(partition, Capacity(name="items", limit=10))

    async def once():
        outcome = await store.take(take)
        await store.aclose()
        return outcome.states[0][1]

    assert [asyncio.run(once()) for _ in range(3)] == [1, 2, 3]
    assert len(made) == 3


def test_a_client_is_for_one_loop(redis_url, partition):
    """Another loop is told what to do instead."""
    client = Redis.from_url(redis_url)
    store = RedisQuotaStore(client, timeout=5, patience=10)
    take = take_of(partition, HOUR)

    async def first():
        await store.take(take)
        await client.aclose()

    asyncio.run(first())
    with pytest.raises(ConfigurationError, match="another event loop"):
        asyncio.run(store.take(take))


async def test_texts_instead_of_bytes_are_understood(redis_url, partition):
    """A client that decodes its answers is as good."""
    client = Redis.from_url(redis_url, decode_responses=True, protocol=3)
    store = RedisQuotaStore(client, timeout=5, patience=10)

    assert (await store.take(take_of(partition, *ALL[:4]))).admitted
    await client.aclose()


@pytest.mark.parametrize("value", ["not ours", "17000000000000001x"])
async def test_what_is_not_ours_harms_nobody_else(value, client, store, partition):
    """A key with another content fails its own takes, not those that leave together."""
    bad, good = take_of(partition, HOUR), take_of(f"{partition}good", HOUR)
    if value == "not ours":
        await client.set(f"twh:q:{{{partition}}}", value, ex=60)
    else:
        await client.hset(f"twh:q:{{{partition}}}", "rhour", value)
        await client.expire(f"twh:q:{{{partition}}}", 60)
    outcomes = await asyncio.gather(
        *(store.take(one) for one in (good, bad, good)), return_exceptions=True
    )

    assert outcomes[0].admitted
    assert outcomes[2].admitted
    assert isinstance(outcomes[1], BackendUnavailableError)


async def test_nobody_waits_for_a_frozen_server(redis_server, partition):
    """The answer is an error within the timeout, and what is done later is given back."""
    store = RedisQuotaStore(lambda: Redis.from_url(redis_server.url), timeout=0.04)
    take = take_of(partition, Capacity(name="items", limit=100))
    await store.take(take)
    with redis_server.frozen():
        begun = time.perf_counter()
        failed = await asyncio.gather(
            *(store.take(take) for _ in range(300)), return_exceptions=True
        )
        waited = time.perf_counter() - begun
    await eventually(lambda: is_at(1, store, take))
    await store.aclose()

    assert {getattr(one, "code", one) for one in failed} == {"quota_store_unavailable"}
    assert isinstance(failed[0].__cause__, TimeoutError)
    assert waited < 1  # the default of redis-py is five seconds, or for ever


async def test_it_recovers_from_a_restart(redis_server, partition):
    """A server that was down is used again when it is up, with nothing to be done."""
    store = RedisQuotaStore(lambda: Redis.from_url(redis_server.url), timeout=1)
    take = take_of(partition, HOUR)
    await store.take(take)
    redis_server.kill()
    try:
        with pytest.raises(BackendUnavailableError) as caught:
            await store.take(take)
    finally:
        redis_server.start()
    await eventually(lambda: is_at(0, store, take))
    await store.aclose()

    assert isinstance(caught.value.__cause__, RedisError | OSError)


async def test_a_full_server_is_an_error_and_writes_nothing(partition):
    """Out of memory refuses the whole take; a look still works."""
    options = {"maxmemory": "1", "maxmemory-policy": "noeviction"}
    take = take_of(partition, *ALL[:4])
    with RedisServer(options=options) as server:
        store = RedisQuotaStore(lambda: Redis.from_url(server.url), timeout=5, patience=10)
        with pytest.raises(BackendUnavailableError) as caught:
            await store.take(take)
        look = await store.take(take._replace(dry=True))
        await store.aclose()
        assert server.command("DBSIZE") == 0

    assert "OOM" in str(caught.value.__cause__) or "OutOfMemory" in str(caught.value)
    assert look.states[0] == (0, 0, 0)


async def test_a_password_is_in_no_message():
    """The message names the kind of the fault, and no address."""
    store = RedisQuotaStore(lambda: Redis.from_url("redis://:hidden@127.0.0.1:1/0"))
    with pytest.raises(BackendUnavailableError) as caught:
        await store.take(take_of("t.x", HOUR))
    await store.aclose()

    assert str(caught.value) == "Redis: ConnectionError"
    assert "hidden" not in str(caught.value.__cause__)


async def test_the_queue_has_an_end(redis_url, partition):
    """More than may wait are refused at once."""
    store = RedisQuotaStore(
        lambda: Redis.from_url(redis_url), timeout=5, patience=10, max_waiting=10
    )
    take = take_of(partition, Capacity(name="items", limit=100))
    outcomes = await asyncio.gather(*(store.take(take) for _ in range(30)), return_exceptions=True)
    await store.aclose()

    refused = [one for one in outcomes if isinstance(one, BackendUnavailableError)]
    assert len(refused) == 20
    assert "10 operations" in str(refused[0])


async def test_one_address_of_a_cluster_is_asked_by_tenant(redis_cluster):
    """Where keys of several slots may not meet in a call, they do not."""
    node = redis_cluster.masters[0]
    store = RedisQuotaStore(lambda: Redis.from_url(node.url), timeout=5, patience=10)
    names = [f"t.slot{index}" for index in range(300)]
    here = [one for one in names if redis_cluster.master_of(one).port == node.port][:20]
    outcomes = await asyncio.gather(*(store.take(take_of(one, HOUR)) for one in here))
    await store.aclose()

    assert len(here) > 10
    assert all(one.admitted for one in outcomes)


async def test_a_cluster_is_flushed_and_asked_again(redis_cluster, partition):
    """The script is loaded where it is missing, on every node."""
    store = RedisQuotaStore(
        lambda: RedisCluster.from_url(redis_cluster.url, socket_timeout=2), timeout=5, patience=10
    )
    takes = [take_of(f"{partition}{index}", HOUR) for index in range(40)]
    await store.take(takes[0])
    for node in redis_cluster.masters:
        await asyncio.to_thread(node.command, "SCRIPT", "FLUSH")
    outcomes = await asyncio.gather(*(store.take(one) for one in takes))
    await store.aclose()

    assert [one.states[0][1] for one in outcomes] == [2, *[1] * 39]


async def test_a_cluster_client_has_to_give_up_some_time(redis_cluster):
    """One that waits for a dead node for ever is refused."""
    store = RedisQuotaStore(lambda: RedisCluster.from_url(redis_cluster.url, socket_timeout=None))

    with pytest.raises(ConfigurationError, match="socket_timeout"):
        await store.take(take_of("t.x", HOUR))


@pytest.mark.parametrize(
    "options",
    [
        {"prefix": "a{b"},
        {"prefix": ""},
        {"timeout": 0},
        {"timeout": 3, "patience": 2},
        {"connections": 0},
        {"max_waiting": 0},
    ],
)
def test_what_cannot_work_is_refused(options):
    """The message names the argument and its value."""
    name, value = next(iter(options.items()))

    with pytest.raises(ConfigurationError, match=f"{name}={value!r}"):
        RedisQuotaStore(Redis, **options)
