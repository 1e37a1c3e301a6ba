"""
Notices: which threshold is told, and that it is told once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest

from tests.support.quotas import ACME, GLOBEX, OnePlan
from tests.support.tenancy import heard
from twh_platform import Tenant
from twh_platform.errors import BackendUnavailableError
from twh_platform.quotas import (
    Calendar,
    Capacity,
    Limiter,
    MemoryQuotaStore,
    MemoryUsageLedger,
    QuotaNotice,
    UsageMeter,
    announce_capacity_notices,
    capacity_notices,
    thresholds_crossed,
)
from twh_platform.testing import ManualClock

NOW = datetime(2026, 9, 15, 12, tzinfo=UTC).timestamp()
DAY = Calendar(name="day", limit=100, period="day")
ITEMS = Capacity(name="items", limit=10, unit="items")


class Instance:
    """One instance of a service: a limiter on a shared store, and its meter."""

    def __init__(self, store, ledger, clock, *rules, **options) -> None:
        self.plans = OnePlan(rules or [DAY])
        self.meter = UsageMeter(ledger, **options)
        self.limiter = Limiter(store, plans=self.plans, clock=clock, meter=self.meter)

    async def use(self, cost, tenant=ACME, **asked):
        """Take, and let the meter write."""
        decision = await self.limiter.take(tenant, cost=cost, **asked)
        await self.meter.flush()
        return decision


@pytest.fixture
def clock() -> ManualClock:
    """The store's clock and everybody's."""
    return ManualClock(NOW)


@pytest.fixture
def store(clock) -> MemoryQuotaStore:
    """What the instances share."""
    return MemoryQuotaStore(clock=clock)


@pytest.fixture
def ledger() -> MemoryUsageLedger:
    """What the instances write into."""
    return MemoryUsageLedger()


@pytest.fixture
def one(store, ledger, clock) -> Instance:
    """An instance."""
    return Instance(store, ledger, clock)


@pytest.fixture
def other(store, ledger, clock) -> Instance:
    """Another."""
    return Instance(store, ledger, clock)


@pytest.fixture
def told():
    """The notices that were announced."""
    with heard(QuotaNotice) as signals:
        yield signals


def thresholds(told) -> list[int]:
    """Their thresholds."""
    return [notice.threshold for notice in told]


@pytest.mark.parametrize(
    ("before", "after", "limit", "crossed"),
    [
        (0, 79, 100, ()),
        (79, 80, 100, (80,)),
        (80, 81, 100, ()),
        (0, 100, 100, (80, 90, 100)),
        (85, 95, 100, (90,)),
        (95, 200, 100, (100,)),
        (90, 80, 100, ()),
        (0, 1, 1, (80, 90, 100)),
        (7, 8, 9, (80,)),
        (0, 5, 0, ()),
        (2**51, 2**52, 2**52, (80, 90, 100)),
    ],
)
def test_the_thresholds_that_are_crossed(before, after, limit, crossed):
    """Upwards, and exactly at the percentage."""
    assert thresholds_crossed(before, after, limit) == crossed


async def test_each_threshold_is_told_once(one, told):
    """With who, what, how much and which period."""
    for _ in range(100):
        await one.use(1)
    assert not (await one.use(1)).allowed

    assert thresholds(told) == [80, 90, 100]
    assert told[1] == QuotaNotice(
        tenant_id="acme",
        rule="day",
        scope="",
        unit="requests",
        threshold=90,
        used=90,
        limit=100,
        period_start=datetime(2026, 9, 15, tzinfo=UTC),
        period_end=datetime(2026, 9, 16, tzinfo=UTC),
    )


async def test_one_request_can_reach_several(one, told):
    """In ascending order."""
    await one.use(95)

    assert thresholds(told) == [80, 90]


async def test_refunds_do_not_arm_it_again(one, told):
    """Control: the level crosses 80 three times."""
    await one.use(79)
    for _ in range(3):
        decision = await one.use(2)
        await decision.receipt.refund()

    assert thresholds(told) == [80]


async def test_two_instances_tell_once(one, other, told):
    """Whoever crosses, and whoever only sees it."""
    for _ in range(50):
        await one.use(1)
        await other.use(1)

    assert thresholds(told) == [80, 90, 100]


async def test_a_restarted_instance_does_not_tell_again(one, store, ledger, clock, told):
    """It has forgotten; the ledger has not.  Control: a ledger that has, does."""
    await one.use(85)
    await Instance(store, ledger, clock).use(1)
    assert thresholds(told) == [80]
    await Instance(store, MemoryUsageLedger(), clock).use(1)

    assert thresholds(told) == [80, 80]


async def test_the_next_period_tells_again(one, clock, told):
    """And another tenant's is its own."""
    await one.use(85)
    clock.advance(86400)
    await one.use(85)
    await one.use(85, tenant=GLOBEX)

    assert [(notice.tenant_id, notice.period_start.day) for notice in told] == [
        ("acme", 15),
        ("acme", 16),
        ("globex", 16),
    ]


async def test_a_lost_answer_is_made_good_by_the_next(one, other, told):
    """The instance that crossed was killed before it could tell."""
    await one.limiter.take(ACME, cost=85)  # and never flushed
    await other.use(1)

    assert thresholds(told) == [80]


async def test_a_refused_request_makes_it_good_too(one, other, told):
    """It sees the level, though it adds nothing."""
    await one.limiter.take(ACME, cost=100)
    await other.use(1)

    assert thresholds(told) == [80, 90, 100]


async def test_a_raised_limit_arms_what_is_now_below(one, other, told):
    """95 of 110 is above 80 percent still, and below 90."""
    await one.use(95)
    for instance in (one, other):
        instance.plans.change(replace(DAY, limit=110))
    for _ in range(8):
        await one.use(1)
        await other.use(1)

    assert [(notice.threshold, notice.limit) for notice in told] == [
        (80, 100),
        (90, 100),
        (90, 110),
        (100, 110),
    ]


async def test_a_lowered_limit_tells_what_is_reached_by_it(one, told):
    """Though no request crosses it."""
    await one.use(60)
    one.plans.change(replace(DAY, limit=65))
    await one.use(1)

    assert [(notice.threshold, notice.limit) for notice in told] == [(80, 65), (90, 65)]


async def test_forced_use_and_corrections_tell(one, told):
    """What was used beyond what was taken crosses too."""
    decision = await one.use(10)
    await decision.receipt.commit(85)
    await one.meter.flush()
    await one.limiter.charge(ACME, cost=50)
    await one.meter.flush()

    assert thresholds(told) == [80, 90, 100]
    assert told[-1].used == 135


async def test_looking_tells_nothing_of_its_own(one, told):
    """A peek at 79 with a cost of 5 has taken nothing."""
    await one.use(79)
    await one.limiter.peek(ACME, cost=5)
    await one.meter.flush()

    assert told == []


async def test_each_user_has_its_own(store, ledger, clock, told):
    """The scope says which."""
    instance = Instance(store, ledger, clock, replace(DAY, scope="user"))
    await instance.use(85, user="42")
    await instance.use(85, user="7")

    assert [notice.scope for notice in told] == ["u.42", "u.7"]


async def test_a_limit_of_nothing_tells_nothing(store, ledger, clock, told):
    """There is no percentage of 0."""
    instance = Instance(store, ledger, clock, Calendar(name="off", limit=0, period="day"))
    await instance.limiter.charge(ACME)
    await instance.meter.flush()

    assert told == []


async def test_while_the_ledger_fails_notices_wait(one, ledger, told, monkeypatch):
    """They are told when it is known whether to."""

    async def fail(*_args, **_named):
        raise BackendUnavailableError("down")

    with monkeypatch.context() as patched:
        patched.setattr(ledger, "claim", fail)
        await one.use(85)
        assert told == []
    await one.meter.flush()

    assert thresholds(told) == [80]


async def test_thresholds_can_be_chosen(store, ledger, clock, told):
    """Or none at all."""
    await Instance(store, ledger, clock, thresholds=(95, 50)).use(96)
    await Instance(store, ledger, clock, thresholds=()).use(4)

    assert thresholds(told) == [50, 95]


async def test_many_tenants_are_each_told_once(store, ledger, clock, told):
    """Also more of them than an instance remembers."""
    instance = Instance(store, ledger, clock, Calendar(name="one", limit=1, period="day"))
    instance.meter._notices._seen = dict.fromkeys(((str(n), "", 0, 0) for n in range(9_999)), 1)
    for number in range(10):
        await instance.use(1, tenant=Tenant(id=f"t{number}"))
        await instance.use(1, tenant=Tenant(id=f"t{number}"))

    assert len(told) == 30
    assert len(instance.meter._notices._seen) < 100


async def test_levels_are_told_again_when_they_have_fallen_below(store, ledger, clock, told):
    """Capacity has no period: each way up counts."""
    instance = Instance(store, ledger, clock, ITEMS)
    await instance.use(8, only=["items"])
    await instance.use(1, only=["items"])
    await instance.limiter.give_back(ACME, "items", 5)
    await instance.use(4, only=["items"])

    assert thresholds(told) == [80, 90, 80]
    assert {notice.period_start for notice in told} == {None}


@dataclass(frozen=True)
class Taken:
    """What taking capacity in PostgreSQL returns."""

    tenant_id: str
    rule: Capacity
    before: int
    after: int


def test_a_level_of_postgresql_is_told_by_its_owner(told):
    """When the transaction is committed."""
    announce_capacity_notices(Taken("acme", ITEMS, 7, 9))
    announce_capacity_notices(Taken("acme", ITEMS, 9, 7))

    assert told == list(capacity_notices("acme", ITEMS, 7, 9))
    assert [(one.threshold, one.used, one.unit) for one in told] == [
        (80, 9, "items"),
        (90, 9, "items"),
    ]
