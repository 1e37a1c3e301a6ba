"""
Cached secrets: for how long they are believed, and what happens while the store is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

pytest.importorskip("cryptography")

from twh_platform import subscribe
from twh_platform.errors import (
    BackendUnavailableError,
    ConfigurationError,
    SecretNotFoundError,
    SecretRevokedError,
)
from twh_platform.kms.secrets import (
    AsyncCachedSecrets,
    CachedSecrets,
    MemorySecretStore,
    Secret,
    SecretRead,
    Stage,
)
from twh_platform.tenancy import Tenant, bind_tenant
from twh_platform.testing import ManualClock

ACME = Tenant(id="acme")


class Counting(MemorySecretStore):
    """A store that counts readings, can wait in one, and can be away."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(now=clock.utc)
        self.reads = 0
        self.away = False
        self.gate: threading.Event | None = None
        self.entered = threading.Event()

    def get(self, name, **asked):
        """Read, as it is told to."""
        self.reads += 1
        found = None if self.away else super().get(name, **asked)
        self.entered.set()
        if self.gate is not None:
            assert self.gate.wait(10)
        if found is None:
            raise BackendUnavailableError("away")
        return found


class World:
    """A store, its cache, and the time of both."""

    def __init__(self, **options: float) -> None:
        self.clock = ManualClock()
        self.store = Counting(self.clock)
        self.cached = CachedSecrets(
            self.store, clock=self.clock.monotonic, now=self.clock.utc, **options
        )

    def text(self) -> str:
        """The current value."""
        return self.cached.get("key").secret.text()


@pytest.fixture
def world():
    """A store with one secret, in the scope of its tenant."""
    with bind_tenant(ACME):
        made = World()
        made.store.put("key", Secret("one"))
        yield made


def test_a_value_is_read_once_per_age(world):
    """For 30 seconds it is believed, and then read anew."""
    for _ in range(3):
        assert world.text() == "one"
    world.store.put("key", Secret("two"))
    world.clock.advance(29)
    assert (world.text(), world.store.reads) == ("one", 1)
    world.clock.advance(1)

    assert (world.text(), world.store.reads) == ("two", 2)


def test_a_revoked_value_goes_within_the_age(world):
    """Also where nobody told this process; and it does not come back."""
    assert world.text() == "one"
    world.store.revoke("key", 1)
    world.clock.advance(30)

    with pytest.raises(SecretRevokedError):
        world.text()
    world.store.away = True
    with pytest.raises(BackendUnavailableError):
        world.text()


def test_what_is_forgotten_is_read_at_once(world):
    """As a listener does when the store tells it; of this tenant's this secret only."""
    world.text()
    world.store.put("key", Secret("two"))
    world.cached.forget("other")
    world.cached.forget("key", tenant_id="globex")
    assert world.text() == "one"

    world.cached.forget("key", tenant_id="acme")

    assert world.text() == "two"


@pytest.mark.parametrize("options", [{}, {"tenant_id": "acme"}])
def test_everything_can_be_forgotten(options, world):
    """As after a listener has lost its connection."""
    world.text()
    world.store.revoke("key", 1)
    world.cached.clear(tenant_id="globex")
    assert world.text() == "one"
    world.cached.clear(**options)

    with pytest.raises(SecretRevokedError):
        world.text()


def test_changes_go_through_and_are_seen_at_once(world):
    """The process that rotates, rolls back or revokes needs no notice of it."""
    world.text()
    world.cached.put("key", Secret("two"))
    assert world.text() == "two"
    world.cached.put("key", Secret("three"), stage=Stage.PENDING)
    world.cached.promote("key")
    assert world.text() == "three"
    world.cached.roll_back("key")
    assert world.text() == "two"
    world.cached.revoke("key", 2)

    with pytest.raises(SecretRevokedError):
        world.text()


def test_while_the_store_is_away_the_last_value_serves_for_its_time(world):
    """To 900 seconds after it was read, and then the error is told."""
    world.text()
    world.store.away = True
    world.clock.advance(899)
    assert world.text() == "one"
    world.clock.advance(1)

    with pytest.raises(BackendUnavailableError):
        world.text()


def test_without_a_stale_time_it_refuses_at_once():
    """`stale_if_error=0` is for secrets that must not outlive a doubt."""
    with bind_tenant(ACME):
        world = World(stale_if_error=0)
        world.store.put("key", Secret("one"))
        world.text()
        world.store.away = True
        assert world.text() == "one"
        world.clock.advance(30)

        with pytest.raises(BackendUnavailableError):
            world.text()


def test_a_store_that_is_away_is_not_asked_all_the_time(world):
    """Once a second, while stale values serve; then it is back at once."""
    world.text()
    world.store.away = True
    world.clock.advance(31)
    for _ in range(100):
        assert world.text() == "one"
    assert world.store.reads == 2
    world.store.away = False
    world.store.put("key", Secret("two"))
    world.clock.advance(1)

    assert (world.text(), world.store.reads) == ("two", 3)


def test_expiry_is_kept_to_the_moment(world):
    """A cached value is not given beyond its own time, with the store there or away."""
    world.store.put("key", Secret("two"), expires_at=world.clock.utc() + timedelta(seconds=10))
    assert world.text() == "two"
    world.clock.advance(10)
    with pytest.raises(SecretRevokedError):
        world.text()
    world.store.away = True

    with pytest.raises(BackendUnavailableError):
        world.text()


def test_nothing_that_failed_is_remembered(world):
    """Neither that there is no such secret, nor that the store was away."""
    with pytest.raises(SecretNotFoundError):
        world.cached.get("new")
    world.store.put("new", Secret("x"))
    assert world.cached.get("new").secret == Secret("x")
    world.store.away = True
    with pytest.raises(BackendUnavailableError):
        world.cached.get("newer")
    world.store.away = False
    world.store.put("newer", Secret("y"))

    assert world.cached.get("newer").secret == Secret("y")


def test_tenants_do_not_share_what_is_cached(world):
    """The same name is read for each of them."""
    world.text()
    with bind_tenant(Tenant(id="globex")), pytest.raises(SecretNotFoundError):
        world.text()


def test_its_capacity_holds(world):
    """The secret that was read longest ago makes room."""
    small = CachedSecrets(world.store, capacity=10)
    for number in range(50):
        world.store.put(f"n{number}", Secret("x"))
        small.get(f"n{number}")

    assert len(small._entries) == 10
    assert small.warm("n49") is not None
    assert small.warm("n0") is None


def test_all_that_is_accepted_is_cached_and_expires_one_by_one(world):
    """During the overlap both values are given, afterwards the new one alone."""
    world.store.put("key", Secret("two"), overlap=20)
    both = [one.secret.text() for one in world.cached.accepted("key")]
    reads = world.store.reads
    world.cached.accepted("key")
    assert world.store.reads == reads
    world.clock.advance(20)

    assert both == ["two", "one"]
    assert [one.secret.text() for one in world.cached.accepted("key")] == ["two"]


def test_threads_that_miss_at_once_share_one_reading(world):
    """Sixteen threads, one question to the store."""
    world.store.gate = threading.Event()

    def read(_: int) -> str:
        with bind_tenant(ACME):
            return world.text()

    with ThreadPoolExecutor(16) as pool:
        reading = [pool.submit(read, one) for one in range(16)]
        assert world.store.entered.wait(10)
        time.sleep(0.1)
        world.store.gate.set()
        assert {one.result(10) for one in reading} == {"one"}

    assert world.store.reads == 1


def test_what_is_forgotten_while_it_is_read_is_read_again(world):
    """A value from before the notice reaches nobody after it."""
    world.store.gate = threading.Event()

    def read() -> str:
        with bind_tenant(ACME):
            return world.text()

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        assert world.store.entered.wait(10)
        MemorySecretStore.put(world.store, "key", Secret("two"))
        world.cached.forget("key")
        world.store.gate.set()
        assert reading.result(10) == "two"

    assert world.text() == "two"


def test_a_fork_in_the_middle_of_a_reading_does_not_hang_the_child(world):
    """What was in flight in the parent is nobody's in the child."""
    world.store.gate = threading.Event()

    def read() -> str:
        with bind_tenant(ACME):
            return world.text()

    with ThreadPoolExecutor(1) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork() beside threads
        reading = pool.submit(read)
        assert world.store.entered.wait(10)
        child = os.fork()
        if child == 0:
            world.store.gate = None
            os._exit(0 if world.text() == "one" else 1)
        world.store.gate.set()

        assert os.waitpid(child, 0)[1] == 0
        assert reading.result(10) == "one"


def test_a_fork_in_the_middle_of_a_tasks_reading_does_not_hang_the_child(world):
    """Neither its threads nor the reading that others were to share are the child's."""
    world.store.gate = threading.Event()
    secrets = AsyncCachedSecrets(world.cached, seconds=20)

    async def read() -> str:
        with bind_tenant(ACME):
            return (await secrets.get("key")).secret.text()

    with ThreadPoolExecutor(1) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork() beside threads
        reading = pool.submit(lambda: asyncio.run(read()))
        assert world.store.entered.wait(10)
        child = os.fork()
        if child == 0:
            world.store.gate = None
            with contextlib.suppress(Exception):
                os._exit(0 if asyncio.run(read()) == "one" else 1)
            os._exit(2)
        world.store.gate.set()

        assert os.waitpid(child, 0)[1] == 0
        assert reading.result(10) == "one"
    asyncio.run(secrets.aclose())


def test_reads_from_memory_are_announced(world):
    """Every access is told, and where the value came from."""
    seen: list[SecretRead] = []
    end = subscribe(SecretRead, seen.append)
    world.text()
    world.text()
    world.store.away = True
    world.clock.advance(31)
    world.text()
    end()

    assert [(one.source, one.version, one.code) for one in seen] == [
        ("store", 1, None),
        ("cache", 1, None),
        ("stale", 1, None),
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"max_age": 0},
        {"stale_if_error": -1},
        {"capacity": 0},
        {"retry_after": -1},
        {"max_age": float("nan")},
    ],
)
def test_numbers_that_make_no_sense_are_refused(options):
    """At the start of the service."""
    with pytest.raises(ConfigurationError):
        World(**options)


async def test_a_thousand_cold_tasks_share_one_reading(world):
    """And each gets the value."""
    async with AsyncCachedSecrets(world.cached) as secrets:
        found = await asyncio.gather(*[secrets.get("key") for _ in range(1000)])

    assert {one.secret.text() for one in found} == {"one"}
    assert world.store.reads == 1


async def test_the_first_task_being_cancelled_does_not_disturb_the_others(world):
    """The reading belongs to all who wait for it."""
    world.store.gate = threading.Event()
    async with AsyncCachedSecrets(world.cached) as secrets:
        tasks = [asyncio.create_task(secrets.get("key")) for _ in range(10)]
        await asyncio.to_thread(world.store.entered.wait, 10)
        tasks[0].cancel()
        world.store.gate.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)

    assert isinstance(found[0], asyncio.CancelledError)
    assert {one.secret.text() for one in found[1:]} == {"one"}
    assert world.store.reads == 1


async def test_a_task_waits_for_its_time_and_no_longer(world):
    """A store that hangs costs a task the seconds that it was given."""
    world.store.gate = threading.Event()
    async with AsyncCachedSecrets(world.cached, seconds=0.1) as secrets:
        with pytest.raises(BackendUnavailableError) as caught:
            await secrets.get("key")
        world.store.gate.set()

    assert caught.value.code == "secret_store_timeout"


async def test_a_warm_value_needs_no_thread(world):
    """It is there at once, also when all threads hang."""
    async with AsyncCachedSecrets(world.cached, threads=1) as secrets:
        await secrets.get("key")
        await secrets.accepted("key")
        world.store.gate = threading.Event()
        hanging = asyncio.create_task(secrets.accepted("other"))
        found = await asyncio.wait_for(secrets.get("key"), 5)
        world.store.gate.set()
        await hanging

    assert found.secret.text() == "one"
