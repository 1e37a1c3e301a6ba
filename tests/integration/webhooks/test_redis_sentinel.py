"""
Claims behind a real Sentinel, which makes the replica the master.
"""

from __future__ import annotations

import asyncio
import secrets
import time

import pytest

pytest.importorskip("redis")

from tests.support.sentinel import PATIENCE, watched_redis
from tests.support.webhooks import SECRET, App, deliver, signed_headers
from twh_platform.errors import BackendUnavailableError
from twh_platform.webhooks import ClaimState, WebhookMiddleware
from twh_platform.webhooks.redis import RedisReplayStore

BODY = bytes(32)


@pytest.fixture
def redis(tmp_path):
    """A master, a replica that has caught up, and who watches them."""
    with watched_redis(tmp_path) as watched:
        yield watched


@pytest.fixture
async def store(redis):
    """Claims of a service that asks the Sentinel for the master."""
    async with redis.client() as client:
        yield RedisReplayStore(client, timeout=2.0)


async def claimed(store, key=None, lease=600):
    """Claim a delivery, as soon as there is a master again."""
    key, deadline = key or secrets.token_bytes(32), time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            return await store.claim(key, BODY, lease=lease, ttl=3600)
        except BackendUnavailableError:
            await asyncio.sleep(0.1)
    pytest.fail("no master has answered")


async def delivered(app, headers):
    """Deliver until it is not refused for want of a master; how often it was, and the end."""
    deadline, refused = time.monotonic() + PATIENCE, 0
    while time.monotonic() < deadline:
        answer = await deliver(app, headers=headers)
        if answer.status != 503:
            return refused, answer.status
        refused += 1
        await asyncio.sleep(0.1)
    pytest.fail("no master has answered")


async def test_what_was_replicated_survives_a_failover(redis, store):
    """What was handled is done, and what is being handled is still its owner's."""
    done, busy = await claimed(store), await claimed(store)
    await store.commit(done.token)
    await asyncio.to_thread(redis.caught_up)
    redis.master.kill()

    assert (await claimed(store, done.token.key)).state is ClaimState.DONE
    assert (await claimed(store, busy.token.key)).state is ClaimState.BUSY
    assert await store.commit(busy.token)
    assert (await claimed(store, busy.token.key)).state is ClaimState.DONE


async def test_without_a_master_a_delivery_is_refused(redis, store):
    """Nobody handles it until the replica is the master; then it is handled once."""
    app, headers = App(), signed_headers()
    guarded = WebhookMiddleware(app, SECRET, replay=store)
    redis.master.kill()
    refused, status = await delivered(guarded, headers)
    await deliver(guarded, headers=headers)

    assert refused > 0
    assert (status, len(app.bodies)) == (200, 1)


async def test_what_a_failover_loses_is_handled_once_more(redis, store):
    """Control: what reached the replica is not.  Who lost its claim is told."""
    app, kept, lost = App(), signed_headers(), signed_headers()
    guarded = WebhookMiddleware(app, SECRET, replay=store)
    await deliver(guarded, headers=kept)
    await asyncio.to_thread(redis.caught_up)
    await asyncio.to_thread(redis.cut)
    await deliver(guarded, headers=lost)
    late = await claimed(store)
    redis.master.kill()
    assert (await claimed(store, late.token.key)).state is ClaimState.NEW
    for headers in (kept, kept, lost, lost):
        await deliver(guarded, headers=headers)

    assert len(app.bodies) == 3
    assert not await store.commit(late.token)


async def test_a_master_without_its_replica_takes_no_claims(redis, store):
    """With `min-replicas-to-write` nothing is taken in that a failover would lose."""
    app = App()
    redis.master.command("CONFIG", "SET", "min-replicas-to-write", 1)
    guarded = WebhookMiddleware(app, SECRET, replay=store)
    with_it = await deliver(guarded)
    await asyncio.to_thread(redis.cut)
    without = await deliver(guarded)

    assert (with_it.status, without.status, len(app.bodies)) == (200, 503, 1)
