"""
A tenant that is bound with a lease, and what renews it.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import pytest

from twh_platform.errors import (
    BackendUnavailableError,
    ConfigurationError,
    NoCurrentTenantError,
    TenantSuspendedError,
    TenantUnresolvedError,
)
from twh_platform.tenancy import (
    MemoryTenantDirectory,
    Tenant,
    TenantEnvelopes,
    TenantExecutor,
    TenantThread,
    bind_tenant,
    carry_tenant,
    current_tenant,
    renew_lease,
    require_tenant,
    unbind_tenant,
)
from twh_platform.tenancy.postgres._binding import TransactionBinding
from twh_platform.testing import ManualClock

ACME, GLOBEX = Tenant(id="acme"), Tenant(id="globex")
SUSPENDED = Tenant(id="acme", status="suspended")


@pytest.fixture
def clock() -> ManualClock:
    """The clock of the leases."""
    return ManualClock()


def leased(clock: ManualClock, seconds: float = 60) -> bind_tenant:
    """Bind acme with a lease."""
    return bind_tenant(ACME, lease=seconds, clock=clock.monotonic)


def held() -> bool:
    """Whether the tenant can be had; a lease that is over says so by its code."""
    try:
        return current_tenant() is not None
    except TenantSuspendedError as error:
        return error.code != "tenant_lease_expired"


def test_a_lease_ends(clock):
    """Control: without one the tenant stays for as long as anything runs."""
    with bind_tenant(ACME):
        clock.advance(1e9)
        assert require_tenant() is ACME
    with leased(clock):
        clock.advance(59.9)
        assert (current_tenant(), require_tenant()) == (ACME, ACME)
        clock.advance(0.1)
        for ask in (current_tenant, require_tenant):
            with pytest.raises(TenantSuspendedError, match="renew_lease"):
                ask()
    assert current_tenant() is None


@pytest.mark.parametrize(
    ("tenant", "lease"), [(ACME, 0), (ACME, -1), (ACME, float("nan")), (None, 1)]
)
def test_a_lease_is_of_a_tenant_and_above_zero(tenant, lease):
    """Anything else is a mistake of who wrote it."""
    with pytest.raises(ConfigurationError, match="lease="):
        bind_tenant(tenant, lease=lease)


def test_the_database_is_told_of_no_tenant_whose_lease_is_over(clock):
    """Neither at a BEGIN nor at a statement of a transaction that is open."""
    binding = TransactionBinding()
    with leased(clock):
        assert "'acme'" in binding.begin_message("BEGIN")
        binding.begun()
        binding.check()
        clock.advance(60)
        for use in (binding.check, lambda: binding.begin_message("BEGIN")):
            with pytest.raises(TenantSuspendedError):
                use()


def test_what_a_connection_has_done_is_noted_when_the_lease_is_over(clock):
    """Whoever tidies up after it has to know whose transaction that is."""
    binding = TransactionBinding()
    with leased(clock):
        binding.begin_message("BEGIN")
        clock.advance(60)
        binding.begun()
    with bind_tenant(ACME):
        binding.check()
        assert binding.settled


def test_a_nested_bind_of_the_same_tenant_keeps_the_lease(clock):
    """Binding what is bound already is no way around a suspension."""
    with leased(clock), bind_tenant(Tenant(id="acme", tier="growth")):
        assert require_tenant().tier == "growth"
        clock.advance(60)
        assert not held()


def test_a_nested_bind_with_its_own_word_has_its_own_lease(clock):
    """Of another tenant, of none, or with a new lease; outside it is as it was."""
    with leased(clock):
        clock.advance(60)
        with bind_tenant(GLOBEX):
            assert require_tenant() is GLOBEX
        with unbind_tenant():
            assert current_tenant() is None
        with leased(clock):
            assert held()
        assert not held()


@pytest.mark.parametrize("lasts", [True, False])
def test_what_is_carried_has_the_lease_with_it(clock, lasts):
    """Control: while the lease lasts, each of them runs as the tenant."""
    seen: list[bool] = []
    with leased(clock), TenantExecutor(ThreadPoolExecutor()) as pool:
        callback = carry_tenant(held)
        thread = TenantThread(target=lambda: seen.append(held()))
        clock.advance(0 if lasts else 60)
        seen.append(pool.submit(held).result())
    thread.start()
    thread.join()

    assert [*seen, callback()] == [lasts] * 3


def test_another_process_gets_what_is_left_of_the_lease(clock):
    """It has another clock, so the seconds are carried, not the moment."""
    inner = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    with TenantExecutor(inner) as pool, leased(clock, 600):
        before = pool.submit(held).result()
        clock.advance(600)
        after = pool.submit(held).result()

    assert (before, after) == (True, False)


async def test_a_renewal_renews_it_for_all_who_share_it(clock):
    """For children that were started before, and for nobody else's lease."""
    go = asyncio.Event()

    async def child() -> bool:
        await go.wait()
        return held()

    with leased(clock):
        stranger = asyncio.create_task(child())
    with leased(clock):
        own = asyncio.create_task(child())
        clock.advance(60)
        assert await renew_lease(MemoryTenantDirectory([ACME])) is ACME
        assert held()
    go.set()

    assert await asyncio.gather(own, stranger) == [True, False]


@pytest.mark.parametrize(
    ("directory", "error"),
    [
        (MemoryTenantDirectory([SUSPENDED]), TenantSuspendedError),
        (MemoryTenantDirectory(), TenantUnresolvedError),
    ],
)
async def test_a_refused_renewal_ends_the_lease_at_once(clock, directory, error):
    """What the directory says now counts for more than what it said before."""
    with leased(clock):
        with pytest.raises(error):
            await renew_lease(directory)
        assert not held()
        await renew_lease(MemoryTenantDirectory([ACME]))
        assert held()


class Slow:
    """A directory that takes its time, or does not answer."""

    def __init__(self, clock, *, down=False) -> None:
        self.clock, self.down = clock, down

    async def get(self, tenant_id):
        """Answer after 10 seconds."""
        self.clock.advance(10)
        if self.down:
            raise BackendUnavailableError("away")
        return ACME


async def test_a_directory_that_is_down_neither_renews_nor_ends(clock):
    """The lease runs on to its end."""
    with leased(clock):
        with pytest.raises(BackendUnavailableError):
            await renew_lease(Slow(clock, down=True))
        assert held()
        clock.advance(50)
        assert not held()


async def test_a_lease_begins_anew_with_the_question(clock):
    """The answer is no younger than that."""
    with leased(clock):
        await renew_lease(Slow(clock))
        clock.advance(49.9)
        assert held()
        clock.advance(0.1)
        assert not held()


async def test_without_a_lease_the_directory_is_asked_all_the_same():
    """Without a tenant there is nothing to ask."""
    with bind_tenant(ACME):
        assert await renew_lease(MemoryTenantDirectory([ACME])) is ACME
        with pytest.raises(TenantSuspendedError):
            await renew_lease(MemoryTenantDirectory([SUSPENDED]))
    with pytest.raises(NoCurrentTenantError):
        await renew_lease(MemoryTenantDirectory([ACME]))


async def test_a_long_job_has_a_lease():
    """Opened with one, a job has to ask again."""
    envelopes, directory = TenantEnvelopes(b"s" * 32), MemoryTenantDirectory([ACME])
    with bind_tenant(ACME):
        token = envelopes.seal(audience="jobs")
    async with envelopes.open_served(token, audience="jobs", directory=directory, lease=3600):
        directory.put(SUSPENDED)
        with pytest.raises(TenantSuspendedError):
            await renew_lease(directory)
        assert not held()
