"""
Listeners: which parts are known not to answer.
"""

from __future__ import annotations

from typing import Any

from ._announced import Counted, Listener
from ._instruments import Counter, Gauge
from ._registry import Registry

__all__ = ["Degraded", "Restored", "Whereabouts"]


class Whereabouts:
    """
    Which parts are known not to answer.

    Several of a kind count together: their signals do not say which one it is.

    Args:
        registry: Where failures are counted.

        degraded: The gauge.

        begun: How often it began, with its reason.

        seconds: For how long it lasted.
    """

    def __init__(
        self, registry: Registry, degraded: Gauge, begun: Counter, seconds: Counter
    ) -> None:
        self.registry = registry
        self.begun, self.seconds = begun, seconds
        self._degraded = degraded
        self._now: dict[tuple[str, str], int] = {}

    def move(self, part: str, provider: str, by: int, most: int | None) -> bool:
        """
        Note that one more or one less does not answer; whether that is news.
        """
        before = self._now.get((part, provider), 0)
        after = max(0, before + by)
        if most is not None:
            after = min(most, after)
        self._now[part, provider] = after
        self._degraded.labels(part, provider).set(after)
        return after != before


class Degraded(Listener):
    """
    A part does not answer.

    Args:
        where: What is known of all parts.

        part: Which part it is.

        reason: The name of the field that says why.

        provider: The name of the field that says which of its kind.

        repeats: Whether it is announced more than once for the same time.
    """

    __slots__ = ("_begun", "_most", "_part", "_provider", "_reason", "_where")

    def __init__(
        self,
        where: Whereabouts,
        part: str,
        *,
        reason: str,
        provider: str = "",
        repeats: bool = False,
    ) -> None:
        super().__init__(where.registry)
        self._where, self._part = where, part
        self._provider, self._reason = provider, reason
        self._most = 1 if repeats else None
        self._begun = Counted(where.registry, where.begun, ("part", "provider", "reason"))

    def take(self, signal: Any) -> None:
        """
        See `Listener`.
        """
        provider = getattr(signal, self._provider) if self._provider else ""
        if self._where.move(self._part, provider, +1, self._most):
            self._begun.child((self._part, provider, getattr(signal, self._reason))).inc()


class Restored(Listener):
    """
    A part answers again.

    Args:
        where: What is known of all parts.

        part: Which part it is.

        seconds: The name of the field that says for how long it did not.

        provider: The name of the field that says which of its kind.
    """

    __slots__ = ("_part", "_provider", "_seconds", "_where")

    def __init__(
        self, where: Whereabouts, part: str, *, seconds: str = "", provider: str = ""
    ) -> None:
        super().__init__(where.registry)
        self._where, self._part = where, part
        self._seconds, self._provider = seconds, provider

    def take(self, signal: Any) -> None:
        """
        See `Listener`.
        """
        provider = getattr(signal, self._provider) if self._provider else ""
        self._where.move(self._part, provider, -1, None)
        if self._seconds:
            seconds = self._where.seconds.labels(self._part, provider)
            seconds.inc(getattr(signal, self._seconds))
