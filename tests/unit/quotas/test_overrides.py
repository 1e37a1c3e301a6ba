"""
Plans with overrides: what an instance knows, when it learns it, and what it does when it cannot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress

import pytest

from twh_platform import Tenant, subscribe
from twh_platform.errors import BackendUnavailableError, ConfigurationError
from twh_platform.quotas import Limiter, MemoryQuotaStore, Rate
from twh_platform.quotas._announcements import QuotaOverrideChanged, QuotaOverridesStale
from twh_platform.quotas._overridden_plans import OverriddenPlans
from twh_platform.quotas._overrides import MemoryOverrideStore
from twh_platform.quotas._plans import Plan, Plans
from twh_platform.testing import ManualClock

ACME = Tenant(id="acme", tier="FREE")
GLOBEX = Tenant(id="globex", tier="FREE")
WHO = {"actor": "ada", "reason": "ticket 4711"}
PLANS = Plans(
    [Plan(name=one, rules=[Rate(name="minute", limit=10, per=60)]) for one in ("FREE", "X")]
)


class Unsteady(MemoryOverrideStore):
    """A store that can be made to fail, to hang, and to answer late."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: BaseException | None = None
        self.open = asyncio.Event()
        self.open.set()
        self.asked: list[int] = []

    async def changes(self, since, *, limit=1000):
        """What is there when it is asked, told when it is open."""
        self.asked.append(since)
        found = await super().changes(since, limit=limit)
        await self.open.wait()
        if self.fault is not None:
            raise self.fault
        return found


@pytest.fixture
def store() -> Unsteady:
    """A store that works, so far."""
    return Unsteady()


@pytest.fixture
def heard() -> Iterator[list[object]]:
    """What is announced."""
    signals: list[object] = []
    ends = [subscribe(kind, signals.append) for kind in (QuotaOverrideChanged, QuotaOverridesStale)]
    yield signals
    for end in ends:
        end()


def limit(plans: OverriddenPlans, tenant: Tenant = ACME) -> int:
    """What the tenant has a minute."""
    return plans.for_tenant(tenant).rule("minute").limit


async def until(condition) -> None:
    """Wait, at most half a minute, for something to become true."""
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it has not become true")


async def test_everything_is_read_before_anybody_is_served(store):
    """Also what was changed and taken away before."""
    await MemoryOverrideStore.put(store, "acme", {"minute": 50}, **WHO)
    await MemoryOverrideStore.put(store, "globex", {"minute": 60}, **WHO)
    await MemoryOverrideStore.delete(store, "globex", **WHO)
    async with OverriddenPlans(PLANS, store) as plans:
        assert (limit(plans), limit(plans, GLOBEX)) == (50, 10)
        assert plans.override_of("acme").version == 1
        assert plans.override_of("globex") is None


async def test_a_store_that_does_not_answer_at_first_stops_the_start(store):
    """Nobody is served on limits that are not the tenant's."""
    store.fault = BackendUnavailableError("down")

    with pytest.raises(BackendUnavailableError, match="down"):
        async with OverriddenPlans(PLANS, store):
            pytest.fail("it has started")


async def test_a_local_change_counts_at_once_and_is_told(store, heard):
    """Before and after, who and why; the other tenant is untouched."""
    async with OverriddenPlans(PLANS, store, interval=3600) as plans:
        await plans.put(ACME, {"minute": {"limit": 50, "burst": 5}}, **WHO)
        raised = limit(plans)
        await plans.delete("acme", actor="bob", reason="it is over")

        assert (raised, limit(plans), limit(plans, GLOBEX)) == (50, 10, 10)
        assert await plans.delete("acme", **WHO) is None
    said = {"minute": {"limit": 50, "burst": 5}}
    common = {"tenant_id": "acme"}
    assert heard == [
        QuotaOverrideChanged(**common, version=1, before={}, after=said, **WHO),
        QuotaOverrideChanged(
            **common, version=2, before=said, after={}, actor="bob", reason="it is over"
        ),
    ]


async def test_a_change_elsewhere_is_seen_without_a_restart(store):
    """Two instances over one store: raised, lowered, taken away."""
    async with (
        OverriddenPlans(PLANS, store, interval=3600) as one,
        OverriddenPlans(PLANS, store, interval=0.01) as other,
    ):
        for said in (50, 5):
            await one.put(ACME, {"minute": said}, **WHO)
            await until(lambda said=said: limit(other) == said)
        await one.delete("acme", **WHO)
        await until(lambda: limit(other) == 10)


async def test_the_plan_is_the_same_object_until_it_changes(store):
    """The limiter prepares by it; a new reading of the same version changes nothing."""
    clock = ManualClock()
    async with OverriddenPlans(PLANS, store, interval=3600, clock=clock.monotonic) as plans:
        await plans.put(ACME, {"minute": 50}, **WHO)
        made = plans.for_tenant(ACME)
        await plans.refresh()
        clock.advance(301)
        await plans.refresh()

        assert store.asked == [0, 0, 0]
        assert plans.for_tenant(ACME) is made
        await plans.put(ACME, {"minute": 50}, **WHO)
        assert plans.for_tenant(ACME) is not made


async def test_a_tenant_that_moves_to_another_plan_takes_its_limits_along(store):
    """They are the tenant's, by the names of rules."""
    async with OverriddenPlans(PLANS, store) as plans:
        await plans.put(ACME, {"minute": 50}, **WHO)
        moved = plans.for_tenant(Tenant(id="acme", tier="X"))

        assert (moved.name, moved.rule("minute").limit) == ("X", 50)
        assert plans.for_tenant(ACME).name == "FREE"


async def test_what_was_used_counts_against_the_new_limit(store):
    """Raised from 10 to 50 after 10: 40 are left. Lowered to 5: none."""
    async with OverriddenPlans(PLANS, store) as plans:
        limiter = Limiter(MemoryQuotaStore(), plans=plans)
        before = await limiter.take(ACME, cost=10)
        await plans.put(ACME, {"minute": 50}, **WHO)
        raised = await limiter.peek(ACME)
        await plans.put(ACME, {"minute": 5}, **WHO)
        lowered = await limiter.take(ACME)

    assert before.allowed
    assert raised.statuses[0].remaining in {39, 40, 41}
    assert not lowered.allowed


@pytest.mark.parametrize("said", [{"hour": 5}, {"minute": 0}, {"minute": -1}, {}, None])
async def test_a_change_that_does_not_fit_is_not_made(said, store, heard):
    """Nothing is written, told or changed."""
    async with OverriddenPlans(PLANS, store) as plans:
        with pytest.raises(ConfigurationError):
            await plans.put(ACME, said, **WHO)

        assert limit(plans) == 10
    assert await store.get("acme") is None
    assert heard == []


@pytest.mark.parametrize(
    ("fault", "code"),
    [(BackendUnavailableError("x", code="gone"), "gone"), (KeyError("x"), "KeyError")],
)
async def test_a_failing_reading_keeps_what_is_known(fault, code, store, heard):
    """It is counted and told each time, and the first that succeeds mends it."""
    await store.put("acme", {"minute": 50}, **WHO)
    async with OverriddenPlans(PLANS, store, interval=0.01) as plans:
        store.fault = fault
        await until(lambda: plans.failures >= 2)
        assert limit(plans) == 50
        await store.put("acme", {"minute": 60}, **WHO)
        store.fault = None
        await until(lambda: limit(plans) == 60)

        assert plans.failures == 0
    assert [one.failures for one in heard][:2] == [1, 2]
    assert {one.code for one in heard} == {code}


async def test_a_reading_that_hangs_is_given_up(store, heard):
    """What is known holds, there is never a second question, and it goes on by itself."""
    async with OverriddenPlans(PLANS, store, interval=0.01, timeout=0.05) as plans:
        store.open.clear()
        await until(lambda: plans.failures >= 2)
        store.open.set()
        await until(lambda: plans.failures == 0)
        await plans.put(ACME, {"minute": 50}, **WHO)

        assert limit(plans) == 50
    assert heard[0].code == "override_store_timeout"


async def test_a_store_that_ignores_being_cancelled_is_asked_once(store):
    """A driver may take its time: questions do not pile up."""
    async with OverriddenPlans(PLANS, store, interval=3600, timeout=0.02) as plans:
        asked, stubborn = len(store.asked), asyncio.Event()

        async def never(_since, *, limit=0):
            store.asked.append(limit)
            while not stubborn.is_set():
                with suppress(asyncio.CancelledError):
                    await stubborn.wait()
            return []

        store.changes = never
        for _ in range(5):
            with pytest.raises(BackendUnavailableError) as caught:
                await plans.refresh()
            assert caught.value.code == "override_store_timeout"
        assert len(store.asked) == asked + 1
        stubborn.set()


async def test_a_reading_from_before_a_local_change_does_not_undo_it(store):
    """It was asked first and answered last; the same for a deletion, and when all is read anew."""
    clock = ManualClock()
    async with OverriddenPlans(PLANS, store, interval=3600, clock=clock.monotonic) as plans:
        for said in (50, None, 60):
            for seconds in (0, 301):
                clock.advance(seconds)
                store.open.clear()
                store.asked.clear()
                reading = asyncio.create_task(plans.refresh())
                await until(lambda: store.asked)
                if said is None:
                    await plans.delete("acme", **WHO)
                else:
                    await plans.put(ACME, {"minute": said}, **WHO)
                store.open.set()
                await reading

                assert limit(plans) == (said or 10)


async def test_a_database_that_was_put_back_is_believed_after_a_while(store):
    """Its versions begin anew; until everything is read again, what was known holds."""
    clock = ManualClock()
    async with OverriddenPlans(PLANS, store, interval=3600, clock=clock.monotonic) as plans:
        for _ in range(3):
            await plans.put(ACME, {"minute": 50}, **WHO)
        store._histories.clear()
        store._version = 0
        await store.put("acme", {"minute": 7}, **WHO)
        await plans.refresh()
        held = limit(plans)
        clock.advance(301)
        await plans.refresh()
        again = limit(plans)
        await store.put("acme", {"minute": 8}, **WHO)
        await plans.refresh()

        assert (held, again, limit(plans)) == (50, 7, 8)


async def test_more_than_a_page_is_read(store):
    """At the start, and of changes."""
    for number in range(2500):
        await store.put(f"t{number}", {"minute": number + 1}, **WHO)
    async with OverriddenPlans(PLANS, store, interval=3600) as plans:
        asked = [limit(plans, Tenant(id=f"t{one}", tier="FREE")) for one in (0, 999, 1000, 2499)]

        assert asked == [1, 1000, 1001, 2500]
    assert len(store.asked) == 3


async def test_it_ends_with_its_block(store):
    """No task is left behind, and nothing more is asked."""
    async with OverriddenPlans(PLANS, store, interval=0.01):
        pass
    asked = len(store.asked)
    await asyncio.sleep(0.05)

    assert len(store.asked) == asked
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("name", ["interval", "reload_after", "timeout"])
def test_a_number_that_is_none_is_refused(name):
    """When it is put together."""
    with pytest.raises(ConfigurationError, match=f"{name}=0"):
        OverriddenPlans(PLANS, MemoryOverrideStore(), **{name: 0})
