"""
Counters, gauges and histograms, and their children: one for each set of label values.

Why counting takes no lock.  A thread of CPython gives up the GIL only where
the interpreter looks for it: on entry to a function, after a call, and on a
jump backwards.  `cells[at] += amount` has none of these between reading and
writing, and neither has what finds the cells, so no other thread runs in
between.  A test reads the bytecode for it,
and another counts with eight threads.  Where there is no GIL, the children are
of the classes below that take a lock.

A process that is killed in a histogram's observation may have added to the sum
and not yet to the count; of a count nothing is ever half done.

Nothing here raises once a metric is defined.  What cannot be counted is
dropped, and the drop is counted.
"""

# ruff: noqa: SLF001 -- a metric and its children are one part
from __future__ import annotations

import math
import struct
import threading
import time
import zlib
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Final, Generic, Protocol, TypeVar

from ._cells import LOST, Slot
from ._definitions import Definition, Exemplar, Series
from ._labels import clean_label

__all__ = [
    "EXEMPLAR_CELLS",
    "BoundCounter",
    "BoundGauge",
    "BoundHistogram",
    "Counter",
    "Gauge",
    "Histogram",
    "Keeper",
    "Metric",
    "pack_exemplar",
    "read_exemplars",
    "write_exemplar",
]

# Amounts stay below: 8 EiB, or 292 years in nanoseconds.  So no sum of them gets anywhere near
# infinity, which it would never leave again.
_MOST: Final = 2.0**63
_LEAST: Final = -_MOST
# What arithmetic and storing raise for what is no number, or one beyond float64.
_NO_NUMBER: Final = (TypeError, ValueError, OverflowError, ArithmeticError, AttributeError)

# trace id, span id, observed value, seconds since 1970; then a CRC-32 in a cell of its own,
# so that one which is read while it is written, or was written by a killed process, is left out.
_EXEMPLAR = struct.Struct("=16s8sdd")
_SEALED = struct.Struct("=16s8sddI4x")
_SEAL = struct.Struct("=I4x")
EXEMPLAR_CELLS: Final = _SEALED.size // 8

Child = TypeVar("Child", bound="_Child")


class Keeper(Protocol):
    """
    What a metric asks of its registry.
    """

    gil: bool

    def place(self, metric: Metric[Any], labels: tuple[str, ...]) -> Slot | None:
        """
        Take cells for one more child, or None where the budget is spent.
        """
        ...

    def place_exemplars(self, metric: Metric[Any], labels: tuple[str, ...]) -> Slot | None:
        """
        Take cells for the exemplars of one histogram, or None.
        """
        ...

    def release(self, slot: Slot, *, series: bool = True) -> None:
        """
        Take cells back.
        """
        ...

    def dropped(self) -> None:
        """
        Count a value that could not be counted.
        """
        ...

    def making(self) -> AbstractContextManager[Any]:
        """
        The lock under which children come and go.
        """
        ...


class _Child:
    """
    One set of label values; `_move` puts it on other cells.
    """

    __slots__ = ("_at", "_cells", "_keeper", "_slot")

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._move(LOST)

    def _move(self, slot: Slot) -> None:
        self._slot = slot
        self._cells, self._at = slot.page.cells, slot.at


class BoundCounter(_Child):
    """
    A counter with its label values.
    """

    __slots__ = ()

    def inc(self, amount: float = 1.0) -> None:
        """
        Add *amount*; what is negative, no number, or 2**63 and more is dropped and counted.
        """
        try:
            # Now a float: adding it runs no Python of somebody's number class.
            if 0.0 <= (amount := amount + 0.0) < _MOST:
                self._cells[self._at] += amount
                return
        except _NO_NUMBER:
            pass
        self._keeper.dropped()

    def _reach(self, total: float) -> None:
        if not 0.0 <= total < _MOST:
            raise ValueError
        self._cells[self._at] = max(total, self._cells[self._at])


class BoundGauge(_Child):
    """
    A gauge with its label values.
    """

    __slots__ = ()

    def inc(self, amount: float = 1.0) -> None:
        """
        Add *amount*; what is no number, or 2**63 and more, is dropped and counted.
        """
        try:
            if _LEAST < (amount := amount + 0.0) < _MOST:
                self._cells[self._at] += amount
                return
        except _NO_NUMBER:
            pass
        self._keeper.dropped()

    def dec(self, amount: float = 1.0) -> None:
        """
        Subtract *amount*; what is no number, or 2**63 and more, is dropped and counted.
        """
        try:
            if _LEAST < (amount := amount + 0.0) < _MOST:
                self._cells[self._at] -= amount
                return
        except _NO_NUMBER:
            pass
        self._keeper.dropped()

    def set(self, value: float) -> None:
        """
        Set it to *value*; what is no number is dropped and counted.
        """
        try:
            self._cells[self._at] = value + 0.0
        except _NO_NUMBER:
            self._keeper.dropped()


class _UnsetGauge(BoundGauge):
    """
    A gauge that holds NaN, and is on no page, until it has a number; it is counted from zero.
    """

    __slots__ = ()

    def inc(self, amount: float = 1.0) -> None:
        self._begin(amount)
        super().inc(amount)

    def dec(self, amount: float = 1.0) -> None:
        self._begin(amount)
        super().dec(amount)

    def _begin(self, amount: float) -> None:
        try:
            # No thread can run between reading and writing, as in an addition.
            if _LEAST < amount + 0.0 < _MOST and (now := self._cells[self._at]) != now:
                self._cells[self._at] = 0.0
        except _NO_NUMBER:
            pass  # as the addition will find, too


class BoundHistogram(_Child):
    """
    A histogram with its label values.
    """

    __slots__ = ("_bounds", "_exemplars", "_labels", "_least", "_metric")

    def __init__(self, keeper: Keeper, metric: Histogram, labels: tuple[str, ...]) -> None:
        super().__init__(keeper)
        self._metric = metric
        self._labels = labels
        self._bounds = metric.definition.buckets
        # Something that has no bucket below zero is a duration or a size.
        self._least = 0.0 if self._bounds[0] >= 0.0 else _LEAST
        self._exemplars: Slot | None = None

    def observe(self, value: float, exemplar: tuple[str, str] | None = None) -> None:
        """
        Count *value* in its bucket.

        What is no number, or 2**63 and more, is dropped and counted; so is what
        is negative, unless the lowest bound is.

        Args:
            value: In the unit of the metric.

            exemplar: Trace id and span id in hexadecimal.  The last one of each
                bucket is kept; others than 32 and 16 digits are dropped and counted.
        """
        try:
            if self._least <= (value := value + 0.0) < _MOST:
                # The sum goes first: a value that cannot be added is then nowhere.
                bucket = bisect_left(self._bounds, value) + 1
                self._cells[self._at] += value
                self._cells[self._at + bucket] += 1.0
                if exemplar is not None:
                    self._keep(bucket - 1, value, exemplar)
                return
        except _NO_NUMBER:
            pass
        self._keeper.dropped()

    def _keep(self, bucket: int, value: float, exemplar: tuple[str, str]) -> None:
        if not self._metric.exemplars or self._slot is LOST:
            return
        content = pack_exemplar(exemplar, value, time.time())
        # Not without the lock: the cells may be given to another series meanwhile.
        with self._keeper.making():
            if self._exemplars is None and self._slot is not LOST:
                self._exemplars = self._keeper.place_exemplars(self._metric, self._labels)
            if self._exemplars is not None:
                write_exemplar(self._exemplars, bucket, content)

    def _move(self, slot: Slot) -> None:
        super()._move(slot)
        self._exemplars = None


class _LockedCounter(BoundCounter):
    __slots__ = ("_lock",)

    def __init__(self, keeper: Keeper) -> None:
        self._lock = threading.RLock()
        super().__init__(keeper)

    def inc(self, amount: float = 1.0) -> None:
        with self._lock:
            super().inc(amount)

    def _move(self, slot: Slot) -> None:
        with self._lock:
            super()._move(slot)


class _LockedGauge(_UnsetGauge):
    __slots__ = ("_lock",)

    def __init__(self, keeper: Keeper) -> None:
        self._lock = threading.RLock()
        super().__init__(keeper)

    def inc(self, amount: float = 1.0) -> None:
        with self._lock:
            super().inc(amount)

    def dec(self, amount: float = 1.0) -> None:
        with self._lock:
            super().dec(amount)

    def set(self, value: float) -> None:
        with self._lock:
            super().set(value)

    def _move(self, slot: Slot) -> None:
        with self._lock:
            super()._move(slot)


class _LockedHistogram(BoundHistogram):
    __slots__ = ("_lock",)

    def __init__(self, keeper: Keeper, metric: Histogram, labels: tuple[str, ...]) -> None:
        self._lock = threading.RLock()
        super().__init__(keeper, metric, labels)

    def observe(self, value: float, exemplar: tuple[str, str] | None = None) -> None:
        with self._lock:
            super().observe(value, exemplar)

    def _move(self, slot: Slot) -> None:
        with self._lock:
            super()._move(slot)


class Metric(Generic[Child]):
    """
    A metric of a registry: its children by label values.

    Made by `Registry.counter`, `gauge` and `histogram`.

    Attributes:
        definition: Its name and shape.

        number: Its place in the registry.
    """

    def __init__(self, keeper: Keeper, definition: Definition, number: int) -> None:
        self.definition = definition
        self.number = number
        self._keeper = keeper
        self._children: dict[tuple[str, ...], Child] = {}
        self._inert = self._make(())
        if not definition.labels:
            self._find(())

    def labels(self, *values: object) -> Child:
        """
        The child with these label values, which is worth keeping: it counts faster.

        Anything may be a value: see `clean_label`.  With too few or too many
        values, and beyond the registry's budget of series, the child is on no page.

        Args:
            values: One for each label name, in their order.
        """
        try:
            return self._children[values]  # type: ignore[index]
        except (KeyError, TypeError):
            return self._find(tuple(clean_label(value) for value in values))

    def remove(self, *values: object) -> None:
        """
        Take the child with these label values from the page.

        Whoever still has the child may use it: it counts into nothing.  The
        same label values begin anew from zero.
        """
        key = tuple(clean_label(value) for value in values)
        with self._keeper.making():
            child = self._children.pop(key, None)
            if child is not None:
                self._give_up(child)

    def clear(self) -> None:
        """
        Take all children from the page.
        """
        for key in list(self._children):
            self.remove(*key)

    def __len__(self) -> int:
        return len(self._children)

    def children(self) -> set[tuple[str, ...]]:
        """
        The label values of all children.
        """
        return set(self._children)

    def series(self) -> Iterator[Series]:
        """
        What each child has come to, for as many as there are now.
        """
        for labels, child in list(self._children.items()):
            yield Series(labels, child._slot.read(), {})

    def move(self) -> None:
        """
        Put every child on new cells, which begin anew: after a fork.
        """
        for labels, child in list(self._children.items()):
            child._move(self._keeper.place(self, labels) or LOST)

    def _make(self, labels: tuple[str, ...]) -> Child:
        raise NotImplementedError

    def _find(self, key: tuple[str, ...]) -> Child:
        if len(key) != len(self.definition.labels):
            self._keeper.dropped()
            return self._inert
        with self._keeper.making():
            found = self._children.get(key)
            return found if found is not None else self._add(key)

    def _add(self, key: tuple[str, ...]) -> Child:
        slot = self._keeper.place(self, key)
        if slot is None:
            return self._inert
        child = self._make(key)
        child._move(slot)
        self._children[key] = child
        return child

    def _give_up(self, child: Child) -> None:
        slot = child._slot
        child._move(LOST)
        self._keeper.release(slot)


class Counter(Metric[BoundCounter]):
    """
    What only grows: requests, bytes, failures.

        >>> from twh_platform.telemetry import Registry
        >>> orders = Registry().counter("orders_total", "Orders placed.", labels=("outcome",))
        >>> orders.labels("placed").inc()

    Exact up to 2**53, from where on float64 has no room for ones.
    """

    def inc(self, amount: float = 1.0) -> None:
        """
        As `BoundCounter.inc`, of a counter without labels.
        """
        self.labels().inc(amount)

    def _make(self, labels: tuple[str, ...]) -> BoundCounter:
        del labels
        return (BoundCounter if self._keeper.gil else _LockedCounter)(self._keeper)


class Gauge(Metric[BoundGauge]):
    """
    What goes up and down: connections, seconds since the last run, a size.

    With another ``merge`` than ``sum``, a worker takes part once it has set the
    gauge, or counted with it, and no more after NaN: a zero that nobody has set
    would be the least of all.
    """

    def inc(self, amount: float = 1.0) -> None:
        """
        As `BoundGauge.inc`, of a gauge without labels.
        """
        self.labels().inc(amount)

    def dec(self, amount: float = 1.0) -> None:
        """
        As `BoundGauge.dec`, of a gauge without labels.
        """
        self.labels().dec(amount)

    def set(self, value: float) -> None:
        """
        As `BoundGauge.set`, of a gauge without labels.
        """
        self.labels().set(value)

    def _make(self, labels: tuple[str, ...]) -> BoundGauge:
        del labels
        if not self._keeper.gil:
            return _LockedGauge(self._keeper)
        return (_UnsetGauge if self.definition.start else BoundGauge)(self._keeper)


class Histogram(Metric[BoundHistogram]):
    """
    How values are spread: durations, sizes.

    Attributes:
        exemplars: Whether it keeps them.
    """

    def __init__(
        self, keeper: Keeper, definition: Definition, number: int, *, exemplars: bool
    ) -> None:
        self.exemplars = exemplars
        super().__init__(keeper, definition, number)

    def observe(self, value: float, exemplar: tuple[str, str] | None = None) -> None:
        """
        As `BoundHistogram.observe`, of a histogram without labels.
        """
        self.labels().observe(value, exemplar)

    def series(self) -> Iterator[Series]:
        """
        What each child has come to, for as many as there are now.
        """
        for labels, child in list(self._children.items()):
            kept = child._exemplars
            found = {} if kept is None else read_exemplars(kept.page.raw, kept.at * 8, kept.width)
            yield Series(labels, child._slot.read(), found)

    def _make(self, labels: tuple[str, ...]) -> BoundHistogram:
        kind = BoundHistogram if self._keeper.gil else _LockedHistogram
        return kind(self._keeper, self, labels)

    def _give_up(self, child: BoundHistogram) -> None:
        kept = child._exemplars
        super()._give_up(child)
        if kept is not None:
            self._keeper.release(kept, series=False)


def pack_exemplar(ids: tuple[str, str], value: float, when: float) -> bytes:
    """
    Write an exemplar, the value that was observed, and when, as bytes.

    Raises:
        ValueError: If an id is no hexadecimal of 16 or 8 bytes.
    """
    trace_id, span_id = map(bytes.fromhex, ids)
    if len(trace_id) != 16 or len(span_id) != 8:  # noqa: PLR2004 -- W3C trace context, 3.2.2
        raise ValueError
    content = _EXEMPLAR.pack(trace_id, span_id, value, when)
    return content + _SEAL.pack(zlib.crc32(content))


def write_exemplar(slot: Slot, bucket: int, content: bytes) -> None:
    """
    Put what `pack_exemplar` made in the place of its bucket.
    """
    start = slot.at * 8 + bucket * _SEALED.size
    slot.page.raw[start : start + _SEALED.size] = content


def read_exemplars(
    raw: bytes | memoryview, start: int, width: int
) -> dict[int, tuple[Exemplar, float, float]]:
    """
    Read the exemplars that are whole, by bucket.

    Args:
        raw: The page.

        start: Where they begin, in bytes.

        width: How many cells they have.
    """
    found = {}
    content = bytes(raw[start : start + width * 8])
    for bucket in range(len(content) // _SEALED.size):
        one = content[bucket * _SEALED.size : (bucket + 1) * _SEALED.size]
        trace_id, span_id, value, when, seal = _SEALED.unpack(one)
        sound = seal and seal == zlib.crc32(one[: _EXEMPLAR.size])
        if sound and math.isfinite(value) and 0.0 <= when < 1e11:  # noqa: PLR2004 -- year 5138
            found[bucket] = (Exemplar(trace_id.hex(), span_id.hex()), value, when)
    return found
