"""
Listeners: what others announce, counted.

Nothing here knows a signal's class.  `twh_platform.platform` does, and says
which of its fields become labels.

A listener costs less than a microsecond, for the capability waits for it.  It
never raises: what cannot be counted is a value that was dropped.  However many
values a field turns out to have, `MOST_LABELS` sets of them have series.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from operator import attrgetter
from typing import Any, Final, Generic, NamedTuple

from ._instruments import BoundCounter, Child, Counter, Gauge, Histogram, Metric
from ._names import EVENT_ATTRIBUTES
from ._registry import Registry

__all__ = [
    "MOST_LABELS",
    "CountEach",
    "CountPart",
    "Counted",
    "Counting",
    "Decided",
    "Emit",
    "Events",
    "Fixed",
    "Lasting",
    "Listener",
    "Took",
]

MOST_LABELS: Final = 256
"""
How many sets of label values one listener gives series to; the others share ``other``.
"""

Emit = Callable[[str, Mapping[str, Any]], object]


_OTHER = "other"
_WITHOUT_STORE = frozenset({"local", "open"})
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


class Counted(Generic[Child]):
    """
    A metric of which only so many sets of label values are told apart.

    Args:
        registry: Where those beyond are counted.

        metric: The counter or histogram.

        labels: For each of its labels the name of a field, or a `Fixed` value.

        say: How a value is called on the page, where not by itself; a code of
            None is ``success``.
    """

    __slots__ = ("_children", "_labels", "_metric", "_registry", "_say", "read")

    def __init__(
        self,
        registry: Registry,
        metric: Metric[Child],
        labels: tuple[str | Fixed, ...],
        say: Mapping[str, str] | None = None,
    ) -> None:
        self._registry, self._metric, self._labels = registry, metric, labels
        self._say = dict(say or {})
        self._children: dict[Hashable, Child] = {}
        fields = [one for one in labels if not isinstance(one, Fixed)]
        self.read: Callable[[Any], Hashable] = attrgetter(*fields) if fields else _nothing

    def child(self, key: Hashable) -> Child:
        """
        The child for what `read` has read.
        """
        return self._children.get(key) or self._find(key)

    def _find(self, key: Hashable) -> Child:
        if len(self._children) >= MOST_LABELS:
            self._registry.overflow(self._metric.definition.name).inc()
            return self._metric.labels(*(_OTHER for _ in self._labels))
        values = iter(key if isinstance(key, tuple) else (key,))
        labels = (
            one.value if isinstance(one, Fixed) else self._name(next(values))
            for one in self._labels
        )
        child = self._children[key] = self._metric.labels(*labels)
        return child

    def _name(self, value: object) -> object:
        return "success" if value is None else self._say.get(str(value), value)


class Counting(Listener):
    """
    Count each announcement.
    """

    __slots__ = ("_child", "_children", "_read")

    def __init__(self, registry: Registry, counted: Counted[BoundCounter]) -> None:
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
        self._find = Counted(registry, counter, ("rule", "code"), say).child

    def take(self, signal: Any) -> None:
        """
        See `Listener`.
        """
        result = self._result or signal.code
        for rule in signal.rules or ("",):
            self._find((rule, result)).inc()


class Decided(Listener):
    """
    Count decisions that admit, once for each rule, and observe how long each took.

    What refuses is told by signals of its own, with the rules that it is for.

    Args:
        registry: Where failures are counted.

        counter: The counter, with labels for a rule and a result.

        seconds: The histogram, by who decided.
    """

    __slots__ = ("_child", "_known", "_seconds", "_taken")

    def __init__(self, registry: Registry, counter: Counter, seconds: Histogram) -> None:
        super().__init__(registry)
        self._child = Counted(registry, counter, ("rule", "result")).child
        by_origin = Counted(registry, seconds, ("origin",))
        self._seconds, self._taken = by_origin.child, by_origin._children  # noqa: SLF001 -- as above
        self._known: dict[Hashable, tuple[BoundCounter, ...]] = {}

    def __call__(self, signal: Any) -> None:
        """
        Hear of *signal*.
        """
        try:
            rules, origin, seconds = signal.rules, signal.origin, signal.seconds
            if signal.code is None:
                for child in self._known.get((rules, origin)) or self._find(rules, origin):
                    child.inc()
            if seconds is not None:
                (self._taken.get(origin) or self._seconds(origin)).observe(seconds)
        except Exception:  # noqa: BLE001 -- as in `Listener`
            self._dropped()

    def _find(self, rules: tuple[str, ...], origin: str) -> tuple[BoundCounter, ...]:
        result = "degraded" if origin in _WITHOUT_STORE else "allowed"
        found = tuple(self._child((rule, result)) for rule in rules)
        if len(self._known) < MOST_LABELS:
            self._known[rules, origin] = found
        return found


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


class Took(Listener):
    """
    Observe how long something took, as one field says; None says that nobody measured it.

    Args:
        registry: Where failures are counted.

        histogram: The histogram.

        seconds: The name of the field.

        labels: The names of the fields that are its labels.
    """

    __slots__ = ("_counted", "_seconds")

    def __init__(
        self, registry: Registry, histogram: Histogram, seconds: str, labels: Iterable[str]
    ) -> None:
        super().__init__(registry)
        self._counted = Counted(registry, histogram, tuple(labels))
        self._seconds = attrgetter(seconds)

    def take(self, signal: Any) -> None:
        """
        See `Listener`.
        """
        seconds = self._seconds(signal)
        if seconds is not None:
            self._counted.child(self._counted.read(signal)).observe(seconds)


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
