"""
What a metric is, and which names and help texts may reach a page.

Names are checked when a metric is defined, and raise.  Label values come from
requests, and never raise: they are cleaned, see `_labels`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal, NamedTuple

from ..errors import ConfigurationError

__all__ = [
    "BYTES",
    "SECONDS",
    "Definition",
    "Exemplar",
    "Kind",
    "Merge",
    "Series",
    "clean_help",
    "finite_buckets",
]

Kind = Literal["counter", "gauge", "histogram"]
Merge = Literal["sum", "max", "min", "each"]

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""
Upper bounds in seconds, those that OpenTelemetry advises for HTTP durations (semconv 1.44).
"""

BYTES: Final = (0.0, *(float(4**power) for power in range(3, 15)))
"""
Upper bounds in bytes: nothing, and 64 bytes to 256 MiB by factors of four.
"""

_HELP_CHARACTERS = 1000
_MOST_BUCKETS = 100
_MOST_LABELS = 16
# OpenMetrics 1.0.0, section 4.4: names and label names.
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,199}", re.ASCII)
_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,199}", re.ASCII)
# Controls would cut a line in two for somebody; a lone surrogate has no UTF-8.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_UNITS = ("seconds", "bytes", "ratio")
# The formats' own, and the label of a gauge that is shown for each worker.
_RESERVED = frozenset({"le", "quantile", "pid"})
_SUFFIXES: dict[str, tuple[str, ...]] = {
    "counter": ("", "_total", "_created"),
    "gauge": ("",),
    "histogram": ("", "_bucket", "_count", "_sum", "_created"),
}


class Exemplar(NamedTuple):
    """
    The trace that an observation belongs to; a tuple of two strings does as well.

        >>> Exemplar(trace_id="0af7651916cd43dd8448eb211c80319c", span_id="b7ad6b7169203331")[1]
        'b7ad6b7169203331'

    With its label names it has 63 characters, within the 128 that OpenMetrics
    1.0.0 allows (section 4.6.1).

    Args:
        trace_id: 32 hexadecimal digits.

        span_id: 16 hexadecimal digits.
    """

    trace_id: str
    span_id: str


class Series(NamedTuple):
    """
    What one set of label values has come to.

    Args:
        labels: The values, in the order of the definition's label names.

        numbers:
            One number; for a histogram the sum, then the count of each bucket,
            not cumulated, the last one without an upper bound.

        exemplars:
            By position of the bucket: the exemplar, the value that was observed,
            and when, in seconds since 1970.
    """

    labels: tuple[str, ...]
    numbers: Sequence[float]
    exemplars: dict[int, tuple[Exemplar, float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """
    A metric's name and shape.

    Args:
        name: As on the page; a counter's ends in ``_total``.

        kind: What it is.

        help: One sentence.

        labels: The label names.

        buckets: Upper bounds, ascending and finite; of a histogram only.

        merge: What the gauges of several workers become.

    Raises:
        twh_platform.errors.ConfigurationError: `metric_name_invalid`,
            `metric_labels_invalid` or `metric_buckets_invalid`.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    merge: Merge = "sum"

    def __post_init__(self) -> None:
        _check_name(self)
        _check_labels(self)
        _check_buckets(self)

    @property
    def family(self) -> str:
        """
        The name without a counter's ``_total``, as OpenMetrics has it (section 4.4.1).
        """
        return self.name.removesuffix("_total") if self.kind == "counter" else self.name

    @property
    def unit(self) -> str:
        """
        The unit that the name ends in, or nothing.
        """
        before, _, end = self.family.rpartition("_")
        return end if before and end in _UNITS else ""

    @property
    def taken_names(self) -> tuple[str, ...]:
        """
        The names that no other metric on the page may have.
        """
        return tuple(self.family + suffix for suffix in _SUFFIXES[self.kind])

    @property
    def width(self) -> int:
        """
        How many numbers one series has.
        """
        return len(self.buckets) + 2 if self.kind == "histogram" else 1

    @property
    def start(self) -> float:
        """
        What a series begins with: NaN where a zero that nobody has set would be the least, say.
        """
        return math.nan if self.kind == "gauge" and self.merge != "sum" else 0.0

    @property
    def shape(self) -> tuple[object, ...]:
        """
        What must be alike for the series of two workers to be merged.
        """
        return (self.name, self.kind, self.labels, self.buckets, self.merge)


def finite_buckets(buckets: Iterable[float]) -> tuple[float, ...]:
    """
    The bounds as floats, without a last one of infinity, which is always there.

    Raises:
        twh_platform.errors.ConfigurationError: `metric_buckets_invalid`.
    """
    try:
        bounds = tuple(float(bound) for bound in buckets)
    except (TypeError, ValueError, OverflowError) as error:
        message = f"buckets={buckets!r} are not numbers"
        raise ConfigurationError(message, code="metric_buckets_invalid") from error
    return bounds[:-1] if bounds and bounds[-1] == math.inf else bounds


def clean_help(text: object) -> str:
    """
    Make one line of a help text.
    """
    return _UNFIT.sub(" ", str(text)[:_HELP_CHARACTERS])


def _check_name(definition: Definition) -> None:
    name, kind = definition.name, definition.kind
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        fault = "is not a name of OpenMetrics"
    elif kind == "counter" and (not name.endswith("_total") or name == "_total"):
        fault = "is a counter's and does not end in _total"
    elif kind != "counter" and name.endswith(("_total", "_bucket", "_count", "_sum", "_created")):
        fault = f"ends like a sample of something else than a {kind}"
    else:
        return
    raise ConfigurationError(f"name={name!r} {fault}", code="metric_name_invalid")


def _check_labels(definition: Definition) -> None:
    labels = definition.labels
    unfit = [
        label
        for label in labels
        if not isinstance(label, str)
        or not _LABEL_NAME.fullmatch(label)
        or label.startswith("__")
        or label in _RESERVED
    ]
    if unfit or len(set(labels)) != len(labels) or len(labels) > _MOST_LABELS:
        message = f"labels={labels!r} of {definition.name} cannot all be label names"
        raise ConfigurationError(message, code="metric_labels_invalid")


def _check_buckets(definition: Definition) -> None:
    bounds = definition.buckets
    if definition.kind != "histogram":
        return
    ascending = all(low < high for low, high in pairwise(bounds))
    if not ascending or not 0 < len(bounds) <= _MOST_BUCKETS or not all(map(math.isfinite, bounds)):
        message = f"buckets={bounds!r} of {definition.name} are not ascending, finite and 1 to 100"
        raise ConfigurationError(message, code="metric_buckets_invalid")
