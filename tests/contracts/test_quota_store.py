"""
What every store of quotas does: in memory, in one Redis and in a cluster.
"""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest

from tests.support.redis import require_redis
from twh_platform.quotas import (
    Calendar,
    Capacity,
    Concurrency,
    MemoryQuotaStore,
    Rate,
    Settlement,
    SlidingWindow,
    Take,
)
from twh_platform.quotas._takes import charge_of

_numbers = itertools.count()

HOUR = Rate(name="hour", limit=10, per=3600)
WINDOW = SlidingWindow(name="window", limit=10, per=3600)
MONTH = Calendar(name="month", limit=10, period="month")
ITEMS = Capacity(name="items", limit=10)
OPEN = Concurrency(name="open", limit=2)
FOREVER = 2**53 - 1
COUNTED = [HOUR, WINDOW, MONTH, ITEMS]


class Tenant:
    """
    A tenant of its own: the takes and settlements of its rules.
    """

    def __init__(self, name=None):
        self.partition = name or f"t.contract{next(_numbers)}x{time.time_ns():x}"

    def charge(self, rule, cost=1, *, user=None, mode=0):
        """A rule of the tenant, or of one of its users."""
        bucket = self.partition if user is None else f"{self.partition}:u.{user}"
        return charge_of(rule, bucket, cost, "UTC", time.time_ns() // 1000)._replace(mode=mode)

    def take(self, *charges, **options):
        """Some rules at once."""
        return Take(self.partition, charges, **options)

    def settlement(self, taken, outcome, *actual, identity="receipt", **changes):
        """What was really used."""
        expires = outcome.now + 60_000_000
        settlement = Settlement(
            self.partition, identity, taken.charges, actual, outcome.now, expires
        )
        return settlement._replace(**changes)


@pytest.fixture
def tenant():
    """Nobody else's."""
    return Tenant()


def _redis_store(request):
    pytest.importorskip("redis")
    require_redis()
    from redis.asyncio import Redis, RedisCluster

    from twh_platform.quotas.redis import RedisQuotaStore

    if request.param == "redis":
        url = request.getfixturevalue("redis_url")
        return RedisQuotaStore(lambda: Redis.from_url(url), timeout=5, patience=10)
    url = request.getfixturevalue("redis_cluster").url
    return RedisQuotaStore(
        lambda: RedisCluster.from_url(url, socket_timeout=2), timeout=5, patience=10
    )


@pytest.fixture(params=["memory", "redis", "cluster"])
async def store(request):
    """A store, one after the other; its timeouts are those of a busy machine."""
    if request.param == "memory":
        yield MemoryQuotaStore()
        return
    made = _redis_store(request)
    yield made
    await made.aclose()


def used(state):
    """How much a state has taken."""
    return state[1] - state[2]


@pytest.mark.parametrize("rule", COUNTED, ids=lambda rule: rule.name)
async def test_a_limit_is_the_last_that_fits(rule, store, tenant):
    """Ten of ten, and not one more."""
    take = tenant.take(tenant.charge(rule))
    outcomes = [await store.take(take) for _ in range(12)]

    assert [one.admitted for one in outcomes] == [True] * 10 + [False] * 2
    assert [one.states[0][1] for one in outcomes] == [*range(1, 11), 10, 10]


@pytest.mark.parametrize("rule", COUNTED, ids=lambda rule: rule.name)
async def test_a_hundred_racers_share_what_there_is(rule, store, tenant):
    """Ten are admitted, whoever they are."""
    take = tenant.take(tenant.charge(rule))
    outcomes = await asyncio.gather(*(store.take(take) for _ in range(100)))

    assert sum(one.admitted for one in outcomes) == 10


async def test_all_rules_are_charged_or_none(store, tenant):
    """What refuses one rule leaves the others as they were."""
    small = tenant.charge(Rate(name="small", limit=2, per=3600), user="42")
    take = tenant.take(*(tenant.charge(rule) for rule in COUNTED), small)
    outcomes = [await store.take(take) for _ in range(4)]

    assert [one.admitted for one in outcomes] == [True, True, False, False]
    assert outcomes[-1].fits == (True, True, True, True, False)
    assert [used(state) for state in outcomes[-1].states] == [2, 2, 2, 2, 2]


async def test_charges_keep_their_order(store, tenant):
    """However they lie in the store, the answers are in the order of the question."""
    charges = [
        tenant.charge(rule, cost, user=user)
        for rule, cost, user in [
            (HOUR, 1, None),
            (OPEN, 1, None),
            (HOUR, 2, "a/b"),
            (MONTH, 3, None),
            (ITEMS, 4, "a/b"),
            (OPEN, 1, "a/b"),
            (WINDOW, 5, None),
        ]
    ]
    await store.take(tenant.take(charges[1], lease="other"))
    outcome = await store.take(tenant.take(*charges, lease="mine"))

    assert [state[1] for state in outcome.states] == [1, 2, 2, 3, 4, 1, 5]


@pytest.mark.parametrize("rule", [*COUNTED, OPEN], ids=lambda rule: rule.name)
async def test_to_look_changes_nothing(rule, store, tenant):
    """A look tells what a take would say, again and again."""
    take = tenant.take(tenant.charge(rule), lease="one")
    await store.take(take)
    looks = [await store.take(take._replace(dry=True)) for _ in range(12)]

    assert all(one.admitted and one.states[0][1] == 1 for one in looks)


@pytest.mark.parametrize("rule", COUNTED, ids=lambda rule: rule.name)
async def test_force_charges_whatever_is_left(rule, store, tenant):
    """What has been used already is charged beyond the limit, and said to be beyond."""
    forced = await store.take(tenant.take(tenant.charge(rule, 14), force=True))
    after = await store.take(tenant.take(tenant.charge(rule)))

    assert forced.admitted
    assert forced.fits == (False,)
    assert forced.states[0][1] == 14
    assert not after.admitted


async def test_soft_is_charged_beyond_the_limit_and_shadow_is_not(store, tenant):
    """Both admit and say that they did not fit."""
    soft = tenant.charge(HOUR, mode=1)
    shadow = tenant.charge(MONTH, mode=2)
    outcomes = [await store.take(tenant.take(soft, shadow)) for _ in range(12)]

    assert all(one.admitted for one in outcomes)
    assert outcomes[-1].fits == (False, False)
    assert [state[1] for state in outcomes[-1].states] == [12, 10]


@pytest.mark.parametrize("rule", COUNTED, ids=lambda rule: rule.name)
@pytest.mark.parametrize(("actual", "left"), [(0, 2), (3, 5), (5, 7), (9, 11)])
async def test_a_settlement_is_done_once(rule, actual, left, store, tenant):
    """Less goes back, more is charged even beyond the limit, and only the first time."""
    await store.take(tenant.take(tenant.charge(rule, 2)))
    take = tenant.take(tenant.charge(rule, 5))
    outcome = await store.take(take)
    settlement = tenant.settlement(take, outcome, actual)
    first, again = await store.settle(settlement), await store.settle(settlement)
    look = await store.take(take._replace(dry=True))

    assert (first.done, again.done) == (True, False)
    assert used(first.states[0]) == used(look.states[0]) == left


async def test_a_receipt_that_has_expired_is_not_settled(store, tenant):
    """What was taken stays."""
    take = tenant.take(tenant.charge(HOUR, 5))
    outcome = await store.take(take)
    late = tenant.settlement(take, outcome, 0, expires=outcome.now - 1)

    assert not (await store.settle(late)).done
    assert (await store.take(take._replace(dry=True))).states[0][1] == 5


async def test_without_an_id_a_settlement_is_done_each_time(store, tenant):
    """Nothing is remembered of it."""
    take = tenant.take(tenant.charge(ITEMS, 6))
    outcome = await store.take(take)
    settlement = tenant.settlement(take, outcome, 4, identity="")
    done = [await store.settle(settlement) for _ in range(2)]

    assert [used(one.states[0]) for one in done] == [4, 2]


async def test_slots_are_taken_freed_and_taken_again(store, tenant):
    """Two of two; who has gone makes room for one, once."""
    charge = tenant.charge(OPEN)
    takes = [tenant.take(charge, lease=name) for name in ("a", "b", "c", "d")]
    first = [(await store.take(one)).admitted for one in takes[:3]]
    outcome = await store.take(takes[0]._replace(dry=True))
    free = tenant.settlement(takes[0], outcome, 1, identity="a")
    freed = [await store.settle(free) for _ in range(2)]
    second = [(await store.take(one)).admitted for one in takes[2:]]

    assert (first, second) == ([True, True, False], [True, False])
    assert [one.done for one in freed] == [True, False]
    assert freed[0].states == ((0, 1, 0),)


async def test_slots_are_freed_before_the_rest_is_settled_and_after_it_expires(store, tenant):
    """Under the same id: a slot is no longer held, what was charged waits for its receipt."""
    charges = tenant.charge(OPEN), tenant.charge(HOUR, 5)
    takes = [tenant.take(*charges, lease=name) for name in ("a", "b")]
    outcomes = [await store.take(one) for one in takes]
    slots = [
        tenant.settlement(tenant.take(charges[0]), outcome, 1, identity=name, expires=FOREVER)
        for name, outcome in zip(("a", "b"), outcomes, strict=True)
    ]
    freed = [await store.settle(one) for one in slots]
    late = tenant.settlement(takes[0], outcomes[0], 1, 0, identity="a", expires=1)
    rest = tenant.settlement(takes[1], outcomes[1], 1, 2, identity="b")
    done = [(await store.settle(one)).done for one in (late, rest, rest)]
    look = await store.take(takes[0]._replace(dry=True))

    assert [one.done for one in freed] == [True, True]
    assert done == [False, True, False]
    assert list(map(used, look.states)) == [0, 7]


async def test_a_slot_that_nobody_renews_is_free(store, tenant):
    """As after a crash: the lease runs out by itself."""
    charge = tenant.charge(Concurrency(name="brief", limit=1, lease=0.05, maximum_hold=60))
    held = tenant.take(charge, lease="held")
    outcome = await store.take(held)
    others = []
    for index in range(100):
        others.append(await store.take(tenant.take(charge, lease=f"next{index}")))
        if others[-1].admitted:
            break
        await asyncio.sleep(0.01)

    assert outcome.admitted
    assert others[-1].admitted
    assert others[-1].now >= outcome.now + 50_000
    assert not await store.renew(held, outcome.now)


async def test_a_renewal_ends_with_the_longest_hold(store, tenant):
    """Until then it prolongs; afterwards, or for what is not held, it does not."""
    charge = tenant.charge(Concurrency(name="brief", limit=1, lease=60, maximum_hold=60))
    held = tenant.take(charge, lease="held")
    outcome = await store.take(held)

    assert await store.renew(held, outcome.now)
    assert not await store.renew(held, outcome.now - 60_000_000)
    assert not await store.renew(tenant.take(charge, lease="another"), outcome.now)
    assert not await store.renew(tenant.take(tenant.charge(HOUR)), outcome.now)


async def test_periods_that_are_over_are_asked_for_again(store, tenant):
    """A calendar of another time decides nothing, and says what the time is."""
    charge = tenant.charge(MONTH)
    old = charge._replace(args=(10, 1, 2, 3, 4))
    outcome = await store.take(tenant.take(old, tenant.charge(HOUR)))
    look = await store.take(tenant.take(charge, tenant.charge(HOUR), dry=True))
    settled = await store.settle(tenant.settlement(tenant.take(old), look, 0))

    assert (outcome.stale, outcome.admitted, outcome.states) == (True, False, ())
    assert [state[1] for state in look.states] == [0, 0]
    assert (settled.stale, settled.done) == (True, False)
    assert abs(look.now - time.time_ns() // 1000) < 60_000_000


async def test_a_changed_limit_meets_what_was_used(store, tenant):
    """Raised or lowered, the units taken before count."""
    await store.take(tenant.take(tenant.charge(MONTH, 8)))
    raised = Calendar(name="month", limit=12, period="month")
    lowered = Calendar(name="month", limit=7, period="month")

    assert (await store.take(tenant.take(tenant.charge(raised, 4)))).admitted
    assert not (await store.take(tenant.take(tenant.charge(lowered, 1)))).admitted


async def test_tenants_users_and_algorithms_have_states_of_their_own(store, tenant):
    """One name under four roofs is four counters."""
    window = SlidingWindow(name="hour", limit=10, per=3600)
    await store.take(tenant.take(tenant.charge(HOUR, 10)))
    others = [
        tenant.take(tenant.charge(HOUR), dry=True),
        tenant.take(tenant.charge(HOUR, user="hour")),
        tenant.take(tenant.charge(window)),
        Tenant(tenant.partition + "x").take(Tenant(tenant.partition + "x").charge(HOUR)),
    ]

    assert [(await store.take(one)).admitted for one in others] == [False, True, True, True]


async def test_many_tenants_at_once_get_their_own_answers(store):
    """What leaves together comes back to whoever asked."""
    tenants = [Tenant() for _ in range(90)]
    takes = [one.take(one.charge(ITEMS, 1 + index % 10)) for index, one in enumerate(tenants)]
    outcomes = await asyncio.gather(*(store.take(one) for one in takes))

    assert [one.states[0][1] for one in outcomes] == [1 + index % 10 for index in range(90)]
