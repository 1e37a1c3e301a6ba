"""
Plans: their file, its errors, the six tiers that are shipped, and who has which.
"""

from __future__ import annotations

import pytest

from twh_platform import Tenant
from twh_platform.errors import ConfigurationError
from twh_platform.quotas import (
    Calendar,
    Capacity,
    Concurrency,
    Mode,
    OnFailure,
    Period,
    Rate,
    Scope,
    SlidingWindow,
)
from twh_platform.quotas._plans import Plan, Plans

TIERS = {
    "FREE": (10, 100, 10_000, 100, 5, 1, 50),
    "DEVELOPER": (50, 1_000, 100_000, 1_000, 20, 5, 200),
    "STARTUP": (200, 5_000, 500_000, 10_000, 100, 10, 1_000),
    "GROWTH": (800, 25_000, 2_000_000, 50_000, 500, 25, 5_000),
    "SCALE": (4_000, 100_000, 10_000_000, 200_000, 2_000, 100, 20_000),
    "ENTERPRISE": (10_000, 500_000, 50_000_000, 1_000_000, 10_000, 500, 100_000),
}
MEGABYTE = 1_000_000

MINUTE = """
[rules.minute]
kind = "rate"
per = 60
"""


def limits(plan: Plan) -> tuple[int, ...]:
    """What a plan has of everything that the price list names."""
    names = ("minute", "hour", "month", "items", "locations", "webhooks", "storage")
    return tuple(plan.rule(name).limit for name in names)


@pytest.mark.parametrize("tier", TIERS)
def test_the_six_tiers_are_shipped(tier):
    """With the figures of the price list."""
    *figures, megabytes = TIERS[tier]

    assert limits(Plans.example()[tier]) == (*figures, megabytes * MEGABYTE)


def test_a_tier_has_all_kinds_of_limits():
    """Per minute evenly, per hour and month by the calendar, in flight, and levels."""
    plans = Plans.example()
    free = plans["FREE"]

    assert list(plans) == list(TIERS)
    assert free.rule("minute") == Rate(name="minute", limit=10, per=60)
    assert free.rule("hour") == Calendar(name="hour", limit=100, period=Period.HOUR)
    assert isinstance(free.rule("in-flight"), Concurrency)
    assert free.capacity("storage").unit == "bytes"
    assert [rule.scope for rule in plans.common] == [Scope.CLIENT]


def test_a_tenant_has_the_plan_of_its_tier():
    """The same object each time: the limiter prepares by it."""
    plans = Plans.example()
    growth = plans.for_tenant(Tenant(id="acme", tier="GROWTH"))

    assert growth.name == "GROWTH"
    assert plans.for_tenant(Tenant(id="globex", tier="GROWTH")) is growth


@pytest.mark.parametrize("tier", ["", "growth", "PLATINUM"])
def test_an_unknown_tier_is_never_unlimited(tier):
    """It has the default, and without one the tenant is refused."""
    plans = Plans.example()
    strict = Plans(plans.values())
    tenant = Tenant(id="acme", tier=tier)

    assert plans.for_tenant(tenant) is plans["FREE"] is plans.default
    with pytest.raises(ConfigurationError, match=r"'acme'.* is none of the plans FREE, ") as caught:
        strict.for_tenant(tenant)
    assert caught.value.code == "plan_unknown"


def test_a_plan_finds_its_rules():
    """By name, and levels by a name of their own."""
    items = Capacity(name="items", limit=3, unit="items")
    plan = Plan(name="FREE", rules=[Rate(name="minute", limit=10, per=60), items])

    assert plan.capacity("items") is plan.rule("items") is items
    assert "minute" in plan
    assert "hour" not in plan


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda plan: plan.rule("hour"), "plan 'FREE' has no rule 'hour'"),
        (lambda plan: plan.capacity("hour"), "plan 'FREE' has no rule 'hour'"),
        (lambda plan: plan.capacity("minute"), "'minute' is a Rate, no Capacity"),
    ],
)
def test_a_rule_that_is_not_there_is_named(ask, says):
    """One way out for whoever asks for it."""
    plan = Plan(name="FREE", rules=(Rate(name="minute", limit=10, per=60),))

    with pytest.raises(ConfigurationError, match=says) as caught:
        ask(plan)
    assert caught.value.code == "rule_unknown"


@pytest.mark.parametrize(
    ("name", "rules", "says"),
    [
        ("", (), "its name is not"),
        ("a b", (), "its name is not"),
        (None, (), "its name is not"),
        ("FREE", (3,), "'3' is not a rule"),
        ("FREE", [Capacity(name="a", limit=1)] * 2, "'a': there are two"),
        ("FREE", [Rate(name="a", limit=1, per=1, scope="client")], "scope=client is of no plan"),
        ("FREE", [Rate(name="a", limit=1, per=1, scope="global")], "scope=global is of no plan"),
    ],
)
def test_a_plan_that_is_none_is_refused(name, rules, says):
    """The message names the plan."""
    with pytest.raises(ConfigurationError, match=f"plan '?.*'?: .*{says}") as caught:
        Plan(name=name, rules=rules)
    assert caught.value.code == "plan_invalid"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"plans": []}, "there is no plan"),
        ({"default": "GOLD"}, "default='GOLD' is none of FREE"),
        ({"common": [Rate(name="a", limit=1, per=1)]}, "scope=tenant is inside a tenant"),
        ({"common": [Rate(name="a", limit=1, per=1, scope="global")] * 2}, "there are two"),
        ({"common": [Rate(name="minute", limit=1, per=1, scope="client")]}, "plan 'FREE' has one"),
        ({"plans": [Plan(name="A", rules=()), Plan(name="A", rules=())]}, "two plans"),
    ],
)
def test_plans_that_do_not_fit_together_are_refused(options, says):
    """However they were made."""
    free = Plan(name="FREE", rules=(Rate(name="minute", limit=10, per=60),))

    with pytest.raises(ConfigurationError, match=says):
        Plans(**{"plans": [free], **options})


def test_the_file_says_everything_that_a_rule_has():
    """Each kind, each key, in the order of the file."""
    text = """
    default = "A"
    [common.anyone]
    kind = "sliding_window"
    limit = 7
    per = 1.5
    scope = "global"
    [rules.minute]
    kind = "rate"
    limit = 10
    per = 60
    burst = 3
    cost = 2
    unit = "calls"
    scope = "user"
    mode = "soft"
    on_failure = "closed"
    routes = ["GET /items", "/items/{id}"]
    [rules.items]
    kind = "capacity"
    [plans.A]
    items = 5
    own = { kind = "concurrency", limit = 2, lease = 5, maximum_hold = 50 }
    [plans.B]
    items = "unlimited"
    minute = { limit = 20, burst = 4 }
    month = { kind = "calendar", period = "month", anchor_day = 31, limit = 0 }
    """
    plans = Plans.from_text(text)
    minute = Rate(
        name="minute",
        limit=10,
        per=60,
        burst=3,
        cost=2,
        unit="calls",
        scope=Scope.USER,
        mode=Mode.SOFT,
        on_failure=OnFailure.CLOSED,
        routes=("GET /items", "/items/{id}"),
    )

    assert plans.common == (SlidingWindow(name="anyone", limit=7, per=1.5, scope=Scope.GLOBAL),)
    assert plans["A"].rules == (
        minute,
        Capacity(name="items", limit=5),
        Concurrency(name="own", limit=2, lease=5, maximum_hold=50),
    )
    assert [rule.name for rule in plans["B"].rules] == ["minute", "month"]
    assert (plans["B"].rule("minute").limit, plans["B"].rule("minute").burst) == (20, 4)
    assert plans["B"].rule("month").anchor_day == 31


FAULTS = [
    ("default = 3", "p.toml: default=3 is not the name of a plan"),
    ('default = "GOLD"\n[plans.A]\nminute = 1' + MINUTE, "p.toml: default='GOLD' is none of A"),
    ("", "p.toml: there is no plan"),
    ("a = [", "p.toml: it is not TOML: "),
    ("x" * 2**21, "p.toml: it is larger than 1048576 bytes"),
    ("plan = 1", "p.toml: 'plan'=1: there is no such key; there are default, common,"),
    ("plans = 1", "p.toml: plans=1 is not a table"),
    ("[plans]\nA = 1", "p.toml: [plans]: 'A'=1 is not a table"),
    ("[rules]\nminute = 1", "p.toml: [rules]: 'minute'=1 is not a table"),
    ("[plans.A]", "p.toml: [plans.A]: it has no rule"),
    ("[rules.x]", "p.toml: [rules.x]: kind is missing: it is one of rate, sliding_window,"),
    ('[rules.x]\nkind = "token"', "p.toml: [rules.x]: kind='token' is none of rate,"),
    ("[rules.x]\nkind = []", "p.toml: [rules.x]: kind=a list of 0 is none of rate,"),
    ('[rules.x]\nkind = "capacity"\nper = 6', "p.toml: [rules.x]: 'per'=6: there is no such key"),
    (MINUTE + "[plans.A]", "p.toml: [plans.A]: rule 'minute': limit is missing"),
    (MINUTE + "[plans.A.minute]\nburst=1", "p.toml: [plans.A.minute]: rule 'minute': limit is mis"),
    (MINUTE + "[plans.A]\nminute = -1", "p.toml: [plans.A]: rule 'minute': limit=-1 is no integer"),
    (MINUTE + "[plans.A]\nminute = true", "p.toml: [plans.A]: rule 'minute': limit=True is no int"),
    (MINUTE + "[plans.A]\nminute = 1.0", "p.toml: [plans.A]: rule 'minute': limit=1.0 is no integ"),
    (MINUTE + "[plans.A]\nminute = 'none'", "p.toml: [plans.A]: rule 'minute': limit='none' is no"),
    (MINUTE + "[plans.A]\nminute = [1]", "rule 'minute': limit=a list of 1 is not what a rule can"),
    (MINUTE + "[plans.A]\nmenute = 1", "p.toml: [plans.A]: rule 'minute': limit is missing"),
    (
        MINUTE + "[plans.A]\nminute = 1\nmenute = 1",
        "p.toml: [plans.A]: 'menute'=1: there is no such",
    ),
    (
        MINUTE + '[plans.A]\nminute = { kind = "capacity", limit = 1 }',
        "p.toml: [plans.A.minute]: kind='capacity': rules.minute has said it",
    ),
    (
        '[rules.x]\nkind = "rate"\nper = 0\n[plans.A]\nx = 1',
        "p.toml: [rules.x]: rule 'x': per=0 is not from a microsecond",
    ),
    ('[rules.x]\nkind = "rate"\n[plans.A]\nx = 1', "p.toml: [rules.x]: rule 'x': per is missing"),
    (
        '[rules.x]\nkind = "calendar"\nperiod = "day"\nanchor_day = 2\nlimit = 3\n[plans.A]',
        "p.toml: [rules.x]: rule 'x': anchor_day=2 is no integer from 1 to 1",
    ),
    (
        '[plans.A.x]\nkind = "rate"\nlimit = 1\nper = 1e308',
        "p.toml: [plans.A.x]: rule 'x': per=1e+308 is not what a rule can have",
    ),
    (
        '[plans.A.x]\nkind = "capacity"\nlimit = 1979-05-27',
        "p.toml: [plans.A.x]: rule 'x': limit=datetime.date(1979, 5, 27) is not what",
    ),
    (
        '[plans.A."x y"]\nkind = "capacity"\nlimit = 1',
        "p.toml: [plans.A.'x y']: rule 'x y': name='x y' is not valid",
    ),
    (
        '[plans."a b".x]\nkind = "capacity"\nlimit = 1',
        "p.toml: [plans.'a b']: plan 'a b': its name",
    ),
    (
        '[common.x]\nkind = "rate"\nlimit = 1\nper = 1\n[plans.A]\n[rules.x]\nkind = "capacity"',
        "p.toml: [plans.A]: rule 'x': limit is missing",
    ),
    (
        '[common.x]\nkind = "capacity"\nlimit = 1\n[plans.A]\ny = {kind = "capacity", limit = 1}',
        "p.toml: [common] rule 'x': scope=tenant is inside a tenant",
    ),
    (
        '[rules.x]\nkind = "capacity"\nscope = "client"\n[plans.A]\nx = 1',
        "p.toml: [plans.A]: plan 'A': rule 'x': scope=client is of no plan",
    ),
]


@pytest.mark.parametrize(("text", "says"), FAULTS)
def test_an_error_names_file_table_and_key_and_quotes_the_value(text, says):
    """So that whoever wrote it need not search."""
    with pytest.raises(ConfigurationError) as caught:
        Plans.from_text(text, source="p.toml")

    assert says in str(caught.value)
    assert caught.value.code == "plan_invalid"


HUGE = f"0x{'f' * 9000}"
HOSTILE = [
    HUGE,
    f"[{HUGE}]",
    f"{{ limit = {HUGE} }}",
    "9" * 5000,
    "[" * 5000 + "]" * 5000,
    "[" * 200 + "]" * 200,
    "{a=" * 200 + "1" + "}" * 200,
    f'"{"x" * 100_000}"',
    f'{{ limit = 1, routes = ["{"x" * 100_000}"] }}',
    "inf",
    "nan",
    "{ limit = 1, burst = inf }",
    "{ limit = 9007199254740993 }",
    "1979-05-27T07:32:00Z",
    "''",
    "[]",
    "{}",
]


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("place", ["[plans.A]\nminute = ", "default = ", "[rules]\nminute = "])
def test_a_hostile_file_has_one_way_out(value, place):
    """Deep, huge, or of another type: an error of a line or two."""
    text = f"{place}{value}\n" + (MINUTE if "plans" in place else "")

    with pytest.raises(ConfigurationError) as caught:
        Plans.from_text(text)
    assert caught.value.code == "plan_invalid"
    assert len(str(caught.value)) < 1500


def test_a_file_is_read_from_a_path(tmp_path):
    """And named in its errors."""
    path = tmp_path / "plans.toml"
    path.write_text(MINUTE + "[plans.A]\nminute = 10")
    good = Plans.from_toml(path)
    path.write_text("[plans.A]")

    assert good["A"].rule("minute").limit == 10
    with pytest.raises(ConfigurationError, match=rf"^{path}: \[plans.A\]: it has no rule"):
        Plans.from_toml(str(path))


@pytest.mark.parametrize("content", [None, b"\xff", b" " * (2**20 + 1), "folder"])
def test_a_file_that_cannot_be_read_says_so(content, tmp_path):
    """Missing, not UTF-8, too large, no file at all."""
    path = tmp_path / "plans.toml"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)

    with pytest.raises(ConfigurationError, match=rf"^{path}: it ") as caught:
        Plans.from_toml(path)
    assert caught.value.code == "plan_invalid"
