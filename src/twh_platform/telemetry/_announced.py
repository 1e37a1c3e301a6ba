"""
Listeners: what others announce, counted.

Nothing here knows a signal's class.  `twh_platform.platform` does, and says
which of its fields become labels.

A listener costs less than a microsecond, for the capability waits for it.  It
never raises: what cannot be counted is a value that was dropped.  However many
values a field turns out to have, `MOST_LABELS` sets of them have series.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from operator import attrgetter
from typing import Any, Final, NamedTuple

from ._instruments import BoundCounter, Counter, Gauge, Histogram
from ._names import EVENT_ATTRIBUTES, MetricName
from ._registry import Registry
from ._tenants import NO_TENANT, OTHER_TENANTS, TenantLabels

__all__ = [
    "MOST_LABELS",
    "CountEach",
    "CountPart",
    "CountTenant",
    "Counted",
    "Counting",
    "Degraded",
    "Emit",
    "Events",
    "Fixed",
    "Lasting",
    "Listener",
    "Remaining",
    "Restored",
    "Took",
    "Whereabouts",
]

MOST_LABELS: Final = 256
"""
How many sets of label values one listener gives series to; the others share ``other``.
"""

Emit = Callable[[str, Mapping[str, Any]], object]

_OTHER = "other"
_MOST_RULES = 64
_CALLED = {"service": "provider"}


class Fixed(NamedTuple):
    """
    A label value that says which signal it was, where others are out of its fields.
    """

    value: str


class Listener:
    """
    Take each announcement; a fault in that is counted and goes no further.
    """

    __slots__ = ("_dropped",)

    def __init__(self, registry: Registry) -> None:
        self._dropped = registry.dropped

    def __call__(self, signal: Any) -> None:
        """
        Hear of *signal*.
        """
        try:
            self.take(signal)
        except Exception:  # noqa: BLE001 -- what is told about a request never decides it
            self._dropped()

    def take(self, signal: Any) -> None:
        """
        Count *signal*; may raise.
        """
        raise NotImplementedError


class Counted:
    """
    A counter of which only so many sets of label values are told apart.

    Args:
        counter: The counter.

        labels: For each of its labels the name of a field, or a `Fixed` value.

        say: How a value is called on the page, where not by itself; a code of
            None is ``success``.
    """

    __slots__ = ("_children", "_counter", "_labels", "_say", "read")

    def __init__(
        self,
        counter: Counter,
        labels: tuple[str | Fixed, ...],
        say: Mapping[str, str] | None = None,
    ) -> None:
        self._counter, self._labels = counter, labels
        self._say = dict(say or {})
        self._children: dict[Hashable, BoundCounter] = {}
        fields = [one for one in labels if not isinstance(one, Fixed)]
        self.read: Callable[[Any], Hashable] = attrgetter(*fields) if fields else _nothing

    def child(self, key: Hashable) -> BoundCounter:
        """
        The counter for what `read` has read.
        """
        return self._children.get(key) or self._find(key)

    def _find(self, key: Hashable) -> BoundCounter:
        if len(self._children) >= MOST_LABELS:
            return self._counter.labels(*(_OTHER for _ in self._labels))
        values = iter(key if isinstance(key, tuple) else (key,))
        labels = (
            one.value if isinstance(one, Fixed) else self._name(next(values))
            for one in self._labels
        )
        child = self._children[key] = self._counter.labels(*labels)
        return child

    def _name(self, value: object) -> object:
        return "success" if value is None else self._say.get(str(value), value)


class Counting(Listener):
    """
    Count each announcement.
    """

    __slots__ = ("_child", "_children", "_read")

    def __init__(self, registry: Registry, counted: Counted) -> None:
        super().__init__(registry)
        self._read, self._child = counted.read, counted.child
        self._children = counted._children  # noqa: SLF001 -- one look-up less

    def __call__(self, signal: Any) -> None:
        """
        Hear of *signal*.
        """
        try:
            key = self._read(signal)
            (self._children.get(key) or self._child(key)).inc()
        except Exception:  # noqa: BLE001 -- as in `Listener`
            self._dropped()


class CountEach(Listener):
    """
    Count each announcement once for each of its rules, which are the first label.

    Args:
        registry: Where failures are counted.

        counter: The counter, with labels for a rule and a result.

        result: How the code of the signal is called, or what all of them are.
    """

    __slots__ = ("_find", "_result")

    def __init__(
        self, registry: Registry, counter: Counter, result: Mapping[str, str] | Fixed
    ) -> None:
        super().__init__(registry)
        self._result = result.value if isinstance(result, Fixed) else None
        say = {} if isinstance(result, Fixed) else result
        self._find = Counted(counter, ("rule", "code"), say).child

    def take(self, signal: Any) -> None:
        """
        See `Listener`.
        """
        result = self._result or signal.code
        for rule in signal.rules or ("",):
            self._find((rule, result)).inc()


class CountPart(Listener):
    """
    Add what one field of each announcement says.

    Args:
        registry: Where failures are counted.

        child: The counter.

        field: The name of the field.

        is_total: Whether the field only grows, so that what is new is added.
    """

    __slots__ = ("_child", "_is_total", "_last", "_read")

    def __init__(
        self, registry: Registry, child: BoundCounter, field: str, *, is_total: bool = False
    ) -> None:
        super().__init__(registry)
        self._child, self._read = child, attrgetter(field)
        self._is_total, self._last = is_total, 0.0

    def take(self, signal: Any) -> None:
        """
        See `Listener`.
        """
        amount = self._read(signal)
        if self._is_total:
            amount, self._last = max(0.0, amount - self._last), amount
        self._child.inc(amount)


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


class Took(Listener):
    """
    Observe how long something took, as one field says.

    Args:
        registry: Where failures are counted.

        histogram: The histogram.

        seconds: The name of the field.

        labels: The names of the fields that are its labels.
    """

    __slots__ = ("_histogram", "_labels", "_seconds")

    def __init__(
        self, registry: Registry, histogram: Histogram, seconds: str, labels: Iterable[str]
    ) -> None:
        super().__init__(registry)
        self._histogram, self._seconds, self._labels = histogram, seconds, tuple(labels)

    def take(self, signal: Any) -> None:
        """
        See `Listener`.
        """
        labels = (getattr(signal, one) for one in self._labels)
        self._histogram.labels(*labels).observe(getattr(signal, self._seconds))


class Lasting(Listener):
    """
    Work that begins and ends: how much of it is under way, and how long it took.

    It hears of both: what has a duration is over.

    Args:
        registry: Where failures are counted.

        active: The gauge.

        duration: The histogram, by outcome.
    """

    __slots__ = ("_active", "_duration", "_open")

    def __init__(self, registry: Registry, active: Gauge, duration: Histogram) -> None:
        super().__init__(registry)
        self._active, self._duration = active.labels(), duration
        self._open: set[str] = set()

    def take(self, signal: Any) -> None:
        """
        See `Listener`.
        """
        duration = getattr(signal, "duration", None)
        if duration is None:
            self._open.add(signal.access_id)
        else:
            self._open.discard(signal.access_id)  # not there, if it began before we listened
            outcome = "success" if signal.error is None else "error"
            self._duration.labels(outcome).observe(duration)
        self._active.set(len(self._open))


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
        self._begun = Counted(where.begun, ("part", "provider", "reason"))

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


class Events(Listener):
    """
    Tell the current span of each announcement; of those with a code of None, which
    say that all is well, nothing.

    Args:
        registry: Where failures are counted.

        name: The event's name.

        emit: Given that name and the attributes.

        fields: The names of the signal's fields that become attributes: those of
            the table of names.
    """

    __slots__ = ("_emit", "_fields", "_name")

    def __init__(self, registry: Registry, name: str, emit: Emit, fields: Iterable[str]) -> None:
        super().__init__(registry)
        self._name, self._emit = name, emit
        called = {one: f"platform.{_CALLED.get(one, one)}" for one in fields}
        self._fields = {one: name for one, name in called.items() if name in EVENT_ATTRIBUTES}

    def take(self, signal: Any) -> None:
        """
        See `Listener`.
        """
        told = {name: getattr(signal, field) for field, name in self._fields.items()}
        if told.get("platform.code", "") is not None:
            self._emit(self._name, {name: one for name, one in told.items() if one})


def _nothing(signal: object) -> Hashable:
    del signal
    return ()
