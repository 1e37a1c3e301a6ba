"""
Listeners: what is announced of a tenant, counted by its label.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ._announced import Listener
from ._instruments import Counter
from ._names import MetricName
from ._registry import Registry
from ._tenants import NO_TENANT, OTHER_TENANTS, TenantLabels

__all__ = ["CountTenant", "Remaining"]

_MOST_RULES = 64


class CountTenant(Listener):
    """
    Count each announcement by its tenant, for those tenants that have a label.

    A refusal counts for the label of a tenant as one more request does: those
    who are refused most are those to be seen.
    """

    __slots__ = ("_counter", "_labels")

    def __init__(self, registry: Registry, counter: Counter, labels: TenantLabels) -> None:
        super().__init__(registry)
        self._counter, self._labels = counter, labels
        labels.reserve(1)
        labels.tell(registry)
        labels.on_leave(counter.remove)

    def take(self, signal: Any) -> None:
        """
        See `Listener`.
        """
        seat = self._labels.seat(signal.tenant_id)
        child = seat.children.get(self) or seat.child(self, self._counter.labels)
        if child is not None:
            child.inc()


class Remaining(Listener):
    """
    What is left of quotas, by tenant: of the rule that has least, until its period ends.

    Args:
        registry: Where the gauge is defined.

        name: The gauge, with the label of a tenant only.

        labels: Which tenants have one.

        clock: Seconds since 1970.
    """

    __slots__ = ("_clock", "_labels", "_left")

    def __init__(
        self,
        registry: Registry,
        name: MetricName,
        labels: TenantLabels,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(registry)
        self._labels, self._clock = labels, clock
        self._left: dict[str, dict[str, tuple[float, float]]] = {}
        labels.reserve(1)
        labels.on_leave(self._forget)
        registry.gauge_of(name.name, name.help, self.read, labels=name.labels, merge=name.merge)

    def take(self, signal: Any) -> None:
        """
        See `Listener`.
        """
        if signal.scope or signal.period_end is None:
            return  # of one user, or of what is never full again by itself
        label = self._labels.seat(signal.tenant_id).child(self, str)
        if label is None or label in {OTHER_TENANTS, NO_TENANT}:
            return
        rules = self._left.setdefault(label, {})
        if signal.rule in rules or len(rules) < _MOST_RULES:
            left = 1.0 - signal.used / signal.limit if signal.limit else 0.0
            rules[signal.rule] = max(0.0, left), signal.period_end.timestamp()

    def read(self) -> dict[tuple[str, ...], float]:
        """
        The gauge, by tenant.
        """
        now = self._clock()
        found: dict[tuple[str, ...], float] = {}
        for label, rules in list(self._left.items()):
            lasting = [left for left, end in list(rules.values()) if end > now]
            if lasting:
                found[label,] = min(lasting)
            else:
                self._left.pop(label, None)
        return found

    def _forget(self, label: str) -> None:
        self._left.pop(label, None)
