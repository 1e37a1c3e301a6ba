"""
The quota fields of responses: their grammar, what they say, and what they keep to themselves.
"""

from __future__ import annotations

import pytest

from tests.support.quotas import ACME, GLOBEX, limiter_of
from tests.support.structured_fields import Token, read_list
from twh_platform.errors import ConfigurationError
from twh_platform.quotas import (
    Calendar,
    Concurrency,
    MemoryQuotaStore,
    Rate,
    RateLimitHeaders,
    RetryAfter,
    SlidingWindow,
)
from twh_platform.testing import ManualClock

MINUTE = Rate(name="minute", limit=10, per=60)
DAY = Calendar(name="day", limit=1000, period="day")
KEY = b"a key of sixteen bytes or more"


def lowest() -> float:
    """The shortest draw."""
    return 0.0


async def fields_of(
    *rules, headers=None, times=1, tenant=ACME, store=None, clock=None, **asked
) -> dict[str, str]:
    """What is written after so many takes."""
    clock = clock or ManualClock(1_800_000_000.0)
    limiter = limiter_of(store or MemoryQuotaStore(clock=clock), *rules, clock=clock)
    decisions = [await limiter.take(tenant, **asked) for _ in range(times)]
    fields = (headers or RateLimitHeaders())(decisions[-1])
    assert len(dict(fields)) == len(fields)
    return {name.decode(): value.decode() for name, value in fields}


async def test_the_fields_are_those_of_the_draft():
    """Policy and limit name each rule in the order of the plan."""
    fields = await fields_of(MINUTE, DAY, times=7)

    assert fields == {
        "ratelimit-policy": '"minute";q=10;w=60, "day";q=1000;w=86400',
        "ratelimit": '"minute";r=3;t=6, "day";r=993;t=57600',
    }


async def test_they_are_structured_fields():
    """Another reader than our own finds Strings with Integers."""
    fields = await fields_of(MINUTE, DAY, times=7)

    assert read_list(fields["ratelimit"]) == [
        ("minute", {"r": 3, "t": 6}),
        ("day", {"r": 993, "t": 57600}),
    ]
    assert not any(isinstance(name, Token) for name, _ in read_list(fields["ratelimit-policy"]))


@pytest.mark.parametrize(
    ("rule", "policy"),
    [
        (SlidingWindow(name="w", limit=5, per=3600), '"w";q=5;w=3600'),
        (Rate(name="w", limit=5, per=0.5), '"w";q=5'),
        (Rate(name="w", limit=5, per=60, burst=2), '"w";q=5;w=60'),
        (Rate(name="w", limit=5, per=60, unit="content-bytes"), '"w";q=5;qu="content-bytes";w=60'),
        (Calendar(name="w", limit=5, period="hour"), '"w";q=5;w=3600'),
        (Calendar(name="w", limit=5, period="month"), '"w";q=5'),
        (Concurrency(name="w", limit=5), '"w";q=5;qu="concurrent-requests"'),
        (Calendar(name="w", limit=2**52, period="week"), '"w";q=999999999999999;w=604800'),
    ],
)
async def test_a_policy_says_what_is_constant(rule, policy):
    """Unit and window, where it has whole seconds and always the same."""
    fields = await fields_of(rule)

    assert fields["ratelimit-policy"] == policy
    assert all(len(str(value)) <= 15 for value in read_list(fields["ratelimit"])[0][1].values())


async def test_a_rule_that_nothing_was_taken_of_has_no_window():
    """There is no time within which no more may be used."""
    fields = await fields_of(Concurrency(name="now", limit=5), MINUTE, times=11)

    assert read_list(fields["ratelimit"]) == [("now", {"r": 0}), ("minute", {"r": 5, "t": 6})]


async def test_hidden_rules_are_not_shown():
    """Those in shadow mode, and global ones, which tell of other clients."""
    shadow = Rate(name="trial", limit=1, per=60, mode="shadow")
    everyone = Rate(name="all", limit=1000, per=1, scope="global")
    login = Rate(name="login", limit=5, per=60, scope="client")
    fields = await fields_of(shadow, everyone, login, MINUTE, times=3, client="192.0.2.1")

    assert [name for name, _ in read_list(fields["ratelimit"])] == ["login", "minute"]
    assert await fields_of(shadow, everyone, client="192.0.2.1") == {}


async def test_a_soft_rule_is_shown_as_used_up():
    """It admits, and says that nothing is left until the debt is paid."""
    fields = await fields_of(Rate(name="soft", limit=2, per=60, mode="soft"), times=4)

    assert read_list(fields["ratelimit"]) == [("soft", {"r": 0, "t": 90})]


@pytest.mark.parametrize(
    "rule",
    [
        MINUTE,
        Calendar(name="hour", limit=10, period="hour"),
        SlidingWindow(name="window", limit=10, per=60),
    ],
)
async def test_retry_after_is_never_before_the_window_ends(rule):
    """The client that waits as told finds that it may."""
    clock = ManualClock(1_800_000_030.0)
    limiter = limiter_of(MemoryQuotaStore(clock=clock), rule, clock=clock)
    decisions = [await limiter.take(ACME) for _ in range(11)]
    fields = dict(RateLimitHeaders()(decisions[-1]))
    wait = RetryAfter(draw=lowest)(decisions[-1].retry_after)

    [(_, parameters)] = read_list(fields[b"ratelimit"])
    assert parameters["r"] == 0
    assert wait >= parameters["t"]
    clock.advance(wait)
    assert (await limiter.take(ACME)).allowed


async def test_a_cost_that_never_fits_has_only_a_policy():
    """No store was asked how much is left."""
    fields = await fields_of(MINUTE, DAY, cost=11)

    assert fields == {"ratelimit-policy": '"minute";q=10;w=60'}


async def test_the_partition_is_told_only_if_asked_for_and_by_digest():
    """Counters can be told apart, and nobody is named."""
    user = Rate(name="user", limit=5, per=60, scope="user")
    headers = RateLimitHeaders(partition_key=KEY)
    first, again, other, stranger = [
        dict(read_list((await fields_of(MINUTE, user, headers=headers, **who))["ratelimit"]))
        for who in ({"user": "a"}, {"user": "a"}, {"user": "b"}, {"user": "a", "tenant": GLOBEX})
    ]

    assert first == again
    assert first["minute"]["pk"] == other["minute"]["pk"] != stranger["minute"]["pk"]
    assert len({one["user"]["pk"] for one in (first, other, stranger)}) == 3
    assert b"acme" not in first["minute"]["pk"]


async def test_the_older_draft_knows_one_rule():
    """That with the fewest such requests left; the policies are Integers."""
    fields = await fields_of(DAY, MINUTE, headers=RateLimitHeaders("draft-06"), times=7)

    assert fields == {
        "ratelimit-limit": "10",
        "ratelimit-remaining": "3",
        "ratelimit-reset": "42",
        "ratelimit-policy": "1000;w=86400, 10;w=60",
    }
    assert read_list(fields["ratelimit-policy"]) == [(1000, {"w": 86400}), (10, {"w": 60})]


@pytest.mark.parametrize(("reset", "expected"), [("delta", "42"), ("epoch", "1800000043")])
async def test_the_oldest_form_resets_in_seconds_or_at_a_moment(reset, expected):
    """Whole seconds, rounded up, either way."""
    clock = ManualClock(1_800_000_000.5)
    headers = RateLimitHeaders("x-ratelimit", reset=reset, clock=clock)
    fields = await fields_of(MINUTE, headers=headers, times=7, clock=clock)

    assert fields == {
        "x-ratelimit-limit": "10",
        "x-ratelimit-remaining": "3",
        "x-ratelimit-reset": expected,
    }


async def test_several_forms_can_be_written_together():
    """While clients move from one to the other; the policy is the newer one's."""
    headers = RateLimitHeaders("draft-11", "draft-06", "x-ratelimit")
    fields = await fields_of(MINUTE, headers=headers)

    assert len(fields) == 8
    assert fields["ratelimit-policy"] == '"minute";q=10;w=60'


async def test_the_rule_that_refuses_is_the_one_that_is_told():
    """Even where another has fewer requests left."""
    large = Rate(name="bytes", limit=100, per=60, unit="bytes", cost=50)
    asked = {"cost": {"bytes": 90, "requests": 1}}
    headers = RateLimitHeaders("x-ratelimit")
    fields = await fields_of(MINUTE, large, headers=headers, times=2, **asked)

    assert fields["x-ratelimit-limit"] == "100"


@pytest.mark.parametrize(
    ("wait", "shortest", "longest"),
    [
        (0.0, 1, 1),
        (0.2, 1, 2),
        (6.0, 6, 8),
        (6.2, 7, 8),
        (100.0, 100, 120),
        (86400.0, 86400, 86460),
    ],
)
def test_retry_after_is_spread_but_never_early(wait, shortest, longest):
    """By a fifth of the wait, but at least a second and at most a minute."""
    assert RetryAfter(draw=lowest)(wait) == RetryAfter(jitter=0.0)(wait) == shortest
    assert RetryAfter(draw=lambda: 0.999999)(wait) == longest


def test_the_spread_is_by_chance():
    """Clients that were refused together do not come back together."""
    assert len({RetryAfter()(100.0) for _ in range(200)}) > 5


@pytest.mark.parametrize(
    ("versions", "options"),
    [
        (["draft-07"], {}),
        (["draft-11"], {"reset": "soon"}),
        (["draft-11"], {"partition_key": b"short"}),
    ],
)
def test_what_is_no_form_is_refused(versions, options):
    """The mistake shows when the service starts."""
    with pytest.raises(ConfigurationError):
        RateLimitHeaders(*versions, **options)


def test_a_spread_above_the_wait_is_refused():
    """From 0 to 1."""
    with pytest.raises(ConfigurationError, match="jitter"):
        RetryAfter(jitter=2)


@pytest.mark.parametrize("bad", ['"a', '"a";', '"a",', "1234567890123456", '"a" "b"', '"a";R=1'])
def test_the_reader_is_strict(bad):
    """Control: the reader of these tests refuses what the RFC refuses."""
    with pytest.raises(ValueError, match="no "):
        read_list(bad)
