"""
Token buckets: how often something may happen, for everybody and for each tenant.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from .._forks import reset_after_fork
from ..errors import ConfigurationError

__all__ = ["KeyedBuckets", "TokenBucket"]

_OTHERS = object()


class TokenBucket:
    """
    At most *burst* at once and *rate* a second for good.

    Args:
        rate: Tokens a second, above 0.

        burst: How many it holds, at least 1; without, a second's worth.

        clock: Seconds, from any moment on.
    """

    __slots__ = ("__weakref__", "_at", "_burst", "_clock", "_left", "_lock", "_rate")

    def __init__(
        self, rate: float, *, burst: float | None = None, clock: Callable[[], float]
    ) -> None:
        self._rate, self._burst = checked_rate(rate, burst)
        self._clock = clock
        self._left, self._at = self._burst, clock()
        self._lock = threading.Lock()
        reset_after_fork(self)

    def take(self) -> bool:
        """
        Take a token, if there is one.
        """
        now = self._clock()
        with self._lock:
            left = min(self._burst, self._left + max(0.0, now - self._at) * self._rate)
            self._at = now
            self._left = left - 1 if left >= 1 else left
            return left >= 1

    def after_fork(self) -> None:
        """
        Forget a lock that a thread of the parent held.
        """
        self._lock = threading.Lock()


class KeyedBuckets:
    """
    A token bucket for each of at most *most* keys, and one that the others share.

    A key loses its bucket only when that has filled up again, so a key that
    comes back has nothing won.  While all are in use, further keys share one:
    memory is bounded, and however many keys somebody makes up, no more than
    ``most + 1`` buckets are emptied.

    Args:
        rate: Tokens a second for each key, above 0.

        burst: How many a bucket holds, at least 1; without, a second's worth.

        most: How many keys have a bucket of their own.

        clock: Seconds, from any moment on.
    """

    def __init__(
        self,
        rate: float,
        *,
        burst: float | None = None,
        most: int = 1000,
        clock: Callable[[], float],
    ) -> None:
        self._rate, self._burst = checked_rate(rate, burst)
        self._clock = clock
        self._most = most
        # How many are left, and since when; the one that was used last comes last.
        self._buckets: dict[object, tuple[float, float]] = {}
        self._refill = self._burst / self._rate
        self._lock = threading.Lock()
        reset_after_fork(self)

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: object) -> bool:
        """
        Take a token from the bucket of *key*, if there is one.
        """
        now = self._clock()
        with self._lock:
            if key not in self._buckets and not self._room(now):
                key = _OTHERS
            left, since = self._buckets.pop(key, (self._burst, now))
            left = min(self._burst, left + max(0.0, now - since) * self._rate)
            taken = left >= 1
            self._buckets[key] = (left - 1 if taken else left, now)
            return taken

    def after_fork(self) -> None:
        """
        Forget a lock that a thread of the parent held.
        """
        self._lock = threading.Lock()

    def _room(self, now: float) -> bool:
        if len(self._buckets) < self._most:
            return True
        oldest = next(iter(self._buckets))
        if now - self._buckets[oldest][1] < self._refill:
            return False
        del self._buckets[oldest]
        return True


def checked_rate(rate: float, burst: float | None) -> tuple[float, float]:
    """
    Return a rate and a burst that make a bucket.

    Raises:
        twh_platform.errors.ConfigurationError: For others.
    """
    size = max(1.0, rate) if burst is None else burst
    if not 0 < rate < float("inf") or not 1 <= size < float("inf"):
        message = f"rate={rate!r}, burst={burst!r}: a rate is above 0, a burst at least 1"
        raise ConfigurationError(message)
    return float(rate), float(size)
