"""
What jobs over many items share: a pace, when to end, and how far they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ...errors import ConfigurationError, KeyServiceError

__all__ = ["JobProgress", "Pace", "ends_run"]

# Trying again can help, and yet it is one tenant's: if it ended a run, that
# tenant would keep the run from all who come after it.
_OF_ONE_TENANT = frozenset({"key_budget_exceeded", "key_unavailable"})


def ends_run(error: KeyServiceError) -> bool:
    """
    Whether the key service does not answer, so that it is of no use to go on.
    """
    return error.retryable and error.code not in _OF_ONE_TENANT


@dataclass(frozen=True, slots=True, kw_only=True)
class JobProgress:
    """
    How far a job is; told after each page, and when it ends.

    Attributes:
        tenant_id: Whose items it is at.

        looked: Items looked at in this run.

        changed: Of these, how many it has changed.

        failed: Of these, how many it could not change.

        cursor: Where a run that is started now would go on; None at the end.
    """

    tenant_id: str
    looked: int
    changed: int
    failed: int
    cursor: str | None


class Pace:
    """
    So many items in a second and no more; unused time is not saved up.

    Args:
        rate: Items per second; None for as fast as it goes.

        sleep: Waits for so many seconds.

        clock: Seconds that never go back.

    Raises:
        twh_platform.errors.ConfigurationError: For a rate that is not above zero.
    """

    __slots__ = ("_clock", "_free_at", "_sleep", "rate")

    def __init__(
        self,
        rate: float | None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if rate is not None and not rate > 0:
            message = f"rate={rate!r} is not above zero"
            raise ConfigurationError(message)
        self.rate = rate
        self._sleep, self._clock = sleep, clock
        self._free_at = float("-inf")

    def page(self, limit: int) -> int:
        """
        How many items to take at once: *limit*, or a second's worth if that is less.

        Raises:
            twh_platform.errors.ConfigurationError: For a limit that is not above zero.
        """
        if limit < 1:
            message = f"limit={limit!r} is not above zero"
            raise ConfigurationError(message)
        return limit if self.rate is None else min(limit, max(1, int(self.rate)))

    def take(self, items: int) -> None:
        """
        Wait until *items* more may be done.
        """
        if self.rate is None or not items:
            return
        now = self._clock()
        if self._free_at > now:
            self._sleep(self._free_at - now)
        self._free_at = max(self._free_at, now) + items / self.rate
