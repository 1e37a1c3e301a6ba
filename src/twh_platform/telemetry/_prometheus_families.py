"""
A metric family of `prometheus_client`: checked, then written piece by piece.

One family that cannot be read makes a scraper refuse the whole page.  So each
is copied first, and raises where it breaks a rule of the formats; the copy is
written by `prometheus_client` itself, some samples at a time.

Sources: OpenMetrics 1.0.0, sections 4.4 to 4.6 (names, exemplars) and 5 (which
samples each type has); Prometheus, "Exposition formats".
"""

from __future__ import annotations

import math
import re
from collections.abc import Generator, Iterator
from typing import Any, Final

from .._extras import missing_extra

try:
    from prometheus_client import Metric, generate_latest
    from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
    from prometheus_client.samples import Exemplar, Sample
except ImportError as cause:
    raise missing_extra("prometheus", cause) from cause

__all__ = ["checked_copy", "names_of", "write_family"]

_SUFFIXES: Final[dict[str, tuple[str, ...]]] = {
    "counter": ("_total", "_created"),
    "gauge": ("",),
    "gaugehistogram": ("_bucket", "_gcount", "_gsum"),
    "histogram": ("_bucket", "_count", "_sum", "_created"),
    "info": ("_info",),
    "stateset": ("",),
    "summary": ("", "_count", "_sum", "_created"),
    "unknown": ("",),
}
# In Prometheus text these are gauges of their own.
_APART: Final = ("_created", "_gcount", "_gsum")
_WITH_EXEMPLARS: Final = {
    "counter": "_total",
    "histogram": "_bucket",
    "gaugehistogram": "_bucket",
}
_MOST_OF_AN_EXEMPLAR: Final = 128  # characters, section 4.6.1
_NOT_IN_A_NAME: Final = re.compile(r"[^a-zA-Z0-9_:]|\A[0-9]", re.ASCII)
_NOT_IN_A_LABEL: Final = re.compile(r"[^a-zA-Z0-9_]|\A[0-9]", re.ASCII)
_LATEST: Final = 2.0**63 / 1000  # seconds, of the milliseconds that Prometheus keeps
_PIECE: Final = 200


def names_of(name: str, kind: str) -> frozenset[str]:
    """
    The names that no other family on a page may have.
    """
    name = _NOT_IN_A_NAME.sub("_", name)
    return frozenset({name, *(name + suffix for suffix in _SUFFIXES.get(kind, ()))})


def checked_copy(family: Metric) -> Generator[bytes, None, Metric]:
    """
    Copy *family* as pages can have it; it yields nothing, so that others may run.

    Characters that names cannot have become ``_``, and those without UTF-8 ``?``.
    Native histograms and exemplars that no page can have are left out.

    Raises:
        ValueError: If it has samples of another family, or one twice, or numbers
            that are none.  What is no family at all raises anything.
    """
    name = _NOT_IN_A_NAME.sub("_", family.name)
    sample_names = {name + suffix for suffix in _SUFFIXES[family.type]}
    unit = family.unit if name.endswith(f"_{family.unit}") else ""
    # Section 4.8: these two have none.
    unit = "" if family.type in {"info", "stateset"} else unit
    copy = Metric(name, _text(family.documentation), family.type, unit)
    seen: set[tuple[object, ...]] = set()
    for count, sample in enumerate(family.samples, 1):
        # The formats that we write have none, and a sample of it has no number.
        if getattr(sample, "native_histogram", None) is None:
            one = _checked_sample(sample, family.type)
            key = (one.name, *sorted(one.labels.items()))
            if key in seen or one.name not in sample_names:
                raise ValueError
            seen.add(key)
            copy.samples.append(one)
        if count % _PIECE == 0:
            yield b""
    return copy


def write_family(copy: Metric, *, openmetrics: bool) -> Iterator[bytes]:
    """
    Write what `checked_copy` returned, in pieces of whole lines.
    """
    for part in [copy] if openmetrics else _text_parts(copy):
        for start in range(0, len(part.samples) or 1, _PIECE):
            piece = Metric(part.name, part.documentation, part.type, part.unit)
            piece.samples = part.samples[start : start + _PIECE]
            lines = _latest(piece, openmetrics=openmetrics)
            while start and lines.startswith(b"# "):
                lines = lines.partition(b"\n")[2]
            yield lines


class _One:
    """
    A registry of one family.
    """

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> list[Metric]:
        return [self._family]


def _latest(family: Metric, *, openmetrics: bool) -> bytes:
    if openmetrics:
        lines: bytes = generate_openmetrics(_One(family))
        return lines.removesuffix(b"# EOF\n")
    return generate_latest(_One(family))


def _text_parts(family: Metric) -> Iterator[Metric]:
    apart = {family.name + suffix for suffix in _APART}
    main = Metric(family.name, family.documentation, family.type)
    main.samples = [sample for sample in family.samples if sample.name not in apart]
    yield main
    for name in sorted(apart):
        part = Metric(name, family.documentation, "gauge")
        part.samples = [sample for sample in family.samples if sample.name == name]
        if part.samples:
            yield part


def _checked_sample(sample: Sample, kind: str) -> Sample:
    labels = {_NOT_IN_A_LABEL.sub("_", name): _text(value) for name, value in sample.labels.items()}
    if len(labels) != len(sample.labels) or "" in labels or "__name__" in labels:
        raise ValueError
    when = sample.timestamp
    if when is not None and not 0 <= float(when) < _LATEST:
        raise ValueError
    name = _NOT_IN_A_NAME.sub("_", sample.name)
    exemplar = sample.exemplar if name.endswith(_WITH_EXEMPLARS.get(kind, "\n")) else None
    return Sample(name, labels, float(sample.value), when, _fit_exemplar(exemplar))


def _fit_exemplar(exemplar: Exemplar | None) -> Exemplar | None:
    if exemplar is None:
        return None
    labels = {name: _text(value) for name, value in exemplar.labels.items()}
    numbers = [float(exemplar.value), float(exemplar.timestamp or 0.0)]
    if (
        any(not name or _NOT_IN_A_LABEL.search(name) for name in labels)
        or any("\0" in value for value in labels.values())
        or sum(len(name) + len(value) for name, value in labels.items()) > _MOST_OF_AN_EXEMPLAR
        or not all(map(math.isfinite, numbers))
    ):
        return None
    return Exemplar(labels, numbers[0], exemplar.timestamp)


def _text(value: Any) -> str:
    return str(value).encode(errors="replace").decode()
