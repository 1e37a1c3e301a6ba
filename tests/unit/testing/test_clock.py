"""
`ManualClock`.
"""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from twh_platform.testing import ManualClock


def test_a_clock_stands_still():
    """Time does not pass on its own."""
    clock = ManualClock(start=100)

    assert [clock.now(), clock(), clock.now()] == [100, 100, 100]
    assert clock.monotonic() == 0


def test_advancing_moves_every_face():
    """`now`, `monotonic` and `utc` move together."""
    clock = ManualClock(start=0)
    clock.advance(61)

    assert (clock.now(), clock.monotonic()) == (61, 61)
    assert clock.utc() == datetime(1970, 1, 1, 0, 1, 1, tzinfo=UTC)
    assert repr(clock) == "ManualClock(61.0)"


def test_a_clock_never_goes_back():
    """A negative step is refused and changes nothing."""
    clock = ManualClock(start=5)

    with pytest.raises(ValueError, match="seconds must not be negative, got -1"):
        clock.advance(-1)
    assert clock.now() == 5
