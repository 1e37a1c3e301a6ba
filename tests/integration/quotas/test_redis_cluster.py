"""
A Redis Cluster that loses a node under load: bounds hold, and it recovers alone.

Gate G4.  Whoever harms the cluster here, heals it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import RedisCluster as Client

from tests.support.serving import eventually
from twh_platform.quotas import FallbackQuotaStore, LeasingQuotaStore
from twh_platform.quotas._exchange import Charge, Take
from twh_platform.quotas.redis import RedisQuotaStore
from twh_platform.testing import RedisCluster

HOUR = 3_600_000_000
LIMIT = 600
INSTANCES = 2


@pytest.fixture
def cluster(redis_cluster: RedisCluster):
    """The cluster of the session, in good order before and after."""
    redis_cluster.heal()
    for master in redis_cluster.masters:
        master.command("FLUSHALL")
    yield redis_cluster
    redis_cluster.heal()


@asynccontextmanager
async def instance(cluster: RedisCluster, *, budget=0.04) -> AsyncIterator[FallbackQuotaStore]:
    """One process' stack of stores."""
    redis = RedisQuotaStore(
        lambda: Client.from_url(cluster.url, socket_timeout=max(1.0, budget)),
        timeout=budget,
        patience=max(2.0, budget),
    )
    leasing = LeasingQuotaStore(redis, denial=0)
    store = FallbackQuotaStore(leasing, instances=INSTANCES, longest_pause=0.4, budget=budget)
    try:
        yield store
    finally:
        await store.aclose()


def take_of(tenant="acme", *, limit=LIMIT, **options) -> Take:
    """One unit of a tenant's window of an hour."""
    place = f"t.{tenant}"
    return Take(place, (Charge(place, "whour", "w", 1, 0, (limit, HOUR)),), **options)


async def until_store(store: FallbackQuotaStore, take: Take) -> None:
    """Return when the store decides this again."""

    async def decides() -> bool:
        return (await store.take(take._replace(dry=True))).origin == "store"

    await eventually(decides)


class Load:
    """
    Clients of two instances that take without a pause, and what they got.
    """

    def __init__(self, stores: list[FallbackQuotaStore], take: Take) -> None:
        self.admitted: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._over = False
        self._tasks = [
            asyncio.create_task(self._run(store, take)) for store in stores for _ in range(4)
        ]

    async def _run(self, store: FallbackQuotaStore, take: Take) -> None:
        while not self._over:
            outcome = await store.take(take)
            (self.admitted if outcome.admitted else self.refused)[outcome.origin] += 1
            await asyncio.sleep(0.002)

    async def until(self, kind: str, origin: str) -> None:
        """Return when something has been seen."""

        async def seen() -> bool:
            return getattr(self, kind)[origin] > 0

        await eventually(seen)

    async def end(self) -> int:
        """End it; how many were admitted in all."""
        self._over = True
        await asyncio.gather(*self._tasks)
        return self.admitted.total()


async def test_tenants_lie_on_all_nodes_and_are_exact(cluster):
    """Sixty tenants, fifty takes each of forty: no node admits one too many."""
    async with instance(cluster, budget=20.0) as store:
        takes = [take_of(f"n{number}", limit=40) for number in range(60)]
        await until_store(store, takes[0])
        outcomes = await asyncio.gather(*[store.take(one) for one in takes for _ in range(50)])

    nodes = {cluster.master_of(f"twh:q:{{t.n{number}}}").port for number in range(60)}
    assert [one.admitted for one in outcomes].count(True) == 60 * 40
    assert len(nodes) == 3


@pytest.mark.parametrize("kill", [False, True], ids=["in-order", "killed"])
async def test_a_failover_under_load_stays_within_the_bound(cluster, kill):
    """The limit, and a share for each instance; afterwards the new master decides."""
    take = take_of()
    async with instance(cluster) as one, instance(cluster) as other:
        for store in (one, other):
            await until_store(store, take)
        load = Load([one, other], take)
        await load.until("admitted", "store")
        master = cluster.master_of("twh:q:{t.acme}")
        await asyncio.to_thread(cluster.failover, master, kill=kill)
        for store in (one, other):
            await until_store(store, take)
        admitted = await load.end()

    assert admitted <= LIMIT + INSTANCES * (LIMIT // INSTANCES)
    assert set(load.admitted) <= {"store", "local"}


async def test_a_dead_shard_is_answered_for(cluster):
    """A master without an heir in time: its tenants get their share, and no error."""
    take = take_of()
    async with instance(cluster) as store:
        await until_store(store, take)
        master = cluster.master_of("twh:q:{t.acme}")
        heirs = cluster.replicas_of(master)
        for node in (*heirs, master):
            node.freeze()
        outcomes = [await store.take(take) for _ in range(LIMIT)]
        for node in (master, *heirs):
            node.thaw()
        await until_store(store, take)

    assert {one.origin for one in outcomes} == {"local"}
    assert [one.admitted for one in outcomes].count(True) == LIMIT // INSTANCES


async def test_a_cluster_that_is_gone_is_found_again(cluster):
    """All nodes are killed and started: nobody has to do anything else."""
    take = take_of()
    async with instance(cluster) as store:
        await until_store(store, take)
        for node in cluster.nodes:
            node.kill()
        outcomes = [await store.take(take) for _ in range(50)]
        await asyncio.to_thread(cluster.heal)
        await until_store(store, take)

    assert {one.origin for one in outcomes} == {"local"}
