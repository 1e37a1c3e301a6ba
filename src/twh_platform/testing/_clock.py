"""
A clock that moves when it is told to.
"""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["ManualClock"]


class ManualClock:
    """
    A clock that stands still until `advance` is called.

    Its methods take the place of `time.time` and `time.monotonic` wherever
    time arrives as an argument.

        >>> clock = ManualClock(start=0)
        >>> clock.advance(61)
        >>> clock.now()
        61.0

    Args:
        start: Seconds since the epoch at which the clock stands.
    """

    __slots__ = ("_elapsed", "_start")

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._start = start
        self._elapsed = 0.0

    def __repr__(self) -> str:
        return f"ManualClock({self.now()!r})"

    def __call__(self) -> float:
        """
        Return `now()`, so that the clock itself can stand for `time.time`.
        """
        return self.now()

    def now(self) -> float:
        """
        Return seconds since the epoch.
        """
        return self._start + self._elapsed

    def monotonic(self) -> float:
        """
        Return the seconds by which the clock was advanced so far.
        """
        return self._elapsed

    def utc(self) -> datetime:
        """
        Return `now()` as an aware datetime.
        """
        return datetime.fromtimestamp(self.now(), UTC)

    def advance(self, seconds: float) -> None:
        """
        Move forward.

        Args:
            seconds: How far; a clock never goes back.

        Raises:
            ValueError: If *seconds* is negative.
        """
        if seconds < 0:
            message = f"seconds must not be negative, got {seconds!r}"
            raise ValueError(message)
        self._elapsed += seconds
