"""
Attacks 23 to 28: what is kept, for how long, and how much of it.
"""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from tests.attacks.kms._house import ACME, GLOBEX, ROW, House, crafted, opened_by
from twh_platform import Tenant, bind_tenant
from twh_platform.errors import KeyServiceUnavailableError
from twh_platform.kms import (
    CallBudget,
    DataKeyState,
    GuardedKeyService,
    TenantCipher,
    parse,
)
from twh_platform.kms._clock import elapsed
from twh_platform.testing import ManualClock

CAPACITY = 50


class Naive:
    """
    A cache of opened data keys.

    Args:
        load: Asks for one.

        clock: By which their age is measured.

        max_age: Seconds after which one is asked for again; None for never.
    """

    def __init__(self, load, clock=time.monotonic, max_age=None):
        self._load, self._clock, self._max_age = load, clock, max_age
        self.kept = {}

    def get(self, name):
        """A data key."""
        kept = self.kept.get(name)
        if kept is not None and (self._max_age is None or self._clock() < kept[1]):
            return kept[0]
        found = self._load(name)
        if found is not None:
            self.kept[name] = found, self._clock() + (self._max_age or 0)
        return found


ENDS = {
    "disabled": lambda house: house.service.disable("acme"),
    "destroyed": lambda house: house.service.destroy("acme"),
    "its data keys destroyed": lambda house: house.store.destroy("acme"),
}


@pytest.mark.parametrize("notice", [False, True], ids=["after its age", "after a notice"])
@pytest.mark.parametrize("end", ENDS)
def test_23_opens_after_the_end_of_a_key(end, notice, twh_attack):
    """A key that has ended opens nothing: at once where a notice comes, else after 300 s."""
    form = f"{end}, {'after a notice' if notice else 'after its age'}"
    attack = twh_attack(number=23, title="opens with a key that has ended", form=form)
    keys = {"acme": b"key"}
    naive = Naive(keys.get)
    naive.get("acme")
    del keys["acme"]
    attack.control(sum(naive.get("acme") is not None for _ in range(60)))

    house, opened = House(), 0
    sealed = house.seal()
    ENDS[end](house)
    if notice:
        house.cipher.evict("acme")
    for second in range(10, 1000, 10):
        house.clock.advance(10)
        opened += house.opens(sealed) if notice or second >= house.cipher.policy.max_age else 0
    attack.ours(opened)


def test_23_opens_until_the_cache_ends(twh_attack):
    """Where no notice arrives, a key goes on to open while it is fresh in the cache."""
    attack = twh_attack(
        number=23, title="opens with a key that has ended, and nobody was told", kind="residual"
    )
    house = House()
    sealed = house.seal()
    house.service.disable("acme")
    opened_at = []
    for _ in range(100):
        house.clock.advance(10)
        if house.opens(sealed):
            opened_at.append(house.clock.monotonic())

    attack.ours(opened_at)
    assert max(opened_at) < house.cipher.policy.max_age


class Remote:
    """A key service for Tink; it can be down."""

    down, asked = False, 0

    def encrypt(self, plaintext, associated_data):
        """Wrap, as if."""
        return self.decrypt(plaintext, associated_data)

    def decrypt(self, ciphertext, associated_data):
        """Unwrap, as if."""
        self.asked += 1
        if self.down:
            raise TimeoutError
        return ciphertext


def test_24_stops_the_key_service(tink, twh_attack):
    """With a warm cache an outage of 15 minutes is not noticed."""
    attack = twh_attack(number=24, title="stops the service by stopping its key service")
    remote = Remote()
    naive = tink.aead.KmsEnvelopeAead(tink.aead.aead_key_templates.AES256_GCM, remote)
    sealed, failed = naive.encrypt(b"x", b""), 0
    remote.down = True
    for _ in range(10):
        try:
            naive.decrypt(sealed, b"")
        except TimeoutError:
            failed += 1
    attack.control(failed)

    house, refused = House(), 0
    sealed = house.seal()
    house.service.down = True
    while house.clock.monotonic() < house.cipher.policy.stale_if_error - 20:
        house.clock.advance(10)
        refused += 1 - house.opens(sealed)
        refused += 1 - house.opens(house.seal())
    attack.ours(refused)


def test_24_keeps_a_key_alive_by_an_outage(twh_attack):
    """An outage that does not end ends what is cached, 900 s after it was last asked for."""
    attack = twh_attack(number=24, title="keeps a key alive by keeping its service away")
    naive = Naive({"acme": b"key"}.get)
    attack.control(sum(naive.get("acme") == b"key" for _ in range(10)))

    house, opened = House(), 0
    sealed = house.seal()
    house.service.disable("acme")
    house.service.down = True
    for _ in range(300):
        house.clock.advance(10)
        found = house.opens(sealed)
        opened += found if house.clock.monotonic() >= 900 else 0
    attack.ours(opened)
    with pytest.raises(KeyServiceUnavailableError):
        house.seal()


def test_25_floods_the_cache(twh_attack):
    """The cache holds no more than its capacity, however many tenants come."""
    attack = twh_attack(number=25, title="fills the memory with data keys of many tenants")
    naive = Naive(lambda name: name)
    for number in range(300):
        naive.get(number)
    attack.control(len(naive.kept) - CAPACITY)

    house = House({"capacity": CAPACITY})
    for number in range(300):
        house.seal(tenant=Tenant(id=f"t{number}"))
    held = house.cipher.stats
    attack.ours(max(held.entries, held.tenants) - CAPACITY)


def test_25_pushes_out_the_keys_of_others(twh_attack):
    """A tenant with many data keys has its part of the cache, and no more."""
    attack = twh_attack(number=25, title="pushes the keys of others out of the cache")
    asked = []
    naive = Naive(lambda name: asked.append(name) or name)
    for name in ["globex", *range(CAPACITY), "globex"]:
        naive.get(name)
        while len(naive.kept) > CAPACITY:
            del naive.kept[next(iter(naive.kept))]
    attack.control(asked.count("globex") - 1)

    house = House({"capacity": CAPACITY, "per_tenant": 10})
    theirs, mine = [sealed_long_ago(house, tenant, CAPACITY) for tenant in (GLOBEX, ACME)]
    assert house.opens(theirs[0], tenant=GLOBEX)
    before = house.service.per_tenant["globex"]
    assert sum(house.opens(one) for one in mine) == CAPACITY
    assert house.opens(theirs[0], tenant=GLOBEX)
    attack.ours(house.service.per_tenant["globex"] - before)


def sealed_long_ago(house, tenant, count):
    """So many values of a tenant, each by a data key that is for opening by now."""
    sealed = []
    for _ in range(count):
        sealed.append(house.seal(tenant=tenant))
        record = house.key_of(tenant).record
        house.store.replace(replace(record, state=DataKeyState.DECRYPT), revision=record.revision)
        house.cipher.evict(tenant.id)
    return sealed


@pytest.mark.parametrize("change", [-366 * 86_400, -1], ids=["a year", "a second"])
def test_26_sets_the_clock_back(change, twh_attack):
    """Ages are measured by a clock that nobody sets."""
    attack = twh_attack(
        number=26, title="keeps a key alive by setting the clock back", form=f"{change} s"
    )
    wall, keys = ManualClock(), {"acme": b"key"}
    naive = Naive(keys.get, wall.now, max_age=300)
    naive.get("acme")
    del keys["acme"]
    wall.advance(299)
    wall._start += change
    wall.advance(1)
    attack.control(naive.get("acme") == b"key")

    back = ManualClock()
    house = House(now=back.utc)
    sealed = house.seal()
    house.service.disable("acme")
    house.clock.advance(301)
    back._start += change
    attack.ours(house.opens(sealed))


def test_27_sleeps_for_a_night(twh_attack):
    """The time for which a machine is suspended counts, on Linux."""
    attack = twh_attack(number=27, title="keeps a key alive by suspending the machine")
    keys, awake, always = {"acme": b"key"}, ManualClock(), ManualClock()
    naive = Naive(keys.get, awake.monotonic, max_age=300)
    house = House(clock=always.monotonic)
    sealed, _ = house.seal(), naive.get("acme")
    keys.clear()
    house.service.disable("acme")
    awake.advance(1)  # CLOCK_MONOTONIC stands still while the machine sleeps
    always.advance(8 * 3600)

    attack.control(naive.get("acme") == b"key")
    attack.ours(house.opens(sealed))
    if hasattr(time, "CLOCK_BOOTTIME"):
        assert abs(elapsed() - time.clock_gettime(time.CLOCK_BOOTTIME)) < 60
        assert elapsed.args == (time.CLOCK_BOOTTIME,)


def test_28_asks_for_an_unknown_key(twh_attack):
    """That there is no such data key is remembered for a moment."""
    attack = twh_attack(number=28, title="has an unknown data key looked for again and again")
    asked = []
    naive = Naive(asked.append)
    for _ in range(50):
        naive.get("unknown")
    attack.control(len(asked) - 1)

    house = House()
    sealed = house.seal()
    unknown = sealed[:3] + bytes(16) + sealed[19:]
    loads, calls = house.cipher.stats.loads, house.service.asked
    assert not any(house.opens(unknown) for _ in range(50))
    attack.ours(house.cipher.stats.loads - loads - 1 + house.service.asked - calls)


def test_28_invents_ids(twh_attack):
    """Ids that somebody invents reach no key service, and fill nobody's memory."""
    attack = twh_attack(number=28, title="fills the memory, or the key service, by invented ids")
    house = House({"per_tenant": 20})
    sealed, refusals = house.seal(), {}
    asked, naive = [], Naive(lambda name: refusals.setdefault(name, "refused"))
    for number in range(200):
        naive.get(number)
    attack.control(len(refusals) - 20)

    for number in range(200):
        assert not house.opens(sealed[:3] + number.to_bytes(16) + sealed[19:])
    asked = house.service.asked
    held = house.cipher.data_keys.cache.tenants["acme"]
    attack.ours(max(0, len(held.refusals) - 20) + asked - 1)
    assert house.opens(sealed)
    assert parse(sealed).data_key_id in held.entries


def test_28_invents_wrapped_keys(tink, twh_attack):
    """A tenant causes as many calls of the key service as its budget has, and no more."""
    attack = twh_attack(number=28, title="has the key service asked by wrapped keys it invents")
    remote = Remote()
    naive = tink.aead.KmsEnvelopeAead(tink.aead.aead_key_templates.AES256_GCM, remote)
    message = naive.encrypt(b"x", b"")
    for _ in range(200):
        naive.decrypt(message, b"")
    attack.control(remote.asked - 50)

    house = House()
    budget = CallBudget(rate=1, burst=50)
    guarded = GuardedKeyService(house.service, budget=budget, clock=house.clock.monotonic)
    with bind_tenant(ACME), TenantCipher(guarded, house.store) as cipher:
        for number in range(200):
            opened_by(lambda number=number: cipher.open(crafted(house, number), ROW))
    attack.ours(max(0, house.service.calls["unwrap"] - 50))
    assert house.service.calls["unwrap"] > 40


def test_28_has_the_store_searched(twh_attack):
    """Each id that was never asked for costs the store one look-up by its primary key."""
    attack = twh_attack(
        number=28, title="has the store asked once for each id that it invents", kind="residual"
    )
    house = House()
    sealed = house.seal(tenant=ACME)
    loads = house.cipher.stats.loads
    for number in range(200):
        house.opens(sealed[:3] + number.to_bytes(16) + sealed[19:])

    attack.ours(house.cipher.stats.loads - loads)
