"""
Laws of the calendar, in every zone of the database.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

from hypothesis import given
from hypothesis import strategies as st

from twh_platform.quotas._calendar import period_starts
from twh_platform.quotas._rules import Period

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND = 1_000_000
DAY = 86_400 * SECOND
ZONES = sorted(available_timezones() - {"localtime"})


def read(zone: str, moment: int) -> datetime:
    """The local clock."""
    return (EPOCH + timedelta(microseconds=moment)).astimezone(ZoneInfo(zone))


def change_near(zone: str, moment: int) -> int:
    """The first change of the zone's clock in the year after *moment*, or *moment*."""
    for later in range(moment, moment + 370 * DAY, DAY):
        low, high = later, later + DAY
        if read(zone, low).utcoffset() != read(zone, high).utcoffset():
            while high - low > 1:
                middle = (low + high) // 2
                same = read(zone, middle).utcoffset() == read(zone, low).utcoffset()
                low, high = (middle, high) if same else (low, middle)
            return high
    return moment


@st.composite
def cases(draw):
    """A calendar and a moment, mostly one about which the clock is changed."""
    period = draw(st.sampled_from(Period))
    last = {Period.WEEK: 7, Period.MONTH: 31}.get(period, 1)
    zone = draw(st.sampled_from(ZONES))
    moment = draw(st.integers(400 * DAY, 2**52))
    if draw(st.booleans()):
        near = draw(st.integers(-2 * DAY, 2 * DAY) | st.sampled_from([-1, 0, 1]))
        moment = change_near(zone, moment % (70 * 365 * DAY) + 400 * DAY) + near
    return period, zone, draw(st.integers(1, last)), moment


def ask(case, moment):
    """The four starts around another moment of the same calendar."""
    period, zone, anchor_day, _ = case
    return period_starts(period, time_zone=zone, anchor_day=anchor_day, around_us=moment)


@given(cases())
def test_periods_ascend_and_hold_their_moment(case):
    """Previous, this, next, after; the moment is in this one."""
    moment = case[3]
    previous, current, following, after = ask(case, moment)

    assert previous < current <= moment < following < after


@given(cases(), st.data())
def test_every_moment_of_a_period_has_the_same_answer(case, data):
    """From its first microsecond to its last, in whatever order they are asked for."""
    starts = ask(case, case[3])
    inside = data.draw(st.integers(starts[1], starts[2] - 1))

    assert ask(case, starts[2]) != starts
    assert ask(case, inside) == ask(case, starts[1]) == ask(case, starts[2] - 1) == starts


@given(cases())
def test_periods_tile_the_line(case):
    """The one before ends where this one starts, and the next starts where it ends."""
    starts = ask(case, case[3])

    assert ask(case, starts[2])[:3] == starts[1:]
    assert ask(case, starts[1] - 1)[1:] == starts[:3]


@given(cases())
def test_a_period_starts_at_its_anchor_or_where_the_clock_jumped(case):
    """Local midnight of the anchor's day or a full hour, if the local clock ever read it."""
    period, zone, anchor_day, moment = case
    for start in ask(case, moment):
        local = read(zone, start)
        jumped = read(zone, start - 1).utcoffset() != local.utcoffset()
        assert jumped or (local.minute, local.second, local.microsecond) == (0, 0, 0)
        assert jumped or period is Period.HOUR or local.hour == 0
        if period is Period.MONTH and not jumped:
            next_day = (local.replace(tzinfo=None) + timedelta(days=1)).day
            assert local.day == anchor_day or (local.day < anchor_day and next_day == 1)
        if period is Period.WEEK and not jumped:
            assert local.isoweekday() == anchor_day
        if period is Period.YEAR:
            assert (local.month, local.day) == (1, 1)
