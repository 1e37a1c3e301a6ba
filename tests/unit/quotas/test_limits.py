"""
What an override says, and what it makes of a plan.
"""

from __future__ import annotations

import json

import pytest

from twh_platform.errors import ConfigurationError
from twh_platform.quotas import Calendar, Concurrency, Rate
from twh_platform.quotas._limits import Limit, limits_as_json, overridden, read_limits
from twh_platform.quotas._plans import Plan

PLAN = Plan(
    name="FREE",
    rules=(
        Rate(name="minute", limit=10, per=60),
        Rate(name="second", limit=10, per=1, burst=5),
        Calendar(name="month", limit=1000, period="month", anchor_day=15),
        Concurrency(name="in-flight", limit=3, lease=7),
    ),
)


def test_only_the_limits_change():
    """Kind, stretch, anchor and the order stay, and so does where the state is kept."""
    made = overridden(PLAN, read_limits({"month": 5, "in-flight": 0}))

    assert made.name == "FREE"
    assert [rule.name for rule in made.rules] == [rule.name for rule in PLAN.rules]
    assert made.rule("month") == Calendar(name="month", limit=5, period="month", anchor_day=15)
    assert made.rule("in-flight") == Concurrency(name="in-flight", limit=0, lease=7)
    assert made.rule("minute") is PLAN.rule("minute")


@pytest.mark.parametrize(
    ("name", "limit", "burst"),
    [
        ("minute", Limit(limit=99), 99),
        ("minute", Limit(limit=99, burst=7), 7),
        ("second", Limit(limit=99), 5),
        ("second", Limit(limit=99, burst=7), 7),
    ],
)
def test_a_burst_follows_the_limit_unless_somebody_named_it(name, limit, burst):
    """The plan's own burst stays; the override's wins."""
    rule = overridden(PLAN, {name: limit}).rule(name)

    assert (rule.limit, rule.capacity) == (99, burst)


def test_no_limits_leave_the_plan_itself():
    """The same object: the limiter prepares by it."""
    assert overridden(PLAN, {}) is PLAN


MISFITS = [
    ({"hour": 5}, "rule_unknown"),
    ({"minute": 0}, "rule_invalid"),
    ({"minute": 2**52}, "rule_invalid"),
    ({"month": {"limit": 5, "burst": 1}}, "override_invalid"),
]


@pytest.mark.parametrize(("said", "code"), MISFITS)
def test_what_does_not_fit_the_plan_is_refused_when_it_is_written(said, code):
    """Whoever writes it is told."""
    with pytest.raises(ConfigurationError) as caught:
        overridden(PLAN, read_limits(said), strict=True)

    assert caught.value.code == code


@pytest.mark.parametrize(("said", "code"), MISFITS)
def test_what_does_not_fit_any_more_leaves_the_other_limits(said, code, caplog):
    """The tenant has got another plan since: the rule keeps its limit, and it is logged."""
    made = overridden(PLAN, read_limits({**said, "in-flight": 9}))

    assert made.rule("in-flight").limit == 9
    assert [rule for rule in made.rules if rule.name != "in-flight"] == [
        rule for rule in PLAN.rules if rule.name != "in-flight"
    ]
    assert "an override does not fit" in caplog.text


def test_limits_go_through_json():
    """As they came."""
    limits = {"minute": Limit(limit=5, burst=2), "hour": Limit(limit=0)}

    assert read_limits(json.loads(json.dumps(limits_as_json(limits)))) == limits


@pytest.mark.parametrize(
    "said",
    [
        None,
        [],
        "minute",
        {},
        {"minute": None},
        {"minute": "5"},
        {"minute": 5.0},
        {"minute": True},
        {"minute": -1},
        {"minute": 2**52 + 1},
        {"minute": 16**9000},
        {"minute": []},
        {"minute": {}},
        {"minute": {"burst": 1}},
        {"minute": {"limit": 1, "per": 60}},
        {"minute": {"limit": 1, "burst": 0}},
        {"minute": {"limit": {"limit": 1}}},
        {"minute": {"limit": 1, 3: 4}},
        {3: 4},
        {str(number): 1 for number in range(101)},
        {"x" * 10_000: None},
    ],
    ids=range(21),
)
def test_everything_else_has_one_way_out(said):
    """It comes from a request's body: an error of a line."""
    with pytest.raises(ConfigurationError) as caught:
        read_limits(said)

    assert caught.value.code == "override_invalid"
    assert len(str(caught.value)) < 300
