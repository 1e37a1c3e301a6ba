"""
Patience with keys that were made or enabled a moment ago, and with no others.

AWS KMS is eventually consistent: a new key, or its alias, may be unknown for
some seconds.  For an older key the same answer is the truth.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from ...errors import KeyDisabledError, KeyNotFoundError

__all__ = ["FreshKeys"]

T = TypeVar("T")

_FRESH_SECONDS = 30.0
_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8)


class FreshKeys:
    """
    Which tenants' keys are fresh, and how long to try with them.

    Args:
        clock: Seconds.

        sleep: Waits so many seconds.
    """

    def __init__(self, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._until: dict[str, float] = {}

    def note(self, tenant_id: str) -> None:
        """
        The tenant's key was made or enabled just now.
        """
        now = self._clock()
        with self._lock:
            self._until = {one: until for one, until in self._until.items() if until > now}
            self._until[tenant_id] = now + _FRESH_SECONDS

    def forget(self, tenant_id: str) -> None:
        """
        The tenant's key was disabled or destroyed: that is to be believed.
        """
        with self._lock:
            self._until.pop(tenant_id, None)

    def patiently(
        self, tenant_id: str, call: Callable[[], T], seconds_left: Callable[[], float]
    ) -> T:
        """
        Make the call, again and again while a fresh key is not found or disabled.

        Args:
            tenant_id: Whose key.

            call: What is tried, at most six times.

            seconds_left: How long there is to wait.
        """
        for pause in _PAUSES:
            try:
                return call()
            except (KeyNotFoundError, KeyDisabledError):
                if not self._is_fresh(tenant_id) or seconds_left() <= pause:
                    raise
            self._sleep(pause)
        return call()

    def _is_fresh(self, tenant_id: str) -> bool:
        return self._clock() < self._until.get(tenant_id, float("-inf"))
