"""
The metrics of `prometheus_client` and ours side by side: theirs on our page, or ours on theirs.

    >>> from prometheus_client import CollectorRegistry, Counter, generate_latest
    >>> from twh_platform.telemetry import Registry
    >>> registry, theirs = Registry(), CollectorRegistry()
    >>> registry.counter("orders_total", "Orders placed.").inc()
    >>> Counter("mails", "Mails sent.", registry=theirs).inc()

    >>> show_theirs(registry, theirs)  # for those who ask our MetricsApp
    >>> b"mails_total 1.0" in registry.page()
    True
    >>> show_ours(registry, theirs)  # for those who ask an endpoint of theirs
    >>> b"orders_total 1.0" in generate_latest(theirs)
    True

Both may be said at once, as here.  Exemplars stay.  No name is on a
page twice: what is known when one of the functions is called raises; what comes
later is left out, counted in ``telemetry_values_dropped_total`` and logged once.
Of the process and of Python's garbage collector both tell the same under the
same names, and there the page's own are kept.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final, Protocol

from .._extras import missing_extra
from ..errors import ConfigurationError
from ._definitions import Definition, Series
from ._exposition import number
from ._names import PROCESS_METRICS
from ._prometheus_families import checked_copy, names_of, write_family
from ._registry import Registry

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Metric
    from prometheus_client.samples import Exemplar, Sample
except ImportError as cause:
    raise missing_extra("prometheus", cause) from cause

__all__ = ["show_ours", "show_theirs"]

_logger = logging.getLogger("twh_platform.telemetry")

_SAME: Final = frozenset(name.name.removesuffix("_total") for name in PROCESS_METRICS)
_MOST_LOGGED: Final = 100
# Whose page asks a registry of theirs: ours in it then keep silent.
_asking: ContextVar[Registry | None] = ContextVar("_asking", default=None)


class Collects(Protocol):
    """
    What has metrics of `prometheus_client`: a registry, or a part of one.
    """

    def collect(self) -> Iterable[Metric]:
        """
        Tell each family with its samples.
        """
        ...


def show_theirs(registry: Registry, theirs: Collects = REGISTRY) -> None:
    """
    Put the metrics of `prometheus_client` on the page of *registry*; said again, nothing changes.

    They are asked for each page, and written some hundred samples at a time.  A
    family that a scraper could not read is left out and counted.  So is the
    rest of them where a collector raises: our own metrics are on the page
    before anything is asked of theirs.

    Args:
        registry: On whose page.

        theirs: A registry of theirs.  It tells of this process alone, unless it
            has a ``MultiProcessCollector``.

    Raises:
        twh_platform.errors.ConfigurationError: `metric_duplicate`, if both have
            metrics of one name.
    """
    mine = {name for one in registry.definitions() for name in one.taken_names}
    joined = _Theirs(registry, theirs)
    _refuse({family: names & mine for family, names in _names(theirs, registry).items()})
    registry.join(joined)


def show_ours(registry: Registry, theirs: CollectorRegistry = REGISTRY) -> None:
    """
    Put our metrics where a registry of `prometheus_client` is shown.

    All of them, of all workers, and those that are defined later.  They are
    made in one go, as everything of theirs: `MetricsApp` lets others run.

    Args:
        registry: Whose metrics.

        theirs: The registry that the service shows.

    Raises:
        twh_platform.errors.ConfigurationError: `metric_duplicate`, if both have
            metrics of one name, or ours are there already.
    """
    ours = _Ours(registry, theirs)
    taken = {name for names in _names(theirs).values() for name in names}
    definitions = registry.definitions()
    _refuse({one.family: taken.intersection(one.taken_names) for one in definitions})
    ours.decide(definitions)
    try:
        theirs.register(ours)
    except ValueError as error:
        raise ConfigurationError("metrics have one name", code="metric_duplicate") from error


@dataclass(frozen=True)
class _Theirs:
    """
    What `Registry.join` asks for the families of one registry of theirs.
    """

    registry: Registry
    theirs: Collects
    logged: set[str] = field(default_factory=set, compare=False)

    def __call__(self, openmetrics: bool, taken: set[str]) -> Iterator[bytes]:  # noqa: FBT001
        for family in _collected(self.theirs, self.registry):
            try:
                names = names_of(family.name, family.type)
                if not taken.isdisjoint(names):
                    if family.name not in _SAME:
                        self._left_out(family, "its name is taken")
                    continue
                copy = yield from checked_copy(family)
                pieces = []
                for piece in write_family(copy, openmetrics=openmetrics):
                    pieces.append(piece)
                    yield b""
            except Exception:  # noqa: BLE001 -- the page of everybody else goes on
                self._left_out(family, "it cannot be written")
                continue
            taken |= names
            yield from pieces

    def _left_out(self, family: Metric, reason: str) -> None:
        self.registry.dropped()
        name = repr(getattr(family, "name", None))[:200]
        if name not in self.logged and len(self.logged) < _MOST_LOGGED:
            self.logged.add(name)
            _logger.warning("a family of prometheus_client is left out, %s: %s", reason, name)


class _Ours:
    """
    A collector as `prometheus_client` has them, with what one registry of ours knows.
    """

    def __init__(self, registry: Registry, theirs: Collects) -> None:
        self._registry = registry
        self._theirs = theirs
        self._shown: dict[str, bool] = {}

    def describe(self) -> Iterator[Metric]:
        """
        Tell the names, for theirs to refuse a metric of the same name later.
        """
        for definition in self._registry.definitions():
            if self._shown.get(definition.name):
                yield _family(definition)

    def collect(self) -> Iterator[Metric]:
        """
        Tell each metric with its series over all workers.
        """
        if _asking.get() is self._registry:
            return
        self._registry.refresh()
        self.decide(self._registry.definitions())
        definition, family = None, None
        for item in self._registry.collect():
            if isinstance(item, Definition):
                if family is not None:
                    yield family
                self.decide([item])
                definition = item if self._shown[item.name] else None
                family = _family(item) if definition is not None else None
            elif item is not None and definition is not None and family is not None:
                family.samples.extend(_samples(definition, item))
        if family is not None:
            yield family

    def decide(self, definitions: Iterable[Definition]) -> None:
        """
        Find out which of those that are new have a name of their own among theirs.
        """
        new = [one for one in definitions if one.name not in self._shown]
        if not new:
            return
        names = _names(self._theirs, self._registry).values()
        taken = {name for some in names for name in some}
        for one in new:
            shown = self._shown[one.name] = taken.isdisjoint(one.taken_names)
            if not shown and one.family not in _SAME:
                self._registry.dropped()
                message = "a metric is left out of prometheus_client, its name is taken: %s"
                _logger.warning(message, one.name)


def _refuse(clashes: dict[str, set[str] | frozenset[str]]) -> None:
    both = sorted(family for family, names in clashes.items() if names and family not in _SAME)
    if both:
        message = f"both registries have metrics of these names: {both[:10]!r}"
        raise ConfigurationError(message, code="metric_duplicate")


def _names(theirs: Collects, asking: Registry | None = None) -> dict[str, frozenset[str]]:
    names: dict[str, frozenset[str]] = {}
    # A collector that raises now has its names looked at on each page.
    with contextlib.suppress(Exception):
        for family in _collected(theirs, asking):
            names[family.name] = names_of(family.name, family.type)
    return names


def _collected(theirs: Collects, asking: Registry | None) -> Iterator[Metric]:
    """
    Collect, with the one who asks known for as long as collectors run, and not between pages.
    """
    families: Iterator[Metric] | None = None
    while True:
        token = _asking.set(asking)
        try:
            families = iter(theirs.collect()) if families is None else families
            family = next(families, None)
        finally:
            _asking.reset(token)
        if family is None:
            return
        yield family


def _family(definition: Definition) -> Metric:
    return Metric(definition.family, definition.help, definition.kind, definition.unit)


def _samples(definition: Definition, series: Series) -> Iterator[Sample]:
    each = definition.kind == "gauge" and definition.merge == "each"
    names = (*definition.labels, "pid") if each else definition.labels
    labels = dict(zip(names, series.labels, strict=True))
    if definition.kind != "histogram":
        yield Sample(definition.name, labels, series.numbers[0])
        return
    count = 0.0
    bounds = (*map(number, definition.buckets), "+Inf")
    for bucket, (bound, more) in enumerate(zip(bounds, series.numbers[1:], strict=True)):
        count += more
        exemplar = None
        if bucket in series.exemplars:
            (trace_id, span_id), value, when = series.exemplars[bucket]
            kept = {"trace_id": trace_id, "span_id": span_id}
            exemplar = Exemplar(kept, value, round(when, 3))
        yield Sample(f"{definition.name}_bucket", {**labels, "le": bound}, count, exemplar=exemplar)
    yield Sample(f"{definition.name}_count", labels, count)
    # OpenMetrics 1.0.0, section 5.3: no sum where values may be negative.
    if definition.buckets[0] >= 0.0:
        yield Sample(f"{definition.name}_sum", labels, series.numbers[0])
