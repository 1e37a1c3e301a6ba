"""
How long an open data key is believed, how many there are, and what a refusal does.
"""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

pytest.importorskip("cryptography")

from tests.support.memory_keys import SwitchedKeyService
from twh_platform.errors import (
    ConfigurationError,
    DecryptionError,
    KeyDestroyedError,
    KeyDisabledError,
    KeyServiceUnavailableError,
)
from twh_platform.kms import CachePolicy, DataKeyState, MemoryDataKeyStore, TenantCipher
from twh_platform.kms._data_keys import tombstone_of
from twh_platform.tenancy import Tenant, bind_tenant
from twh_platform.testing import ManualClock


class House:
    """A cipher with a clock, a service and a store that a test can reach."""

    def __init__(self, policy: CachePolicy | None = None) -> None:
        self.clock = ManualClock()
        self.service = SwitchedKeyService()
        self.store = MemoryDataKeyStore(now=self.clock.utc)
        self.cipher = TenantCipher(
            self.service,
            self.store,
            policy=policy,
            seconds=5,
            clock=self.clock.monotonic,
            now=self.clock.utc,
            chance=lambda: 0.0,
        )

    def sealed(self, tenant_id: str = "acme") -> bytes:
        """Something sealed, and with it a warm cache."""
        with bind_tenant(Tenant(id=tenant_id)):
            return self.cipher.seal(b"x")

    def opened(self, sealed: bytes, tenant_id: str = "acme") -> bytes:
        """What it opens to."""
        with bind_tenant(Tenant(id=tenant_id)):
            return self.cipher.open(sealed)

    def refreshed(self, times: int) -> None:
        """Wait until the service was asked so often in the background, and all is settled."""
        held = self.cipher.data_keys.cache.tenants["acme"]
        until = time.monotonic() + 10
        while self.service.calls["unwrap"] < times or held.loads:
            assert time.monotonic() < until
            time.sleep(0.005)


@pytest.fixture
def house() -> House:
    """A cipher with the usual policy: 300 s, 900 s while unavailable."""
    return House()


def test_a_warm_cache_asks_nobody(house):
    """What was sealed a moment ago opens without store and key service."""
    sealed = house.sealed()
    for _ in range(20):
        house.opened(sealed)

    assert house.service.calls == {"generate": 1}


def test_near_its_end_a_data_key_is_asked_for_in_the_background(house):
    """After 240 s a call is served at once, and one refresh goes on beside it."""
    sealed = house.sealed()
    house.clock.advance(241)
    house.opened(sealed)
    house.refreshed(1)
    house.clock.advance(200)

    assert house.opened(sealed) == b"x"
    assert house.cipher.stats.loads == 1
    assert house.cipher.stats.refreshes == 1


def test_beyond_its_age_a_data_key_is_asked_for_before_it_is_used(house):
    """An entry that nobody used for 301 s is validated first."""
    sealed = house.sealed()
    house.clock.advance(301)
    house.service.disable("acme")

    with pytest.raises(KeyDisabledError):
        house.opened(sealed)


def test_a_disabled_key_stops_within_the_cache_age(house):
    """Used all the time, a data key works no longer than its age after it was disabled."""
    sealed = house.sealed()
    house.service.disable("acme")
    refused_at = None
    for _ in range(40):
        house.clock.advance(10)
        try:
            house.opened(sealed)
        except KeyDisabledError:
            refused_at = house.clock.monotonic()
            break

    assert refused_at is not None
    assert refused_at <= 300


def test_a_destroyed_data_key_opens_nothing_after_an_eviction(house):
    """With a notice it ends at once, not after the age of the cache."""
    sealed = house.sealed()
    house.store.destroy("acme")
    house.cipher.evict("acme")

    with pytest.raises(KeyDestroyedError):
        house.opened(sealed)


def test_an_outage_is_survived_for_fifteen_minutes(house):
    """With a warm cache both directions work until 900 s, and then refuse clearly."""
    sealed = house.sealed()
    house.service.down = True
    for second in range(5, 900, 5):
        house.clock.advance(5)
        assert house.opened(sealed) == b"x", second
        assert house.sealed()
    house.clock.advance(5)

    with pytest.raises(KeyServiceUnavailableError):
        house.opened(sealed)
    with pytest.raises(KeyServiceUnavailableError):
        house.sealed()


def test_an_idle_data_key_is_served_while_the_service_is_down(house):
    """One that was not used for ten minutes is asked for in vain, and then serves."""
    sealed = house.sealed()
    house.clock.advance(600)
    house.service.down = True

    assert house.opened(sealed) == b"x"
    assert house.cipher.stats.stale == 1


def test_during_an_outage_callers_do_not_wait_each_time(house):
    """One caller in two seconds has the service asked, in the background."""
    sealed = house.sealed()
    house.clock.advance(600)
    house.service.down = True
    for _ in range(50):
        house.opened(sealed)

    assert house.service.calls["unwrap"] == 1


def test_after_an_outage_the_data_key_is_validated(house):
    """The service is back: within moments the entry is as good as new."""
    sealed = house.sealed()
    house.clock.advance(600)
    house.service.down = True
    house.opened(sealed)
    house.service.down = False
    house.clock.advance(3)
    house.opened(sealed)
    house.refreshed(2)
    house.clock.advance(800)

    assert house.opened(sealed) == b"x"


def test_a_cold_cache_refuses_while_the_service_is_down(house):
    """What was never opened here cannot be opened in an outage."""
    sealed = house.sealed()
    house.cipher.clear()
    house.service.down = True

    with pytest.raises(KeyServiceUnavailableError):
        house.opened(sealed)


def test_an_unknown_data_key_is_looked_up_once_in_a_while(house):
    """Asked for again and again, it costs the store one look-up in five seconds."""
    sealed = house.sealed()
    unknown = sealed[:3] + bytes(16) + sealed[19:]
    before = house.cipher.stats.loads
    for _ in range(50):
        with pytest.raises(DecryptionError):
            house.opened(unknown)
    during = house.cipher.stats.loads
    house.clock.advance(6)
    with pytest.raises(DecryptionError):
        house.opened(unknown)

    assert during == before + 1
    assert house.cipher.stats.loads == during + 1
    assert house.service.calls["unwrap"] == 0


def test_refusals_that_are_remembered_gather_no_tracebacks(house):
    """The same refusal, raised a hundred times, is a hundred small errors."""
    sealed = house.sealed()
    unknown = sealed[:3] + bytes(16) + sealed[19:]
    depths = []
    for _ in range(100):
        with pytest.raises(DecryptionError) as refused:
            house.opened(unknown)
        depths.append(len(refused.traceback))

    assert max(depths) == max(depths[:2])


def test_time_that_goes_back_makes_nothing_live_longer():
    """An entry from the future is asked for anew; the wall clock is not asked at all."""
    house = House()
    now = [1000.0]
    house.cipher.data_keys.cache.clock = house.cipher.data_keys._clock = lambda: now[0]
    sealed = house.sealed()
    now[0] = 10.0
    house.service.disable("acme")

    with pytest.raises(KeyDisabledError):
        house.opened(sealed)


def test_one_tenant_cannot_have_more_than_its_part():
    """A hundred data keys of one tenant leave room as is, and its sealing key stays."""
    house = House(CachePolicy(per_tenant=10))
    first = house.sealed()
    sealed = []
    for _ in range(30):
        (record,) = [one for one in house.store.page("acme") if one.state is DataKeyState.ACTIVE]
        house.store.replace(replace(record, state=DataKeyState.DECRYPT), revision=record.revision)
        house.cipher.evict("acme")
        sealed.append(house.sealed())
    for one in [first, *sealed]:
        house.opened(one)

    assert house.cipher.stats.entries <= 11
    made = house.service.calls["generate"]
    house.sealed()
    assert house.service.calls["generate"] == made


def test_a_flood_of_tenants_keeps_the_capacity():
    """However many tenants come, the cache holds no more than it may."""
    house = House(CachePolicy(capacity=50))
    sealed = {str(number): house.sealed(str(number)) for number in range(300)}

    assert house.cipher.stats.entries == 50
    assert house.cipher.stats.tenants == 50
    assert all(house.opened(one, tenant) == b"x" for tenant, one in sealed.items())


def test_a_flood_of_invented_ids_keeps_the_capacity():
    """Refusals are remembered within bounds, and push out no data key."""
    house = House(CachePolicy(per_tenant=20))
    sealed = house.sealed()
    for number in range(200):
        with pytest.raises(DecryptionError):
            house.opened(sealed[:3] + number.to_bytes(16) + sealed[19:])
    held = house.cipher.data_keys.cache.tenants["acme"]
    asked = house.service.asked

    assert len(held.refusals) == 20
    assert house.opened(sealed) == b"x"
    assert house.service.asked == asked


def test_a_data_key_that_was_put_in_its_place_is_refused(house):
    """Another data key under the same id, though wrapped for it, is not taken."""
    sealed = house.sealed()
    (record,) = house.store.page("acme")
    (wrapped,) = house.service.wrap([(bytes(32), record.context)])
    house.store.replace(replace(record, wrapped=wrapped), revision=1)
    house.clock.advance(301)

    with pytest.raises(DecryptionError):
        house.opened(sealed)


def test_a_single_destroyed_data_key_is_refused_and_another_is_made(house):
    """The tenant goes on with a new data key; what the old one sealed stays closed."""
    sealed = house.sealed()
    (record,) = house.store.page("acme")
    house.store.replace(tombstone_of(record), revision=1)
    house.cipher.evict("acme")

    with pytest.raises(KeyDestroyedError) as refused:
        house.opened(sealed)
    assert refused.value.code == "data_key_destroyed"
    assert house.opened(house.sealed()) == b"x"


def test_a_closed_cipher_refuses(house):
    """After `close` nothing is sealed or opened."""
    sealed = house.sealed()
    house.cipher.close()

    with pytest.raises(ConfigurationError) as refused:
        house.opened(sealed)
    assert refused.value.code == "cipher_closed"


@pytest.mark.parametrize(
    "fault", [{"max_age": 0}, {"early": 1.5}, {"stale_if_error": 10}, {"capacity": -1}]
)
def test_a_policy_that_makes_no_sense_is_refused(fault):
    """What cannot be meant is said when the policy is made."""
    with pytest.raises(ConfigurationError) as refused:
        CachePolicy(**fault)
    assert refused.value.code == "cache_policy_invalid"
