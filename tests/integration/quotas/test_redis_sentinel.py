"""
The store of quotas behind a real Sentinel, which makes the replica the master.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from contextlib import suppress

import pytest

pytest.importorskip("redis")

from redis.asyncio import Sentinel

from tests.support.quotas import ACME, OnePlan
from tests.support.redis import require_redis
from twh_platform.errors import BackendUnavailableError, PlatformError
from twh_platform.quotas import Limiter, Rate
from twh_platform.quotas.redis import RedisQuotaStore
from twh_platform.testing import RedisServer
from twh_platform.testing._process import OrphanGuard
from twh_platform.testing._resp import ask

PATIENCE = 60.0
CONFIGURATION = """
port {port}
bind 127.0.0.1
sentinel monitor quotas 127.0.0.1 {master} 1
sentinel down-after-milliseconds quotas 500
sentinel failover-timeout quotas 3000
"""


@pytest.fixture
def servers():
    """A master, and a replica that has caught up."""
    require_redis()
    with RedisServer() as master, RedisServer() as replica:
        replica.command("REPLICAOF", master.host, master.port)
        until(lambda: replica.info("replication")["master_link_status"] == "up")
        yield master, replica


@pytest.fixture
def sentinel(servers, tmp_path):
    """The port of a Sentinel that watches the master and knows its replica."""
    with RedisServer() as borrowed:
        port = borrowed.port
    master, _ = servers
    file = tmp_path / "sentinel.conf"
    file.write_text(CONFIGURATION.format(port=port, master=master.port))
    program = shutil.which("redis-server") or pytest.skip("redis-server is not on PATH")
    process = subprocess.Popen(
        [program, str(file), "--sentinel"], stdout=subprocess.DEVNULL, start_new_session=True
    )
    guard = OrphanGuard(process.pid, remove=tmp_path)
    try:
        asked = ("SENTINEL", "replicas", "quotas")
        until(lambda: len(ask(("127.0.0.1", port), asked, timeout=1)) == 1)
        yield port
    finally:
        process.terminate()
        process.wait(PATIENCE)
        guard.dismiss()


def until(ready):
    """Wait for something that a server will do, for a minute at most."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with suppress(OSError, PlatformError):
            if ready():
                return
        time.sleep(0.05)
    pytest.fail("it did not come to it")


async def test_a_failover_is_followed(servers, sentinel):
    """What was taken on the old master is still taken on the new one."""
    master, replica = servers
    watching = Sentinel([("127.0.0.1", sentinel)], socket_timeout=1)
    client = watching.master_for("quotas")
    plan = OnePlan([Rate(name="hour", limit=10, per=3600)])
    limiter = Limiter(RedisQuotaStore(client, timeout=2.0), plans=plan)
    for _ in range(4):
        assert (await limiter.take(ACME)).allowed
    await asyncio.to_thread(until, lambda: replica.command("DBSIZE") == master.command("DBSIZE"))
    master.kill()
    left = await _take_when_it_answers(limiter)
    await client.aclose(close_connection_pool=True)
    await watching.sentinels[0].aclose()

    assert left == 5
    assert replica.command("ROLE")[0] in {b"master", "master"}


async def _take_when_it_answers(limiter):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            return (await limiter.take(ACME)).statuses[0].remaining
        except BackendUnavailableError:
            await asyncio.sleep(0.1)
    pytest.fail("no master has answered")
