"""
What happens when many want a data key at once, and when nobody gives one.

Calls of the key service are counted; time is moved by hand where it counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("cryptography")

from tests.support.memory_keys import SwitchedKeyService
from twh_platform.errors import DecryptionError, KeyServiceUnavailableError
from twh_platform.kms import (
    AsyncTenantCipher,
    CachePolicy,
    MemoryDataKeyStore,
    Suite,
    TenantCipher,
)
from twh_platform.kms._deadline import deadline
from twh_platform.tenancy import Tenant, bind_tenant
from twh_platform.testing import ManualClock

ACME, GLOBEX = Tenant(id="acme"), Tenant(id="globex")


class House:
    """A cipher and its twin over one service that can be stopped."""

    def __init__(self, *, seconds: float = 5.0, **policy: float) -> None:
        self.clock = ManualClock()
        self.service = SwitchedKeyService()
        self.store = MemoryDataKeyStore(now=self.clock.utc)
        self.cipher = TenantCipher(
            self.service,
            self.store,
            policy=CachePolicy(**policy),
            seconds=seconds,
            clock=self.clock.monotonic,
            now=self.clock.utc,
        )
        self.twin = AsyncTenantCipher(self.cipher)

    def sealed(self, tenant: Tenant = ACME) -> bytes:
        """Something sealed; the cache is cold afterwards."""
        with bind_tenant(tenant):
            sealed = self.cipher.seal(b"x")
        self.cipher.clear()
        self.service.calls.clear()
        self.service.per_tenant.clear()
        self.service.entered.clear()
        return sealed


async def reached(condition: Callable[[], bool]) -> None:
    """Wait for what other threads do."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in threads
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("suite", Suite)
async def test_a_thousand_cold_coroutines_cost_one_call(suite):
    """However many seal first, the key service is asked once; alone each would ask."""
    house = House()
    house.service.slow = 0.05
    with bind_tenant(ACME):
        await asyncio.gather(*[house.twin.seal(b"x", suite=suite) for _ in range(1000)])

    assert house.service.calls == {"generate": 1}


async def test_without_a_common_cache_each_coroutine_costs_a_call():
    """Control: ciphers that share no cache ask the key service once each."""
    service, store = SwitchedKeyService(), MemoryDataKeyStore()
    ciphers = [AsyncTenantCipher(TenantCipher(service, store)) for _ in range(20)]
    with bind_tenant(ACME):
        await asyncio.gather(*[cipher.seal(b"x", suite=Suite.FIELD) for cipher in ciphers])

    assert service.asked == 20


async def test_a_thousand_cold_coroutines_of_many_tenants_cost_one_call_each():
    """Tenants do not wait for one another, and each costs one call."""
    house = House()
    house.service.slow = 0.01
    tenants = [Tenant(id=f"t{number}") for number in range(20)]

    async def seal(tenant: Tenant) -> bytes:
        with bind_tenant(tenant):
            return await house.twin.seal(b"x")

    await asyncio.gather(*[seal(tenants[number % 20]) for number in range(1000)])

    assert set(house.service.per_tenant.values()) == {1}


async def test_a_thousand_cold_opens_cost_one_call():
    """A thousand rows that one data key sealed cost one unwrapping."""
    house = House()
    sealed = house.sealed()
    house.service.slow = 0.05
    with bind_tenant(ACME):
        found = await asyncio.gather(*[house.twin.open(sealed) for _ in range(1000)])

    assert set(found) == {b"x"}
    assert house.service.calls == {"unwrap": 1}


def test_many_cold_threads_cost_one_call():
    """The same holds for threads."""
    house = House()
    house.service.slow = 0.05
    start = threading.Barrier(32)

    def seal(_: int) -> bytes:
        start.wait()
        with bind_tenant(ACME):
            return house.cipher.seal(b"x", suite=Suite.FIELD)

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(seal, range(32)))

    assert house.service.calls == {"generate": 1}


async def test_twenty_contexts_cost_one_call():
    """The context of a row is bound locally: it costs no call."""
    house = House()
    with bind_tenant(ACME):
        for number in range(20):
            await house.twin.seal(b"x", {"row": str(number)})

    assert house.service.calls == {"generate": 1}


async def test_a_cancelled_leader_poisons_nobody():
    """Whoever came first is cancelled; the others get what it had asked for."""
    house = House()
    sealed = house.sealed()
    house.service.gate = threading.Event()
    with bind_tenant(ACME):
        leader = asyncio.create_task(house.twin.open(sealed))
        await reached(house.service.entered.is_set)
        others = [asyncio.create_task(house.twin.open(sealed)) for _ in range(50)]
        await asyncio.sleep(0)
        leader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leader
        house.service.gate.set()

        assert set(await asyncio.gather(*others)) == {b"x"}
    assert house.service.calls == {"unwrap": 1}


async def test_a_load_survives_the_cancelling_of_all_who_wait():
    """What was asked for is kept, though nobody waits any more."""
    house = House()
    sealed = house.sealed()
    house.service.gate = threading.Event()
    with bind_tenant(ACME):
        waiting = [asyncio.create_task(house.twin.open(sealed)) for _ in range(5)]
        await reached(house.service.entered.is_set)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        house.service.gate.set()
        await reached(lambda: house.twin.stats.entries == 1)
        await house.twin.open(sealed)

    assert house.service.calls == {"unwrap": 1}


@pytest.mark.parametrize("in_a_hurry", [True, False])
def test_a_leader_in_a_hurry_does_not_cut_others_short(in_a_hurry):
    """What a leader's own deadline ended is asked for again; control: without one all fail."""
    house = House()
    sealed = house.sealed()
    entered, gate, get = threading.Event(), threading.Event(), house.store.get

    def first_fails(*asked: object) -> object:
        if entered.is_set():
            return get(*asked)
        entered.set()
        gate.wait(10)
        raise KeyServiceUnavailableError

    def open_as(limit: contextlib.AbstractContextManager[None]) -> bytes:
        with bind_tenant(ACME), limit:
            return house.cipher.open(sealed)

    house.store.get = first_fails  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(open_as, deadline(30) if in_a_hurry else contextlib.nullcontext())
        entered.wait(10)
        follower = pool.submit(open_as, contextlib.nullcontext())
        time.sleep(0.2)  # a follower leaves no trace but that it waits
        gate.set()

        assert isinstance(leader.exception(10), KeyServiceUnavailableError)
        assert (follower.exception(10) is None) is in_a_hurry


async def test_what_is_evicted_while_it_loads_is_loaded_again():
    """An answer from before an eviction reaches nobody."""
    house = House()
    sealed = house.sealed()
    house.service.gate = threading.Event()
    with bind_tenant(ACME):
        task = asyncio.create_task(house.twin.open(sealed))
        await reached(house.service.entered.is_set)
        house.twin.evict("acme")
        house.service.gate.set()

        assert await task == b"x"
    assert house.service.calls == {"unwrap": 2}


async def test_an_eviction_during_a_load_lets_no_destroyed_key_in():
    """The key is destroyed while its data key is on the way: it does not enter the cache."""
    house = House()
    sealed = house.sealed()
    house.service.gate = threading.Event()
    with bind_tenant(ACME):
        task = asyncio.create_task(house.twin.open(sealed))
        await reached(house.service.entered.is_set)
        house.store.destroy("acme")
        house.twin.evict("acme")
        house.service.gate.set()

        with pytest.raises(Exception, match="destroyed"):
            await task
    assert house.twin.stats.entries == 0


async def test_a_black_hole_holds_cold_callers_for_a_bound_only():
    """A service that never answers: who waits is told so after the bound, and the loop goes on."""
    house = House(seconds=0.2)
    sealed = house.sealed()
    house.service.gate = threading.Event()
    try:
        with bind_tenant(ACME):
            async with asyncio.timeout(5):
                outcomes = await asyncio.gather(
                    *[house.twin.open(sealed) for _ in range(100)], return_exceptions=True
                )
        assert {type(one) for one in outcomes} == {KeyServiceUnavailableError}
        assert house.service.calls == {"unwrap": 1}
    finally:
        house.service.gate.set()


async def test_a_black_hole_is_survived_warm_for_fifteen_minutes():
    """With a warm cache a service that never answers is not noticed until 900 s."""
    house = House(seconds=0.2)
    house.service.gate = None
    with bind_tenant(ACME):
        sealed = await house.twin.seal(b"x")
        house.service.gate = threading.Event()
        try:
            for _ in range(8):
                house.clock.advance(112)
                assert await house.twin.open(sealed) == b"x"
                assert await house.twin.seal(b"y")
            house.clock.advance(5)
            for call in (house.twin.open(sealed), house.twin.seal(b"y")):
                with pytest.raises(KeyServiceUnavailableError):
                    await call
        finally:
            house.service.gate.set()


async def test_a_black_hole_of_one_tenant_is_nobody_elses():
    """While the loads of one tenant hang, another tenant's warm data key serves."""
    house = House(seconds=0.2)
    with bind_tenant(GLOBEX):
        sealed = await house.twin.seal(b"x")
    house.service.gate = threading.Event()
    try:
        with bind_tenant(ACME):
            stuck = asyncio.create_task(house.twin.seal(b"x"))
        await reached(lambda: house.service.per_tenant["acme"] == 1)
        with bind_tenant(GLOBEX):
            assert await house.twin.open(sealed) == b"x"
        with pytest.raises(KeyServiceUnavailableError):
            await stuck
    finally:
        house.service.gate.set()


async def test_invented_ids_are_loaded_within_bounds():
    """A tenant that invents ids has at most its part of loads in flight."""
    house = House(per_tenant=10)
    sealed = house.sealed()
    held = threading.Event()
    get = house.store.get
    house.store.get = lambda *asked: held.wait(10) and get(*asked)  # type: ignore[method-assign]
    invented = [sealed[:3] + number.to_bytes(16) + sealed[19:] for number in range(200)]
    with bind_tenant(ACME):
        tasks = [asyncio.create_task(house.twin.open(one)) for one in invented]
        await asyncio.sleep(0.05)
        held.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    assert sum(type(one) is DecryptionError for one in outcomes) <= 11
    assert {getattr(one, "code", "") for one in outcomes} == {"decryption_failed", "data_keys_busy"}
    assert house.service.calls == {}


async def test_a_tenant_that_changes_between_awaits_is_not_mixed_up():
    """The tenant is the one at the call; what is bound while it waits changes nothing."""
    house = House()
    house.service.slow = 0.02

    async def work(tenant: Tenant) -> bytes:
        with bind_tenant(tenant):
            sealing = asyncio.ensure_future(house.twin.seal(tenant.id.encode()))
            await asyncio.sleep(0)
        with bind_tenant(GLOBEX if tenant is ACME else ACME):
            return await sealing

    sealed = await asyncio.gather(*[work(tenant) for tenant in (ACME, GLOBEX) * 20])
    for one, tenant in zip(sealed, (ACME, GLOBEX) * 20, strict=True):
        with bind_tenant(tenant):
            assert await house.twin.open(one) == tenant.id.encode()


_FORK = """
import os, sys
from tests.support.memory_keys import SwitchedKeyService
from twh_platform.kms import MemoryDataKeyStore, Suite, TenantCipher
from twh_platform.tenancy import Tenant, bind_tenant

cipher = TenantCipher(SwitchedKeyService(), MemoryDataKeyStore())
def used():
    with bind_tenant(Tenant(id="acme")):
        sealed = cipher.seal(b"x", suite=Suite.FIELD)
        assert cipher.open(sealed) == b"x"
    return sealed[3:19]

before = used()
cache = cipher.data_keys.cache
cache._lock.acquire()  # as if another thread were in the midst of it
child = os.fork()
if child == 0:
    os.write(1, used().hex().encode() + b"\\n")
    os._exit(0)
cache._lock.release()
_, status = os.waitpid(child, 0)
assert status == 0
assert used() == before
print(before.hex())
"""


def test_a_forked_child_shares_no_data_key_of_suite_1(project_root):
    """After a fork with a warm cache the child seals with a data key of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _FORK],
        cwd=project_root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    child, parent = done.stdout.split()

    assert child != parent
