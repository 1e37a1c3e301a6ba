"""
The period that a calendar's counter belongs to, as moments of the tenant's clock.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo

from ._calendar import period_starts
from ._rules import Calendar

__all__ = ["period_of_birth"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def period_of_birth(
    rule: Calendar, starts: tuple[int, ...], *, time_zone: str, birth: int
) -> tuple[datetime, datetime]:
    """
    Say when the period of a counter starts and ends.

    It follows from the counter's birth and not from the moment of asking, so
    that everybody who asks comes to the same period: also of a counter that is
    over, and by a clock that was set back.

    Args:
        rule: The rule.

        starts: The starts of periods that follow one another, which are tried
            first: as the store was asked.

        time_zone: The tenant's.

        birth: When the counter began, in microseconds since 1970.

    Returns:
        Start and end, with the offset that the tenant's clock has then.

    Raises:
        twh_platform.errors.ConfigurationError: If there is no such time zone,
            or the birth is no moment from 1970 on.
    """
    for start, end in pairwise(starts):
        if start <= birth < end:
            return _moment(start, time_zone), _moment(end, time_zone)
    _, start, end, _ = period_starts(
        rule.period, time_zone=time_zone, anchor_day=rule.anchor_day, around_us=birth
    )
    return _moment(start, time_zone), _moment(end, time_zone)


@lru_cache(maxsize=4096)
def _moment(microseconds: int, time_zone: str) -> datetime:
    utc = _EPOCH + timedelta(microseconds=microseconds)
    if time_zone == "UTC":
        return utc
    offset = utc.astimezone(ZoneInfo(time_zone)).utcoffset() or timedelta(0)
    return utc.astimezone(timezone(offset))
