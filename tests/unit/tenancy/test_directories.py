"""
The cache in front of a directory.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from twh_platform.errors import BackendUnavailableError, ConfigurationError
from twh_platform.tenancy import CachedTenantDirectory, Tenant, bind_tenant, current_tenant
from twh_platform.testing import ManualClock

ACME = Tenant(id="acme")


class SlowDirectory:
    """A directory that counts, and answers when `open` is set."""

    def __init__(self, *tenants: Tenant) -> None:
        self.tenants = {tenant.id: tenant for tenant in tenants}
        self.asked: list[str] = []
        self.seen: list[Tenant | None] = []
        self.open = asyncio.Event()
        self.open.set()
        self.error: Exception | None = None

    async def get(self, tenant_id):
        """Answer with what was known when the question arrived."""
        self.asked.append(tenant_id)
        self.seen.append(current_tenant())
        found, error = self.tenants.get(tenant_id), self.error
        await self.open.wait()
        if error is not None:
            raise error
        return found


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still."""
    return ManualClock()


@pytest.fixture
async def inner() -> SlowDirectory:
    """A directory that knows acme."""
    return SlowDirectory(ACME)


def cached(inner, clock, **options) -> CachedTenantDirectory:
    """The cache under test."""
    return CachedTenantDirectory(inner, clock=clock.monotonic, **options)


async def settle() -> None:
    """Let every task that can run do so."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_tenant_is_looked_up_once_in_its_time_to_live(inner, clock):
    """At its end it is looked up again, not a moment later."""
    directory = cached(inner, clock, ttl=30)

    assert await directory.get("acme") is ACME
    clock.advance(29.9)
    assert await directory.get("acme") is ACME
    assert inner.asked == ["acme"]
    clock.advance(0.1)
    await directory.get("acme")
    assert inner.asked == ["acme", "acme"]


async def test_a_missing_tenant_is_remembered_for_a_shorter_time(inner, clock):
    """A tenant that is created is found soon."""
    directory = cached(inner, clock, negative_ttl=5)

    assert await directory.get("globex") is None
    inner.tenants["globex"] = Tenant(id="globex")
    clock.advance(4.9)
    assert await directory.get("globex") is None
    clock.advance(0.1)
    assert await directory.get("globex") == Tenant(id="globex")


async def test_age_counts_from_the_question(inner, clock):
    """An answer that took long is not younger for it."""
    directory = cached(inner, clock, ttl=30)
    inner.open.clear()
    waiting = asyncio.create_task(directory.get("acme"))
    await settle()
    clock.advance(20)
    inner.open.set()
    await waiting

    clock.advance(10)
    await directory.get("acme")
    assert len(inner.asked) == 2


async def test_a_failure_serves_nobody_on_an_old_answer(inner, clock):
    """When the directory is down, an entry whose time is over helps no one."""
    directory = cached(inner, clock, ttl=30)
    await directory.get("acme")
    clock.advance(30)
    inner.error = BackendUnavailableError("down")

    with pytest.raises(BackendUnavailableError):
        await directory.get("acme")
    inner.error = None
    assert await directory.get("acme") is ACME


async def test_strangers_push_out_no_tenant(inner, clock):
    """Ids that do not exist have a bound of their own."""
    directory = cached(inner, clock, capacity=10, negative_capacity=3)
    await directory.get("acme")
    for number in range(50):
        await directory.get(f"stranger-{number}")

    assert await directory.get("acme") is ACME
    assert inner.asked.count("acme") == 1
    assert len(directory._refused) == 3


async def test_the_oldest_tenant_goes_when_the_cache_is_full(inner, clock):
    """The bound holds, and who was looked up last stays."""
    inner.tenants |= {f"t{n}": Tenant(id=f"t{n}") for n in range(5)}
    directory = cached(inner, clock, capacity=3)
    for number in range(5):
        await directory.get(f"t{number}")

    assert list(directory._found) == ["t2", "t3", "t4"]


async def test_many_who_miss_share_one_look_up(inner, clock):
    """Control: without the cache there would be a hundred."""
    directory = cached(inner, clock)
    inner.open.clear()
    waiting = [asyncio.create_task(directory.get("acme")) for _ in range(100)]
    await settle()
    inner.open.set()

    assert set(await asyncio.gather(*waiting)) == {ACME}
    assert inner.asked == ["acme"]
    assert len(await asyncio.gather(*(inner.get("acme") for _ in range(100)))) == 100
    assert len(inner.asked) == 101


async def test_a_cancelled_leader_disturbs_nobody(inner, clock):
    """The first to ask goes away; those who joined get their answer."""
    directory = cached(inner, clock)
    inner.open.clear()
    leader = asyncio.create_task(directory.get("acme"))
    await settle()
    others = [asyncio.create_task(directory.get("acme")) for _ in range(3)]
    await settle()
    leader.cancel()
    await settle()
    inner.open.set()

    assert await asyncio.gather(*others) == [ACME] * 3
    assert leader.cancelled()
    assert inner.asked == ["acme"]


async def test_a_failed_look_up_that_nobody_awaits_is_not_reported(inner, clock):
    """All who waited are gone; the error ends quietly and is not remembered."""
    directory = cached(inner, clock)
    inner.open.clear()
    inner.error = BackendUnavailableError("down")
    waiting = asyncio.create_task(directory.get("acme"))
    await settle()
    waiting.cancel()
    await settle()
    inner.open.set()
    await settle()

    inner.error = None
    assert await directory.get("acme") is ACME


@pytest.mark.parametrize("forget", [lambda one: one.invalidate("acme"), lambda one: one.clear()])
async def test_an_invalidation_wins_over_a_look_up_in_flight(forget, inner, clock):
    """The answer that was on its way is neither remembered nor given to anyone."""
    directory = cached(inner, clock)
    inner.open.clear()
    waiting = asyncio.create_task(directory.get("acme"))
    await settle()
    inner.tenants["acme"] = suspended = Tenant(id="acme", status="suspended")
    forget(directory)
    inner.open.set()

    assert await waiting is suspended
    assert await directory.get("acme") is suspended
    assert inner.asked == ["acme", "acme"]


async def test_invalidation_forgets_one_and_clear_forgets_all(inner, clock):
    """Found and missing ids alike."""
    inner.tenants["globex"] = Tenant(id="globex")
    directory = cached(inner, clock)
    for forget in (lambda: directory.invalidate("acme"), directory.clear):
        for tenant_id in ("acme", "globex", "nobody"):
            await directory.get(tenant_id)
        inner.asked.clear()
        forget()
        for tenant_id in ("acme", "globex"):
            await directory.get(tenant_id)

    assert inner.asked == ["acme", "globex"]
    directory.invalidate("never-seen")


async def test_a_tenant_that_changes_without_pause_is_given_up(inner, clock):
    """Whoever waits gets an answer or a refusal, never an endless wait."""
    directory = cached(inner, clock)

    class Restless(SlowDirectory):
        async def get(self, tenant_id):
            directory.invalidate(tenant_id)
            return await super().get(tenant_id)

    directory._inner = Restless(ACME)
    with pytest.raises(BackendUnavailableError) as caught:
        await directory.get("acme")
    assert caught.value.code == "directory_busy"


class Stubborn:
    """A directory that does not stop when it is told to."""

    def __init__(self) -> None:
        self.release = asyncio.Event()

    async def get(self, tenant_id):
        """Wait on, through any cancellation."""
        while not self.release.is_set():
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                continue
        return ACME


async def test_a_late_answer_is_a_refusal_even_if_it_cannot_be_stopped(clock):
    """The deadline ends the wait; what comes after it is thrown away."""
    inner = Stubborn()
    directory = cached(inner, clock, timeout=0.01)

    with pytest.raises(BackendUnavailableError) as caught:
        await asyncio.wait_for(directory.get("acme"), 5)
    inner.release.set()
    await settle()
    assert caught.value.code == "directory_timeout"
    assert caught.value.retry_after > 0
    assert directory._found == {}


OTHERS = [
    None,
    Tenant(id="other", status="suspended"),
    Tenant(id="other", status="provisioning"),
    Tenant(id="other", expires_at=datetime(2000, 1, 1, tzinfo=UTC)),
]


@pytest.mark.parametrize("other", OTHERS)
async def test_a_tenant_that_is_not_served_is_remembered_as_an_unknown_one(other, inner, clock):
    """For the same time and in the same places; control: a served one for longer."""
    inner.tenants["other"] = other
    directory = cached(inner, clock, ttl=30, negative_ttl=5, negative_capacity=2)
    for seconds in (0, 4.9, 0.1):
        clock.advance(seconds)
        assert await directory.get("other") is other
        assert await directory.get("acme") is ACME
    assert inner.asked == ["other", "acme", "other"]

    for stranger in ("x", "y", "other"):
        await directory.get(stranger)
    assert inner.asked.count("other") == 3


@pytest.mark.parametrize("forget", [lambda one: one.invalidate("acme"), lambda one: one.clear()])
async def test_a_flood_of_strangers_leaves_look_ups_to_tenants(forget, inner, clock):
    """Those found before have their part, also after their time and an invalidation."""
    directory = cached(inner, clock, max_loads=4)
    inner.tenants["barred"] = Tenant(id="barred", status="suspended")
    await asyncio.gather(directory.get("acme"), directory.get("barred"))
    clock.advance(30)
    forget(directory)
    inner.open.clear()
    names = [*(f"stranger-{number}" for number in range(50)), "acme", "barred"]
    waiting = [asyncio.create_task(directory.get(name)) for name in names]
    await settle()
    inner.open.set()
    *strangers, acme, barred = await asyncio.gather(*waiting, return_exceptions=True)

    assert strangers.count(None) == 2
    assert acme is ACME
    assert [error.code for error in {*strangers, barred} - {None}] == ["directory_busy"] * 49


async def test_look_ups_in_flight_are_bounded(inner, clock):
    """Strangers cannot start any number of them; known tenants are still served."""
    directory = cached(inner, clock, max_loads=4)
    await directory.get("acme")
    inner.open.clear()
    waiting = [asyncio.create_task(directory.get(name)) for name in ("a", "b")]
    await settle()

    with pytest.raises(BackendUnavailableError) as caught:
        await directory.get("c")
    assert caught.value.code == "directory_busy"
    assert await directory.get("acme") is ACME
    inner.open.set()
    await asyncio.gather(*waiting)


async def test_a_look_up_that_was_given_up_counts_until_it_ends(clock):
    """A directory that hangs is not asked more and more."""
    inner = Stubborn()
    directory = cached(inner, clock, timeout=0.01, max_loads=1)
    codes = []
    for name in ("acme", "globex"):
        with pytest.raises(BackendUnavailableError) as caught:
            await directory.get(name)
        codes.append(caught.value.code)
    inner.release.set()
    await settle()

    assert codes == ["directory_timeout", "directory_busy"]
    assert await directory.get("globex") is ACME


async def test_a_look_up_runs_as_no_tenant(inner, clock):
    """It is shared, so it must not carry the context of whoever came first."""
    directory = cached(inner, clock)
    with bind_tenant(Tenant(id="globex")):
        await directory.get("acme")

    assert inner.seen == [None]


@pytest.mark.parametrize(
    "name", ["ttl", "negative_ttl", "capacity", "negative_capacity", "timeout", "max_loads"]
)
@pytest.mark.parametrize("value", [0, -1, float("nan")])
async def test_options_are_above_zero(name, value, inner):
    """A bound of nothing is a mistake."""
    with pytest.raises(ConfigurationError, match=f"{name}="):
        CachedTenantDirectory(inner, **{name: value})
