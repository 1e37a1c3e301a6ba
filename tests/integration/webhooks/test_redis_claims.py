"""
Claims in a real Redis that is flushed, frozen or not there.
"""

from __future__ import annotations

import asyncio
import secrets

import pytest

pytest.importorskip("redis")

from redis.asyncio import Redis

from tests.support.webhooks import SECRET, App, deliver, signed_headers
from twh_platform.errors import BackendUnavailableError, ConfigurationError
from twh_platform.webhooks import ClaimState, Replay, WebhookMiddleware
from twh_platform.webhooks.redis import RedisReplayStore

BODY = bytes(32)


@pytest.fixture
def key() -> bytes:
    """A delivery of no other test."""
    return secrets.token_bytes(32)


async def test_keys_have_a_life_time(redis_url, key):
    """A lease before the commit, the retention after it."""
    store = RedisReplayStore(lambda: Redis.from_url(redis_url), prefix="twh:test", timeout=10)
    async with Redis.from_url(redis_url) as client:
        claim = await store.claim(key, BODY, lease=60, ttl=3600)
        leased = await client.pttl(f"twh:test:{key.hex()}")
        await store.commit(claim.token)
        kept = await client.pttl(f"twh:test:{key.hex()}")
    await store.aclose()

    assert 0 < leased <= 60_000 < kept <= 3_600_000


async def test_a_script_that_was_flushed_is_loaded_again(redis_url, key):
    """A server that was restarted knows no scripts."""
    client = Redis.from_url(redis_url)
    store = RedisReplayStore(client, timeout=10)
    await store.claim(key, BODY, lease=60, ttl=60)
    await client.script_flush()
    claim = await store.claim(key, BODY, lease=60, ttl=60)
    await store.aclose()
    alive = await client.ping()
    await client.aclose()

    assert (claim.state, alive) == (ClaimState.BUSY, True)


async def test_a_frozen_server_is_unavailable_in_time(redis_server, key):
    """The sender is asked to come again; open by name, the app is called."""
    store = RedisReplayStore(lambda: Redis.from_url(redis_server.url), timeout=0.2)
    await store.claim(key, BODY, lease=60, ttl=60)
    closed, opened = App(), App()
    redis_server.freeze()
    try:
        refused = await deliver(WebhookMiddleware(closed, SECRET, replay=store))
        replay = Replay(store=store, store_down="open")
        taken = await deliver(WebhookMiddleware(opened, SECRET, replay=replay))
    finally:
        redis_server.thaw()
    await store.aclose()

    assert (refused.status, len(closed.bodies)) == (503, 0)
    assert (taken.status, len(opened.bodies)) == (200, 1)


async def test_a_server_that_is_not_there_is_unavailable(key):
    """Without what the driver's message says of it."""
    store = RedisReplayStore(lambda: Redis.from_url("redis://hidden@127.0.0.1:1"))
    with pytest.raises(BackendUnavailableError) as down:
        await store.claim(key, BODY, lease=60, ttl=60)
    await store.aclose()

    assert down.value.code == "replay_store_unavailable"
    assert "hidden" not in str(down.value)


async def test_two_replicas_of_a_service(redis_url):
    """Every delivery comes to both at once, and is handled by one."""
    first, second = App(), App()
    stores = [RedisReplayStore(lambda: Redis.from_url(redis_url), timeout=10) for _ in range(2)]
    replicas = [
        WebhookMiddleware(app, SECRET, replay=store)
        for app, store in zip((first, second), stores, strict=True)
    ]
    for _ in range(20):
        headers = signed_headers()
        await asyncio.gather(*(deliver(one, headers=headers) for one in replicas))
    for one in stores:
        await one.aclose()

    assert len(first.bodies) + len(second.bodies) == 20


@pytest.mark.parametrize(
    ("client", "options"),
    [(None, {}), (Redis, {"prefix": "a b"}), (Redis, {"prefix": ""}), (Redis, {"timeout": 0})],
)
def test_options_that_make_no_sense_are_refused(client, options):
    """They are noticed when the service starts."""
    with pytest.raises(ConfigurationError):
        RedisReplayStore(client, **options)
