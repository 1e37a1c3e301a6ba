"""
A rule is checked when it is made, and its numbers fit exact arithmetic.
"""

from __future__ import annotations

from datetime import timedelta

import pytest

from twh_platform.errors import ConfigurationError
from twh_platform.quotas import (
    Calendar,
    Capacity,
    Concurrency,
    Mode,
    OnFailure,
    Period,
    Rate,
    Rule,
    Scope,
    SlidingWindow,
)

RATE = {"name": "x", "limit": 10, "per": 60}


@pytest.mark.parametrize(
    "given",
    [
        {"name": ""},
        {"name": "X"},
        {"name": "-x"},
        {"name": "x" * 65},
        {"name": "x\n"},
        {"name": "é"},
        {"name": 5},
        {"limit": 0},
        {"limit": -1},
        {"limit": 1.0},
        {"limit": True},
        {"limit": "10"},
        {"limit": 2**52 + 1},
        {"cost": 0},
        {"cost": -1},
        {"cost": True},
        {"unit": ""},
        {"unit": "Requests"},
        {"unit": "a b"},
        {"scope": "planet"},
        {"mode": "firm"},
        {"on_failure": "ignore"},
        {"on_failure": None},
        {"routes": "GET /x"},
        {"routes": ("x",)},
        {"routes": (5,)},
        {"routes": 5},
        {"routes": ("/x y",)},
        {"routes": ("/x/{id:int}",)},  # what no request is ever told as
        {"routes": ("HEAD /x",)},
        {"per": 0},
        {"per": -1},
        {"per": 1e-7},
        {"per": float("nan")},
        {"per": float("inf")},
        {"per": True},
        {"per": "60"},
        {"per": timedelta(days=367)},
        {"burst": 0},
        {"burst": 1.5},
        {"burst": True},
    ],
    ids=str,
)
def test_what_is_no_rule(given):
    """The message names the rule, the field and the value."""
    [field] = given
    with pytest.raises(ConfigurationError, match=f"{field}=") as caught:
        Rate(**(RATE | given))

    assert caught.value.code == "rule_invalid"


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (SlidingWindow, {"limit": 1, "per": 0.0005}),
        (SlidingWindow, {"limit": 1, "per": 1.2345}),
        (SlidingWindow, {"limit": 0, "per": 60}),
        (Calendar, {"limit": 1, "period": "decade"}),
        (Calendar, {"limit": 1, "period": "day", "anchor_day": 2}),
        (Calendar, {"limit": 1, "period": "week", "anchor_day": 8}),
        (Calendar, {"limit": 1, "period": "month", "anchor_day": 32}),
        (Calendar, {"limit": 1, "period": "month", "anchor_day": 0}),
        (Calendar, {"limit": 1, "period": "month", "anchor_day": "1"}),
        (Concurrency, {"limit": 1, "lease": 0}),
        (Concurrency, {"limit": 1, "lease": 61, "maximum_hold": 60}),
        (Concurrency, {"limit": 1, "cost": 2}),
        (Capacity, {"limit": -1}),
    ],
)
def test_what_is_no_rule_of_a_kind(kind, given):
    """Each kind has conditions of its own."""
    with pytest.raises(ConfigurationError):
        kind(name="x", **given)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (Rate, {"limit": 2**52, "per": 1}),
        (Rate, {"limit": 1_000_003, "per": 86_400}),  # the period of no common divisor
        (Rate, {"limit": 1, "per": 86_400, "burst": 367}),  # takes longer than a year to refill
        (SlidingWindow, {"limit": 2**40, "per": 86_400}),
    ],
)
def test_numbers_too_large_to_be_exact(kind, given):
    """What Lua's numbers could not compute exactly is refused, and the message says so."""
    with pytest.raises(ConfigurationError, match="limit"):
        kind(name="x", **given)


@pytest.mark.parametrize("limit", [1, 7, 60, 1000, 1_000_000, 86_400_000])
@pytest.mark.parametrize("per", [1, 60, 3600, 86_400])
def test_usual_rates_are_exact(limit, per):
    """From one a day to a thousand times a thousand a second."""
    period, units = Rate(name="x", limit=limit, per=per).ratio

    assert period * limit == units * per * 1_000_000
    assert 4 * limit * period < 2**53


def test_a_rule_says_what_it_was_made_of():
    """Words become what they stand for, and lists tuples."""
    rule = Rate(
        **RATE, scope="user", mode="shadow", on_failure="closed", routes=["GET /x", "/y/{id}"]
    )

    assert (rule.scope, rule.mode, rule.on_failure) == (Scope.USER, Mode.SHADOW, OnFailure.CLOSED)
    assert rule.routes == ("GET /x", "/y/{id}")
    assert Calendar(name="x", limit=0, period="month", anchor_day=31).period is Period.MONTH


def test_the_numbers_of_a_rate():
    """The burst is the limit unless it is given."""
    rule, small = Rate(**RATE), Rate(**RATE, burst=2)

    assert (rule.capacity, small.capacity) == (10, 2)
    assert (rule.ratio, rule.emission_us, rule.per_us) == ((6_000_000, 1), 6e6, 60_000_000)
    assert Rate(name="x", limit=10, per=timedelta(minutes=1)).per_us == rule.per_us


def test_the_numbers_of_concurrency():
    """A limit of nothing switches a feature off."""
    rule = Concurrency(name="x", limit=0, lease=timedelta(seconds=5), maximum_hold=10)

    assert (rule.capacity, rule.lease_us, rule.maximum_hold_us) == (0, 5_000_000, 10_000_000)


def test_each_kind_has_a_letter():
    """It is part of the key: another kind is another state."""
    kinds = [Rate, SlidingWindow, Calendar, Concurrency, Capacity]

    assert len({one.kind for one in kinds}) == len(kinds)
    assert Rule.kind == ""


def test_a_rule_is_a_value():
    """Equal if its fields are, and nobody changes it."""
    rule = Rate(**RATE)

    assert rule == Rate(**RATE)
    assert hash(rule) == hash(Rate(**RATE))
    with pytest.raises(AttributeError):
        rule.limit = 11
