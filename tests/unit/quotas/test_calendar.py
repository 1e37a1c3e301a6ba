"""
Periods of the calendar in named zones, where clocks and months are awkward.
"""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from twh_platform.errors import ConfigurationError
from twh_platform.quotas._calendar import _midnight, period_starts
from twh_platform.quotas._rules import Period

MICROSECOND = timedelta(microseconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment(text: str, zone: str = "UTC") -> int:
    """Microseconds since 1970 of a local time."""
    return (datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)) - EPOCH) // MICROSECOND


def local(starts, zone: str) -> list[str]:
    """The starts as the local clock reads them."""
    read = [(EPOCH + timedelta(microseconds=one)).astimezone(ZoneInfo(zone)) for one in starts]
    return [one.strftime("%Y-%m-%d %H:%M") for one in read]


def starts_of(period, zone, around, *, anchor_day=1):
    """The four starts around a local time, as the local clock reads them."""
    around_us = moment(around, zone)
    found = period_starts(period, time_zone=zone, anchor_day=anchor_day, around_us=around_us)
    assert found[1] <= around_us < found[2]
    return local(found, zone)


def every_start(period, zone, first, last):
    """All starts from the one at *first* to before *last*, in microseconds."""
    found, end = [moment(first, zone)], moment(last, zone)
    while found[-1] < end:
        around = found[-1]
        found.append(period_starts(period, time_zone=zone, anchor_day=1, around_us=around)[2])
    return found


@pytest.mark.parametrize(
    ("period", "anchor_day", "expected"),
    [
        (Period.HOUR, 1, ["2026-05-13 13:00", "2026-05-13 14:00", "2026-05-13 15:00"]),
        (Period.DAY, 1, ["2026-05-12 00:00", "2026-05-13 00:00", "2026-05-14 00:00"]),
        (Period.WEEK, 1, ["2026-05-04 00:00", "2026-05-11 00:00", "2026-05-18 00:00"]),
        (Period.WEEK, 7, ["2026-05-03 00:00", "2026-05-10 00:00", "2026-05-17 00:00"]),
        (Period.MONTH, 1, ["2026-04-01 00:00", "2026-05-01 00:00", "2026-06-01 00:00"]),
        (Period.MONTH, 14, ["2026-03-14 00:00", "2026-04-14 00:00", "2026-05-14 00:00"]),
        (Period.YEAR, 1, ["2025-01-01 00:00", "2026-01-01 00:00", "2027-01-01 00:00"]),
    ],
)
def test_each_period_starts_at_its_anchor(period, anchor_day, expected):
    """On a Wednesday in May, in Lisbon."""
    starts = starts_of(period, "Europe/Lisbon", "2026-05-13 14:30", anchor_day=anchor_day)

    assert starts[:3] == expected


def test_day_31_is_the_last_of_a_shorter_month_and_never_drifts():
    """January 31, February 28, March 31: not March 28. And 29 in a leap year."""
    plain = starts_of(Period.MONTH, "UTC", "2026-02-28 00:00", anchor_day=31)
    leap = starts_of(Period.MONTH, "UTC", "2028-02-29 12:00", anchor_day=30)

    assert [one[5:10] for one in plain] == ["01-31", "02-28", "03-31", "04-30"]
    assert [one[5:10] for one in leap] == ["01-30", "02-29", "03-30", "04-30"]


@pytest.mark.parametrize(
    ("day", "hours"), [("2026-03-28", 24), ("2026-03-29", 23), ("2026-10-25", 25)]
)
def test_a_day_is_as_long_as_its_clock_makes_it(day, hours):
    """The days on which Lisbon changes its clock have 23 and 25 hours."""
    around_us = moment(f"{day} 12:00", "Europe/Lisbon")
    starts = period_starts(Period.DAY, time_zone="Europe/Lisbon", anchor_day=1, around_us=around_us)

    assert starts[2] - starts[1] == hours * 3_600_000_000


@pytest.mark.parametrize(
    ("zone", "day", "expected"),
    [
        ("America/Sao_Paulo", "2018-11-04", "2018-11-04 01:00"),
        ("Africa/Cairo", "2024-04-26", "2024-04-26 01:00"),
        ("Asia/Beirut", "2024-03-31", "2024-03-31 01:00"),
    ],
)
def test_where_midnight_does_not_exist_the_first_instant_after_starts_the_day(zone, day, expected):
    """The instant before still belongs to the day before."""
    first = moment(f"{day} 03:00", zone)
    start = period_starts(Period.DAY, time_zone=zone, anchor_day=1, around_us=first)[1]
    before = period_starts(Period.DAY, time_zone=zone, anchor_day=1, around_us=start - 1)

    assert local([start], zone) == [expected]
    assert before[2] == start


def test_a_gap_that_began_before_midnight_ends_after_it():
    """Toronto's clock went from 23:30 to 00:30; since 1970 no zone has done it."""
    start = _midnight(ZoneInfo("America/Toronto"), date(1919, 3, 31))

    assert local([start * 1_000_000], "America/Toronto") == ["1919-03-31 00:30"]
    assert local([start * 1_000_000 - 1], "America/Toronto") == ["1919-03-30 23:29"]


def test_a_midnight_that_comes_twice_starts_the_day_once():
    """In Havana 00:00 to 01:00 came twice: the first is the start, and the day has 25 hours."""
    first = moment("2025-11-02 00:00", "America/Havana")
    again = first + 3_600_000_000
    starts = [
        period_starts(Period.DAY, time_zone="America/Havana", anchor_day=1, around_us=one)
        for one in (first, again, again + 3_600_000_000)
    ]

    assert starts[0] == starts[1] == starts[2]
    assert starts[0][2] - starts[0][1] == 25 * 3_600_000_000


def test_a_date_that_comes_back_does_not_bring_its_period_back():
    """At 00:01 the clock of St. John's went back to 23:01 of the day before."""
    midnight = moment("2002-10-27 00:00", "America/St_Johns")
    day_before_again = midnight + 30 * 60_000_000
    found = period_starts(
        Period.DAY, time_zone="America/St_Johns", anchor_day=1, around_us=day_before_again
    )

    assert local([day_before_again], "America/St_Johns") == ["2002-10-26 23:30"]
    assert found[1] == midnight


@pytest.mark.parametrize(
    ("period", "anchor_day", "expected"),
    [
        (Period.DAY, 1, ["2011-12-28", "2011-12-29", "2011-12-31", "2012-01-01"]),
        (Period.MONTH, 30, ["2011-10-30", "2011-11-30", "2011-12-31", "2012-01-30"]),
        (Period.WEEK, 5, ["2011-12-16", "2011-12-23", "2011-12-31", "2012-01-06"]),
    ],
)
def test_a_day_that_a_zone_left_out_is_no_period(period, anchor_day, expected):
    """Apia went from Thursday December 29 to Saturday December 31."""
    starts = starts_of(period, "Pacific/Apia", "2011-12-29 23:59", anchor_day=anchor_day)

    assert starts == [f"{day} 00:00" for day in expected]


@pytest.mark.parametrize(
    ("zone", "day", "minutes"),
    [
        ("Europe/Lisbon", "2026-03-28", [60] * 24),
        ("Europe/Lisbon", "2026-03-29", [60] * 23),
        ("Europe/Lisbon", "2026-10-25", [60] * 25),
        ("Asia/Kolkata", "2026-10-25", [60] * 24),
        ("Asia/Kathmandu", "2026-10-25", [60] * 24),
        ("Australia/Lord_Howe", "2026-10-04", [60, 60, 30] + [60] * 21),
        ("Australia/Lord_Howe", "2026-04-05", [60, 90] + [60] * 22),
        ("Asia/Pyongyang", "2018-05-04", [60] * 23 + [30]),
    ],
)
def test_the_hours_of_a_day_are_real_time(zone, day, minutes):
    """No hour is missing and none comes twice; at full hours of the local clock."""
    next_day = (date.fromisoformat(day) + timedelta(days=1)).isoformat()
    starts = every_start(Period.HOUR, zone, f"{day} 00:00", f"{next_day} 00:00")

    assert [(later - one) // 60_000_000 for one, later in pairwise(starts)] == minutes


def test_kolkata_has_its_hours_at_half_past_of_utc():
    """Not at the full hours of another clock."""
    around_us = moment("2026-05-13 14:45")
    starts = period_starts(Period.HOUR, time_zone="Asia/Kolkata", anchor_day=1, around_us=around_us)

    assert local(starts, "UTC")[1] == "2026-05-13 14:30"


@pytest.mark.parametrize(
    "name",
    ["Mars/Olympus", "Europe", "", "../../etc/passwd", "/etc/passwd", "Europe/Lisbon\0", "x" * 999],
)
def test_an_unknown_zone_has_one_way_out(name):
    """It says what to install; a folder of the database or a path is no zone either."""
    with pytest.raises(ConfigurationError, match=r"install twh-platform\[tzdata\]") as caught:
        period_starts(Period.DAY, time_zone=name, anchor_day=1, around_us=0)

    assert caught.value.code == "time_zone_unknown"
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("period", "anchor_day", "around_us"),
    [
        (Period.MONTH, 0, 0),
        (Period.MONTH, 32, 0),
        (Period.WEEK, 8, 0),
        (Period.DAY, 2, 0),
        (Period.YEAR, 2, 0),
        (Period.DAY, 1, -1),
        (Period.DAY, 1, 2**53),
    ],
)
def test_what_is_out_of_range_is_refused(period, anchor_day, around_us):
    """Also where a caller has not gone through a rule."""
    with pytest.raises(ConfigurationError, match="is not from"):
        period_starts(period, time_zone="UTC", anchor_day=anchor_day, around_us=around_us)


def test_utc_needs_no_zone_database():
    """A host without one serves tenants whose periods follow UTC, and only those."""
    program = """
from twh_platform.errors import ConfigurationError
from twh_platform.quotas._calendar import period_starts
from twh_platform.quotas._rules import Period
print(period_starts(Period.DAY, time_zone="UTC", anchor_day=1, around_us=0)[1])
try:
    period_starts(Period.DAY, time_zone="Europe/Lisbon", anchor_day=1, around_us=0)
except ConfigurationError as error:
    print(error.code)
"""
    hidden = "import sys; sys.modules['tzdata'] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", hidden + program],
        env={**os.environ, "PYTHONTZPATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.split() == ["0", "time_zone_unknown"]
