"""
The meter: what it takes down, what it writes, and what happens while it cannot.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime

import pytest

from tests.support.quotas import ACME, GLOBEX, OnePlan, limiter_of
from tests.support.tenancy import heard
from twh_platform import Tenant
from twh_platform.errors import BackendUnavailableError, ConfigurationError
from twh_platform.quotas import (
    Calendar,
    Limiter,
    MemoryQuotaStore,
    MemoryUsageLedger,
    Rate,
    Settlement,
    UsageCounter,
    UsageLedgerDegraded,
    UsageLedgerRestored,
    UsageMeter,
    UsageQuery,
)
from twh_platform.testing import ManualClock

NOW = datetime(2026, 9, 15, 12, tzinfo=UTC).timestamp()
ALL = UsageQuery(first=date(2000, 1, 1), until=date(2100, 1, 1))
MONTH = Calendar(name="month", limit=1000, period="month")
SOFT = Calendar(name="soft", limit=3, period="day", mode="soft")
USER = Calendar(name="mine", limit=10, period="day", scope="user")


class Broken(MemoryUsageLedger):
    """A ledger that fails until it is mended, or does not answer."""

    error: Exception | None = BackendUnavailableError("down", code="ledger_down")
    hangs = False

    async def record(self, counters):
        """Fail, hang, or keep the counters."""
        if self.hangs:
            await asyncio.sleep(3600)
        if self.error is not None:
            raise self.error
        await super().record(counters)


class Kept(MemoryUsageLedger):
    """A ledger that knows what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[UsageCounter]] = []
        self.written = asyncio.Event()

    async def record(self, counters):
        """Note the batch."""
        self.batches.append(list(counters))
        await super().record(counters)
        if counters:
            self.written.set()


@pytest.fixture
def clock() -> ManualClock:
    """The store's clock and the limiter's."""
    return ManualClock(NOW)


@pytest.fixture
def ledger() -> MemoryUsageLedger:
    """An empty ledger."""
    return MemoryUsageLedger()


@pytest.fixture
def metered(clock, ledger):
    """Make a limiter with these rules, and its meter."""

    def make(*rules, store=None, ledger=ledger, **options) -> tuple[Limiter, UsageMeter]:
        meter = UsageMeter(ledger, **options)
        store = store or MemoryQuotaStore(clock=clock)
        return limiter_of(store, *rules, clock=clock, meter=meter), meter

    return make


async def used(ledger) -> Counter:
    """What the ledger has, by tenant, rule and scope."""
    found: Counter = Counter()
    for row in await ledger.page(ALL, after=None, size=1000):
        found[row.tenant_id, row.rule, row.scope] += row.used
    return found


async def test_what_is_taken_is_written(metered, ledger):
    """Per tenant, rule and scope; rates have no period and are not written."""
    limiter, meter = metered(MONTH, USER, Rate(name="minute", limit=100, per=60))
    for _ in range(3):
        await limiter.take(ACME, user="42")
    await limiter.take(ACME, user="7", cost=5)
    await limiter.take(GLOBEX)
    assert await meter.flush()

    assert await used(ledger) == {
        ("acme", "month", ""): 8,
        ("acme", "mine", "u.42"): 3,
        ("acme", "mine", "u.7"): 5,
        ("globex", "month", ""): 1,
    }


async def test_a_batch_has_each_counter_once_and_nothing_is_written_twice(metered):
    """Control: a hundred takes would be a hundred writes without it."""
    ledger = Kept()
    limiter, meter = metered(MONTH, ledger=ledger)
    for _ in range(100):
        await limiter.take(ACME)
    await meter.flush()
    await meter.flush()

    assert [[one.taken for one in batch] for batch in ledger.batches] == [[100]]
    assert meter.pending == 0


async def test_refunds_and_corrections_are_written(metered, ledger):
    """A settlement reaches the ledger though no decision follows it."""
    limiter, meter = metered(MONTH)
    given_back = await limiter.take(ACME, cost=10)
    less = await limiter.take(ACME, cost=20)
    more = await limiter.take(ACME, cost=1)
    await meter.flush()
    await given_back.receipt.refund()
    await less.receipt.commit(15)
    await more.receipt.commit(4)
    await meter.flush()
    (row,) = await ledger.page(ALL, after=None, size=10)

    assert (row.taken, row.refunded, row.used) == (34, 15, 19)


async def test_a_settlement_beyond_the_period_changes_nothing(metered, ledger, clock):
    """What was used in September stays September's, and October has no counter of it."""
    limiter, meter = metered(MONTH, store=MemoryQuotaStore(clock=clock))
    clock.advance(15.5 * 86400 - 60)
    decision = await limiter.take(ACME, cost=10)
    clock.advance(120)
    await decision.receipt.refund()
    await meter.flush()

    assert await used(ledger) == {("acme", "month", ""): 10}


async def test_refused_requests_count_nothing_but_tell(metered, ledger):
    """They see the counter as it is: what somebody else has taken is written too."""
    store = MemoryQuotaStore(clock=ManualClock(NOW))
    store.shared = True  # as if it were Redis
    rule = replace(MONTH, limit=5)
    other, _ = metered(rule, store=store)
    limiter, meter = metered(rule, store=store)
    await other.take(ACME, cost=5)
    assert not (await limiter.take(ACME)).allowed
    await meter.flush()

    assert await used(ledger) == {("acme", "month", ""): 5}


async def test_soft_rules_count_beyond_their_limit(metered, ledger):
    """What is billed is what was used."""
    limiter, meter = metered(SOFT)
    for _ in range(10):
        await limiter.take(ACME)
    await limiter.charge(ACME, cost=7)
    await meter.flush()

    assert await used(ledger) == {("acme", "soft", ""): 17}


async def test_what_a_period_counted_last_is_written_after_its_end(metered, ledger, clock):
    """Under its own period, and the next one starts at nothing."""
    day = Calendar(name="day", limit=100, period="day")
    limiter, meter = metered(day)
    clock.advance(12 * 3600 - 1)
    await limiter.take(ACME, cost=3)
    clock.advance(2)
    await limiter.take(ACME, cost=4)
    await meter.flush()
    rows = await ledger.page(ALL, after=None, size=10)

    assert [(row.period_start.day, row.used) for row in rows] == [(15, 3), (16, 4)]


async def test_the_period_is_the_tenants(metered, ledger):
    """With the offset of its clock at the start and at the end."""
    limiter, meter = metered(MONTH)
    await limiter.take(Tenant(id="acme", time_zone="Europe/Berlin"))
    winter = Calendar(name="year", limit=9, period="year")
    limiter, meter = metered(winter)
    await limiter.take(Tenant(id="globex", time_zone="America/New_York"))
    await meter.flush()
    (row,) = await ledger.page(ALL, after=None, size=10)

    assert row.period_start.isoformat() == "2026-01-01T00:00:00-05:00"
    assert row.period_end.isoformat() == "2027-01-01T00:00:00-05:00"


async def test_a_tenant_that_moves_is_not_billed_twice(ledger, clock):
    """Its counter goes on in the new zone's period, and is one counter."""
    meter = UsageMeter(ledger)
    limiter = limiter_of(MemoryQuotaStore(clock=clock), MONTH, clock=clock, meter=meter)
    await limiter.take(Tenant(id="acme", time_zone="America/New_York"), cost=10)
    await meter.flush()
    await limiter.take(Tenant(id="acme", time_zone="Europe/Berlin"), cost=1)
    await meter.flush()
    (row,) = await ledger.page(ALL, after=None, size=10)

    assert (row.used, row.period_start.isoformat()) == (11, "2026-09-01T00:00:00+02:00")


async def test_a_counter_that_was_lost_and_began_anew_adds_up(metered, ledger, clock):
    """Control: the counter itself says 4 in the end, where 14 were used."""
    limiter, meter = metered(MONTH)
    await limiter.take(ACME, cost=10)
    clock.advance(1)
    limiter.store = MemoryQuotaStore(clock=clock)  # as after FLUSHALL
    counter = await limiter.take(ACME, cost=4)
    await meter.flush()

    assert counter.statuses[0].remaining == 996
    assert await used(ledger) == {("acme", "month", ""): 14}


async def test_counters_of_two_processes_born_in_one_microsecond_are_two(metered, ledger, clock):
    """Where each counts in its own memory; control: one shared store is one counter."""
    for shared in (False, True):
        for _ in range(2):
            store = MemoryQuotaStore(clock=clock)
            store.shared = shared
            limiter, meter = metered(MONTH, store=store)
            tenant = ACME if shared else GLOBEX
            await limiter.take(tenant, cost=10)
            await meter.flush()

    assert await used(ledger) == {("acme", "month", ""): 10, ("globex", "month", ""): 20}


async def test_a_failing_ledger_loses_nothing_and_is_announced_once(metered):
    """It is kept in memory, and written when the ledger is back."""
    ledger = Broken()
    limiter, meter = metered(MONTH, ledger=ledger)
    with heard(UsageLedgerDegraded, UsageLedgerRestored) as signals:
        for _ in range(3):
            await limiter.take(ACME)
            assert not await meter.flush()
        ledger.error = None
        assert await meter.flush()
        assert await meter.flush()

    assert await used(ledger) == {("acme", "month", ""): 3}
    assert signals == [
        UsageLedgerDegraded(reason="ledger_down", pending=1, lost=0),
        UsageLedgerRestored(failures=3, lost=0),
    ]


async def test_memory_is_bounded_and_the_loss_is_counted(metered):
    """The counters that are known go on to be counted; new ones are not kept."""
    ledger = Broken()
    limiter, meter = metered(MONTH, ledger=ledger, max_pending=10)
    tenants = [Tenant(id=f"t{number}") for number in range(15)]
    with heard(UsageLedgerDegraded) as signals:
        for tenant in tenants:
            await limiter.take(tenant)
        await meter.flush()
        await limiter.take(tenants[0])
    ledger.error = None
    await meter.flush()

    assert sum((await used(ledger)).values()) == 11
    assert meter.lost == 5
    assert [one.reason for one in signals] == ["usage_meter_full", "ledger_down"]


async def test_what_was_not_kept_comes_with_the_next_sight_of_its_counter(metered):
    """Nothing is lost of a counter that is seen again."""
    ledger = Broken()
    limiter, meter = metered(MONTH, ledger=ledger, max_pending=1)
    await limiter.take(ACME)
    await limiter.take(GLOBEX, cost=7)
    ledger.error = None
    await meter.flush()
    assert (await used(ledger))["globex", "month", ""] == 0
    await limiter.take(GLOBEX)
    await meter.flush()

    assert await used(ledger) == {("acme", "month", ""): 1, ("globex", "month", ""): 8}


async def test_a_ledger_that_hangs_is_given_up_in_time(metered):
    """And what it was given is tried again."""
    ledger = Broken()
    ledger.error, ledger.hangs = None, True
    limiter, meter = metered(MONTH, ledger=ledger, timeout=0.01)
    await limiter.take(ACME)
    assert not await meter.flush()
    ledger.hangs = False

    assert await meter.flush()
    assert await used(ledger) == {("acme", "month", ""): 1}


@pytest.mark.parametrize("error", [ValueError("a bug"), ConfigurationError("wrong"), OSError()])
async def test_whatever_a_ledger_raises_the_meter_goes_on(error, metered):
    """It is kept, and the next batch has it."""
    ledger = Broken()
    ledger.error = error
    limiter, meter = metered(MONTH, ledger=ledger)
    await limiter.take(ACME)
    assert not await meter.flush()
    ledger.error = None

    assert await meter.flush()
    assert await used(ledger) == {("acme", "month", ""): 1}


async def test_what_counts_on_while_a_batch_is_written_is_not_lost(metered):
    """The batch takes its own number along, and the later one goes with the next."""
    limiter, meter = None, None

    class Slow(Kept):
        async def record(self, counters):
            await super().record(counters)
            if len(self.batches) == 1:
                await limiter.take(ACME, cost=5)

    ledger = Slow()
    limiter, meter = metered(MONTH, ledger=ledger)
    await limiter.take(ACME)
    await meter.flush()
    assert meter.pending == 1
    await meter.flush()

    assert [batch[0].taken for batch in ledger.batches] == [1, 6]


async def test_many_counters_go_in_several_batches(metered):
    """None twice, none left out, also if the first is counted on meanwhile."""
    ledger = Kept()
    limiter, meter = metered(MONTH, ledger=ledger)
    for number in range(2500):
        await limiter.take(Tenant(id=f"t{number}"))
    await meter.flush()

    assert [len(batch) for batch in ledger.batches] == [1000, 1000, 500]
    assert len({one.tenant_id for batch in ledger.batches for one in batch}) == 2500


async def test_it_writes_by_itself_and_at_its_end(metered):
    """In the background while it is open, and once more when it is closed."""
    ledger = Kept()
    limiter, meter = metered(MONTH, ledger=ledger, interval=0.01)
    async with meter:
        await limiter.take(ACME)
        await asyncio.wait_for(ledger.written.wait(), 30)
        assert await used(ledger) == {("acme", "month", ""): 1}
        await limiter.take(ACME, cost=4)

    assert await used(ledger) == {("acme", "month", ""): 5}
    async with meter:  # it can be opened again
        await limiter.take(ACME)
    assert await used(ledger) == {("acme", "month", ""): 6}


async def test_a_meter_that_nobody_holds_open_says_so(metered, caplog):
    """Once, and it keeps what it is told."""
    limiter, meter = metered(MONTH)
    with caplog.at_level(logging.WARNING, "twh_platform.quotas"):
        await limiter.take(ACME)
        await limiter.take(GLOBEX)

    assert sum("hold it in async with" in one.message for one in caplog.records) == 1
    assert meter.pending == 2


async def test_it_is_opened_once(metered):
    """A second time is a mistake."""
    _, meter = metered(MONTH)
    async with meter:
        with pytest.raises(RuntimeError, match="open already"):
            await meter.__aenter__()


async def test_rules_of_no_tenant_are_not_metered(metered, ledger):
    """They are counted for a client address, and nobody is billed for it."""
    login = Calendar(name="login", limit=5, period="hour", scope="client")
    limiter, meter = metered(login)
    await limiter.take(client="192.0.2.1")
    await limiter.take(ACME, client="192.0.2.1")
    await meter.flush()

    assert await used(ledger) == {}


async def test_a_user_id_of_any_length_is_written(metered, ledger):
    """Shortened, and still apart from others with the same beginning."""
    limiter, meter = metered(USER)
    for user in ("x" * 5000 + "1", "x" * 5000 + "2", "ü/{}:"):
        await limiter.take(ACME, user=user)
    await meter.flush()
    scopes = [scope for _, _, scope in await used(ledger)]

    assert len(set(scopes)) == 3
    assert all(len(scope) <= 200 for scope in scopes)
    assert "u.%C3%BC%2F%7B%7D%3A" in scopes


async def test_what_no_store_can_have_said_stops_nobody(metered, ledger, clock, caplog):
    """A counter that was damaged is left out and counted; the others are written."""
    store = MemoryQuotaStore(clock=clock)
    limiter, meter = metered(MONTH, store=store)
    decision = await limiter.take(ACME)
    (part,) = decision.parts
    born = part.outcome.now + 1
    for state in ((2**60, 1, 0), (born, 5, 9), (born + 1, -5, 0), (born + 2, 2**60, 0)):
        meter.note(part._replace(outcome=part.outcome._replace(states=(state,))))
    await limiter.take(GLOBEX)
    assert await meter.flush()

    assert await used(ledger) == {("acme", "month", ""): 1, ("globex", "month", ""): 1}
    assert meter.lost == 4


@pytest.mark.parametrize(
    "options",
    [
        {"interval": 0},
        {"timeout": -1},
        {"max_pending": 0},
        {"thresholds": [0]},
        {"thresholds": [101]},
        {"thresholds": [True]},
        {"thresholds": ["80"]},
    ],
)
def test_numbers_that_make_no_sense_are_refused(options, ledger):
    """When the meter is made."""
    with pytest.raises(ConfigurationError):
        UsageMeter(ledger, **options)


async def test_a_ledger_in_memory_is_bounded():
    """What comes beyond is refused as a whole, and what is known goes on to grow."""
    ledger = MemoryUsageLedger(max_counters=1)
    one = UsageCounter(
        tenant_id="acme",
        rule="month",
        scope="",
        birth=1,
        instance="",
        unit="requests",
        period_start=datetime(2026, 9, 1, tzinfo=UTC),
        period_end=datetime(2026, 10, 1, tzinfo=UTC),
        taken=1,
        refunded=0,
    )
    await ledger.record([one])
    with pytest.raises(BackendUnavailableError) as caught:
        await ledger.record([replace(one, taken=2), replace(one, birth=2)])
    await ledger.record([replace(one, taken=3)])

    assert caught.value.code == "usage_ledger_full"
    assert (await ledger.page(ALL, after=None, size=9))[0].taken == 3


async def test_one_plan_for_another_keeps_counting(clock, ledger):
    """An override changes the limit, and not what was used."""
    meter = UsageMeter(ledger)
    plans = OnePlan([MONTH])
    limiter = Limiter(MemoryQuotaStore(clock=clock), plans=plans, clock=clock, meter=meter)
    await limiter.take(ACME, cost=10)
    plans.change(replace(MONTH, limit=5000))
    await limiter.take(ACME, cost=1)
    await meter.flush()

    assert await used(ledger) == {("acme", "month", ""): 11}


async def give_back_unseen(limiter, decision) -> None:
    """What a store does by itself: the limiter learns nothing of it."""
    (part,) = decision.parts
    gone = Settlement("t.acme", "late", part.take.charges, (0,), part.outcome.now, 2**53)
    await limiter.store.settle(gone)


async def test_what_a_store_gave_back_by_itself_is_seen_later(metered, ledger):
    """Control: without the look it would be billed."""
    limiter, meter = metered(MONTH)
    await limiter.take(ACME, cost=2)
    await give_back_unseen(limiter, await limiter.take(ACME, cost=10))
    await meter.flush()
    before = await used(ledger)
    for _ in range(2):
        await meter.look_again()
    await meter.flush()

    assert before == {("acme", "month", ""): 12}
    assert await used(ledger) == {("acme", "month", ""): 2}


async def test_a_counter_that_rests_is_looked_at_once(metered, clock):
    """And one that is counted on not at all: its next answer says the same."""
    store, looks = MemoryQuotaStore(clock=clock), []
    limiter, meter = metered(MONTH, store=store)
    take = store.take

    async def counted(asked):
        looks.append(asked) if asked.dry else None
        return await take(asked)

    store.take = counted
    await limiter.take(ACME)
    for number in range(6):
        await meter.flush()
        await meter.look_again()
        if number < 3:
            await limiter.take(GLOBEX)

    assert [one.partition for one in looks] == ["t.acme", "t.globex"]


async def test_what_a_killed_instance_had_counted_is_seen_by_another(metered, ledger, clock):
    """Though nobody asks for the tenant any more."""
    store = MemoryQuotaStore(clock=clock)
    store.shared = True  # as if it were Redis
    (one, meter), (killed, _) = metered(MONTH, store=store), metered(MONTH, store=store)
    await one.take(ACME)
    await meter.flush()
    await killed.take(ACME, cost=5)
    for _ in range(2):
        await meter.look_again()
    await meter.flush()

    assert await used(ledger) == {("acme", "month", ""): 6}


@pytest.mark.parametrize("error", [BackendUnavailableError("down"), ValueError("a bug")])
async def test_a_store_that_fails_a_look_stops_nobody(error, metered, ledger):
    """It was only a look; what was counted is written all the same."""
    limiter, meter = metered(MONTH)
    await limiter.take(ACME)
    await meter.flush()
    asked = limiter.store.take

    async def fail(_take):
        raise error

    limiter.store.take = fail
    for _ in range(2):
        await meter.look_again()
    limiter.store.take = asked
    await limiter.take(ACME)
    await meter.flush()

    assert await used(ledger) == {("acme", "month", ""): 2}


async def test_it_looks_by_itself(metered):
    """In the background, while it is open."""
    ledger = Kept()
    limiter, meter = metered(MONTH, ledger=ledger, interval=0.01, look_after=0.02)
    async with meter:
        decision = await limiter.take(ACME, cost=10)
        await asyncio.wait_for(ledger.written.wait(), 30)
        ledger.written.clear()
        await give_back_unseen(limiter, decision)
        await asyncio.wait_for(ledger.written.wait(), 30)

    assert await used(ledger) == {("acme", "month", ""): 0}
