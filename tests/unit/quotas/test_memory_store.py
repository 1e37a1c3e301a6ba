"""
The store in memory: what it forgets, and what it never does.
"""

from __future__ import annotations

import time

import pytest

from twh_platform.errors import BackendUnavailableError, ConfigurationError
from twh_platform.quotas import Charge, MemoryQuotaStore, Settlement, Take
from twh_platform.testing import ManualClock

S = 1_000_000
NOW = 1_700_000_000 * S
FAR = 2**53 - 1
RATE, WINDOW, LEVEL, SLOTS = (6 * S, 1, 3), (3, 60 * S), (3,), (2, 10 * S, 30 * S)
ARGS = {"r": RATE, "w": WINDOW, "n": LEVEL, "l": SLOTS}


def charge(kind="r", cost=1, mode=0, *, bucket="t.acme", name="x"):
    """A charge of a rule with a limit of three; two slots."""
    return Charge(bucket, kind + name, kind, cost, mode, ARGS[kind])


def take(*charges, **options):
    """What acme takes."""
    return Take("t.acme", charges or (charge(),), **options)


def settlement(*charges, actual=0, at=NOW, identity="one", expires=FAR):
    """All of them brought to the same."""
    return Settlement("t.acme", identity, charges, (actual,) * len(charges), at, expires)


def test_all_or_nothing():
    """One that does not fit is enough, whichever it is."""
    store = MemoryQuotaStore()
    charges = charge(cost=2), charge("w", 2), charge("n", 2)
    first = store.take_at(NOW, take(*charges))
    second = store.take_at(NOW, take(charge(), charge("w"), charge("n", 2)))

    assert (first.admitted, second.admitted) == (True, False)
    assert second.fits == (True, True, False)
    assert [state[1] for state in second.states] == [2, 2, 2]


@pytest.mark.parametrize(("mode", "admitted", "used"), [(0, False, 3), (1, True, 4), (2, True, 3)])
def test_modes(mode, admitted, used):
    """Hard refuses, soft counts beyond the limit, shadow only says so."""
    store = MemoryQuotaStore()
    store.take_at(NOW, take(charge("n", 3)))
    outcome = store.take_at(NOW, take(charge("n", 1, mode)))

    assert (outcome.admitted, outcome.fits) == (admitted, (False,))
    assert outcome.states[0][1] == used


def test_force_charges_all():
    """What has been used is charged, whatever is left and in whatever mode."""
    store = MemoryQuotaStore()
    store.take_at(NOW, take(charge("n", 3)))
    outcome = store.take_at(NOW, take(charge("n", 2), charge("w", 9, 2), force=True))

    assert (outcome.admitted, outcome.fits) == (True, (False, False))
    assert [state[1] for state in outcome.states] == [5, 6]


def test_a_dry_take_writes_nothing():
    """It says what a take would, and the next says the same."""
    store = MemoryQuotaStore()
    looks = [store.take_at(NOW, take(charge("n", 2), charge(), dry=True)) for _ in range(3)]

    assert [one.admitted for one in looks] == [True] * 3
    assert looks[0] == looks[2]
    assert repr(store) == "MemoryQuotaStore(keys=0, max_keys=1000000)"


def test_a_settlement_is_done_once():
    """The second time, and after its time, nothing is given back."""
    store = MemoryQuotaStore()
    store.take_at(NOW, take(charge("n", 3)))
    back = settlement(charge("n", 3), actual=2)
    late = settlement(charge("n", 3), identity="late", expires=NOW - 1)

    assert [store.settle_at(NOW, one).done for one in (back, back, late)] == [True, False, False]
    assert store.take_at(NOW, take(charge("n"), dry=True)).states[0][1] == 2


def test_a_settlement_without_an_id_is_done_each_time():
    """For what has no receipt, and is remembered nowhere."""
    store = MemoryQuotaStore()
    store.take_at(NOW, take(charge("n", 3)))
    for _ in range(2):
        assert store.settle_at(NOW, settlement(charge("n"), identity="")).done

    assert store.take_at(NOW, take(charge("n"), dry=True)).states[0][1] == 1
    assert "keys=1," in repr(store)


def test_a_settlement_may_charge_more():
    """Even beyond the limit: it has been used."""
    store = MemoryQuotaStore()
    store.take_at(NOW, take(charge("n", 3)))
    settled = store.settle_at(NOW, settlement(charge("n", 3), actual=5))

    assert settled.done
    assert settled.states[0][1] == 5


def test_slots_are_held_renewed_and_freed():
    """Until they are settled, or until nobody renews them."""
    store = MemoryQuotaStore()
    first, second, third = (take(charge("l"), lease=one) for one in "abc")
    assert [store.take_at(NOW, one).admitted for one in (first, second, third)] == [1, 1, 0]

    assert store.renew_at(NOW + 9 * S, first, NOW)
    assert store.take_at(NOW + 10 * S, third).admitted  # the second has run out
    assert not store.renew_at(NOW + 10 * S, second, NOW)
    assert store.settle_at(NOW + 11 * S, settlement(charge("l"), identity="a")).done
    assert store.take_at(NOW + 11 * S, take(charge("l"), dry=True)).states == ((0, 1, 0),)


def test_slots_end_after_the_longest_hold():
    """However often they are renewed."""
    store = MemoryQuotaStore()
    held = take(charge("l"), lease="a")
    store.take_at(NOW, held)
    renewed = [store.renew_at(NOW + second * S, held, NOW) for second in range(5, 40, 5)]

    assert renewed == [True] * 5 + [False] * 2
    assert store.take_at(NOW + 30 * S, take(charge("l"), dry=True)).states[0][1] == 0


def test_what_says_nothing_any_more_is_dropped():
    """As new keys come; what still counts is kept."""
    store = MemoryQuotaStore()
    for number in range(100):
        store.take_at(NOW, take(charge(bucket=f"t.acme:u.{number}")))
    store.take_at(NOW, take(charge("n")))
    for number in range(100):
        store.take_at(NOW + 7 * S, take(charge(bucket=f"t.acme:u.new{number}")))

    assert "keys=101," in repr(store)
    assert store.take_at(NOW, take(charge("n"), dry=True)).states[0][1] == 1


def test_a_full_store_refuses_new_keys_and_serves_known_ones():
    """It says so; and it has room again when something has run out."""
    store = MemoryQuotaStore(max_keys=3)
    for number in range(3):
        store.take_at(NOW, take(charge(bucket=f"t.acme:u.{number}")))
    with pytest.raises(BackendUnavailableError) as caught:
        store.take_at(NOW, take(charge(bucket="t.acme:u.new")))

    assert caught.value.code == "quota_store_full"
    assert store.take_at(NOW, take(charge(bucket="t.acme:u.1"))).admitted
    assert store.take_at(NOW + 60 * S, take(charge(bucket="t.acme:u.new"))).admitted


def test_settlements_take_no_room_from_rules():
    """They are counted apart, and refused when there are too many: what was taken stays."""
    store = MemoryQuotaStore(max_keys=10)
    store.take_at(NOW, take())
    for number in range(10):
        assert store.settle_at(NOW, settlement(charge(), identity=str(number), expires=NOW)).done
    with pytest.raises(BackendUnavailableError) as caught:
        store.settle_at(NOW, settlement(charge(), identity="one more"))

    assert caught.value.code == "quota_store_full"
    assert store.take_at(NOW, take(charge(bucket="t.acme:u.new"))).admitted


def test_settlements_are_forgotten_when_they_could_come_no_more():
    """So that only those of the last minutes are kept."""
    store = MemoryQuotaStore(max_keys=20)
    for number in range(200):
        now = NOW + number * S
        late = settlement(charge(), at=now, identity=str(number), expires=now + 5 * S)
        assert store.settle_at(now, late).done

    assert len(store._kept) < 20


def test_a_calendar_asks_for_newer_periods():
    """Nothing is done meanwhile, and the store says what time it is."""
    old = Charge("t.acme", "cx", "c", 1, 0, (5, 10, 20, 30, 40))
    store = MemoryQuotaStore()
    outcome = store.take_at(NOW, take(charge("n"), old))
    settled = store.settle_at(NOW, settlement(charge("n"), old))

    assert (outcome.stale, outcome.admitted, outcome.now) == (True, False, NOW)
    assert (settled.stale, settled.done) == (True, False)
    assert store._kept == {}


async def test_its_clock_does_not_go_back_a_little():
    """A clock of the system may be adjusted; what was taken is not taken anew."""
    times = iter([100.0, 99.5, 100.5])
    store = MemoryQuotaStore(clock=lambda: next(times))
    outcomes = [await store.take(take()) for _ in range(3)]

    assert [one.now for one in outcomes] == [100 * S, 100 * S, 100 * S + S // 2]


async def test_it_goes_by_the_clock():
    """Six seconds for a unit."""
    clock = ManualClock()
    store = MemoryQuotaStore(clock=clock)
    first = [(await store.take(take())).admitted for _ in range(4)]
    clock.advance(6)

    assert first == [True, True, True, False]
    assert (await store.take(take())).admitted
    assert (await store.settle(settlement(charge(), at=0, identity="x"))).done
    assert not await store.renew(take(), NOW)


def test_a_store_needs_room():
    """For one key at the least."""
    with pytest.raises(ConfigurationError):
        MemoryQuotaStore(max_keys=0)


def test_a_take_costs_the_same_with_many_keys():
    """Its processor time does not grow with the keys; a scan of them would be a thousandfold."""
    few, many = MemoryQuotaStore(), MemoryQuotaStore()
    for number in range(20_000):
        many.take_at(NOW, take(charge(bucket=f"t.acme:u.{number}")))
    few.take_at(NOW, take())

    assert median_time(many) < 20 * median_time(few)


def median_time(store):
    """Of a take with a new key."""
    times = []
    for number in range(200):
        begin = time.thread_time()
        store.take_at(NOW, take(charge(bucket=f"t.acme:u.fresh{number}")))
        times.append(time.thread_time() - begin)
    return sorted(times)[100]
