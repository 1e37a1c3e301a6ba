"""
The limiter: which rules a request meets, what it costs them, and what comes of it.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.support.quotas import ACME, GLOBEX, OnePlan, admitted, limiter_of
from twh_platform import Tenant
from twh_platform.errors import (
    BackendUnavailableError,
    ConfigurationError,
    QuotaCostError,
    QuotaExceededError,
)
from twh_platform.quotas import (
    Calendar,
    Capacity,
    Concurrency,
    Limiter,
    MemoryQuotaStore,
    Plans,
    Rate,
    SlidingWindow,
)
from twh_platform.testing import ManualClock


@pytest.fixture
def clock():
    """Everybody's."""
    return ManualClock()


@pytest.fixture
def store(clock):
    """In memory."""
    return MemoryQuotaStore(clock=clock)


def rate(name="x", limit=3, **options):
    """Three a day, or more."""
    return Rate(name=name, limit=limit, per=86_400, **options)


def left(decision):
    """What is left, by rule."""
    return {one.rule.name: one.remaining for one in decision.statuses}


async def test_each_scope_counts_for_itself(store):
    """A tenant, its users, keys and routes; client addresses; everybody."""
    scopes = ["tenant", "user", "api_key", "route", "client", "global"]
    limiter = limiter_of(store, *(rate(one, 9, scope=one) for one in scopes))
    first = {"user": "1", "api_key": "k", "route": "GET /", "client": "::1"}
    await limiter.take(ACME, **first)
    second = {"user": "2", "api_key": "l", "route": "GET /b", "client": "::2"}

    assert left(await limiter.take(ACME, **second)) == dict.fromkeys(scopes, 8) | {
        "global": 7,
        "tenant": 7,
    }
    assert left(await limiter.take(GLOBEX, **first)) == dict.fromkeys(scopes, 8) | {
        "global": 6,
        "client": 7,
    }


@pytest.mark.parametrize(
    ("asked", "met"),
    [
        ({}, ["tenant"]),
        ({"user": "1"}, ["tenant", "user"]),
        ({"user": ""}, ["tenant", "user"]),
        ({"api_key": "k"}, ["tenant", "api_key"]),
        ({"route": "GET /x"}, ["tenant", "route"]),
        ({"client": "::1"}, ["client", "global", "tenant"]),
    ],
)
async def test_a_scope_is_met_where_it_is_named(store, asked, met):
    """What a request does not name asks nobody."""
    scopes = ["client", "global", "tenant", "user", "api_key", "route"]
    limiter = limiter_of(store, *(rate(one, scope=one) for one in scopes))

    assert sorted(left(await limiter.take(ACME, **asked))) == sorted(met)


async def test_without_a_tenant_the_common_rules_are_asked(store):
    """Those of no tenant, by their client; a calendar of theirs goes by UTC."""
    daily = Calendar(name="daily", limit=5, period="day", scope="client")
    limiter = limiter_of(store, daily, rate("tenant"))

    assert left(await limiter.take(client="::1")) == {"daily": 4}
    assert left(await limiter.take()) == {}


@pytest.mark.parametrize(
    ("route", "met"),
    [
        ("GET /items/{id}", ["all", "items", "reading"]),
        ("PUT /items/{id}", ["all", "items"]),
        ("GET /items", ["all"]),
        (None, ["all"]),
    ],
)
async def test_a_rule_may_be_for_some_routes(store, route, met):
    """With a method or for all of them."""
    limiter = limiter_of(
        store,
        rate("all"),
        rate("items", routes=["/items/{id}"]),
        rate("reading", routes=["GET /items/{id}"]),
    )

    assert sorted(left(await limiter.take(ACME, route=route))) == met


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        (None, {"requests": 99, "bytes": 93, "slots": 4}),
        (5, {"requests": 95, "bytes": 93, "slots": 4}),
        ({"bytes": 50}, {"requests": 99, "bytes": 50, "slots": 4}),
        ({"bytes": 50, "requests": 2}, {"requests": 98, "bytes": 50, "slots": 4}),
        ({"bytes": 0}, {"requests": 99, "slots": 4}),
        ({"other": 5}, {"requests": 99, "bytes": 93, "slots": 4}),
        (0, {"bytes": 93}),
    ],
)
async def test_costs(store, cost, expected):
    """A number is of requests, a mapping of what it names; a request takes one slot."""
    limiter = limiter_of(
        store,
        rate("requests", 100),
        rate("bytes", 100, unit="bytes", cost=7),
        Concurrency(name="slots", limit=5),
    )

    assert left(await limiter.take(ACME, cost=cost)) == expected


@pytest.mark.parametrize("cost", [-1, True, 1.0, "1", {"bytes": -1}, {"bytes": None}, 2**53])
async def test_what_is_no_cost(store, cost):
    """It is refused everywhere, and nothing is asked."""
    limiter = limiter_of(store, rate(), Capacity(name="items", limit=5))
    taken = await limiter.take(ACME)

    for call in (limiter.take, limiter.peek, limiter.charge):
        with pytest.raises(ConfigurationError, match="cost"):
            await call(ACME, cost=cost)
    for call in (taken.receipt.commit(cost), limiter.give_back(ACME, "items", cost)):
        with pytest.raises(ConfigurationError):
            await call
    assert left(await limiter.peek(ACME)) == {"x": 2}


async def test_only_names_the_rules(store):
    """By name a number is of the rule's own unit; a level is met no other way."""
    limiter = limiter_of(store, rate(), Capacity(name="items", limit=5, unit="items"))
    named = await limiter.take(ACME, only=["items"], cost=2)
    unnamed = await limiter.take(ACME)

    assert (left(named), left(unnamed)) == ({"items": 3}, {"x": 2})
    with pytest.raises(ConfigurationError) as caught:
        await limiter.take(ACME, only=["x", "nothing"])
    assert caught.value.code == "rule_unknown"


async def test_a_cost_above_the_capacity_is_refused_for_good(store):
    """With a code of its own, no time to come again, and nothing charged."""
    limiter = limiter_of(store, rate("small", 3), rate("large", 10), rate("soft", 2, mode="soft"))
    decision = await limiter.take(ACME, cost=4)

    assert (decision.allowed, decision.code) == (False, "quota_cost_too_large")
    assert (decision.retry_after, decision.origin) == (None, "limiter")
    assert [one.rule.name for one in decision.violated] == ["small"]
    with pytest.raises(QuotaCostError):
        decision.ensure()
    assert left(await limiter.peek(ACME)) == {"small": 3, "large": 10, "soft": 2}


async def test_a_slot_is_one_whatever_the_cost(store):
    """A request of many units is no larger than the slots."""
    limiter = limiter_of(store, rate("x", 100), Concurrency(name="slots", limit=2))
    decision = await limiter.take(ACME, cost=50)

    assert decision.allowed
    assert left(decision) == {"x": 50, "slots": 1}


async def test_soft_and_shadow_rules_refuse_nobody(store):
    """They say that they would have; soft counts on."""
    limiter = limiter_of(store, rate("soft", 1, mode="soft"), rate("shadow", 1, mode="shadow"))
    first, second = [await limiter.take(ACME) for _ in range(2)]

    assert (first.allowed, first.exceeded) == (True, ())
    assert (second.allowed, second.violated) == (True, ())
    assert [one.rule.name for one in second.exceeded] == ["soft", "shadow"]


async def test_a_refusal_says_why_and_until_when(store, clock):
    """The worst of the rules that refuse; those that fit do not matter."""
    limiter = limiter_of(
        store, Rate(name="slow", limit=1, per=60), Rate(name="fast", limit=1, per=6), rate("y", 99)
    )
    await limiter.take(ACME)
    refused = await limiter.take(ACME)

    assert [one.rule.name for one in refused.violated] == ["slow", "fast"]
    assert refused.retry_after == 60.0
    with pytest.raises(QuotaExceededError) as caught:
        refused.ensure()
    assert caught.value.decision is refused
    clock.advance(60)
    assert (await limiter.take(ACME)).ensure().allowed


async def test_peek_and_charge(store):
    """One takes nothing, the other whatever is left."""
    limiter = limiter_of(store, rate())
    assert left(await limiter.peek(ACME, cost=2)) == {"x": 3}
    forced = await limiter.charge(ACME, cost=5)

    assert (forced.allowed, left(forced)) == (True, {"x": 0})
    assert not (await limiter.peek(ACME)).allowed
    assert (await limiter.peek(ACME, cost=9)).retry_after is None


async def test_common_rules_get_back_what_a_tenants_refuse(store):
    """Also from levels and slots, which no time would give back."""
    common = [
        rate("global", 9, scope="global"),
        Concurrency(name="slots", limit=9, scope="client"),
        rate("client", 9, scope="client"),
    ]
    limiter = limiter_of(store, *common, rate("tenant", 1))
    await (await limiter.take(ACME, client="::1")).receipt.release()
    for _ in range(3):
        assert not (await limiter.take(ACME, client="::1")).allowed

    assert left(await limiter.peek(client="::1")) == {"global": 8, "client": 8, "slots": 9}


async def test_every_slot_of_a_receipt_is_freed(store):
    """Slots of a client and of its tenant are held under ids of their own."""
    limiter = limiter_of(
        store,
        rate("client", 9, scope="client"),
        Concurrency(name="outer", limit=9, scope="client"),
        Concurrency(name="inner", limit=9),
    )
    for _ in range(2):
        receipt = (await limiter.take(ACME, client="::1")).receipt
        assert receipt.holds
        assert await receipt.renew()
        assert await receipt.refund()

    found = left(await limiter.peek(ACME, client="::1"))
    assert found == {"client": 9, "outer": 9, "inner": 9}


class Stuck(MemoryQuotaStore):
    """Answers for clients, and never for a tenant."""

    async def take(self, take, /):
        """As a store does, or not."""
        if take.partition.startswith("t."):
            await asyncio.Event().wait()
        return await super().take(take)


async def test_a_cancellation_between_partitions_gives_back(clock):
    """What was taken of the first is not lost with the second."""
    limiter = limiter_of(Stuck(clock=clock), rate("client", 9, scope="client"), rate())
    task = asyncio.ensure_future(limiter.take(ACME, client="::1"))
    await asyncio.sleep(0)
    assert left(await limiter.peek(client="::1")) == {"client": 8}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert left(await limiter.peek(client="::1")) == {"client": 9}


class Broken(MemoryQuotaStore):
    """Answers for clients, and is down for a tenant."""

    async def take(self, take, /):
        """As a store does, or not."""
        if take.partition.startswith("t."):
            raise BackendUnavailableError("no answer", code="quota_store_unavailable")
        return await super().take(take)


async def test_an_error_between_partitions_gives_back(clock):
    """And is the one that the caller sees."""
    limiter = limiter_of(Broken(clock=clock), rate("client", 9, scope="client"), rate())
    with pytest.raises(BackendUnavailableError):
        await limiter.take(ACME, client="::1")

    assert left(await limiter.peek(client="::1")) == {"client": 9}


@pytest.mark.parametrize("days", [-40, 40, 4000])
async def test_a_calendar_follows_the_stores_clock(clock, store, days):
    """A clock of ours that is wrong by months costs a second question, and no more."""
    wrong = ManualClock(start=clock.now() + days * 86_400)
    limiter = limiter_of(store, Calendar(name="x", limit=3, period="day"), clock=wrong)
    first = await limiter.take(ACME)

    assert await admitted(limiter, 5) == 2
    assert await first.receipt.refund()
    assert await admitted(limiter, 5) == 1


async def test_a_calendar_goes_on_with_the_next_period(clock, store):
    """The periods that were prepared are left behind, days later too."""
    limiter = limiter_of(store, Calendar(name="x", limit=3, period="day"))
    for days in (1, 2, 5, 40):
        assert await admitted(limiter, 5) == 3
        clock.advance(days * 86_400)

    assert await admitted(limiter, 5) == 3


class Mad(MemoryQuotaStore):
    """Each of its answers is from another year."""

    async def take(self, take, /):
        """As a store does, or not."""
        self._clock.advance(400 * 86_400)
        return await super().take(take)


async def test_a_store_that_is_always_elsewhere_is_given_up(clock):
    """After some attempts."""
    limiter = limiter_of(Mad(clock=clock), Calendar(name="x", limit=3, period="hour"))

    with pytest.raises(BackendUnavailableError):
        await limiter.take(ACME)


async def test_two_tenants_share_nothing(store):
    """Also where their zones and plans are the same."""
    limiter = limiter_of(store, rate(), rate("user", scope="user"))
    await admitted(limiter, 3, user="1")

    assert await admitted(limiter, 5, GLOBEX, user="1") == 3


async def test_a_changed_plan_holds_at_once_and_inherits(store):
    """Another object from the source is another plan; what was used stays used."""
    plans = OnePlan([rate("x", 3)])
    limiter = Limiter(store, plans=plans)
    await admitted(limiter, 2)
    plans.change(rate("x", 10), rate("y", 1))

    assert left(await limiter.take(ACME)) == {"x": 7, "y": 0}
    plans.change()
    assert left(await limiter.take(ACME)) == {}


async def test_a_level_is_given_back(store):
    """Down to zero, and each time: there is no receipt."""
    limiter = limiter_of(store, Capacity(name="items", limit=5), rate())
    await limiter.take(ACME, only=["items"], cost=5)
    for expected in (3, 5, 5):
        await limiter.give_back(ACME, "items", 3)
        assert left(await limiter.peek(ACME, only=["items"])) == {"items": expected}

    with pytest.raises(ConfigurationError):
        await limiter.give_back(ACME, "x", 1)
    with pytest.raises(ConfigurationError):
        await limiter.give_back(ACME, "nothing", 1)


@pytest.mark.parametrize(
    ("settle", "expected"),
    [
        (lambda receipt: receipt.commit(2), {"x": 8, "bytes": 6}),
        (lambda receipt: receipt.commit({"bytes": 7}), {"x": 6, "bytes": 3}),
        (lambda receipt: receipt.commit(0), {"x": 10, "bytes": 6}),
        (lambda receipt: receipt.commit(12), {"x": 0, "bytes": 6}),
        (lambda receipt: receipt.refund(), {"x": 10, "bytes": 10}),
        (lambda receipt: receipt.release(), {"x": 6, "bytes": 6}),
    ],
)
async def test_receipts(store, settle, expected):
    """Less goes back, more is charged; what is not named stays."""
    limiter = limiter_of(store, rate("x", 10), rate("bytes", 10, unit="bytes", cost=4))
    receipt = (await limiter.take(ACME, cost=4)).receipt
    first = await settle(receipt)
    again = await receipt.refund()

    assert left(await limiter.peek(ACME)) == expected
    assert (first, again, receipt.settled) == (expected != {"x": 6, "bytes": 6}, False, True)


async def test_slots_may_be_freed_before_the_rest_is_settled(store):
    """As when the answer is out, and work goes on that has its price."""
    limiter = limiter_of(store, rate("x", 10), Concurrency(name="slots", limit=2))
    receipt = (await limiter.take(ACME, cost=4)).receipt
    await receipt.free()
    freed = left(await limiter.peek(ACME))
    first, again = await receipt.commit(7), await receipt.commit(9)
    await receipt.free()

    assert freed == {"x": 6, "slots": 2}
    assert (first, again) == (True, False)
    assert left(await limiter.peek(ACME)) == {"x": 3, "slots": 2}


async def test_what_was_taken_by_name_is_settled_by_number(store):
    """The number is of the rule's own unit, as it was when it was taken."""
    limiter = limiter_of(store, rate("tokens", 1000, unit="tokens"))
    receipt = (await limiter.take(ACME, only=["tokens"], cost=500)).receipt

    assert await receipt.commit(120)
    assert left(await limiter.peek(ACME, only=["tokens"])) == {"tokens": 880}


async def test_a_receipt_expires(store, clock):
    """What is settled too late stays as it was taken."""
    limiter = limiter_of(store, rate("x", 10), receipt_seconds=60)
    first, second = [(await limiter.take(ACME)).receipt for _ in range(2)]
    clock.advance(60)
    assert await first.refund()
    clock.advance(1)

    assert not await second.refund()
    assert left(await limiter.peek(ACME)) == {"x": 9}


async def test_a_refusal_has_nothing_to_settle(store):
    """Nor has a look."""
    limiter = limiter_of(store, rate("x", 1), Concurrency(name="y", limit=9))
    await limiter.take(ACME)
    for decision in (await limiter.take(ACME), await limiter.peek(ACME)):
        assert not decision.receipt.holds
        assert not await decision.receipt.refund()

    assert left(await limiter.peek(ACME)) == {"x": 0, "y": 8}


async def test_slots_of_a_receipt_are_renewed_until_it_is_settled(store, clock):
    """Or until they have been held for the longest time."""
    limiter = limiter_of(store, Concurrency(name="x", limit=1, lease=10, maximum_hold=60))
    receipt = (await limiter.take(ACME)).receipt
    renewed = []
    for _ in range(10):
        clock.advance(7)
        renewed.append(await receipt.renew())

    assert renewed == [True] * 8 + [False] * 2
    assert (await limiter.take(ACME)).allowed


@pytest.mark.parametrize(
    ("rules", "options"),
    [
        ([rate("x", scope="tenant")], {}),
        ([rate("x", scope="user")], {}),
        ([rate("x", scope="client"), SlidingWindow(name="x", limit=1, per=1, scope="client")], {}),
        ([], {"receipt_seconds": 0}),
        ([], {"receipt_seconds": -5}),
    ],
)
def test_what_is_no_limiter(store, rules, options):
    """Its own rules need no tenant, and have a name each."""
    with pytest.raises(ConfigurationError):
        Limiter(store, rules=rules, **options)


async def test_a_tenants_zone_decides_its_day(store, clock):
    """The same moment is another day elsewhere."""
    limiter = limiter_of(store, Calendar(name="x", limit=3, period="day"))
    west, east = [Tenant(id=one[0], time_zone=one) for one in ("Pacific/Niue", "Asia/Tokyo")]
    resets = [(await limiter.take(one)).statuses[0].reset_after for one in (west, east)]

    assert (resets[0] - resets[1]) % 86_400 == 20 * 3600  # 11 hours behind, 9 ahead


async def test_names_that_look_like_ours(store):
    """A user cannot be spelled as another's bucket, or as another tenant's."""
    limiter = limiter_of(store, rate("x", 1, scope="user"), rate("y", 1, scope="api_key"))
    names = ["a", "a:u.b", "b:k.a", "t.acme", "}", "{t.globex}", "%61", "a%3Au.b", "", "\udc80"]

    assert [await admitted(limiter, 2, user=one, api_key=one) for one in names] == [1] * len(names)
    assert await admitted(limiter, 2, user="fresh", api_key="a") == 0


def test_plans_are_no_rules():
    """Plans in the place of rules are refused with a word on what was meant."""
    with pytest.raises(ConfigurationError, match="common"):
        Limiter(MemoryQuotaStore(), rules=Plans.example())
