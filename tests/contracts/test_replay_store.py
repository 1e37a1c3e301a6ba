"""
What every store of claims on webhooks does.

A store joins by a parameter of `opened`.  Time is real where a store has its own
clock: leases are short there, and waited for.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from tests.support.redis import require_redis
from twh_platform.errors import ConfigurationError
from twh_platform.tenancy import Tenant, bind_tenant
from twh_platform.testing import ManualClock
from twh_platform.webhooks import Claim, ClaimState, MemoryReplayStore, ReplayStore

BODY, OTHER = os.urandom(32), os.urandom(32)
NEW, DONE, BUSY, CONFLICT = ClaimState


@dataclass(frozen=True)
class Opened:
    """A store, another that sees the same, how to let time go by, and how to close it."""

    store: ReplayStore
    again: ReplayStore
    advance: Callable[[float], Awaitable[None]]
    close: AsyncExitStack


async def _memory(_request: pytest.FixtureRequest) -> Opened:
    clock = ManualClock()

    async def advance(seconds: float) -> None:
        clock.advance(seconds)

    store = MemoryReplayStore(clock=clock)
    return Opened(store, store, advance, AsyncExitStack())


async def _redis(request: pytest.FixtureRequest) -> Opened:
    pytest.importorskip("redis")
    require_redis()
    from redis.asyncio import Redis

    from twh_platform.webhooks.redis import RedisReplayStore

    url = request.getfixturevalue("redis_url")
    return await _redis_stores(lambda: RedisReplayStore(lambda: Redis.from_url(url), timeout=10))


async def _cluster(request: pytest.FixtureRequest) -> Opened:
    pytest.importorskip("redis")
    require_redis()
    from redis.asyncio import RedisCluster

    from twh_platform.webhooks.redis import RedisReplayStore

    url = request.getfixturevalue("redis_cluster").url
    return await _redis_stores(
        lambda: RedisReplayStore(lambda: RedisCluster.from_url(url, socket_timeout=5), timeout=10)
    )


async def _redis_stores(make: Callable[[], ReplayStore]) -> Opened:
    close = AsyncExitStack()
    stores = [make(), make()]
    for one in stores:
        close.push_async_callback(one.aclose)
    return Opened(*stores, asyncio.sleep, close)


async def _postgres(request: pytest.FixtureRequest) -> Opened:
    pytest.importorskip("psycopg_pool")
    from tests.support.postgres_webhooks import tenant_pool, webhooks_database
    from twh_platform.webhooks.postgres.store import PostgresReplayStore

    database, close = webhooks_database(request), AsyncExitStack()
    pools = [await close.enter_async_context(tenant_pool(database)) for _ in range(2)]
    stores = [PostgresReplayStore(pool.connection, timeout=10) for pool in pools]
    return Opened(*stores, asyncio.sleep, close)


STORES = {"memory": _memory, "redis": _redis, "redis-cluster": _cluster, "postgres": _postgres}


@pytest.fixture(params=STORES)
async def opened(request: pytest.FixtureRequest) -> AsyncIterator[Opened]:
    """A store that knows none of this test's deliveries."""
    with bind_tenant(Tenant(id="acme")):
        opened = await STORES[request.param](request)
        async with opened.close:
            yield opened


@pytest.fixture
def store(opened: Opened) -> ReplayStore:
    """The store alone."""
    return opened.store


@pytest.fixture
def key() -> bytes:
    """A delivery of no other test."""
    return secrets.token_bytes(32)


@pytest.fixture(autouse=True)
def acme() -> object:
    """The tenant whose turn it is."""
    with bind_tenant(Tenant(id="acme")):
        yield


async def claim(store: ReplayStore, key: bytes, body: bytes = BODY, lease: float = 60.0) -> Claim:
    """Claim a delivery."""
    return await store.claim(key, body, lease=lease, ttl=3600)


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return when the condition holds; the limit is there for a hang alone."""
    async with asyncio.timeout(30):
        while not await condition():
            pass


class TestReplayStore:
    """One store."""

    async def test_the_first_claim_is_new(self, store, key):
        """It gets what commits it, and the next does not."""
        first, second = await claim(store, key), await claim(store, key)

        assert (first.state, second.state) == (NEW, BUSY)
        assert first.token is not None
        assert second.token is None

    async def test_what_is_committed_is_done(self, opened, store, key):
        """Also to another instance, and again and again."""
        first = await claim(store, key)

        assert await store.commit(first.token)
        assert (await claim(store, key)).state is DONE
        assert (await claim(opened.again, key)).state is DONE

    async def test_what_is_released_is_free(self, opened, store, key):
        """The next attempt is new."""
        first = await claim(store, key)

        assert await store.release(first.token)
        assert (await claim(opened.again, key)).state is NEW

    @pytest.mark.parametrize("committed", [False, True])
    async def test_another_body_is_a_conflict(self, store, key, committed):
        """Whether the first is being handled or was."""
        first = await claim(store, key)
        if committed:
            await store.commit(first.token)

        assert (await claim(store, key, OTHER)).state is CONFLICT

    async def test_deliveries_are_apart(self, store, key):
        """One says nothing about another with the same body."""
        await claim(store, key)

        assert (await claim(store, secrets.token_bytes(32))).state is NEW

    async def test_of_racers_one_claims(self, opened, key):
        """Two instances with many attempts each: one is new."""
        stores = [opened.store, opened.again] * 10
        claims = await asyncio.gather(*(claim(one, key) for one in stores))

        assert [one.state for one in claims].count(NEW) == 1
        assert {one.state for one in claims} == {NEW, BUSY}

    async def test_a_lease_ends(self, opened, store, key):
        """What its owner does not commit is handled by the next attempt."""
        await claim(store, key, lease=0.2)
        assert (await claim(store, key)).state is BUSY

        async def free() -> bool:
            await opened.advance(0.1)
            return (await claim(store, key)).state is NEW

        await eventually(free)

    async def test_who_lost_its_lease_commits_nothing(self, opened, store, key):
        """Another has claimed it since: neither commit nor release touches that claim."""
        late = await claim(store, key, lease=0.05)
        await opened.advance(0.2)
        current = await claim(opened.again, key)

        assert current.state is NEW
        assert not await store.commit(late.token)
        assert not await store.release(late.token)
        assert (await claim(store, key)).state is BUSY
        assert await opened.again.commit(current.token)

    async def test_who_is_late_and_alone_commits(self, opened, store, key):
        """It was handled once, and that is remembered."""
        late = await claim(store, key, lease=0.05)
        await opened.advance(0.2)

        assert await store.commit(late.token)
        assert (await claim(store, key)).state is DONE

    async def test_a_commit_may_be_said_twice(self, store, key):
        """An answer that was lost is asked for again."""
        first = await claim(store, key)

        assert await store.commit(first.token)
        assert await store.commit(first.token)

    async def test_what_is_done_is_not_released(self, store, key):
        """A release that comes late opens nothing."""
        first = await claim(store, key)
        await store.commit(first.token)

        assert not await store.release(first.token)
        assert (await claim(store, key)).state is DONE

    async def test_what_is_done_is_forgotten_in_the_end(self, opened, store, key):
        """After its time it is new."""
        first = await store.claim(key, BODY, lease=0.1, ttl=0.1)
        await store.commit(first.token)

        async def free() -> bool:
            await opened.advance(0.1)
            return (await claim(store, key)).state is NEW

        await eventually(free)

    async def test_what_is_no_delivery_is_refused(self, store, key):
        """Keys are made of signed material, not taken from a header."""
        for wrong in ("evt_1", b"evt_1", None):
            with pytest.raises(ConfigurationError) as refused:
                await claim(store, wrong)
            with pytest.raises(ConfigurationError):
                await claim(store, key, wrong)

        assert refused.value.code == "delivery_invalid"
