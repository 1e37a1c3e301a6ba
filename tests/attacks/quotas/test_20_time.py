"""
Attacks 20 to 22: periods of the calendar, windows that do not end, and what a limit costs.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from tests.support.quotas import ACME, admitted, limiter_of
from twh_platform import Tenant
from twh_platform.errors import ConfigurationError
from twh_platform.quotas import Calendar, MemoryQuotaStore, Rate, SlidingWindow
from twh_platform.testing import ManualClock

DAY = timedelta(days=1)


def thirty_days(start):
    """As `limits` has it: from the first hit on."""
    return start + 30 * DAY


def utc_day(start):
    """The day of the server."""
    return start.astimezone(UTC).replace(hour=0, minute=0) + DAY


def day_of_seconds(start):
    """24 hours, also where the day has 25."""
    return start.astimezone(UTC) + DAY


def same_day_next_month(start):
    """The month after, from the last start on: 31 January, 28 February, 28 March."""
    month = start.replace(day=1) + 32 * DAY
    while True:
        try:
            return month.replace(day=start.day)
        except ValueError:
            start = start.replace(day=start.day - 1)


ZONE = "America/Los_Angeles"
# By form: the naive period, from when on, the rule, a period of it.
PERIODS = {
    "a month of 30 days": (thirty_days, "2026-01-01", {"period": "month"}, "2026-01-01 2026-02-01"),
    "the day of the server": (utc_day, "2026-05-05", {"period": "day"}, "2026-05-05 2026-05-06"),
    "a day of 25 hours": (day_of_seconds, "2026-11-01", {"period": "day"}, "2026-11-01 2026-11-02"),
    "a month from the 31st": (
        same_day_next_month,
        "2026-01-31",
        {"period": "month", "anchor_day": 31},
        "2026-02-28 2026-03-31",
    ),
}


def local(text):
    """Midnight in the tenant's zone."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(ZONE))


def naive_count(ends, first, begin, end):
    """How often a counter that *ends* would have been new within a period, after its start."""
    start, new = first, 0
    while start < end:
        new += begin < start < end
        start = ends(start)
    return new


@pytest.mark.parametrize("form", PERIODS)
async def test_20_gets_its_quota_twice_in_a_period(form, twh_attack):
    """One period of the tenant's own calendar, one quota."""
    attack = twh_attack(number=20, title="gets its quota twice in a period", form=form)
    ends, first, given, period = PERIODS[form]
    begin, end = (local(one) for one in period.split())
    attack.control(naive_count(ends, local(first), begin, end) * 10)

    clock = ManualClock(start=begin.timestamp())
    limiter = limiter_of(MemoryQuotaStore(clock=clock), Calendar(name="x", limit=10, **given))
    tenant = Tenant(id="acme", time_zone=ZONE)
    got = []
    while clock.utc() < end + timedelta(hours=1):
        got.append((clock.utc(), await admitted(limiter, 11, tenant)))
        clock.advance(1800)
    attack.ours(sum(count for when, count in got if when < end) - 10)
    assert sum(count for when, count in got if when >= end) == 10


async def test_20_moves_its_counter_by_its_zone(clock, twh_attack):
    """An address that many tenants use is counted by a calendar of no tenant."""
    attack = twh_attack(number=20, title="comes through a tenant in whose zone it is tomorrow")
    zones = ("Pacific/Kiritimati", "Pacific/Niue", "UTC")
    days = {clock.utc().astimezone(ZoneInfo(one)).date() for one in zones}
    attack.control(len(days) * 10 - 10)

    rule = Calendar(name="x", limit=10, period="day", scope="client")
    limiter = limiter_of(MemoryQuotaStore(clock=clock), rule)
    got = 0
    for hour in range(48):
        tenant = Tenant(id="acme", time_zone=zones[hour % 3])
        got += await admitted(limiter, 11, tenant, client="192.0.2.1")
        clock.advance(1800)
    attack.ours(got - 20)  # 24 hours, of two days


def naive_window(clock, limit, per):
    """Count, and let the key expire: each hit says anew when."""
    count, expires = 0, 0.0

    def hit():
        nonlocal count, expires
        count = count + 1 if clock() < expires else 1
        expires = clock() + per
        return count <= limit

    return hit


@pytest.mark.parametrize("kind", [Rate, SlidingWindow, Calendar])
async def test_21_is_shut_out_by_asking_again(kind, clock, twh_attack):
    """A window ends when it ends, however often somebody knocks meanwhile."""
    attack = twh_attack(
        number=21, title="keeps a window from ending by knocking", form=kind.__name__
    )
    span = {"period": "hour"} if kind is Calendar else {"per": 3600}
    limiter = limiter_of(MemoryQuotaStore(clock=clock), kind(name="x", limit=60, **span))
    naive = naive_window(clock, 60, 3600)
    theirs = ours = 0
    for second in range(3 * 3600):
        clock.advance(1)
        naive_fits, fits = naive(), (await limiter.take(ACME)).allowed
        if second >= 2 * 3600:
            theirs, ours = theirs + naive_fits, ours + fits

    attack.control(60 - theirs)
    attack.ours(60 - ours if ours < 59 else 0)


@pytest.mark.parametrize("kind", [Rate, SlidingWindow])
def test_21_refills_never(kind, clock, twh_attack):
    """A rule that never refills, or has to be kept without end, is none."""
    attack = twh_attack(number=21, title="is given a rate of nothing", form=kind.__name__)
    refill, tokens = 0.0, 5.0
    clock.advance(366 * 86_400)
    attack.control(5 - int(min(5, tokens - 5 + clock.monotonic() * refill)))
    accepted = []
    for given in ({"limit": 0, "per": 60}, {"limit": 1, "per": 0}, {"limit": 1, "per": 1e-9}):
        with suppress(ConfigurationError):
            accepted.append(kind(name="x", **given))
    attack.ours(accepted)


async def test_22_fills_the_store_by_a_high_limit(store, server, limits, twh_attack):
    """A state is three numbers, whatever the limit and however many came."""
    attack = twh_attack(number=22, title="makes a high limit costly by using it")
    memory = limits.storage.MemoryStorage()
    naive = limits.strategies.MovingWindowRateLimiter(memory)
    rules = [
        Rate(name="a", limit=1_000_000, per=3600),
        SlidingWindow(name="b", limit=1_000_000, per=3600),
        Calendar(name="c", limit=1_000_000, period="year"),
    ]
    limiter = limiter_of(store, *rules)
    for _ in range(2_000):
        naive.hit(limits.parse("1000000/hour"), "acme")
        await limiter.take(ACME)

    [events] = memory.events.values()
    attack.control(len(events) - 1)
    attack.ours(size_of(server, store) - len(rules))


def size_of(server, store):
    """How many states are kept, or how many times the longest of them would be needed."""
    if server is None:
        return len(store._kept)
    [key] = server.command("KEYS", "*")
    values = server.command("HVALS", key)
    assert max(len(one) for one in values) < 40
    return len(values)
