"""
The breaker: when a store is left alone, and who finds it back.
"""

from __future__ import annotations

import pytest

from twh_platform._breaker import Breaker


def opened(*, chance=0.0) -> Breaker:
    """A breaker that opened at moment 0."""
    breaker = Breaker(failures=3, pause=0.125, longest=1.0, chance=lambda: chance)
    for _ in range(3):
        breaker.failed(0.0, probe=False)
    return breaker


def test_it_opens_after_failures_in_a_row():
    """An answer in between starts the count anew."""
    breaker = Breaker(failures=3, pause=0.1, longest=1.0, chance=lambda: 0.0)
    for failed in (True, True, False, True, True):
        if failed:
            breaker.failed(0.0, probe=False)
        else:
            breaker.succeeded(probe=False)

    assert breaker.admits(0.0)
    breaker.failed(0.0, probe=False)
    assert not breaker.admits(0.0)


def test_one_probe_at_a_time():
    """After the pause one of a hundred callers may ask, and no other until it is known."""
    breaker = opened()

    assert [breaker.admits(0.0625) for _ in range(100)].count(True) == 0
    assert [breaker.admits(0.125) for _ in range(100)].count(True) == 1


def test_pauses_grow_up_to_the_longest():
    """Each probe that fails doubles the pause."""
    breaker, now, pauses = opened(), 0.0, []
    for _ in range(6):
        start = now
        while not breaker.admits(now):
            now += 1 / 64
        pauses.append(now - start)
        breaker.failed(now, probe=True)

    assert pauses == [0.125, 0.25, 0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(("chance", "pause"), [(0.0, 0.125), (0.5, 0.15625), (1.0, 0.1875)])
def test_chance_stretches_a_pause(chance, pause):
    """By up to its half, so that instances do not come back in step."""
    breaker = opened(chance=chance)

    assert not breaker.admits(pause - 0.001)
    assert breaker.admits(pause + 0.001)


def test_a_probe_that_succeeds_closes_it():
    """And the next pause is short again."""
    breaker = opened()
    assert breaker.admits(0.125)
    breaker.succeeded(probe=True)

    assert not breaker.is_open
    assert [breaker.admits(0.125) for _ in range(100)].count(True) == 100
    for _ in range(3):
        breaker.failed(0.25, probe=False)
    assert breaker.admits(0.375)


def test_an_answer_to_an_old_question_does_not_close_it():
    """Only the probe says what the store is like now."""
    breaker = opened()
    breaker.succeeded(probe=False)

    assert breaker.is_open


def test_a_probe_whose_caller_went_away_is_followed_by_another():
    """Nothing is known from it, so the pause runs again."""
    breaker = opened()
    assert breaker.admits(0.125)
    breaker.gave_up(0.125, probe=True)

    assert not breaker.admits(0.25)
    assert breaker.admits(0.375)
