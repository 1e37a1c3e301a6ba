"""
Attacks 20 to 22 and 29: many at once, of whom some go away.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.attacks.kms._house import ACME, GLOBEX, ROW, House, crafted
from tests.attacks.kms._sdk import static_sdk
from twh_platform import bind_tenant
from twh_platform.kms import Suite


@pytest.mark.parametrize("by", ["coroutines", "threads"])
@pytest.mark.parametrize("suite", Suite)
async def test_20_comes_with_many_when_it_is_cold(suite, by, encryption_sdk, twh_attack):
    """However many miss at once, the key service is asked once."""
    form = f"{suite.name}, {by}"
    attack = twh_attack(number=20, title="turns one burst into many calls", form=form)
    sdk = static_sdk(encryption_sdk, cached=True)
    sdk.slow = 0.05
    await asyncio.to_thread(in_threads, lambda: sdk.seal(b"x"))
    attack.control(sdk.asked - 1)

    house = House()
    house.service.slow = 0.05
    with bind_tenant(ACME):
        if by == "coroutines":
            await asyncio.gather(*[house.twin.seal(b"x", suite=suite) for _ in range(1000)])
    if by == "threads":
        await asyncio.to_thread(in_threads, lambda: house.seal(suite=suite))
    attack.ours(house.service.asked - 1)


def in_threads(act):
    """Do it in 32 threads, which begin together."""
    start = threading.Barrier(32)

    def run(_):
        start.wait()
        return act()

    with ThreadPoolExecutor(32) as pool:
        return list(pool.map(run, range(32)))


@pytest.mark.parametrize("suite", Suite)
async def test_21_has_each_row_cost_a_call(suite, encryption_sdk, twh_attack):
    """The context of a row is bound here, and costs the key service nothing."""
    attack = twh_attack(number=21, title="has each row cost a call", form=suite.name)
    sdk, house = static_sdk(encryption_sdk, cached=True), House()
    for number in range(20):
        sdk.seal(b"x", {"row": str(number)})
        with bind_tenant(ACME):
            await house.twin.seal(b"x", {**ROW, "row": str(number)}, suite=suite)

    attack.control(sdk.asked - 1)
    attack.ours(house.service.asked - 1)


async def test_20_fills_the_queue(twh_attack):
    """Loads of all tenants stand in one queue: many of one tenant are ahead of those of others."""
    attack = twh_attack(
        number=20, title="has others wait behind its own first values", kind="residual"
    )
    house, asked = House(), []
    sealed = [crafted(house, number) for number in range(100)]
    house.service.gate, unwrap, generate = threading.Event(), *both_calls(house.service)
    house.service.unwrap = lambda keys: asked.append("acme") or unwrap(keys)
    house.service.generate = lambda contexts: asked.append("globex") or generate(contexts)
    with bind_tenant(ACME):
        mine = [asyncio.create_task(house.twin.open(one, ROW)) for one in sealed]
        await asyncio.sleep(0.05)
    with bind_tenant(GLOBEX):
        theirs = asyncio.create_task(house.twin.seal(b"x", ROW))
        await asyncio.sleep(0.05)
    house.service.gate.set()
    await asyncio.gather(*mine, theirs, return_exceptions=True)

    attack.ours(asked.index("globex"))
    assert not theirs.exception()


def both_calls(service):
    """How a key service unwraps and generates."""
    return service.unwrap, service.generate


class Naive:
    """One load for all who wait, which is the task of whoever came first."""

    def __init__(self):
        self._task = None

    async def load(self):
        """What all wait for."""
        if self._task is None:
            self._task = asyncio.create_task(asyncio.sleep(10))
        return await self._task


async def cancelled_first(act, ready):
    """How many of 50 fail when whoever came first goes away, once *ready* says so."""
    first = asyncio.create_task(act())
    await asyncio.to_thread(ready)
    others = [asyncio.create_task(act()) for _ in range(50)]
    await asyncio.sleep(0.01)
    first.cancel()
    return first, others


async def test_22_goes_away_in_front_of_a_queue(twh_attack):
    """Whoever leads is cancelled, and disturbs none that wait for the same."""
    attack = twh_attack(number=22, title="goes away, and those who wait behind it fail")
    _, others = await cancelled_first(Naive().load, lambda: None)
    naive = await asyncio.gather(*others, return_exceptions=True)
    attack.control(sum(isinstance(one, asyncio.CancelledError) for one in naive))

    house = House()
    sealed = house.seal()
    house.cipher.clear()
    house.service.entered.clear()
    house.service.gate = threading.Event()
    with bind_tenant(ACME):
        first, others = await cancelled_first(
            lambda: house.twin.open(sealed, ROW), lambda: house.service.entered.wait(10)
        )
        house.service.gate.set()
        found = await asyncio.gather(*others, return_exceptions=True)
    assert first.cancelled()
    attack.ours([one for one in found if one != b"GB29 NWBK"])
    assert house.service.calls["unwrap"] == 1


class CurrentTenant:
    """A tenant that is set for the process, as some libraries for sealed columns have it."""

    now = None

    async def seal(self, tenant):
        """For whom it was sealed."""
        CurrentTenant.now = tenant
        await asyncio.sleep(0.001)
        return CurrentTenant.now


async def test_29_changes_the_tenant_between_awaits(twh_attack):
    """The tenant is that of the call, whatever is bound while it waits."""
    attack = twh_attack(number=29, title="has values sealed for whoever came in between")
    tenants = [ACME, GLOBEX] * 20
    naive = await asyncio.gather(*[CurrentTenant().seal(one) for one in tenants])
    attack.control(sum(got != asked for got, asked in zip(naive, tenants, strict=True)))

    house = House()
    house.service.slow = 0.02

    async def work(tenant):
        with bind_tenant(tenant):
            sealing = asyncio.ensure_future(house.twin.seal(tenant.id.encode(), ROW))
            await asyncio.sleep(0)
        with bind_tenant(GLOBEX if tenant is ACME else ACME):
            return await sealing

    sealed = await asyncio.gather(*[work(one) for one in tenants])
    pairs = list(zip(sealed, tenants, strict=True))
    others = {ACME: GLOBEX, GLOBEX: ACME}
    attack.ours(sum(house.opens(one, tenant=others[tenant]) for one, tenant in pairs))
    assert all(house.open(one, tenant=tenant) == tenant.id.encode() for one, tenant in pairs)


async def test_29_awaits_for_another_tenant(twh_attack):
    """A coroutine begins where it is awaited: the tenant is the one that is bound there."""
    attack = twh_attack(
        number=29, title="has a call awaited for another tenant than it was made", kind="residual"
    )
    house = House()
    with bind_tenant(ACME):
        call = house.twin.seal(b"of acme", ROW)
    with bind_tenant(GLOBEX):
        sealed = await call

    attack.ours(house.opens(sealed, tenant=GLOBEX))
