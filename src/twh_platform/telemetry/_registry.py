"""
The registry: which metrics there are, on which cells they count, and their page.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar

from .._forks import reset_after_fork
from ..errors import ConfigurationError
from ._cells import Cells, Slot
from ._definitions import (
    SECONDS,
    Definition,
    Merge,
    Series,
    clean_help,
    finite_buckets,
)
from ._exposition import render
from ._instruments import EXEMPLAR_CELLS, BoundCounter, Counter, Gauge, Histogram, Metric
from ._merging import Labelled, merged
from ._names import (
    LABEL_OVERFLOW,
    RETAINED_SERIES_DROPPED,
    SERIES_REFUSED,
    VALUES_DROPPED,
    WORKER_FILES_SKIPPED,
    MetricName,
)
from ._names import SERIES as SERIES_NAME
from ._worker_file import (
    EXEMPLARS,
    FAMILY,
    SERIES,
    WorkerFile,
    definition_name,
    series_name,
)
from ._workers import Gathered, MetricsDirectory

__all__ = ["Registry"]

_Metric = TypeVar("_Metric", bound=Metric[Any])
Numbers = float | Mapping[tuple[str, ...], float]
Item = Definition | Series | None
Families = Callable[[bool, set[str]], Iterable[bytes]]

_logger = logging.getLogger("twh_platform.telemetry")

_BREATH: Final = {"histogram": 32, "counter": 256, "gauge": 256}


def _has_gil() -> bool:
    asked: Callable[[], bool] | None = getattr(sys, "_is_gil_enabled", None)
    return sys.implementation.name == "cpython" and (asked is None or asked())


class Registry:
    """
    Metrics of one process, or of several workers together.

    Counting takes no lock, makes no system call and never raises.  Making a
    child the first time takes some microseconds.

        >>> registry = Registry()
        >>> orders = registry.counter("orders_total", "Orders placed.", labels=("outcome",))
        >>> placed = orders.labels("placed")
        >>> placed.inc()
        >>> b'orders_total{outcome="placed"} 1.0' in registry.page()
        True

    Numbers are float64: counts are exact up to 2**53.

    Args:
        shared: Where several workers share their numbers; each of them makes a
            registry with the same metrics.  A forked child begins a file of its
            own, with everything at zero; without *shared* it has a copy.

        max_series: How many children all metrics may have together in this process.
            Those beyond count into nothing, and are counted in
            ``telemetry_series_refused_total``.

    Attributes:
        shared: The same directory.

    Raises:
        OSError: If the file of *shared* cannot be made.
    """

    def __init__(self, *, shared: MetricsDirectory | None = None, max_series: int = 20_000) -> None:
        self.shared = shared
        self.gil = _has_gil()
        self._max_series = max_series
        self._series = 0
        self._making = threading.RLock()
        self._cells: Cells = Cells() if shared is None else shared.attach()
        self._spare = Cells()
        self._metrics: list[Metric[Any]] = []
        self._taken: set[str] = set()
        self._hooks: list[Callable[[], None]] = []
        self._joined: list[Families] = []
        self._count_own()
        reset_after_fork(self)

    def counter(self, name: str, help: str, *, labels: Iterable[str] = ()) -> Counter:  # noqa: A002
        """
        Define what only grows.

        Args:
            name: It ends in ``_total``.

            help: One sentence.

            labels: Label names.

        Raises:
            twh_platform.errors.ConfigurationError: `metric_name_invalid`,
                `metric_labels_invalid`, or `metric_duplicate` where another metric
                has this name, or one that its samples would have.
        """
        definition = Definition(
            name=name, kind="counter", help=clean_help(help), labels=tuple(labels)
        )
        return self._define(definition, lambda number: Counter(self, definition, number))

    def gauge(
        self,
        name: str,
        help: str,  # noqa: A002
        *,
        labels: Iterable[str] = (),
        merge: Merge = "sum",
    ) -> Gauge:
        """
        Define what goes up and down.

        Args:
            name: Its name.

            help: One sentence.

            labels: Label names.

            merge: What the gauges of several workers become: their ``sum``,
                ``max``, ``min``, or ``each`` for itself with a label ``pid``.
                Only living workers have gauges.

        Raises:
            twh_platform.errors.ConfigurationError: As in `counter`.
        """
        if merge not in {"sum", "max", "min", "each"}:
            raise ConfigurationError(f"merge={merge!r} is not sum, max, min or each")
        definition = Definition(
            name=name, kind="gauge", help=clean_help(help), labels=tuple(labels), merge=merge
        )
        return self._define(definition, lambda number: Gauge(self, definition, number))

    def histogram(
        self,
        name: str,
        help: str,  # noqa: A002
        *,
        labels: Iterable[str] = (),
        buckets: Iterable[float] = SECONDS,
        unit: str = "",
        exemplars: bool = True,
    ) -> Histogram:
        """
        Define a distribution.

        Args:
            name: It ends in the unit.

            help: One sentence.

            labels: Label names.

            buckets: Upper bounds, inclusive and ascending; there is always one more, of infinity.

            unit: What the name must end in: ``seconds``, ``bytes``.

            exemplars: Whether to keep the trace of the last value in each bucket.

        Raises:
            twh_platform.errors.ConfigurationError: As in `counter`, or
                `metric_buckets_invalid`.
        """
        if unit and not name.endswith(f"_{unit}"):
            message = f"name={name!r} does not end in _{unit}"
            raise ConfigurationError(message, code="metric_name_invalid")
        definition = Definition(
            name=name,
            kind="histogram",
            help=clean_help(help),
            labels=tuple(labels),
            buckets=finite_buckets(buckets),
        )
        return self._define(
            definition, lambda number: Histogram(self, definition, number, exemplars=exemplars)
        )

    def gauge_of(
        self,
        name: str,
        help: str,  # noqa: A002
        read: Callable[[], Numbers],
        *,
        labels: Iterable[str] = (),
        merge: Merge = "sum",
    ) -> Gauge:
        """
        Define a gauge that is read when the page is rendered, or `refresh` is called.

        With several workers, the one that answers reads its own; what it knows of
        the others is what they read last.

        Args:
            name: Its name.

            help: One sentence.

            read: Gives the number, or with *labels* a number for each tuple of
                label values.  Where it raises, the gauge leaves the page.

            labels: Label names.

            merge: As in `gauge`.

        Raises:
            twh_platform.errors.ConfigurationError: As in `counter`.
        """
        gauge = self.gauge(name, help, labels=labels, merge=merge)

        def refresh() -> None:
            try:
                numbers = _by_labels(read())
            except Exception:
                gauge.clear()
                raise
            for gone in gauge.children() - numbers.keys():
                gauge.remove(*gone)
            for values, value in numbers.items():
                gauge.labels(*values).set(value)

        self._hooks.append(refresh)
        return gauge

    def counter_of(
        self,
        name: str,
        help: str,  # noqa: A002
        read: Callable[[], Numbers],
        *,
        labels: Iterable[str] = (),
    ) -> Counter:
        """
        Define a counter whose totals somebody else keeps; read as in `gauge_of`.

        Args:
            name: It ends in ``_total``.

            help: One sentence.

            read: Gives the total; one that is smaller than the last is left out.

            labels: Label names.

        Raises:
            twh_platform.errors.ConfigurationError: As in `counter`.
        """
        counter = self.counter(name, help, labels=labels)

        def refresh() -> None:
            for values, total in _by_labels(read()).items():
                counter.labels(*values)._reach(total)  # noqa: SLF001 -- of the same part

        self._hooks.append(refresh)
        return counter

    def on_render(self, hook: Callable[[], None]) -> None:
        """
        Call *hook* before each page and in `refresh`.

        It must be quick.  One that raises is counted as a value that was dropped.
        """
        self._hooks.append(hook)

    def join(self, families: Families) -> None:
        """
        Put metrics of another library at the end of the page; said again, it changes nothing.

        Where it raises, or yields something else, the rest of it is left out and counted.

        Args:
            families: Given whether the page is OpenMetrics, and the names that are
                on it, it yields whole lines in that format as bytes, without
                ``# EOF``, some at a time.  It leaves out what is there already,
                and adds its own names to the set.
        """
        if families not in self._joined:
            self._joined.append(families)

    def refresh(self) -> None:
        """
        Read everything that is read at rendering: for a worker that others answer for.
        """
        for hook in list(self._hooks):
            try:
                hook()
            except Exception:  # noqa: BLE001 -- a page without one number is better than none
                self.dropped()

    def definitions(self) -> list[Definition]:
        """
        Every metric that was defined here, in that order.
        """
        return [metric.definition for metric in self._metrics]

    def page(self, *, openmetrics: bool = False) -> bytes:
        """
        The whole page; `slices` is for event loops.
        """
        return b"".join(self.slices(openmetrics=openmetrics))

    def slices(self, *, openmetrics: bool = False) -> Iterator[bytes]:
        """
        The page in small pieces, some of them empty: let others run between any two.

        Args:
            openmetrics: OpenMetrics 1.0.0 with exemplars, or else Prometheus text 0.0.4.
        """
        self.refresh()
        yield b""
        names: set[str] = set()
        last = self._join(openmetrics, names)
        yield from render(self.collect(names), openmetrics=openmetrics, last=last)

    def collect(self, names: set[str] | None = None) -> Iterator[Item]:
        """
        Each definition, followed by its series over all workers; None where others may run.

        Args:
            names: Filled with the names that are taken.
        """
        gathered = yield from self._gather()
        taken = set() if names is None else names
        taken.update(self._taken)
        known = {metric.definition.shape for metric in self._metrics}
        for metric in list(self._metrics):
            yield from self._one(metric.definition, metric.series(), gathered)
        for source in reversed(gathered.sources):
            for shape, (definition, _) in source.families.items():
                if shape in known:
                    continue
                known.add(shape)
                if taken.isdisjoint(definition.taken_names):
                    taken.update(definition.taken_names)
                    yield from self._one(definition, (), gathered)
                else:
                    self._skipped.labels("definition").inc()

    def place(self, metric: Metric[Any], labels: tuple[str, ...]) -> Slot | None:
        """
        Take cells for one more child, or None where the budget is spent.
        """
        width = metric.definition.width
        own = metric.number < self._own
        slot = None
        if own or self._series < self._max_series:
            start = metric.definition.start
            slot = self._cells.take(width, series_name(labels), SERIES, metric.number, start=start)
        if slot is None and own:
            # A full file must still be able to say that it is full: at least on its own page.
            slot = self._spare.take(width)
        if slot is None:
            self._refused.labels(metric.definition.name).inc()
            return None
        self._series += not own
        return slot

    def place_exemplars(self, metric: Metric[Any], labels: tuple[str, ...]) -> Slot | None:
        """
        Take cells for the exemplars of one histogram, or None.
        """
        width = (metric.definition.width - 1) * EXEMPLAR_CELLS
        return self._cells.take(width, series_name(labels), EXEMPLARS, metric.number)

    def release(self, slot: Slot, *, series: bool = True) -> None:
        """
        Take cells back.
        """
        self._cells.give_back(slot)
        self._series -= series

    def dropped(self) -> None:
        """
        Count a value that could not be counted.
        """
        self._dropped.inc()

    def overflow(self, of: str) -> BoundCounter:
        """
        What counts in ``platform_telemetry_label_overflow_total`` for want of a label.

        Args:
            of: ``tenants``, or the name of a metric: out of a closed list.
        """
        return self._overflow.labels(of)

    def making(self) -> Any:
        """
        The lock under which children come and go.
        """
        return self._making

    def after_fork(self) -> None:
        """
        Begin a file of our own in a forked child: the parent's goes on without us.
        """
        self._making = threading.RLock()
        if self.shared is None:
            return
        old = self._cells
        try:
            self._cells = self.shared.attach()
        except OSError:
            _logger.exception("no file for the metrics of this process")
            self._cells = Cells()
        if isinstance(old, WorkerFile):
            old.close()
        self._series = 0
        for metric in self._metrics:
            self._announce(metric.definition, metric.number)
            metric.move()

    def close(self) -> None:
        """
        Leave the shared directory: others then see this process as gone.

        The end of the process does the same.  What is counted later is on no
        page but that of this registry, which then speaks for itself alone.
        """
        if isinstance(self._cells, WorkerFile):
            self._cells.close()
            self._cells = Cells()

    def _count_own(self) -> None:
        self._own = sys.maxsize  # what is defined here is not refused
        self._refused = self._counter_named(SERIES_REFUSED)
        self._dropped = self._counter_named(VALUES_DROPPED).labels()
        self._skipped = self._counter_named(WORKER_FILES_SKIPPED)
        self._forgotten = self._counter_named(RETAINED_SERIES_DROPPED).labels()
        self._overflow = self._counter_named(LABEL_OVERFLOW)
        self.gauge_of(SERIES_NAME.name, SERIES_NAME.help, self._count_series)
        self._own = len(self._metrics)

    def _counter_named(self, name: MetricName) -> Counter:
        return self.counter(name.name, name.help, labels=name.labels)

    def _count_series(self) -> float:
        return float(sum(map(len, self._metrics)))

    def _define(self, definition: Definition, make: Callable[[int], _Metric]) -> _Metric:
        with self._making:
            if not self._taken.isdisjoint(definition.taken_names):
                message = f"name={definition.name!r} is, or would have samples of, another metric"
                raise ConfigurationError(message, code="metric_duplicate")
            self._taken.update(definition.taken_names)
            self._announce(definition, len(self._metrics))
            metric = make(len(self._metrics))
            self._metrics.append(metric)
            return metric

    def _announce(self, definition: Definition, number: int) -> None:
        self._cells.take(0, definition_name(definition), FAMILY, number)

    def _gather(self) -> Generator[None, None, Gathered]:
        if self.shared is None or not isinstance(self._cells, WorkerFile):
            return Gathered([], [], 0)
        gathered = yield from self.shared.gather(self._cells.identity)
        for fault in gathered.faults:
            self._skipped.labels(fault).inc()
        self._forgotten.inc(gathered.forgotten)
        return gathered

    def _one(
        self, definition: Definition, mine: Iterable[Series], gathered: Gathered
    ) -> Iterator[Item]:
        others: list[tuple[int, Labelled]] = [
            (source.pid, source.families[definition.shape][1])
            for source in gathered.sources
            if definition.shape in source.families
        ]
        yield definition
        breath = _BREATH[definition.kind]
        for count, series in enumerate(merged(definition, mine, others, os.getpid()), 1):
            yield series
            if count % breath == 0:
                yield None

    def _join(
        self,
        openmetrics: bool,  # noqa: FBT001 -- as it is handed on
        names: set[str],
    ) -> Iterator[bytes]:
        for families in list(self._joined):
            try:
                yield from map(_whole_lines, families(openmetrics, names))
            except Exception:  # noqa: BLE001 -- as in refresh
                self.dropped()


def _whole_lines(piece: bytes) -> bytes:
    # Text would be equal to neither.
    if piece[-1:] not in (b"", b"\n"):
        raise ValueError
    return piece


def _by_labels(numbers: Numbers) -> Mapping[tuple[str, ...], float]:
    return numbers if isinstance(numbers, Mapping) else {(): numbers}
