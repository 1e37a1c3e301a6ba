"""
What every driver promises of capacity.
"""

from __future__ import annotations

from contextlib import suppress

import pytest

from tests.integration.quotas.capacity.conftest import ACME, OTHER, OnePlan, rule
from tests.support.tenancy import heard
from twh_platform import bind_tenant
from twh_platform.errors import (
    ConfigurationError,
    NoCurrentTenantError,
    QuotaCostError,
    QuotaExceededError,
)
from twh_platform.quotas._announcements import CapacityDrift, QuotaExceeded, QuotaRefused
from twh_platform.quotas.postgres import CapacityTaken
from twh_platform.tenancy.postgres import UNBOUND_SQLSTATE, sqlstate_of

ITEMS, BYTES = rule(3), rule(100, "stored_bytes")


async def test_a_take_says_the_level_before_and_after(open_line, acme, house):
    """What was taken is kept by the commit."""
    async with open_line() as line, line.transaction():
        taken = await line.take(ITEMS)
        more = await line.take(ITEMS, cost=2)

    assert taken == CapacityTaken(tenant_id="acme", rule=ITEMS, before=0, after=1)
    assert (more.before, more.after, more.limit, more.exceeded) == (1, 3, 3, False)
    assert house.level() == 3


async def test_a_refusal_leaves_the_transaction_as_it_was(open_line, acme, house):
    """The transaction goes on and commits, and the level is what fitted."""
    async with open_line() as line, line.transaction():
        await line.take(ITEMS, cost=2)
        with pytest.raises(QuotaExceededError) as caught:
            await line.take(ITEMS, cost=2)
        await line.sql("INSERT INTO items DEFAULT VALUES")

    (status,) = caught.value.decision.violated
    assert (status.rule, status.remaining, status.retry_after) == (ITEMS, 1, None)
    assert (caught.value.code, house.level(), house.rows()) == ("quota_exceeded", 2, 1)


async def test_several_rules_are_taken_all_or_none(open_line, acme, house):
    """One that is full keeps the other from being charged."""
    async with open_line() as line, line.transaction():
        await line.take_all({ITEMS: 1, BYTES: 60})
        with pytest.raises(QuotaExceededError) as caught:
            await line.take_all({BYTES: 60, ITEMS: 1})
        levels = await line.levels()

    assert [one.rule.name for one in caught.value.decision.violated] == ["stored_bytes"]
    assert [one.rule.name for one in caught.value.decision.statuses] == ["items", "stored_bytes"]
    assert levels == {"items": 1, "stored_bytes": 60}


async def take_in_vain(line, cost: int) -> None:
    """Take in a transaction, or savepoint, that is rolled back."""
    with suppress(ZeroDivisionError):
        async with line.transaction():
            await line.take(ITEMS, cost=cost)
            1 / 0  # noqa: B018


async def test_a_rollback_gives_back(open_line, acme, house):
    """Whether it is of the transaction or of a savepoint within."""
    async with open_line() as line:
        await take_in_vain(line, 1)
        async with line.transaction():
            await line.take(ITEMS)
            await take_in_vain(line, 2)

    assert house.level() == 1


async def test_what_is_given_back_can_be_taken_again(open_line, acme, house):
    """A level goes down by what was given back."""
    async with open_line() as line, line.transaction():
        await line.take_all({ITEMS: 3, BYTES: 100})
        given = await line.give_back(ITEMS)
        both = await line.give_back_all({ITEMS: 1, BYTES: 99})
        again = await line.take(ITEMS, cost=2)

    assert (given.before, given.after) == (3, 2)
    assert [(one.before, one.after) for one in both] == [(2, 1), (100, 1)]
    assert (again.after, house.level(), house.level("stored_bytes")) == (3, 3, 1)


async def test_what_was_never_taken_is_drift_when_it_comes_back(open_line, acme, house):
    """The level stays at zero and the difference is announced."""
    with heard(CapacityDrift) as told:
        async with open_line() as line, line.transaction():
            await line.take(ITEMS)
            await line.give_back(ITEMS)
            given = await line.give_back(ITEMS)

    assert (given.before, given.after, house.level()) == (0, 0, 0)
    assert told == [
        CapacityDrift(tenant_id="acme", rule="items", recorded=0, counted=1, found_by="give_back")
    ]


async def test_a_tenant_has_levels_of_its_own(open_line, house):
    """One that is full leaves the other alone, and neither reads the other's."""
    async with open_line() as line:
        with bind_tenant(ACME):
            async with line.transaction():
                await line.take(ITEMS, cost=3)
        with bind_tenant(OTHER):
            async with line.transaction():
                taken = await line.take(ITEMS)
                levels = await line.levels()

    assert (taken.before, levels) == (0, {"items": 1})
    assert house.level(tenant=ACME) == 3


@pytest.mark.parametrize("mode", ["soft", "shadow"])
async def test_a_rule_that_is_not_hard_counts_beyond_its_limit(open_line, acme, mode, house):
    """It is admitted, and said."""
    soft = rule(1, mode=mode)
    with heard(QuotaExceeded, CapacityTaken) as told:
        async with open_line() as line, line.transaction():
            await line.take(soft)
            beyond = await line.take(soft, cost=5)

    assert (beyond.after, beyond.exceeded, house.level()) == (6, True, 6)
    assert [type(one) for one in told] == [CapacityTaken, CapacityTaken, QuotaExceeded]


async def test_a_cost_above_the_limit_is_refused_for_good(open_line, acme):
    """The error says that trying again is no use, and it is announced."""
    with heard(QuotaRefused) as told:
        async with open_line() as line, line.transaction():
            with pytest.raises(QuotaCostError) as caught:
                await line.take(ITEMS, cost=4)

    assert caught.value.decision.code == told[0].code == "quota_cost_too_large"
    assert (told[0].rules, told[0].tenant_id) == (("items",), "acme")


async def test_a_limit_that_was_lowered_lets_give_back_but_not_take(open_line, acme):
    """A level may stand above the limit; then nothing fits but nothing."""
    async with open_line() as line, line.transaction():
        await line.take(rule(9), cost=9)
        with pytest.raises(QuotaExceededError):
            await line.take(ITEMS)
        nothing = await line.take(ITEMS, cost=0)
        given = await line.give_back(ITEMS)

    assert (nothing.before, nothing.after, given.after) == (9, 9, 8)
    assert nothing.exceeded


async def test_rules_are_named_where_a_plan_has_them(open_line, acme):
    """The limit is that of the tenant's plan; a name it lacks is a mistake."""
    async with open_line() as line:
        line.capacity._plans = OnePlan((ITEMS, BYTES))
        async with line.transaction():
            taken = await line.take("items")
            with pytest.raises(ConfigurationError, match="no Capacity with name 'item'"):
                await line.take("item")

    assert taken.limit == 3


@pytest.mark.parametrize("cost", [-1, 1.5, True, 2**60])
async def test_a_cost_that_is_none_is_refused(house, acme, cost):
    """Nothing negative is taken, and nothing negative given back."""
    async with house.line() as line:
        with pytest.raises(ConfigurationError) as taking:
            await line.take(ITEMS, cost=cost)
        with pytest.raises(ConfigurationError) as giving:
            await line.give_back(ITEMS, amount=cost)

    assert taking.value.code == giving.value.code == "cost_invalid"


async def test_a_rule_is_named_once(house, acme):
    """The same name with two limits is a mistake, and so is none."""
    async with house.line() as line:
        for costs in ({ITEMS: 1, rule(9): 1}, {}):
            with pytest.raises(ConfigurationError) as caught:
                await line.take_all(costs)

    assert caught.value.code == "capacity_rule_invalid"


async def test_without_a_tenant_nothing_is_asked(open_line):
    """There is nobody whose level it could be."""
    async with open_line() as line:
        with pytest.raises(NoCurrentTenantError):
            await line.take(ITEMS)


async def test_outside_of_a_transaction_the_database_refuses(house, acme):
    """There asyncpg sends without a tenant."""
    async with house.line("asyncpg") as line:
        with pytest.raises(Exception, match=r"no tenant|valid seal") as caught:
            await line.take(ITEMS)

    assert sqlstate_of(caught.value) == UNBOUND_SQLSTATE
