"""
What stands in for a store: budget, policies, shares, what comes late, what is owed.
"""

from __future__ import annotations

import asyncio

import pytest

from twh_platform import subscribe
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
from twh_platform.quotas._announcements import QuotaStoreDegraded, QuotaStoreRestored
from twh_platform.quotas._exchange import Charge, Settlement, Take
from twh_platform.quotas._fallback import FallbackQuotaStore
from twh_platform.quotas._fallback_share import shared
from twh_platform.quotas._takes import charge_of
from twh_platform.testing import ManualClock

POLICIES = {"open": 0, "closed": 1, "share": 2}
HOUR = 3_600_000_000


class ShakyStore:
    """
    STUB: a memory store that can refuse to answer, or answer late.

    `how` is ``well``; ``badly`` (raises); ``never`` (until `thaw`); ``oddly`` (a
    bug of its own).
    """

    def __init__(self, clock: ManualClock) -> None:
        self.memory = MemoryQuotaStore(clock=clock)
        self.how = "well"
        self.broken = ""  # a partition that fails whatever `how` says
        self.asked = 0
        self.thawed = asyncio.Event()

    async def take(self, take):
        """As the store of memory, in the way of `how`."""
        await self._act()
        if take.partition == self.broken:
            raise BackendUnavailableError("planted", code="planted")
        return await self.memory.take(take)

    async def settle(self, settlement):
        """Likewise."""
        await self._act()
        return await self.memory.settle(settlement)

    async def renew(self, take, at):
        """Likewise."""
        await self._act()
        return await self.memory.renew(take, at)

    async def _act(self) -> None:
        self.asked += 1
        if self.how == "badly":
            raise BackendUnavailableError("planted", code="planted")
        if self.how == "oddly":
            raise ZeroDivisionError
        if self.how == "never":
            await self.thawed.wait()


class House:
    """
    A shaky store with its fallback, and a clock for both.
    """

    def __init__(self, *, instances=4, budget=0.005, gives_back=False, **options) -> None:
        self.clock = ManualClock()
        self.shaky = ShakyStore(self.clock)
        self.shaky.gives_back = gives_back
        self.store = FallbackQuotaStore(
            self.shaky,
            instances=instances,
            budget=budget,
            clock=self.clock.now,
            monotonic=self.clock.monotonic,
            chance=lambda: 0.0,
            **options,
        )

    async def admitted(self, take: Take, times: int) -> int:
        """How many of so many takes are admitted."""
        return sum([(await self.store.take(take)).admitted for _ in range(times)])

    async def used(self, take: Take) -> int:
        """What the store behind has counted of the first charge."""
        return (await self.shaky.memory.take(take._replace(dry=True))).states[0][1]

    async def settles(self) -> None:
        """Let everything that can go on do so."""
        for _ in range(50):
            await asyncio.sleep(0)


def window(limit=100, *, cost=1, policy="share", name="minute", mode=0) -> Charge:
    """A sliding window of an hour."""
    return Charge("t.acme", f"w{name}", "w", cost, mode, (limit, HOUR), POLICIES[policy])


def take_of(*charges: Charge, **options) -> Take:
    """A take of these."""
    return Take("t.acme", charges, **options)


async def test_the_store_decides_while_it_answers():
    """Origin and states are the store's own."""
    house = House()
    outcome = await house.store.take(take_of(window()))

    assert (outcome.origin, outcome.admitted) == ("store", True)
    assert outcome.states[0][1] == 1
    assert house.store.stats.answered == 1


@pytest.mark.parametrize("gives_back", [False, True])
@pytest.mark.parametrize("how", ["badly", "never", "oddly"])
@pytest.mark.parametrize(
    ("policy", "origin", "admitted"),
    [("open", "open", True), ("closed", "closed", False), ("share", "local", True)],
)
async def test_the_policy_of_the_rule_decides_for_a_store_that_fails(
    how, policy, origin, admitted, gives_back
):
    """Whether it raises, hangs, or has a bug."""
    house = House(gives_back=gives_back)
    house.shaky.how = how
    outcome = await house.store.take(take_of(window(policy=policy)))

    assert (outcome.origin, outcome.admitted) == (origin, admitted)
    await house.store.aclose()


@pytest.mark.parametrize("gives_back", [False, True])
async def test_a_frozen_store_is_waited_for_by_the_first_callers_only(gives_back):
    """After three failures it is left alone; then one probe per pause."""
    house = House(gives_back=gives_back)
    house.shaky.how = "never"
    await house.admitted(take_of(window()), 100)
    asked = house.shaky.asked
    house.clock.advance(0.11)
    await asyncio.gather(*[house.store.take(take_of(window())) for _ in range(100)])

    assert (asked, house.shaky.asked) == (3, 4)
    assert house.store.stats.probes == 1
    await house.store.aclose()


async def test_the_share_is_a_part_of_the_limit():
    """One of four instances admits a quarter, rounded up; the control is a fresh whole limit."""
    house = House(instances=4)
    house.shaky.how = "badly"
    fresh = MemoryQuotaStore(clock=house.clock)
    control = [(await fresh.take(take_of(window(limit=90)))).admitted for _ in range(200)]

    assert control.count(True) == 90
    assert await house.admitted(take_of(window(limit=90)), 200) == 23
    assert house.store.stats.admitted_locally == 23
    assert house.store.stats.refused_locally == 177


async def test_what_was_used_up_stays_used_up():
    """A tenant that had taken everything gets nothing fresh when the store goes."""
    house = House(instances=4)
    assert await house.admitted(take_of(window(limit=20)), 30) == 20
    house.shaky.how = "badly"

    assert await house.admitted(take_of(window(limit=20)), 100) == 0


async def test_no_more_than_was_left_is_shared():
    """Of twenty the store had given eighteen: the share would be five, two are left."""
    house = House(instances=4)
    await house.admitted(take_of(window(limit=20)), 18)
    house.shaky.how = "badly"

    assert await house.admitted(take_of(window(limit=20)), 100) == 2


async def test_an_outage_after_another_gives_no_fresh_share():
    """Within a window the share is counted over all outages."""
    house = House(instances=4)
    total = 0
    for _ in range(3):
        house.shaky.how = "badly"
        total += await house.admitted(take_of(window(limit=40)), 50)
        house.clock.advance(0.2)
        house.shaky.how = "well"
        await house.store.take(take_of(window(limit=40)))
        assert not house.store.degraded

    assert total == 10


async def test_four_instances_admit_no_more_than_a_limit_beyond_the_store():
    """The bound: limit / instances each, beyond what the store admitted."""
    houses = [House(instances=4) for _ in range(4)]
    for house in houses:
        house.shaky.how = "badly"
    admitted = [await house.admitted(take_of(window(limit=100)), 100) for house in houses]

    assert admitted == [25, 25, 25, 25]


@pytest.mark.parametrize(
    ("args", "kind", "expected"),
    [
        ((10_000, 1, 100), "r", (40_000, 1, 25)),
        ((10_000, 1, 3), "r", (40_000, 1, 1)),
        ((10, HOUR), "w", (3, HOUR)),
        ((1, 1, 2, 3, 4), "c", (1, 1, 2, 3, 4)),
        ((0, 1, 2, 3, 4), "c", (0, 1, 2, 3, 4)),
        ((9,), "n", (3,)),
        ((8, 60, 600), "l", (2, 60, 600)),
    ],
)
def test_every_kind_has_a_share(args, kind, expected):
    """Rounded up, and nothing of nothing."""
    charge = Charge("t.acme", kind, kind, 1, 0, args)

    assert shared(charge, 4).args == expected


@pytest.mark.parametrize(
    "rule",
    [
        Rate(name="x", limit=100, per=3600),
        SlidingWindow(name="x", limit=100, per=3600),
        Calendar(name="x", limit=100, period="month"),
        Capacity(name="x", limit=100),
        Concurrency(name="x", limit=100, lease=600),
    ],
    ids=lambda one: one.kind,
)
async def test_rules_of_every_kind_are_shared(rule):
    """Of a hundred, 25 for each of four."""
    house = House(instances=4)
    house.shaky.how = "badly"
    charge = charge_of(rule, "t.acme", 1, "UTC", int(house.clock.now() * 1e6))
    takes = [take_of(charge, lease=f"id{one}") for one in range(60)]
    admitted = [(await house.store.take(one)).admitted for one in takes]

    assert admitted.count(True) == 25


async def test_one_closed_rule_refuses_what_others_would_share():
    """And nothing is counted for it."""
    house = House(instances=1)
    house.shaky.how = "badly"
    mixed = take_of(window(limit=10), window(name="login", policy="closed"))
    outcomes = [await house.store.take(mixed) for _ in range(20)]

    assert {(one.origin, one.fits) for one in outcomes} == {("closed", (True, False))}
    assert await house.admitted(take_of(window(limit=10)), 20) == 10


async def test_a_closed_rule_that_is_not_hard_refuses_nobody():
    """Soft and shadow rules never do."""
    house = House()
    house.shaky.how = "badly"
    for mode in (1, 2):
        outcome = await house.store.take(take_of(window(policy="closed", mode=mode)))
        assert (outcome.origin, outcome.admitted) == ("local", True)


async def test_shares_are_all_or_nothing():
    """What one rule refuses is not charged to the other; an open one is not counted."""
    house = House(instances=1)
    house.shaky.how = "badly"
    both = take_of(window(limit=50), window(3, name="b"), window(1, name="c", policy="open"))

    assert await house.admitted(both, 10) == 3
    assert await house.admitted(take_of(window(limit=50)), 100) == 47


async def test_a_refusal_by_the_share_can_be_told():
    """Every rule has a state and numbers to read it by, in the order of the take."""
    house = House(instances=4)
    house.shaky.how = "badly"
    limiter = Limiter(
        house.store,
        rules=[
            Rate(name="open", limit=9, per=60, scope="client", on_failure="open"),
            Rate(name="minute", limit=8, per=60, scope="client"),
        ],
        clock=house.clock,
    )
    decisions = [await limiter.take(client="192.0.2.1") for _ in range(3)]

    assert [one.allowed for one in decisions] == [True, True, False]
    assert [one.rule.name for one in decisions[2].violated] == ["minute"]
    assert decisions[0].statuses[1].remaining == 1
    assert decisions[2].retry_after == pytest.approx(30)


async def test_what_fails_open_is_not_settled():
    """It was not counted: a receipt gives back what the others took, and nothing of it."""
    house = House(instances=1)
    house.shaky.how = "badly"
    rules = [
        Rate(name="open", limit=9, per=60, scope="client", on_failure="open"),
        Rate(name="minute", limit=2, per=60, scope="client"),
    ]
    limiter = Limiter(house.store, rules=rules, clock=house.clock)
    decisions = [await limiter.take(client="a") for _ in range(2)]
    assert await decisions[0].receipt.refund()

    assert (await limiter.take(client="a")).allowed
    assert not (await limiter.take(client="a")).allowed


async def test_a_closed_rule_has_its_own_code():
    """The client may come again in a second at the earliest."""
    house = House()
    house.shaky.how = "badly"
    rule = Rate(name="login", limit=5, per=60, scope="client", on_failure="closed")
    decision = await Limiter(house.store, rules=[rule], clock=house.clock).take(client="a")

    assert (decision.allowed, decision.code) == (False, "quota_store_unavailable")
    assert decision.retry_after == 1.0


async def test_a_cost_beyond_the_share_may_be_tried_again():
    """It is no permanent refusal: the store may be back."""
    house = House(instances=4)
    house.shaky.how = "badly"
    rule = Rate(name="minute", limit=8, per=60, scope="client")
    limiter = Limiter(house.store, rules=[rule], clock=house.clock)
    decision = await limiter.take(client="a", cost=5)

    assert (decision.code, decision.retry_after) == ("quota_exceeded", 1.0)


async def test_periods_that_are_over_are_asked_for_again():
    """A take that was prepared last month meets no error in an outage."""
    house = House(instances=1)
    house.shaky.how = "badly"
    for policy in ("share", "closed", "open"):
        rule = Calendar(name="month", limit=5, period="month", on_failure=policy)
        old = charge_of(rule, "t.acme", 1, "UTC", int(house.clock.now() * 1e6) - 90 * 24 * HOUR)
        outcome = await house.store.take(take_of(old))
        assert outcome.stale


async def test_outages_are_announced_once():
    """With the reason, the length, and what was decided meanwhile."""
    house, heard = House(instances=4), []
    ends = [subscribe(one, heard.append) for one in (QuotaStoreDegraded, QuotaStoreRestored)]
    house.shaky.how = "badly"
    await house.admitted(take_of(window(limit=20)), 50)
    house.clock.advance(7)
    house.shaky.how = "well"
    await house.admitted(take_of(window(limit=20)), 50)
    for end in ends:
        end()

    assert [type(one) for one in heard] == [QuotaStoreDegraded, QuotaStoreRestored]
    assert (heard[0].reason, heard[0].since) == ("planted", house.clock.now() - 7)
    assert (heard[1].seconds, heard[1].admitted_locally) == (7, 3)
    assert house.store.stats.outages == 1


async def test_a_full_store_is_stood_in_for_and_asked_again():
    """It answers for the keys that it has: no new client's keys take it from the others."""
    house = House(instances=4)
    house.shaky.memory = MemoryQuotaStore(max_keys=1, clock=house.clock)
    first, others = take_of(window()), [take_of(window(name=f"n{one}")) for one in range(20)]
    await house.store.take(first)
    origins = {(await house.store.take(one)).origin for one in others}

    assert origins == {"local"}
    assert house.store.degraded
    assert (await house.store.take(first)).origin == "store"
    assert not house.store.degraded


async def test_a_share_that_has_no_room_to_count_refuses():
    """Never unlimited: what cannot be counted is not admitted."""
    house = House(max_keys=2)
    house.shaky.how = "badly"
    takes = [take_of(window(name=f"n{one}")) for one in range(5)]
    outcomes = [await house.store.take(one) for one in takes]

    assert [one.origin for one in outcomes] == ["local", "local", "closed", "closed", "closed"]


async def test_what_comes_late_is_given_back():
    """The client was answered by the share: the store's charge is not kept as well."""
    house = House()
    house.shaky.how = "never"
    take = take_of(window())
    assert (await house.store.take(take)).origin == "local"
    house.shaky.how = "well"
    house.shaky.thawed.set()
    await house.settles()

    assert await house.used(take) == 0
    assert (house.store.stats.late, house.store.stats.given_back) == (1, 1)


async def test_a_slot_that_comes_late_is_freed():
    """It would be held for a whole lease."""
    house = House()
    house.shaky.how = "never"
    slot = Charge("t.acme", "lfly", "l", 1, 0, (1, HOUR, HOUR))
    await house.store.take(take_of(slot, lease="one"))
    house.shaky.how = "well"
    house.shaky.thawed.set()
    await house.settles()

    assert (await house.shaky.memory.take(take_of(slot, lease="two"))).admitted


async def test_a_caller_that_goes_away_is_not_charged():
    """Cancelled in mid-flight: what the store then admits is given back."""
    house = House(budget=30)
    house.shaky.how = "never"
    task = asyncio.create_task(house.store.take(take_of(window())))
    await house.settles()
    task.cancel()
    house.shaky.how = "well"
    house.shaky.thawed.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await house.settles()

    assert await house.used(take_of(window())) == 0


@pytest.mark.parametrize("gives_back", [False, True])
async def test_a_cancellation_is_not_mistaken_for_a_timeout(gives_back):
    """Whoever cancels a take sees it cancelled, and the store is not blamed."""
    house = House(budget=30, gives_back=gives_back)
    house.shaky.how = "never"
    task = asyncio.create_task(house.store.take(take_of(window())))
    await house.settles()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert house.store.stats.timeouts == 0
    await house.store.aclose()


async def test_a_timeout_leaves_no_cancellation_behind():
    """The task goes on as if nothing had been, and an outer timeout is its own."""
    house = House(gives_back=True)
    house.shaky.how = "never"

    async def several() -> int:
        total = await house.admitted(take_of(window()), 5)
        await asyncio.sleep(0)
        return total

    assert await asyncio.create_task(several()) == 5
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await asyncio.sleep(30)
    assert asyncio.current_task().cancelling() == 0


async def test_what_was_decided_here_is_settled_here():
    """A refund in an outage is room for the next."""
    house = House(instances=4)
    house.shaky.how = "badly"
    take = take_of(window(limit=8, cost=2))
    first = await house.store.take(take)
    assert not (await house.store.take(take)).admitted
    gone = Settlement("t.acme", "one", take.charges, (0,), first.now, first.now + HOUR, "local")
    settled = [(await house.store.settle(gone)).done for _ in range(2)]

    assert settled == [True, False]
    assert (await house.store.take(take)).admitted


async def test_what_the_store_decided_is_settled_when_it_is_back():
    """Put off, kept, carried out once, and without anybody waiting."""
    house = House()
    take = take_of(window(cost=5))
    outcome = await house.store.take(take)
    house.shaky.how = "badly"
    await house.admitted(take_of(window(name="other")), 5)
    gone = Settlement("t.acme", "one", take.charges, (0,), outcome.now, outcome.now + HOUR)
    assert not (await house.store.settle(gone)).done
    house.clock.advance(0.2)
    house.shaky.how = "well"
    await house.store.take(take_of(window(name="other")))
    await house.settles()

    assert await house.used(take) == 0
    assert (house.store.stats.deferred, house.store.stats.dropped) == (1, 0)


async def test_no_more_settlements_are_kept_than_there_is_room_for():
    """The rest stays charged, and is counted."""
    house = House(max_late=10)
    house.shaky.how = "badly"
    await house.admitted(take_of(window()), 3)
    for number in range(25):
        gone = Settlement("t.acme", str(number), (window(),), (0,), 0, 2**53 - 1)
        await house.store.settle(gone)

    assert (house.store.stats.deferred, house.store.stats.dropped) == (10, 15)


async def test_slots_of_an_outage_are_renewed_here():
    """And those of the store count as held while nobody can be asked."""
    house = House(instances=1)
    slot = Charge("t.acme", "lfly", "l", 1, 0, (5, 10_000_000, 60_000_000))
    far, near = take_of(slot, lease="far"), take_of(slot, lease="near")
    at = (await house.store.take(far)).now
    house.shaky.how = "badly"
    here = (await house.store.take(near)).now
    house.clock.advance(5)

    assert await house.store.renew(near, here)
    assert await house.store.renew(far, at)
    house.clock.advance(56)
    assert not await house.store.renew(near, here)
    assert not await house.store.renew(far, at)


async def test_the_clock_is_the_stores():
    """Thirty seconds between the clocks: an outage gives no fresh window."""
    house = House(instances=1)
    ahead = ManualClock(start=house.clock.now() + 30)
    house.shaky.memory = MemoryQuotaStore(clock=ahead)
    minute = take_of(Charge("t.acme", "rm", "r", 1, 0, (60_000_000, 1, 5)))
    assert await house.admitted(minute, 9) == 5
    house.shaky.how = "badly"

    assert await house.admitted(minute, 9) == 0


async def test_the_number_of_instances_may_change():
    """A function is asked each time; while it fails, its last answer counts."""
    answers = [4, 2]
    house = House(instances=lambda: answers.pop(0))
    house.shaky.how = "badly"

    assert await house.admitted(take_of(window(limit=100)), 100) == 50


@pytest.mark.parametrize("name", ["instances", "budget", "failures", "pause", "max_late"])
def test_numbers_are_checked(name):
    """A message names what is wrong."""
    options = {"instances": 1, name: 0}
    with pytest.raises(ConfigurationError, match=name):
        FallbackQuotaStore(MemoryQuotaStore(), **options)


@pytest.mark.parametrize("gives_back", [False, True])
async def test_a_wrong_call_is_not_an_outage(gives_back):
    """What the caller did wrong is raised, and no policy hides it."""
    house = House(gives_back=gives_back)

    async def wrong(_):
        raise ConfigurationError("planted")

    house.shaky.take = wrong
    with pytest.raises(ConfigurationError):
        await house.store.take(take_of(window()))
    assert not house.store.degraded


async def test_forced_charges_are_counted_in_an_outage():
    """What has been used already is counted, closed or not, and beyond the share."""
    house = House(instances=4)
    house.shaky.how = "badly"
    forced = take_of(window(8, cost=3, policy="closed"), force=True)
    outcome = await house.store.take(forced)

    assert (outcome.admitted, outcome.origin, outcome.fits) == (True, "local", (False,))


async def test_looking_takes_nothing_in_an_outage():
    """A dry take is answered by the share, and not counted."""
    house = House(instances=4)
    house.shaky.how = "badly"
    look = take_of(window(limit=8), dry=True)

    assert await house.admitted(look, 50) == 50
    assert await house.admitted(take_of(window(limit=8)), 50) == 2


async def test_shards_fail_apart():
    """Where the store says what fails together, the others are asked on; the control is not."""
    house, control = House(), House()
    house.store._shard_of = lambda partition: partition
    for one in (house, control):
        one.shaky.broken = "t.globex"
        other = take_of(window())._replace(partition="t.globex")
        for _ in range(5):
            await one.store.take(other)
        assert one.store.degraded

    assert (await house.store.take(take_of(window()))).origin == "store"
    assert (await control.store.take(take_of(window()))).origin == "local"


async def test_an_outage_is_over_when_no_shard_is_out():
    """Answers of the one say nothing of the other, unless nobody has asked that for long."""
    house = House(longest_pause=1.0)
    house.store._shard_of = lambda partition: partition
    house.shaky.broken = "t.globex"
    other = take_of(window())._replace(partition="t.globex")
    for _ in range(5):
        await house.store.take(other)
    await house.store.take(take_of(window()))
    assert house.store.degraded
    house.clock.advance(2)
    await house.store.take(take_of(window()))

    assert not house.store.degraded
