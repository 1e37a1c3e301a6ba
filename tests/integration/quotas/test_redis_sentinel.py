"""
The store of quotas behind a real Sentinel, which makes the replica the master.
"""

from __future__ import annotations

import asyncio
import time

import pytest

pytest.importorskip("redis")

from tests.support.quotas import ACME, OnePlan
from tests.support.sentinel import PATIENCE, watched_redis
from twh_platform.errors import BackendUnavailableError
from twh_platform.quotas import Limiter, Rate
from twh_platform.quotas.redis import RedisQuotaStore


async def test_a_failover_is_followed(tmp_path):
    """What was taken on the old master is still taken on the new one."""
    plan = OnePlan([Rate(name="hour", limit=10, per=3600)])
    with watched_redis(tmp_path) as redis:
        async with redis.client() as client:
            limiter = Limiter(RedisQuotaStore(client, timeout=2.0), plans=plan)
            for _ in range(4):
                assert (await limiter.take(ACME)).allowed
            await asyncio.to_thread(redis.caught_up)
            redis.master.kill()
            left = await _take_when_it_answers(limiter)

        assert left == 5
        assert redis.replica.command("ROLE")[0] in {b"master", "master"}


async def _take_when_it_answers(limiter):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            return (await limiter.take(ACME)).statuses[0].remaining
        except BackendUnavailableError:
            await asyncio.sleep(0.1)
    pytest.fail("no master has answered")
