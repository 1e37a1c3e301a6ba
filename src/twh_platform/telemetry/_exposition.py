"""
The page: Prometheus text 0.0.4 and OpenMetrics 1.0.0.

Sources: Prometheus, "Exposition formats", text-based format; OpenMetrics
1.0.0, sections 4 (names, exemplars) and 3.2 (text format, ``# EOF``).  A
counter's ``_created`` is left out: it may be (OpenMetrics, section 5.1.1), and
Prometheus would store it as one more series each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ._definitions import Definition, Series

__all__ = ["OPENMETRICS_TYPE", "TEXT_TYPE", "render"]

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_SLICE_LINES = 600
_SPECIAL = {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}
_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", '"': '\\"'})
_HELP_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n"})


def render(
    stream: Iterable[Definition | Series | None], *, openmetrics: bool, last: Iterable[bytes] = ()
) -> Iterator[bytes]:
    """
    Write the page in slices of some 600 lines, each well below 100 KiB of text on usual labels.

    Args:
        stream: Each definition before its series; None where a breath may be taken.

        openmetrics: OpenMetrics, with exemplars, or else text 0.0.4, without.

        last: More of the page, in the same format: whole lines.
    """
    lines: list[str] = []
    writer = _Writer(openmetrics=openmetrics)
    for item in stream:
        if isinstance(item, Series):
            writer.write(item, lines)
        elif item is not None:
            writer.begin(item, lines)
        if item is None or len(lines) >= _SLICE_LINES:
            yield "".join(lines).encode()
            lines.clear()
    yield "".join(lines).encode()
    yield from last
    if openmetrics:
        yield b"# EOF\n"


class _Writer:
    def __init__(self, *, openmetrics: bool) -> None:
        self._openmetrics = openmetrics
        self._definition: Definition
        self._names: tuple[str, ...] = ()
        self._bounds: tuple[str, ...] = ()

    def begin(self, definition: Definition, lines: list[str]) -> None:
        """
        Write a metric's head, and take its series from now on.
        """
        name = definition.family if self._openmetrics else definition.name
        escapes = _ESCAPES if self._openmetrics else _HELP_ESCAPES
        lines.append(f"# HELP {name} {definition.help.translate(escapes)}\n")
        lines.append(f"# TYPE {name} {definition.kind}\n")
        if self._openmetrics and definition.unit:
            lines.append(f"# UNIT {name} {definition.unit}\n")
        self._definition = definition
        each = definition.kind == "gauge" and definition.merge == "each"
        self._names = (*definition.labels, "pid") if each else definition.labels
        self._bounds = (*map(number, definition.buckets), "+Inf")

    def write(self, series: Series, lines: list[str]) -> None:
        """
        Write the lines of one series.
        """
        labels = ",".join(
            [
                f'{name}="{value.translate(_ESCAPES)}"'
                for name, value in zip(self._names, series.labels, strict=True)
            ]
        )
        if self._definition.kind == "histogram":
            self._histogram(series, labels, lines)
        else:
            among = f"{{{labels}}}" if labels else ""
            lines.append(f"{self._definition.name}{among} {number(series.numbers[0])}\n")

    def _histogram(self, series: Series, labels: str, lines: list[str]) -> None:
        name = self._definition.name
        before = f"{labels}," if labels else ""
        start = f'{name}_bucket{{{before}le="'
        exemplars = series.exemplars if self._openmetrics else {}
        count = 0.0
        for bucket, bound in enumerate(self._bounds):
            count += series.numbers[bucket + 1]
            end = _exemplar(exemplars[bucket]) if bucket in exemplars else ""
            lines.append(f'{start}{bound}"}} {count!r}{end}\n')
        among = f"{{{labels}}}" if labels else ""
        lines.append(f"{name}_count{among} {number(count)}\n")
        # OpenMetrics 1.0.0, section 5.3: no sum where values may be negative.
        if not self._openmetrics or self._definition.buckets[0] >= 0.0:
            lines.append(f"{name}_sum{among} {number(series.numbers[0])}\n")


def number(value: float) -> str:
    """
    Write a number as both formats read it: shortest digits that give the same float64.
    """
    text = repr(float(value))
    return _SPECIAL.get(text, text)


def _exemplar(kept: tuple[tuple[str, str], float, float]) -> str:
    (trace_id, span_id), value, when = kept
    return f' # {{trace_id="{trace_id}",span_id="{span_id}"}} {number(value)} {when:.3f}'
