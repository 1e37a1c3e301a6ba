"""
Redis that is frozen, dead, full, flushed, busy, slow or shut: who answers, and for how much.

Gate G4.  Every wait here ends by what it waits for; the limits are there for a
hang alone.  How long answers took is in the log.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from statistics import median

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, OutOfMemoryError, RedisError

from tests.support.proxy import CountingProxy
from tests.support.redis import require_redis
from tests.support.serving import eventually
from twh_platform import subscribe
from twh_platform.errors import PlatformError
from twh_platform.quotas import FallbackQuotaStore, LeasingQuotaStore, QuotaStoreDegraded
from twh_platform.quotas._exchange import Charge, Take
from twh_platform.quotas.redis import RedisQuotaStore
from twh_platform.testing import RedisServer

_logger = logging.getLogger("tests.quotas")

HOUR = 3_600_000_000
INSTANCES = 4
LIMIT = 40
SHARE = LIMIT // INSTANCES
# No test asserts what a machine can miss: what hangs takes longer.
GENEROUS = 1.0


@pytest.fixture(autouse=True)
def _redis() -> None:
    """Nothing here works without a server."""
    require_redis()


def take_of(tenant="acme", *, limit=LIMIT, policy=2, **options) -> Take:
    """One unit of a tenant's window of an hour."""
    place = f"t.{tenant}"
    return Take(place, (Charge(place, "whour", "w", 1, 0, (limit, HOUR), policy),), **options)


@asynccontextmanager
async def house(url: str, *, budget=0.04, lease=1.0) -> AsyncIterator[FallbackQuotaStore]:
    """The stack as a service has it; refusals are not remembered, so that all is asked."""
    redis = RedisQuotaStore(lambda: Redis.from_url(url), timeout=budget)
    leasing = LeasingQuotaStore(redis, denial=0, lease=lease)
    store = FallbackQuotaStore(leasing, instances=INSTANCES, longest_pause=0.4, budget=budget)
    try:
        yield store
    finally:
        await store.aclose()


async def until_store(store: FallbackQuotaStore, take: Take | None = None) -> None:
    """Return when the store decides again."""
    look = (take or take_of("probe", limit=10**9))._replace(dry=True)

    async def decides() -> bool:
        return (await store.take(look)).origin == "store"

    await eventually(decides)


async def admitted(store: FallbackQuotaStore, take: Take, times: int) -> int:
    """How many of so many takes are admitted."""
    return sum([(await store.take(take)).admitted for _ in range(times)])


async def used(store: FallbackQuotaStore, take: Take) -> int:
    """What Redis has counted."""
    await until_store(store)
    return (await store.take(take._replace(dry=True))).states[0][1]


class Answers:
    """
    Takes, and how long each of them took.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.origins: list[str] = []
        self.admitted = 0

    async def ask(self, store: FallbackQuotaStore, take: Take, times: int) -> None:
        """Take so many times, one after the other."""
        for _ in range(times):
            start = time.perf_counter()
            outcome = await store.take(take)
            self.seconds.append(time.perf_counter() - start)
            self.origins.append(outcome.origin)
            self.admitted += outcome.admitted

    def report(self, title: str) -> None:
        """Write the figures down: see them with --log-cli-level=INFO."""
        longest, middle = max(self.seconds) * 1000, median(self.seconds) * 1000
        count = len(self.seconds)
        _logger.info(
            "%s: %d answers, longest %.1f ms, median %.3f ms", title, count, longest, middle
        )


async def naive(url: str) -> bool:
    """Control: a limiter as one writes it first, which admits when Redis fails."""
    client = Redis.from_url(url)
    try:
        return await client.incr("naive") <= LIMIT
    except RedisError:
        return True
    finally:
        with suppress(RedisError):
            await client.aclose()


async def test_a_frozen_server_is_answered_for():
    """SIGSTOP: all answers come, within this instance's share; the naive limiter still waits."""
    answers = Answers()
    with RedisServer() as server:
        async with house(server.url) as store:
            await until_store(store)
            with server.frozen():
                control = asyncio.create_task(naive(server.url))
                await asyncio.gather(*[answers.ask(store, take_of(), 10) for _ in range(20)])
                assert not control.done()
            await control
            await until_store(store)
    answers.report("frozen")

    assert set(answers.origins) == {"local"}
    assert answers.admitted == SHARE
    assert max(answers.seconds) < GENEROUS


async def test_what_a_frozen_server_charges_late_is_given_back():
    """The takes that it finds in its socket when it wakes up cost nobody anything."""
    with RedisServer() as server:
        async with house(server.url) as store:
            await until_store(store)
            with server.frozen():
                await admitted(store, take_of(), 50)
            await until_store(store)

            async def nothing_is_charged() -> bool:
                return await used(store, take_of()) == 0

            await eventually(nothing_is_charged)


async def test_a_killed_server_is_found_again():
    """SIGKILL, then a start on the same port: nobody has to do anything else."""
    answers, heard = Answers(), []
    end = subscribe(QuotaStoreDegraded, heard.append)
    with RedisServer() as server:
        async with house(server.url) as store:
            await until_store(store)
            server.kill()
            await answers.ask(store, take_of(), 100)
            open_ones = [await naive(server.url) for _ in range(2 * LIMIT)]
            server.start()
            await until_store(store)
    end()
    answers.report("killed")

    assert open_ones.count(True) == 2 * LIMIT
    assert set(answers.origins) == {"local"}
    assert answers.admitted == SHARE
    assert len(heard) == 1


async def test_what_was_used_up_is_not_given_out_again():
    """The server dies when a tenant has taken everything: the share is nothing."""
    with RedisServer() as server:
        async with house(server.url, budget=GENEROUS) as store:
            await until_store(store)
            before = await admitted(store, take_of(), LIMIT + 5)
            server.kill()

            assert before == LIMIT
            assert await admitted(store, take_of(), LIMIT) == 0


async def test_rules_that_fail_closed_or_open_do():
    """Each by its own policy, and counted."""
    with RedisServer() as server:
        async with house(server.url) as store:
            server.kill()

            assert await admitted(store, take_of(policy=1), 100) == 0
            assert await admitted(store, take_of(policy=0), 100) == 100
            assert store.stats.refused_closed == store.stats.admitted_uncounted == 100


async def test_a_flush_forgets_what_was_taken():
    """The residual that no limiter on Redis is without: one limit more, and no error."""
    with RedisServer() as server:
        async with house(server.url, budget=GENEROUS) as store:
            await until_store(store)
            before = await admitted(store, take_of(), 2 * LIMIT)
            server.command("FLUSHALL")
            after = await admitted(store, take_of(), 2 * LIMIT)

    assert (before, after) == (LIMIT, LIMIT)


async def test_a_flush_of_scripts_is_not_noticed():
    """SCRIPT FLUSH: the same call recovers; a bare EVALSHA does not."""
    with RedisServer() as server:
        async with house(server.url, budget=GENEROUS) as store, Redis.from_url(server.url) as bare:
            await until_store(store)
            sha = await bare.script_load("return 1")
            server.command("SCRIPT", "FLUSH")
            outcome = await store.take(take_of())
            with pytest.raises(NoScriptError):
                await bare.evalsha(sha, 0)

    assert (outcome.origin, store.stats.errors) == ("store", 0)


def fill(server: RedisServer, *, prefix="junk", most=2000) -> None:
    """Write until the server refuses, or for long enough."""
    with suppress(PlatformError):
        for number in range(most):
            server.command("SET", f"{prefix}{number}", "x" * 4000)


async def test_a_full_server_is_stood_in_for():
    """Under ``noeviction`` it refuses all writes; when there is room again it decides."""
    with RedisServer(options={"maxmemory": "3mb", "maxmemory-policy": "noeviction"}) as server:
        async with house(server.url) as store, Redis.from_url(server.url) as bare:
            await until_store(store)
            await asyncio.to_thread(fill, server)
            server.command("CONFIG", "SET", "maxmemory", "2mb")
            with pytest.raises(OutOfMemoryError):
                await bare.incr("naive")
            local = await admitted(store, take_of(), 100)
            assert store.degraded
            server.command("FLUSHALL")
            await until_store(store)

    assert local == SHARE


@pytest.mark.parametrize(("policy", "forgotten"), [("allkeys-lru", True), ("noeviction", False)])
async def test_eviction_resets_quotas(policy, forgotten):
    """Why the server has to be one that evicts nothing: the residual, shown, and its remedy."""
    with RedisServer(options={"maxmemory": "3mb", "maxmemory-policy": policy}) as server:
        async with house(server.url, budget=GENEROUS) as store:
            await until_store(store)
            assert await admitted(store, take_of(), LIMIT + 1) == LIMIT
            await asyncio.to_thread(fill, server)
            look = take_of(dry=True)
            state = (await store.take(look)).states[0]

    assert (state[1] == 0) is forgotten


async def test_a_replica_that_only_reads_is_stood_in_for():
    """READONLY, as from an old master after a failover; once it may write, it decides."""
    with RedisServer() as master, RedisServer() as server:
        server.command("REPLICAOF", master.host, master.port)
        async with house(server.url) as store:
            local = Answers()
            await local.ask(store, take_of(), 100)
            server.command("REPLICAOF", "NO", "ONE")
            await until_store(store, take_of())
            assert (await store.take(take_of())).origin in {"store", "local"}

    assert set(local.origins) == {"local"}
    assert local.admitted == SHARE


async def test_a_service_may_start_before_its_redis():
    """Connections are refused: the policies decide from the first request on."""
    with RedisServer() as server:
        server.kill()
        async with house(server.url) as store:
            answers = Answers()
            await answers.ask(store, take_of(), 50)
            server.start()
            await until_store(store)

    assert set(answers.origins) == {"local"}
    assert answers.admitted == SHARE


async def test_a_wrong_password_is_an_outage():
    """Announced, and over when the password is right."""
    with RedisServer(options={"requirepass": "right"}) as server:
        wrong = server.url.replace("right", "wrong")
        async with house(wrong) as store:
            local = await admitted(store, take_of(), 50)
            assert store.degraded
            async with Redis.from_url(server.url) as owner:
                await owner.config_set("requirepass", "wrong")
            await until_store(store)

    assert local == SHARE


async def test_a_slow_server_is_stood_in_for():
    """Replies after 200 ms: nobody waits for them, and what they charged is given back."""
    answers = Answers()
    with RedisServer() as server, CountingProxy(server.host, server.port) as proxy:
        async with house(f"redis://{proxy.host}:{proxy.port}/0") as store:
            await until_store(store)
            proxy.delay = 0.1
            await asyncio.gather(*[answers.ask(store, take_of(), 10) for _ in range(10)])
            proxy.delay = 0.0

            async def nothing_is_charged() -> bool:
                return await used(store, take_of()) == 0

            await eventually(nothing_is_charged)
    answers.report("slow")

    assert answers.admitted == SHARE
    assert max(answers.seconds) < GENEROUS


async def test_a_busy_server_is_stood_in_for():
    """A script that does not end: BUSY, until somebody kills it."""
    with RedisServer(options={"busy-reply-threshold": "1"}) as server:
        async with house(server.url) as store:
            await until_store(store)
            thread = threading.Thread(target=spin, args=(server,))
            thread.start()
            await eventually(lambda: asyncio.to_thread(is_busy, server))
            local = await admitted(store, take_of(), 100)
            server.command("SCRIPT", "KILL")
            await asyncio.to_thread(thread.join)
            await until_store(store)

    assert local == SHARE


def spin(server: RedisServer) -> None:
    """Run a script until it is killed."""
    with suppress(PlatformError):
        server.command("EVAL", "while true do end", 0, timeout=60)


def is_busy(server: RedisServer) -> bool:
    """Whether a script is running."""
    try:
        server.command("PING")
    except PlatformError as error:
        return "BUSY" in str(error)
    return False


def trips(store: FallbackQuotaStore) -> int:
    """How often the store was asked, with whatever outcome."""
    return store.stats.answered + store.stats.timeouts + store.stats.errors


async def test_a_server_that_comes_back_is_not_run_over():
    """Two hundred clients all the time: single probes find it; the control sends two hundred."""
    with RedisServer() as server:
        async with house(server.url) as store:
            await until_store(store)
            with server.frozen():
                await asyncio.gather(*[store.take(take_of()) for _ in range(200)])
                controls = [asyncio.create_task(naive(server.url)) for _ in range(200)]
                before = trips(store)
                await asyncio.gather(*[admitted(store, take_of(), 50) for _ in range(200)])
                assert trips(store) - before <= 20
            await asyncio.gather(*controls)
            before = store.stats.probes
            while store.degraded:
                await asyncio.gather(*[store.take(take_of()) for _ in range(200)])
                await asyncio.sleep(0.01)
            _logger.info("stampede: %d probes", store.stats.probes - before)

            assert store.stats.probes - before <= 20
            assert server.command("GET", "naive") == "200"


async def test_leases_outlive_the_server_for_a_moment():
    """What was paid for is served while Redis is down, and not one unit more than the bound."""
    plenty = Take("t.acme", (Charge("t.acme", "rs", "r", 1, 0, (1000, 1, 1000)),))
    with RedisServer() as server:
        async with house(server.url, budget=GENEROUS, lease=60.0) as store:
            await until_store(store)
            await admitted(store, plenty, 30)
            server.kill()
            origins = [(await store.take(plenty)).origin for _ in range(100)]

    assert 0 < origins.count("lease") <= 50
    assert set(origins) == {"lease", "local"}
