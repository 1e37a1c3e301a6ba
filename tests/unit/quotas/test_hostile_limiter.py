"""
What a hostile or careless caller gets from the limiter and its receipts: nothing more.
"""

from __future__ import annotations

import asyncio
import enum
import math
import os
import subprocess
import sys

import pytest

from tests.support.quotas import ACME, GLOBEX, OnePlan, admitted, limiter_of
from twh_platform import Tenant
from twh_platform.errors import BackendUnavailableError, ConfigurationError
from twh_platform.quotas import (
    Calendar,
    Capacity,
    Concurrency,
    Limiter,
    MemoryQuotaStore,
    Rate,
    SlidingWindow,
)
from twh_platform.quotas import _limiter as limiter_module
from twh_platform.testing import ManualClock

HOUR = Rate(name="hour", limit=10, per=3600)
SLOTS = Concurrency(name="slots", limit=1)


class FlakyStore(MemoryQuotaStore):
    """A store that answers nothing while it is *down*."""

    down = False

    async def settle(self, settlement, /):
        """As it is up or down."""
        if self.down:
            raise BackendUnavailableError("down")
        return await super().settle(settlement)


async def test_a_refused_receipt_gives_nothing_back():
    """What a refusal has given back is not given back again by its receipt."""
    everybody = Rate(name="all", limit=10, per=3600, scope="global")
    limiter = limiter_of(MemoryQuotaStore(), everybody, Rate(name="one", limit=1, per=3600))
    await admitted(limiter, 6, None, client="192.0.2.2")
    await limiter.take(ACME, client="192.0.2.1")

    for _ in range(6):
        refused = await limiter.take(ACME, client="192.0.2.1")
        assert not await refused.receipt.refund()

    assert (await limiter.peek(client="192.0.2.1")).statuses[0].remaining == 3


class Weight(int, enum.Enum):
    """Integers whose text is no number."""

    HEAVY = 5


async def test_an_integer_of_another_class_is_that_integer():
    """What goes to a store, and into what is remembered for others, is plain."""
    limiter = limiter_of(
        MemoryQuotaStore(), Rate(name="hour", limit=Weight.HEAVY, per=3600, burst=50)
    )
    for cost in (Weight.HEAVY, {"requests": Weight.HEAVY}, 5):
        decision = await limiter.take(ACME, cost=cost)
        charge = decision.parts[0].take.charges[0]

        assert all(type(one) is int for one in (charge.cost, *charge.args))


async def test_slots_are_renewed_beside_a_rule_on_trial():
    """A shadow rule that had no slot left holds none, and does not end the others."""
    trial = Concurrency(name="trial", limit=1, mode="shadow")
    limiter = limiter_of(MemoryQuotaStore(), Concurrency(name="slots", limit=5), trial)
    first, second = [await limiter.take(ACME) for _ in range(2)]

    assert second.exceeded
    assert await second.receipt.renew()
    await first.receipt.release()
    assert await second.receipt.renew()


@pytest.mark.parametrize("end", ["release", "refund", "commit"])
async def test_a_slot_is_freed_however_late(end):
    """A stream that outlives its receipt leaves no slot behind."""
    clock = ManualClock(1_800_000_000)
    limiter = limiter_of(MemoryQuotaStore(clock=clock), SLOTS, HOUR, clock=clock)
    receipt = (await limiter.take(ACME)).receipt
    for _ in range(30):
        clock.advance(20)
        assert await receipt.renew()

    await (receipt.commit(3) if end == "commit" else getattr(receipt, end)())

    assert (await limiter.take(ACME)).allowed
    assert (await limiter.peek(ACME)).statuses[1].remaining == 9


async def test_slots_leave_nothing_in_memory():
    """A request that held a slot is forgotten with it."""
    store = MemoryQuotaStore(max_keys=10)
    limiter = limiter_of(store, SLOTS)
    for _ in range(100):
        decision = await limiter.take(ACME)
        assert await decision.receipt.release()

    assert repr(store) == "MemoryQuotaStore(keys=1, max_keys=10)"


async def test_a_receipt_settles_once_whoever_is_first():
    """Ten at once, an answer that was lost, and what comes afterwards."""
    store = FlakyStore()
    limiter = limiter_of(store, HOUR, SLOTS)
    receipt = (await limiter.take(ACME, cost=4)).receipt
    store.down = True
    with pytest.raises(BackendUnavailableError):
        await receipt.refund()
    store.down = False

    done = await asyncio.gather(*[receipt.refund() for _ in range(10)])

    assert sum(done) == 1
    assert not await receipt.commit(9)
    assert (await limiter.peek(ACME)).statuses[0].remaining == 10


async def test_peek_says_what_take_would_say():
    """Also of a cost that is never admitted."""
    limiter = limiter_of(MemoryQuotaStore(), HOUR, Calendar(name="day", limit=50, period="day"))
    seen, taken = await limiter.peek(ACME, cost=11), await limiter.take(ACME, cost=11)

    assert seen.code == taken.code == "quota_cost_too_large"
    assert seen.retry_after is taken.retry_after is None
    assert [one.remaining for one in seen.statuses] == [10, 50]


async def test_a_level_of_a_user_is_given_back_to_that_user():
    """Nothing is given back in silence to nobody."""
    limiter = limiter_of(MemoryQuotaStore(), Capacity(name="files", limit=2, scope="user"))
    await limiter.take(ACME, user="ada", only=["files"], cost=2)

    with pytest.raises(ConfigurationError, match="scope=user"):
        await limiter.give_back(ACME, "files", 2)
    await limiter.give_back(ACME, "files", 2, user="ada")

    assert (await limiter.take(ACME, user="ada", only=["files"], cost=2)).allowed


ODD = [
    "",
    " ",
    "\0",
    "\n",
    "a:b",
    "a%3Ab",
    "%",
    "}",
    "{t.globex}",
    "é",
    "e\u0301",
    "\ud800",
    "*",
    "~",
    ".",
]


async def test_no_two_users_share_an_amount():
    """Whatever characters their ids have."""
    limiter = limiter_of(MemoryQuotaStore(), Rate(name="one", limit=1, per=3600, scope="user"))
    for user in [*ODD, *[f"{one}:rone" for one in ODD], "x" * 10_000]:
        assert await admitted(limiter, 3, user=user) == 1
    assert await admitted(limiter, 3, GLOBEX, user="") == 1


@pytest.mark.parametrize("user", [0, 42, b"ada", False, ("ada",)])
async def test_an_id_that_is_no_text_is_refused(user):
    """Control: 0 and the empty id would share an amount."""
    limiter = limiter_of(MemoryQuotaStore(), Rate(name="one", limit=1, per=3600, scope="user"))
    with pytest.raises(ConfigurationError, match="is no text"):
        await limiter.take(ACME, user=user)


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, 1e12])
def test_a_receipt_lives_for_a_time(seconds):
    """One that could never be settled is refused at once."""
    with pytest.raises(ConfigurationError, match="receipt_seconds"):
        Limiter(MemoryQuotaStore(), receipt_seconds=seconds)


async def test_what_is_prepared_stays_bounded(monkeypatch):
    """However many tenants with plans of their own and clients there are."""
    monkeypatch.setattr(limiter_module, "_MOST_PREPARED", 50)
    plans: dict[str, OnePlan] = {}

    class OwnPlans:
        def for_tenant(self, tenant):
            return plans.setdefault(tenant.id, OnePlan([HOUR])).plan

    login = Rate(name="login", limit=5, per=60, scope="client")
    limiter = Limiter(MemoryQuotaStore(), plans=OwnPlans(), rules=[login])
    for number in range(500):
        tenant = Tenant(id=f"t{number % 10}")
        await limiter.take(tenant, client=f"192.0.2.{number}")

    assert sum(len(one.prepared) for one in limiter._known.values()) <= 50


async def test_a_client_that_no_rule_asks_for_is_not_prepared_for():
    """Addresses do not push out what is of use."""
    limiter = limiter_of(MemoryQuotaStore(), HOUR, Rate(name="all", limit=9, per=1, scope="global"))
    for number in range(9):
        await limiter.take(ACME, client=f"192.0.2.{number}")

    [rules] = limiter._known.values()
    assert len(rules.prepared) == 1
    assert len((await limiter.peek(ACME)).statuses) == 1


FORK = r"""
import os
from twh_platform.quotas import Limiter, MemoryQuotaStore

limiter = Limiter(MemoryQuotaStore())
limiter.new_id()
child = os.fork()
os.write(1, f"{limiter.new_id()}\n".encode())
if child:
    os.waitpid(child, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked here")
def test_workers_that_are_forked_give_out_ids_of_their_own():
    """Of an app that is loaded before its workers: one's slots are not another's."""
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, check=True)

    assert len(set(done.stdout.split())) == 2


@pytest.mark.parametrize("rule", [HOUR, SlidingWindow(name="hour", limit=10, per=3600)])
async def test_debt_that_was_forgiven_is_not_given_back(rule):
    """Charging more than is counted and giving it all back makes no room."""
    limiter = limiter_of(MemoryQuotaStore(), rule)
    assert await admitted(limiter, 20) == 10

    for _ in range(5):
        debts = [await limiter.charge(ACME, cost=cost) for cost in (7, 1000, 8)]
        await asyncio.gather(*[one.receipt.refund() for one in debts])

        assert not await admitted(limiter, 1)


@pytest.mark.parametrize("settle", ["refund", "commit"])
async def test_old_receipts_go_by_the_limits_of_now(settle):
    """Receipts from before a limit was lowered do not drain what is counted by the new one."""
    clock = ManualClock()
    plan = OnePlan([Rate(name="minute", limit=600, per=60)])
    limiter = Limiter(MemoryQuotaStore(clock=clock), plans=plan, clock=clock)
    receipts = [(await limiter.take(ACME)).receipt for _ in range(20)]
    clock.advance(1)
    plan.change(Rate(name="minute", limit=6, per=60))
    admitted = 0
    for receipt in receipts:
        clock.advance(1)
        await (receipt.refund() if settle == "refund" else receipt.commit(2))
        while (await limiter.take(ACME)).allowed:
            admitted += 1

    # The burst, the time, and once more the burst: a state keeps no more than two of it.
    assert admitted <= 6 + 6 * 21 // 60 + 6
