"""
Leases of hot keys, their bound, and refusals that are remembered.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from twh_platform.errors import BackendUnavailableError, ConfigurationError
from twh_platform.quotas import Calendar, Capacity, MemoryQuotaStore, Rate, SlidingWindow
from twh_platform.quotas._exchange import Charge, Settlement, Take
from twh_platform.quotas._leasing import LeasingQuotaStore
from twh_platform.quotas._leasing_bound import Chunks
from twh_platform.quotas._takes import charge_of
from twh_platform.testing import ManualClock

SECOND = 1_000_000


class CountingStore:
    """
    STUB: a memory store that counts calls and answers a turn of the loop later.
    """

    def __init__(self, clock: ManualClock) -> None:
        self.memory = MemoryQuotaStore(clock=clock)
        self.calls: Counter[str] = Counter()
        self.costs: list[int] = []
        self.failing = False
        self.gate: asyncio.Event | None = None

    async def take(self, take):
        """As the store of memory."""
        self.calls["take"] += 1
        self.costs.append(take.charges[0].cost)
        await asyncio.sleep(0)
        if self.gate is not None:
            await self.gate.wait()
        if self.failing:
            raise BackendUnavailableError("planted")
        return await self.memory.take(take)

    async def settle(self, settlement):
        """Likewise."""
        self.calls["settle"] += 1
        return await self.memory.settle(settlement)

    async def renew(self, take, at):
        """Likewise."""
        return await self.memory.renew(take, at)


class House:
    """
    Instances that lease from one store, and a clock for all.
    """

    def __init__(self, *, instances=1, hot=1, **options) -> None:
        self.clock = ManualClock()
        self.behind = CountingStore(self.clock)
        self.stores = [
            LeasingQuotaStore(self.behind, hot=hot, monotonic=self.clock.monotonic, **options)
            for _ in range(instances)
        ]
        self.store = self.stores[0]

    async def admitted(self, take: Take, times: int, *, store=None) -> int:
        """How many of so many takes, one after the other, are admitted."""
        store = store or self.store
        return sum([(await store.take(take)).admitted for _ in range(times)])

    async def used(self, take: Take) -> int:
        """What the store behind has counted of the first charge."""
        state = (await self.behind.memory.take(take._replace(dry=True))).states[0]
        return state[1] - state[2]

    def expire(self, store=None) -> None:
        """Fire the timers of what has run out: the loop's own clock is not ours."""
        for key in list((store or self.store)._keys.values()):
            self.store._at_end(key)


def charge(kind="r", limit=1000, *, cost=1, name="x", mode=0, house=None) -> Charge:
    """A rule of so many per second, or of a month."""
    now = int((house.clock.now() if house else 0) * SECOND)
    start = now - now % SECOND
    args = {
        "r": (SECOND, limit, limit),
        "w": (limit, SECOND),
        "c": (limit, start - SECOND, start, start + SECOND, start + 2 * SECOND),
        "n": (limit,),
        "l": (limit, SECOND, SECOND),
    }[kind]
    return Charge("t.acme", kind + name, kind, cost, mode, args)


def take_of(*charges: Charge, **options) -> Take:
    """A take of these."""
    return Take("t.acme", charges, **options)


async def test_a_hot_key_costs_few_trips():
    """A hundred and one takes: the first, then one for each chunk of fifty and who waits."""
    house = House()
    take = take_of(charge())

    assert await house.admitted(take, 103) == 103
    assert house.behind.costs == [1, 51, 51]
    assert house.store.stats.chunks == 2


async def test_a_cold_key_is_asked_for_as_it_is():
    """Below *hot* takes within a lease nothing is leased."""
    house = House(hot=10)
    take = take_of(charge())
    for _ in range(20):
        await house.admitted(take, 9)
        house.clock.advance(1.5)

    assert set(house.behind.costs) == {1}
    assert house.behind.calls == {"take": 180}


async def test_a_key_that_cools_down_is_not_leased_any_more():
    """After a stretch with fewer takes than *hot*."""
    house = House(hot=10)
    take = take_of(charge())
    await house.admitted(take, 20)
    house.behind.costs.clear()
    for _ in range(3):
        house.clock.advance(1.1)
        await house.admitted(take, 2)

    assert house.behind.costs[-4:] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("charges", "drawn"),
    [
        ([charge("r", 1000)], 50),
        ([charge("r", 1000, cost=5)], 10),
        ([charge("w", 200)], 10),
        ([charge("c", 1000)], 100),
        ([charge("c", 1000), charge("r", 1000)], 50),
        ([charge("r", 30)], 0),
        ([charge("n", 1000)], 0),
        ([charge("l", 1000)], 0),
        ([charge("r", 1000), charge("n", 1000)], 0),
        ([charge("r", 1000, mode=1)], 0),
        ([charge("r", 1000), charge("w", 1000, mode=2)], 0),
    ],
)
def test_the_chunk_is_the_least_of_its_rules(charges, drawn):
    """A tenth of the limit, 50 ms of a rate, nothing of what is no lease."""
    chunk, _ = Chunks(None, {}).of(tuple(charges))

    assert (chunk if chunk > 1 else 0) == drawn


async def test_all_rules_are_charged_for_a_chunk():
    """Each with its own cost."""
    house = House()
    take = take_of(charge("r", 1000), charge("c", 500, cost=2, name="y", house=house))
    await house.admitted(take, 2)
    states = (await house.behind.memory.take(take._replace(dry=True))).states

    assert house.behind.costs == [1, 26]
    assert [one[1] for one in states] == [27, 54]


@pytest.mark.parametrize("options", [{"dry": True}, {"force": True}, {"lease": "id"}])
async def test_only_plain_takes_are_leased(options):
    """Looking, forcing, holding slots go to the store."""
    house = House()
    take = take_of(charge(), **options)
    await house.admitted(take, 20)

    assert house.behind.costs == [1] * 20


async def test_callers_of_one_key_share_one_trip():
    """Fifty at once: what they want, and a chunk, and then nothing for fifty more."""
    house = House()
    take = take_of(charge())
    await house.admitted(take, 1)
    outcomes = await asyncio.gather(*[house.store.take(take) for _ in range(50)])

    assert all(one.admitted for one in outcomes)
    assert await house.admitted(take, 50) == 50
    assert house.behind.costs == [1, 100]


async def test_nobody_waits_for_another_key():
    """A chunk that is under way holds up its own key only."""
    house = House()
    hot, other = take_of(charge()), take_of(charge(name="y"))
    await house.admitted(hot, 1)
    house.behind.gate = asyncio.Event()
    waiting = asyncio.create_task(house.store.take(hot))
    await asyncio.sleep(0)
    gate, house.behind.gate = house.behind.gate, None

    assert (await house.store.take(other)).admitted
    assert not waiting.done()
    gate.set()
    assert (await waiting).admitted


@pytest.mark.parametrize("kind", ["r", "w", "c"])
async def test_near_the_limit_the_exact_cost_is_tried(kind):
    """Every unit is used, and none too much."""
    house = House(chunk=40)
    take = take_of(charge(kind, 100, house=house))

    assert await house.admitted(take, 300) == 100


@pytest.mark.parametrize("instances", [2, 5])
async def test_totals_are_kept_by_any_number_of_instances(instances):
    """All units are charged before they are used: no limit is exceeded."""
    house = House(instances=instances, chunk=30)
    takes = [take_of(charge("c", 1000, house=house)) for _ in house.stores]
    admitted = 0
    for _ in range(700):
        for store, take in zip(house.stores, takes, strict=True):
            admitted += (await store.take(take)).admitted

    assert 1000 - 30 * instances <= admitted <= 1000


async def test_a_lease_that_ended_is_not_used():
    """Not one unit of it, although nobody has given it back yet."""
    house = House(chunk=50)
    take = take_of(charge())
    await house.admitted(take, 3)
    house.clock.advance(1.001)
    assert house.store.take_nowait(take) is None
    await house.admitted(take, 1)

    assert house.behind.calls["take"] == 3


async def test_a_lease_ends_with_its_period():
    """Nothing of one period is used in the next; the control is half a second earlier."""
    house = House(chunk=50)
    house.clock.advance(0.5)
    take = take_of(charge("c", 1000, house=house))
    await house.admitted(take, 2)

    house.clock.advance(0.499)
    assert house.store.take_nowait(take) is not None
    house.clock.advance(0.001)
    assert house.store.take_nowait(take) is None


@pytest.mark.parametrize("kind", ["w", "c"])
async def test_what_is_unused_is_given_back(kind):
    """When the lease ends, and when the store is closed."""
    house = House(chunk=50)
    house.clock.advance(0.1)
    take = take_of(charge(kind, house=house))
    await house.admitted(take, 5)
    assert await house.used(take) == 52
    await house.store.aclose()

    assert await house.used(take) == 5
    assert house.store.stats.returned == 47
    assert house.store.stats.leased - house.store.stats.returned == 4


async def test_what_is_unused_at_the_end_is_given_back():
    """A calendar gets its units back although nobody asks again."""
    house = House(chunk=50, lease=0.25)
    take = take_of(charge("c", house=house))
    await house.admitted(take, 5)
    house.clock.advance(0.3)
    house.expire()
    await asyncio.sleep(0)

    assert await house.used(take) == 5


async def test_a_client_that_goes_away_leaves_its_unit():
    """Cancelled while it waits, or after it was handed a unit: nothing is lost."""
    house = House(chunk=10)
    take = take_of(charge("c", house=house))
    await house.admitted(take, 1)
    tasks = [asyncio.create_task(house.store.take(take)) for _ in range(20)]
    for _ in range(3):
        await asyncio.sleep(0)
    for task in tasks[:15]:
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    await house.store.aclose()

    admitted = [one for one in done if not isinstance(one, BaseException)]
    assert await house.used(take) == 1 + len(admitted)


async def test_no_more_than_a_chunk_is_held():
    """Of what was drawn for clients that have gone, the surplus goes back at once."""
    house = House(chunk=10)
    take = take_of(charge("c", house=house))
    await house.admitted(take, 1)
    house.behind.gate = asyncio.Event()
    tasks = [asyncio.create_task(house.store.take(take)) for _ in range(40)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    house.behind.gate.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    for _ in range(5):
        await asyncio.sleep(0)

    assert house.store.stats.held_at_most == {"cx": 10}
    assert await house.used(take) <= 11


async def test_the_bound_is_stated_enforced_and_told():
    """Instances times the chunk, for what time gives back; nothing for calendars."""
    house = House(instances=3)
    rate = Rate(name="x", limit=1000, per=1)
    takes = [take_of(charge_of(rate, "t.acme", 1, "UTC", 0)) for _ in house.stores]
    for store, take in zip(house.stores, takes, strict=True):
        await house.admitted(take, 60, store=store)
    held = [store.stats.held_at_most["rx"] for store in house.stores]

    assert sum(held) <= house.store.over_admission(rate, instances=3) == 150
    assert (
        house.store.over_admission(Calendar(name="m", limit=9999, period="day"), instances=3) == 0
    )
    assert house.store.over_admission(Capacity(name="c", limit=9999), instances=3) == 0
    assert house.store.over_admission(SlidingWindow(name="w", limit=100, per=1), instances=3) == 15
    assert house.store.over_admission(Rate(name="slow", limit=10, per=60), instances=3) == 0


async def test_all_users_of_a_tenant_hold_one_chunk_together():
    """The bound is of a counter: fifty hot users do not hold the tenant's fifty times."""
    house = House()
    tenant, user = charge("r", 1000), charge("r", 500, name="user")
    takes = [take_of(tenant, user._replace(bucket=f"t.acme:u.{one}")) for one in range(50)]
    admitted = 0
    for _ in range(20):
        for take in takes:
            admitted += (await house.store.take(take)).admitted
            assert sum(key.left for key in house.store._keys.values()) <= 50

    assert 950 <= admitted <= 1000
    assert house.store.stats.held_at_most == {"rx": 50, "ruser": 25}
    assert sum(house.store._chunks._held.values()) <= 100
    await house.store.aclose()
    assert house.store._chunks._held == {}


async def test_a_rate_stays_within_the_bound():
    """Ten seconds of five greedy instances: rate x time + burst + instances x chunk."""
    house = House(instances=5)
    rate = Rate(name="x", limit=200, per=1)
    take = charge_of(rate, "t.acme", 1, "UTC", 0)
    moments = []
    for tick in range(1000):
        for store in house.stores:
            moments += [tick] * await house.admitted(take_of(take), 2, store=store)
        house.clock.advance(0.01)
    bound = house.store.over_admission(rate, instances=5)
    counts = Counter(moments)
    worst = max(sum(counts[one] for one in range(start, start + 100)) for start in range(901))

    assert bound == 50
    assert len(moments) <= 10 * 200 + 200 + bound
    assert worst <= 200 + 200 + bound


async def test_a_store_that_fails_is_told_to_everybody_who_waits():
    """And what was leased before is still served."""
    house = House()
    take = take_of(charge())
    await house.admitted(take, 1)
    house.behind.failing = True
    done = await asyncio.gather(*[house.store.take(take) for _ in range(5)], return_exceptions=True)
    assert {type(one) for one in done} == {BackendUnavailableError}
    house.behind.failing = False
    assert await house.admitted(take, 2) == 2
    house.behind.failing = True

    assert await house.admitted(take, 48) == 48


async def test_a_refusal_costs_one_trip():
    """A hostile client that goes on asking reaches nobody; the control asks each time."""
    house, plain = House(), House(denial=0)
    take = take_of(charge("w", 5))
    for one in (house, plain):
        await one.admitted(take, 1000)

    assert house.behind.calls["take"] == 6
    assert plain.behind.calls["take"] == 1000
    assert house.store.stats.denied == 994


async def test_a_refusal_from_memory_says_the_same():
    """Which rule, and how long: as long as it was, less what has passed."""
    house = House()
    take = take_of(charge("c", 3, house=house), charge("c", 9, name="y", house=house))
    await house.admitted(take, 3)
    asked = await house.store.take(take)
    remembered = await house.store.take(take)

    assert (asked.origin, remembered.origin) == ("store", "cache")
    assert remembered[1:4] == asked[1:4]


async def test_a_tenants_refusal_holds_for_all_its_users():
    """By the counter, not by who asks."""
    house = House()
    tenant = charge("w", 5)
    users = [tenant._replace(bucket=f"t.acme:u.{one}", field="wuser") for one in range(50)]
    outcomes = [await house.store.take(take_of(tenant, user)) for user in users]

    assert [one.admitted for one in outcomes].count(True) == 5
    assert house.behind.calls["take"] == 6
    assert {one.fits for one in outcomes[6:]} == {(False, True)}


async def test_a_smaller_cost_is_asked_for():
    """What did not fit says nothing of less."""
    house = House()
    await house.admitted(take_of(charge("w", 10, cost=8)), 1)

    assert not (await house.store.take(take_of(charge("w", 10, cost=8)))).admitted
    assert (await house.store.take(take_of(charge("w", 10, cost=9)))).origin == "cache"
    assert (await house.store.take(take_of(charge("w", 10, cost=2)))).admitted


async def test_a_raised_limit_holds_at_once():
    """Other numbers are another question."""
    house = House()
    await house.admitted(take_of(charge("w", 5)), 9)

    assert await house.admitted(take_of(charge("w", 7)), 9) == 2


async def test_a_refund_here_is_noticed_at_once():
    """What is given back through this instance is asked for again."""
    house = House()
    take = take_of(charge("w", 5))
    first = await house.store.take(take)
    await house.admitted(take, 9)
    gone = Settlement("t.acme", "one", take.charges, (0,), first.now, first.now + SECOND)
    await house.store.settle(gone)

    assert await house.admitted(take, 9) == 1


async def test_a_refund_elsewhere_is_noticed_within_a_second():
    """Whatever the retry moment was: a month is not waited for."""
    house = House()
    take = take_of(charge("c", 5, house=house)._replace(args=(5, 0, 1, 2**51, 2**52)))
    first = await house.store.take(take)
    await house.admitted(take, 9)
    gone = Settlement("t.acme", "one", take.charges, (0,), first.now, 2**52)
    await house.behind.memory.settle(gone)
    house.clock.advance(0.9)
    assert await house.admitted(take, 9) == 0
    house.clock.advance(0.11)

    assert await house.admitted(take, 9) == 1


@pytest.mark.parametrize("kind", ["n", "l"])
async def test_what_may_be_free_at_any_moment_is_asked_each_time(kind):
    """Slots and levels are given back by requests that end, not by time."""
    house = House()
    for number in range(10):
        await house.store.take(take_of(charge(kind, 1), lease=f"id{number}"))

    assert house.behind.calls["take"] == 10


async def test_memory_is_bounded():
    """Neither keys nor refusals grow beyond what was said."""
    house = House(max_keys=100, chunk=5)
    for number in range(1000):
        one = charge("w", 10)._replace(bucket=f"t.acme:u.{number}")
        await house.admitted(take_of(one), 15)

    assert len(house.store._keys) == len(house.store._by_id) == 100
    assert len(house.store._denials) == 100
    await house.store.aclose()


@pytest.mark.parametrize("name", ["chunk", "lease", "hot", "denial", "max_keys"])
def test_numbers_are_checked(name):
    """A message names what is wrong."""
    with pytest.raises(ConfigurationError, match=name):
        LeasingQuotaStore(MemoryQuotaStore(), **{name: -1})


def test_a_store_outlives_an_event_loop():
    """Nothing of a loop that has ended is waited for in the next."""
    house = House(chunk=10)
    take = take_of(charge("c", house=house))

    assert [asyncio.run(house.admitted(take, 7)) for _ in range(4)] == [7, 7, 7, 7]
