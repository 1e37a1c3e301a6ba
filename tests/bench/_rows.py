"""
One row of a benchmark: two figures, their ratio, and whether it reached its target.
"""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

__all__ = ["Row", "as_json", "as_table", "count_row", "paired_row"]

Direction = Literal["<=", ">="]

_RESAMPLES = 2000
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """
    What `--json` writes, one object per row.

    Args:
        name: What was compared with what.

        workload: What was done, and how it was measured.

        unit: The unit of `ours` and `reference`.

        ours: The median with this package.

        reference: The median without it, or of the alternative.

        ratio: The median of the rounds' ratios, ours to reference.

        direction: Whether a good ratio is at most or at least the target.

        target: The ratio to reach; None for a row that only informs.

        spread: The 95 % interval of `ratio`.

        ok: Whether the target is reached; None where there is none, or where
            the interval lies on both sides of it.
    """

    name: str
    workload: str
    unit: str
    ours: float
    reference: float
    ratio: float
    direction: Direction
    target: float | None
    spread: tuple[float, float]
    ok: bool | None

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Row:
        """
        Read a row that another module wrote.

        Raises:
            ValueError: If a field is missing, unknown or contradicts another.
        """
        names = [one.name for one in fields(cls)]
        if set(values) != set(names):
            message = f"a row has the fields {names}, not {sorted(values)}"
            raise ValueError(message)
        low, high = values["spread"]
        row = cls(**{**values, "spread": (float(low), float(high))})
        if row.ok is not _verdict(row.spread, row.direction, row.target):
            message = f"row {row.name!r}: ok is {row.ok}, which its spread does not say"
            raise ValueError(message)
        return row


def paired_row(
    name: str,
    workload: str,
    *,
    unit: str,
    ours: Sequence[float],
    reference: Sequence[float],
    target: float | None,
    direction: Direction = "<=",
) -> Row:
    """
    Compare two series whose n-th figures were measured side by side.
    """
    ratios = [mine / other for mine, other in zip(ours, reference, strict=True)]
    spread = _interval_of_median(ratios)
    return Row(
        name=name,
        workload=workload,
        unit=unit,
        ours=statistics.median(ours),
        reference=statistics.median(reference),
        ratio=statistics.median(ratios),
        direction=direction,
        target=target,
        spread=spread,
        ok=_verdict(spread, direction, target),
    )


def count_row(
    name: str, workload: str, *, unit: str, ours: float, reference: float, target: float
) -> Row:
    """
    Compare two counts, which have no spread.
    """
    return paired_row(name, workload, unit=unit, ours=[ours], reference=[reference], target=target)


def _interval_of_median(values: Sequence[float]) -> tuple[float, float]:
    """
    Bootstrap: the medians of samples drawn from the sample.
    """
    draw = random.Random(len(values))  # the same rows give the same verdict
    medians = sorted(
        statistics.median(draw.choices(values, k=len(values))) for _ in range(_RESAMPLES)
    )
    cut = round(_RESAMPLES * (1 - _CONFIDENCE) / 2)
    return medians[cut], medians[-1 - cut]


def _verdict(
    spread: tuple[float, float], direction: Direction, target: float | None
) -> bool | None:
    if target is None:
        return None
    low, high = spread
    if direction == ">=":
        low, high, target = -high, -low, -target
    return True if high <= target else False if low > target else None


def as_json(rows: Iterable[Row]) -> str:
    """
    Write rows as a JSON array of one object each.
    """
    return json.dumps([asdict(row) for row in rows], indent=2) + "\n"


def as_table(rows: Iterable[Row]) -> str:
    """
    Write rows as a Markdown table that is aligned for a terminal.
    """
    head = ("name", "workload", "ours", "reference", "unit", "ratio", "95 %", "target", "verdict")
    lines = [head, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    ruler = tuple("-" * width for width in widths)
    return "".join(
        "| " + " | ".join(map(str.ljust, line, widths)) + " |\n"
        for line in (head, ruler, *lines[1:])
    )


_WORDS = {True: "reached", False: "MISSED", None: "undecided"}


def _cells(row: Row) -> tuple[str, ...]:
    low, high = row.spread
    target = "" if row.target is None else f"{row.direction} {row.target:.2f}"
    return (
        row.name,
        row.workload,
        f"{row.ours:.4g}",
        f"{row.reference:.4g}",
        row.unit,
        f"{row.ratio:.3f}",
        f"{low:.3f}-{high:.3f}",
        target,
        _WORDS[row.ok] if target else "",
    )
