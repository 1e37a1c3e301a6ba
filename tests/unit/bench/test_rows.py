"""
What a benchmark writes, and how it judges.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict
from typing import Any

import pytest

from tests.bench._measure import Variant, measure
from tests.bench._rows import Row, as_json, as_table, count_row, paired_row

FIELDS = [
    "name",
    "workload",
    "unit",
    "ours",
    "reference",
    "ratio",
    "direction",
    "target",
    "spread",
    "ok",
]


def row(ours: list[float], *, target: float | None = 1.1, **more: Any) -> Row:
    """
    Compare with a reference that always takes 100.
    """
    return paired_row(
        "a row",
        "doing it",
        unit="us",
        ours=ours,
        reference=[100.0] * len(ours),
        target=target,
        **more,
    )


def test_json_has_one_object_per_row() -> None:
    """
    The fields are those that readers of the file were promised, in order.
    """
    written = json.loads(as_json([row([104.0, 105.0, 106.0])]))

    assert [list(one) for one in written] == [FIELDS]
    assert written[0]["ratio"] == pytest.approx(1.05)
    assert written[0]["spread"] == pytest.approx([1.04, 1.06])
    assert written[0]["ok"] is True


@pytest.mark.parametrize(
    ("ours", "ok"),
    [([104.0] * 9, True), ([112.0] * 9, False), ([100.0, 120.0] * 5, None)],
)
def test_verdict_at_most(ours: list[float], ok: object) -> None:
    """
    Reached, missed, or undecided where the spread lies on both sides.
    """
    assert row(ours).ok is ok


def test_verdict_at_least() -> None:
    """
    The other direction turns the verdict around.
    """
    assert row([120.0] * 9, direction=">=").ok is True
    assert row([90.0] * 9, direction=">=").ok is False
    assert row([100.0, 120.0] * 5, direction=">=").ok is None


def test_no_target_no_verdict() -> None:
    """
    A row that only informs is never right or wrong.
    """
    informs = row([500.0] * 9, target=None)

    assert informs.ok is None
    assert "MISSED" not in as_table([informs])


def test_ratio_is_of_neighbours() -> None:
    """
    A machine that slows down half-way moves both figures and not the ratio.
    """
    drifting = paired_row(
        "a row", "", unit="us", ours=[11, 22, 44], reference=[10, 20, 40], target=1.2
    )

    assert drifting.ratio == pytest.approx(1.1)
    assert drifting.spread == pytest.approx((1.1, 1.1))


def test_counts_have_no_spread() -> None:
    """
    Three turns against three is a ratio of exactly one.
    """
    turns = count_row("turns", "", unit="turns", ours=3, reference=3, target=1.0)

    assert turns.spread == (1.0, 1.0)
    assert turns.ok is True


def test_rows_of_other_modules_are_read() -> None:
    """
    What was written can be read; a wrong verdict or field cannot.
    """
    values = asdict(row([104.0] * 9))

    assert Row.from_mapping({**values, "spread": list(values["spread"])}) == row([104.0] * 9)
    with pytest.raises(ValueError, match="ok is None"):
        Row.from_mapping({**values, "ok": None})
    with pytest.raises(ValueError, match="fields"):
        Row.from_mapping({**values, "extra": 1})


def test_table_is_aligned() -> None:
    """
    Each line of the table has the same width and shows the verdict in words.
    """
    lines = as_table([row([104.0] * 9), row([112.0] * 9)]).splitlines()

    assert len({len(line) for line in lines}) == 1
    assert "reached" in lines[2]
    assert "MISSED" in lines[3]


def test_quieter_half_of_the_rounds_counts() -> None:
    """
    A round that was disturbed is dropped for all variants alike.
    """
    disturbed = itertools.cycle([1e-3, 9e-3])
    series = measure(
        {
            "ours": Variant(run=lambda count: [next(disturbed)] * count),
            "reference": Variant(run=lambda count: [2e-3] * count),
        },
        seconds=0,
    )

    assert series["ours"].wall == pytest.approx([1000] * 7)
    assert series["reference"].wall == pytest.approx([2000] * 7)
    assert all(len(one.cpu) == len(one.wall) for one in series.values())
