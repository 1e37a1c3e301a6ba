"""
Where the periods of a calendar start, in a tenant's time zone.

The starts tile the line of time: each instant is in exactly one period, and a
day may last 23, 24 or 25 hours.

A day, and whatever begins with one, starts at the first instant at which the
local clock reads its date.  Where midnight does not exist, that is the first
moment after the gap; where it comes twice, the first of the two; a day that a
zone has left out is no period.

An hour starts whenever the local clock comes to a full hour.  It is real time:
the day on which a clock is put back has 25 of them.  Where clocks are moved by
less than an hour (Lord Howe), the jump over a full hour starts one as well, so
there a period lasts 30 minutes in spring and 90 in autumn.
"""

from __future__ import annotations

import zoneinfo
from calendar import monthrange
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from functools import lru_cache
from zoneinfo import ZoneInfo

from ..errors import ConfigurationError
from ._rules import LARGEST, MICROSECONDS, Period

__all__ = ["PeriodStarts", "period_starts"]

PeriodStarts = tuple[int, int, int, int]
"""Microseconds since 1970: the previous period, this one, the next, the one after."""

Zone = ZoneInfo | timezone

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_ORDINAL = _EPOCH.toordinal()
_HOUR = 3600
_DAY = 86_400

# The last answer for each calendar.  There are no more keys than real zones times
# anchors, and an entry that two threads write at once is right whoever wins.
_answers: dict[tuple[str, str, int], PeriodStarts] = {}


def period_starts(
    period: Period, *, time_zone: str, anchor_day: int, around_us: int
) -> PeriodStarts:
    """
    Say when the periods around a moment start.

    The last answer is kept for each calendar, so that asking again within one
    period is a look-up.

        >>> day = 86_400_000_000
        >>> starts = period_starts(Period.DAY, time_zone="UTC", anchor_day=1, around_us=day + 5)
        >>> [start // day for start in starts]
        [0, 1, 2, 3]

    Args:
        period: Which.

        time_zone: The IANA name; ``UTC`` needs no zone database.

        anchor_day: The day a week (1 is Monday) or a month starts on; a shorter
            month starts on its last day.  1 for the others.

        around_us: The moment, in microseconds since 1970.

    Returns:
        Microseconds since 1970 at which the previous period, the one of this
        moment, the next and the one after start; strictly ascending.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``time_zone_unknown``,
            or if the anchor day or the moment is not in its range.
    """
    answer = _answers.get((period, time_zone, anchor_day))
    if answer is not None and answer[1] <= around_us < answer[2]:
        return answer
    if not 0 <= around_us <= LARGEST:
        raise ConfigurationError(f"around_us={around_us!r} is not from 1970 to 2255")
    answer = _compute(period, _zone(time_zone), anchor_day, around_us // MICROSECONDS)
    _answers[period, time_zone, anchor_day] = answer
    return answer


@lru_cache(maxsize=1024)
def _zone(name: str) -> Zone:
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    # A name may also be a folder of the database, or lead out of it.
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        message = (
            f"time_zone={name[:80]!r} is not in this host's zone database: "
            "install twh-platform[tzdata], or mend the name"
        )
        raise ConfigurationError(message, code="time_zone_unknown") from error


def _compute(period: Period, zone: Zone, anchor_day: int, now: int) -> PeriodStarts:
    # From here on in whole seconds: no zone has ever changed its clock within one.
    last = {Period.WEEK: 7, Period.MONTH: 31}.get(period, 1)
    if not 1 <= anchor_day <= last:
        raise ConfigurationError(f"anchor_day={anchor_day!r} is not from 1 to {last}")
    if period is Period.HOUR:
        starts = _hours_around(zone, now)
    else:
        starts = _days_around(_FIRST_DAYS[period], zone, anchor_day, now)
    previous, current, following, after = (start * MICROSECONDS for start in starts)
    return previous, current, following, after


# --- days, weeks, months and years: numbered periods and the dates they begin with ---

# For each period, the number of the one that a date is near to, and the first
# day of the one with a number; both take the anchor day.
_Numbering = tuple[Callable[[date, int], int], Callable[[int, int], date]]


def _number_of_week(day: date, anchor_day: int) -> int:
    return (day.toordinal() - anchor_day) // 7


def _first_of_week(number: int, anchor_day: int) -> date:
    return date.fromordinal(number * 7 + anchor_day)  # 0001-01-01 was a Monday


def _number_of_month(day: date, _anchor_day: int) -> int:
    return day.year * 12 + day.month - 1


def _first_of_month(number: int, anchor_day: int) -> date:
    year, month = number // 12, number % 12 + 1
    return date(year, month, min(anchor_day, monthrange(year, month)[1]))


_FIRST_DAYS: dict[Period, _Numbering] = {
    Period.DAY: (lambda day, _: day.toordinal(), lambda number, _: date.fromordinal(number)),
    Period.WEEK: (_number_of_week, _first_of_week),
    Period.MONTH: (_number_of_month, _first_of_month),
    Period.YEAR: (lambda day, _: day.year, lambda number, _: date(number, 1, 1)),
}


def _days_around(
    numbering: _Numbering, zone: Zone, anchor_day: int, now: int
) -> tuple[int, int, int, int]:
    number_of, first_of = numbering
    near = number_of((_EPOCH + timedelta(seconds=now)).date(), anchor_day)
    # The date in UTC is at most one off, the anchor another one, and a day may be left out.
    numbers = range(near - 4, near + 6)
    starts = sorted({_midnight(zone, first_of(one, anchor_day)) for one in numbers})
    here = max(place for place, start in enumerate(starts) if start <= now)
    return starts[here - 1], starts[here], starts[here + 1], starts[here + 2]


def _midnight(zone: Zone, day: date) -> int:
    """
    Find the first second at which the local clock reads *day* or later.
    """
    local = datetime(day.year, day.month, day.day, tzinfo=zone)
    wanted = (day.toordinal() - _EPOCH_ORDINAL) * _DAY
    # fold=0 is the clock before a change, fold=1 the one after it (PEP 495).
    before = wanted - _seconds(local.utcoffset())
    after = wanted - _seconds(local.replace(fold=1).utcoffset())
    if after >= before:
        return before  # it exists; where it comes twice, this is the first
    return _first_second(after, before, lambda now: now + _offset(zone, now) >= wanted)


# --- hours ---


def _hours_around(zone: Zone, now: int) -> tuple[int, int, int, int]:
    current = _hour(zone, now)
    following = _hour_after(zone, current)
    return _hour(zone, current - 1), current, following, _hour_after(zone, following)


def _hour(zone: Zone, now: int) -> int:
    """
    Find the start of the hour that *now* is in.
    """
    offset = _offset(zone, now)
    start = now - (now + offset) % _HOUR
    offset_at_start = _offset(zone, start)
    if (offset - offset_at_start) % _HOUR == 0:
        return start
    # The minute hand has been moved since.
    moved = _first_second(start, now, lambda one: (_offset(zone, one) - offset) % _HOUR == 0)
    old_start = _hour(zone, moved - 1)
    reads, would_read = moved + offset, moved + offset_at_start
    full_hour = would_read - would_read % -_HOUR
    return moved if reads >= full_hour else old_start


def _hour_after(zone: Zone, start: int) -> int:
    """
    Find the start of the hour after the one that starts at *start*.
    """
    found = _hour(zone, start + _HOUR)
    if found == start:
        found = _hour(zone, start + 2 * _HOUR)
    while (earlier := _hour(zone, found - 1)) > start:
        found = earlier
    return found


# --- clocks ---


def _offset(zone: Zone, now: int) -> int:
    return _seconds((_EPOCH + timedelta(seconds=now)).astimezone(zone).utcoffset())


def _seconds(offset: timedelta | None) -> int:
    return 0 if offset is None else offset // timedelta(seconds=1)


def _first_second(low: int, high: int, reached: Callable[[int], bool]) -> int:
    """
    Find the first second that is *reached*; *low* is not, *high* is.
    """
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high
