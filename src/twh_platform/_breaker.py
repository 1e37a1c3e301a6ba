"""
A circuit breaker: when to ask a remote part that failed, and when to leave it alone.

::

    closed --- so many failures in a row ---> open
    open --- its pause is over ---> half open: one probe, everybody else is kept away
    half open --- the probe succeeds ---> closed
              --- it fails ---> open, for twice as long

Each pause is stretched at random, by up to its half, so that the instances of
a service do not come back in step.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Breaker"]


class Breaker:
    """
    Counts failures and says who may ask; the caller brings the time.

    Args:
        failures: So many in a row open it.

        pause: Seconds until the first probe.

        longest: Seconds between probes at the most, before chance is added.

        chance: A random number from 0 to 1.

    Attributes:
        is_open: Whether callers are kept away.

        row: Failures since the last success.
    """

    def __init__(
        self, *, failures: int, pause: float, longest: float, chance: Callable[[], float]
    ) -> None:
        self._failures = failures
        self._shortest = pause
        self._longest = longest
        self._chance = chance
        self._pause = pause
        self._until = 0.0
        self._probing = False
        self.is_open = False
        self.row = 0

    def admits(self, now: float) -> bool:
        """
        Whether this caller may ask; while it is open, whoever may is the probe.
        """
        if not self.is_open:
            return True
        if self._probing or now < self._until:
            return False
        self._probing = True
        return True

    def hinders(self, now: float) -> bool:
        """
        Whether callers are kept away, or were a moment ago.

        One that nobody asks any more says nothing after its longest pause.
        """
        return self.is_open and (self._probing or now < self._until + self._longest)

    def succeeded(self, *, probe: bool) -> None:
        """
        Take note of an answer.

        Args:
            probe: Whether the caller was admitted while it was open.  An answer
                to a question from before proves nothing.
        """
        if self.is_open and not probe:
            return
        self.is_open = False
        self._probing = False
        self.row = 0
        self._pause = self._shortest

    def failed(self, now: float, *, probe: bool) -> None:
        """
        Take note that no answer came.
        """
        self.row += 1
        if self.is_open:
            if probe:
                self._probing = False
                self._rest(now)
        elif self.row >= self._failures:
            self.is_open = True
            self._rest(now)

    def gave_up(self, now: float, *, probe: bool) -> None:
        """
        Take note that the caller went away before an answer could come.
        """
        if probe and self.is_open:
            self._probing = False
            self._rest(now)

    def _rest(self, now: float) -> None:
        self._until = now + self._pause * (1 + self._chance() / 2)
        self._pause = min(2 * self._pause, self._longest)
