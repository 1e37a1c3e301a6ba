"""
Each kind of rule by cases that were computed by hand.
"""

from __future__ import annotations

import pytest

from twh_platform.quotas._arithmetic import (
    EMPTY,
    LEVEL_TIME,
    NEVER,
    ClockOutsideError,
    decide,
    is_over,
    lifetime_us,
    refund,
    status,
)

S = 1_000_000
NOW = 1_700_000_000 * S
# 10 a minute, burst 3: one every six seconds.
RATE = (6 * S, 1, 3)
# 7 in 2 seconds: a unit takes 285,714 2/7 microseconds.
ODD = (2 * S, 7, 7)
WINDOW = (10, 60 * S)
# NOW is 20 seconds into a window of a minute.
BEGIN = NOW - 20 * S
YESTERDAY, TODAY, TOMORROW, AFTER = NOW - 86_400 * S, NOW - S, NOW + 86_399 * S, NOW + 172_799 * S
DAY = (5, YESTERDAY, TODAY, TOMORROW, AFTER)


@pytest.mark.parametrize(
    ("state", "after", "cost", "expected"),
    [
        (EMPTY, 0, 1, (True, (NOW, 1, 0))),
        (EMPTY, 0, 3, (True, (NOW, 3, 0))),
        (EMPTY, 0, 4, (False, (NOW, 4, 0))),
        ((NOW, 3, 0), 6 * S - 1, 1, (False, (NOW, 4, 0))),
        ((NOW, 3, 0), 6 * S, 1, (True, (NOW + 6 * S, 3, 0))),
        ((NOW, 3, 0), 12 * S, 2, (True, (NOW + 12 * S, 3, 0))),
        ((NOW, 3, 0), 18 * S - 1, 3, (False, (NOW + 12 * S, 4, 0))),
        ((NOW, 3, 0), 18 * S, 3, (True, (NOW + 18 * S, 3, 0))),
        # A debt stops at twice the burst.
        ((NOW, 3, 0), 0, 100, (False, (NOW, 6, 0))),
        ((NOW, 6, 0), 5 * S, 1, (False, (NOW, 6, 0))),
        ((NOW, 6, 0), 24 * S, 1, (True, (NOW + 24 * S, 3, 0))),
        # A clock that went back: what was taken is still taken, and no more than that.
        ((NOW + 10 * S, 2, 0), 0, 1, (True, (NOW, 3, 0))),
        ((NOW + 10 * S, 3, 0), 0, 1, (False, (NOW, 4, 0))),
        # By more than a full refill: it would be waited for that long, and is forgotten.
        ((NOW + 18 * S - 1, 3, 0), 0, 1, (False, (NOW, 4, 0))),
        ((NOW + 18 * S, 3, 0), 0, 1, (True, (NOW, 1, 0))),
    ],
)
def test_rate(state, after, cost, expected):
    """A unit comes back every six seconds, up to three."""
    assert decide("r", state, NOW + after, cost, RATE) == expected


def test_an_odd_rate_does_not_drift():
    """A unit that takes no whole number of microseconds is rounded once, not every time."""
    state = (NOW, 7, 0)
    waits = [status("r", state, NOW, cost, ODD).retry_us for cost in range(1, 8)]

    assert waits == [285_715, 571_429, 857_143, 1_142_858, 1_428_572, 1_714_286, 2_000_000]


@pytest.mark.parametrize(
    ("taken", "after", "cost", "expected"),
    [
        (0, 0, 1, (3, 0, 0, 0)),
        (0, 0, 4, (3, 0, 0, NEVER)),
        (1, 0, 1, (2, 6 * S, 6 * S, 0)),
        (3, 0, 1, (0, 6 * S, 18 * S, 6 * S)),
        (3, S, 2, (0, 5 * S, 17 * S, 11 * S)),
        (6, 0, 1, (0, 24 * S, 36 * S, 24 * S)),
        (6, 0, 4, (0, 24 * S, 36 * S, NEVER)),
    ],
)
def test_status_of_a_rate(taken, after, cost, expected):
    """Remaining, renew, reset and retry."""
    assert status("r", (NOW, taken, 0), NOW + after, cost, RATE) == expected


@pytest.mark.parametrize(
    ("after", "back", "charged", "left"),
    [
        (0, 2, 2, 1),  # at once: all of it
        (6 * S - 1, 2, 2, 1),  # a unit that has not quite drained is given back
        (6 * S, 2, 2, 1),  # one drained, so one of two is given back
        (12 * S, 2, 2, 1),  # both drained
        (12 * S, 1, 2, 1),
        (6 * S, 1, 2, 1),
        (0, 1, 2, 2),
        (60 * S, 2, 2, 0),
    ],
)
def test_a_refund_of_a_rate(after, back, charged, left):
    """What time has given back is not given back twice."""
    state = refund("r", (NOW, 3, 0), NOW + after, back, charged, NOW, RATE)
    used = 3 - status("r", state, NOW + after, 1, RATE).remaining

    assert used == left


@pytest.mark.parametrize(
    ("args", "taken", "expected"),
    [
        ((6 * S, 1, 10), 3, 7),  # a larger burst: three are used of it
        ((6 * S, 1, 2), 3, 0),  # a smaller one: none is left
        ((S, 1, 3), 3, 0),
        ((6 * S, 1, 1), 60, 0),
    ],
)
def test_a_changed_rate_inherits_units(args, taken, expected):
    """What was used under other limits is used."""
    assert status("r", (NOW, taken, 0), NOW, 1, args).remaining == expected


def test_a_lowered_rate_does_not_lock_for_long():
    """Of what was used, no more than twice the new burst is held against it."""
    assert status("r", (NOW, 1_000_000, 0), NOW, 1, (6 * S, 1, 1)).retry_us == 12 * S


@pytest.mark.parametrize(
    ("state", "cost", "expected"),
    [
        (EMPTY, 10, (True, (BEGIN, 10, 0))),
        (EMPTY, 11, (False, (BEGIN, 11, 0))),
        ((BEGIN, 9, 0), 1, (True, (BEGIN, 10, 0))),
        ((BEGIN, 9, 0), 2, (False, (BEGIN, 11, 0))),
        # 6 in the window before weigh 6 * 40/60 = 4; 7 weigh 4.67, which is 5.
        ((BEGIN, 5, 6), 1, (True, (BEGIN, 6, 6))),
        ((BEGIN, 6, 6), 1, (False, (BEGIN, 7, 6))),
        ((BEGIN, 4, 7), 1, (True, (BEGIN, 5, 7))),
        ((BEGIN, 5, 7), 1, (False, (BEGIN, 6, 7))),
        # The state of the window before, and of the one before that.
        ((BEGIN - 60 * S, 6, 9), 6, (True, (BEGIN, 6, 6))),
        ((BEGIN - 120 * S, 10, 10), 10, (True, (BEGIN, 10, 0))),
        # A clock that went back.
        ((BEGIN + 60 * S, 10, 0), 1, (False, (BEGIN, 11, 0))),
        # A debt stops at twice the limit.
        ((BEGIN, 10, 0), 90, (False, (BEGIN, 20, 0))),
        ((BEGIN, 900, 900), 1, (False, (BEGIN, 20, 20))),
    ],
)
def test_window(state, cost, expected):
    """The window before counts by the share of it that is still in view."""
    assert decide("w", state, NOW, cost, WINDOW) == expected


@pytest.mark.parametrize(
    ("state", "cost", "expected"),
    [
        (EMPTY, 1, (10, 0, 0, 0)),
        (EMPTY, 11, (10, 0, 0, NEVER)),
        # 10 now: none for 40 s, then they fade; the first is gone after 6 s more.
        ((BEGIN, 10, 0), 1, (0, 46 * S, 100 * S, 46 * S)),
        ((BEGIN, 10, 0), 10, (0, 46 * S, 100 * S, 100 * S)),
        ((BEGIN, 10, 0), 11, (0, 46 * S, 100 * S, NEVER)),
        # 6 before weigh 4; 3 when 30 s are gone, 10 s from now.
        ((BEGIN, 6, 6), 1, (0, 10 * S, 100 * S, 10 * S)),
        ((BEGIN, 0, 6), 1, (6, 10 * S, 40 * S, 0)),
        ((BEGIN, 2, 6), 5, (4, 10 * S, 100 * S, 10 * S)),
    ],
)
def test_status_of_a_window(state, cost, expected):
    """Remaining, renew, reset and retry."""
    assert status("w", state, NOW, cost, WINDOW) == expected


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (NOW, (BEGIN, 2, 6)),
        (BEGIN, (BEGIN, 2, 6)),
        (BEGIN - 1, (BEGIN, 5, 3)),
        (BEGIN - 60 * S, (BEGIN, 5, 3)),
        (BEGIN - 60 * S - 1, (BEGIN, 5, 6)),
    ],
)
def test_a_refund_of_a_window(at, expected):
    """It goes to the window that it was taken in, or to none."""
    assert refund("w", (BEGIN, 5, 6), NOW, 3, 3, at, WINDOW) == expected


@pytest.mark.parametrize(
    ("state", "now", "cost", "expected"),
    [
        (EMPTY, NOW, 5, (True, (NOW, 5, 0))),
        (EMPTY, NOW, 6, (False, (NOW, 6, 0))),
        ((TODAY, 4, 0), NOW, 1, (True, (TODAY, 5, 0))),
        ((TODAY, 4, 0), NOW, 2, (False, (TODAY, 6, 0))),
        ((TODAY, 6, 2), NOW, 1, (True, (TODAY, 7, 2))),
        # Yesterday's counter ends with yesterday.
        ((TODAY - 1, 5, 0), NOW, 1, (True, (NOW, 1, 0))),
        ((TODAY, 5, 0), TOMORROW - 1, 1, (False, (TODAY, 6, 0))),
        ((TODAY, 5, 0), TOMORROW, 1, (True, (TOMORROW, 1, 0))),
        ((YESTERDAY, 5, 0), TODAY - 1, 1, (False, (YESTERDAY, 6, 0))),
    ],
)
def test_calendar(state, now, cost, expected):
    """Five a day; a counter is of the day of its first hit."""
    assert decide("c", state, now, cost, DAY) == expected


@pytest.mark.parametrize("now", [YESTERDAY - 1, AFTER])
def test_a_calendar_says_that_its_periods_are_old(now):
    """Outside of the four starts it cannot tell the period."""
    with pytest.raises(ClockOutsideError):
        decide("c", EMPTY, now, 1, DAY)


@pytest.mark.parametrize(
    ("state", "cost", "expected"),
    [
        (EMPTY, 1, (5, 0, 0, 0)),
        ((TODAY, 3, 0), 2, (2, 86_399 * S, 86_399 * S, 0)),
        ((TODAY, 4, 0), 2, (1, 86_399 * S, 86_399 * S, 86_399 * S)),
        ((TODAY, 9, 2), 1, (0, 86_399 * S, 86_399 * S, 86_399 * S)),
        ((TODAY, 4, 4), 6, (5, 0, 0, NEVER)),
    ],
)
def test_status_of_a_calendar(state, cost, expected):
    """All comes back with the next period."""
    assert status("c", state, NOW, cost, DAY) == expected


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (TODAY, (TODAY, 4, 3)),
        (TODAY - 1, (TODAY, 4, 1)),  # taken from another counter, so not given to this one
    ],
)
def test_a_refund_of_a_calendar(at, expected):
    """It is counted apart, so that what was taken only grows."""
    assert refund("c", (TODAY, 4, 1), NOW, 2, 2, at, DAY) == expected


def test_a_refund_gives_back_no_more_than_was_taken():
    """However much is said to have been taken."""
    assert refund("c", (TODAY, 4, 1), NOW, 90, 90, NOW, DAY) == (TODAY, 4, 4)
    assert refund("w", (BEGIN, 5, 6), NOW, 90, 90, NOW, WINDOW) == (BEGIN, 0, 6)
    assert refund("r", (NOW, 2, 0), NOW, 90, 90, NOW, RATE)[1] == 0
    assert refund("n", (LEVEL_TIME, 2, 0), NOW, 90, 90, NOW, (5,))[1] == 0


@pytest.mark.parametrize(
    ("level", "cost", "expected"), [(0, 5, True), (0, 6, False), (4, 1, True), (5, 1, False)]
)
def test_a_level(level, cost, expected):
    """It stays as it is until it is given back."""
    fits, state = decide("n", (LEVEL_TIME, level, 0), NOW, cost, (5,))

    assert (fits, state) == (expected, (LEVEL_TIME, level + cost, 0))
    assert status("n", state, NOW + 400 * 86_400 * S, 1, (5,)).remaining == max(0, 5 - level - cost)


@pytest.mark.parametrize(
    ("kind", "state", "args", "last"),
    [
        ("r", (NOW, 3, 0), RATE, NOW + 18 * S - 1),
        ("w", (BEGIN, 1, 0), WINDOW, BEGIN + 120 * S - 1),
        ("c", (TODAY, 1, 0), DAY, TOMORROW - 1),
        ("n", (LEVEL_TIME, 1, 0), (5,), NOW + 10_000 * 86_400 * S),
    ],
)
def test_a_state_matters_until_it_says_nothing(kind, state, args, last):
    """It is kept for as long as it could refuse anything, and in Redis a little longer."""
    assert not is_over(kind, state, last, args)
    assert kind == "n" or is_over(kind, state, last + 1, args)
    assert kind == "n" or lifetime_us(kind, state, NOW, args) > last - NOW


def test_the_largest_numbers_stay_exact():
    """No product reaches 2**53: Lua's numbers are doubles."""
    period, units, burst = 86_400 * S, 1, 366
    largest = 4 * max(burst, 366) * period

    assert largest < 2**53
    assert decide("r", (NOW, burst - 1, 0), NOW, 1, (period, units, burst))[0]
