"""
A Redis that is replicated and watched: a master, its replica, and a Sentinel.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis.asyncio import Redis, Sentinel

from tests.support.redis import require_redis
from twh_platform.errors import PlatformError
from twh_platform.testing import RedisServer
from twh_platform.testing._process import OrphanGuard
from twh_platform.testing._resp import ask

NAME = "watched"
PATIENCE = 60.0
_CONFIGURATION = """
port {port}
bind 127.0.0.1
sentinel monitor {name} 127.0.0.1 {master} 1
sentinel down-after-milliseconds {name} 500
sentinel failover-timeout {name} 3000
"""


@dataclass(frozen=True)
class Watched:
    """The servers, and the port of who watches them."""

    master: RedisServer
    replica: RedisServer
    port: int

    def caught_up(self) -> None:
        """Return once the replica has all that the master has."""
        mine = self.master.info("replication")["master_repl_offset"]
        until(lambda: int(self.replica.info("replication")["slave_repl_offset"]) >= int(mine))

    def cut(self) -> None:
        """Let nothing more reach the replica, as when the network between them fails."""
        self.replica.command("CONFIG", "SET", "masteruser", "nobody")
        self.replica.command("CONFIG", "SET", "masterauth", "wrong")
        self.master.command("CLIENT", "KILL", "TYPE", "replica")
        until(lambda: self.master.info("replication")["connected_slaves"] == "0")

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Redis]:
        """A client that asks the Sentinel who is the master."""
        watching = Sentinel([("127.0.0.1", self.port)], socket_timeout=1)
        client = watching.master_for(NAME)
        try:
            yield client
        finally:
            await client.aclose(close_connection_pool=True)
            await watching.sentinels[0].aclose()


@contextmanager
def watched_redis(folder: Path) -> Iterator[Watched]:
    """Start all three, each of which knows the others."""
    require_redis()
    with RedisServer() as master, RedisServer() as replica:
        replica.command("REPLICAOF", master.host, master.port)
        until(lambda: replica.info("replication")["master_link_status"] == "up")
        with _sentinel(master, folder) as port:
            yield Watched(master, replica, port)


@contextmanager
def _sentinel(master: RedisServer, folder: Path) -> Iterator[int]:
    with RedisServer() as borrowed:
        port = borrowed.port
    file = folder / "sentinel.conf"
    file.write_text(_CONFIGURATION.format(port=port, master=master.port, name=NAME))
    program = shutil.which("redis-server") or pytest.skip("redis-server is not on PATH")
    process = subprocess.Popen(
        [program, str(file), "--sentinel"], stdout=subprocess.DEVNULL, start_new_session=True
    )
    guard = OrphanGuard(process.pid, remove=folder)
    try:
        asked = ("SENTINEL", "replicas", NAME)
        until(lambda: len(ask(("127.0.0.1", port), asked, timeout=1)) == 1)
        yield port
    finally:
        process.terminate()
        process.wait(PATIENCE)
        guard.dismiss()


def until(ready: Callable[[], bool]) -> None:
    """Wait for something that a server will do, for a minute at most."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with suppress(OSError, PlatformError):
            if ready():
                return
        time.sleep(0.05)
    pytest.fail("it did not come to it")
