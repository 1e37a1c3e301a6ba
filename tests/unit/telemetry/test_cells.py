"""
Cells: handed out, written in place, taken back.
"""

from __future__ import annotations

import dis
import sys

import pytest

from tests.support.threads import YIELDS, in_threads
from twh_platform.telemetry import _instruments
from twh_platform.telemetry._cells import PAGE_CELLS, Cells
from twh_platform.telemetry._instruments import BoundCounter, BoundGauge, BoundHistogram
from twh_platform.telemetry._registry import Registry

THREADS = 8
ROUNDS = 20_000


def test_slots_do_not_overlap():
    """What is written into one slot is not in the next."""
    cells = Cells()
    slots = [cells.take(3) for _ in range(2 * PAGE_CELLS // 3)]
    for number, slot in enumerate(slots):
        for at in range(3):
            slot.page.cells[slot.at + at] = number

    assert [slot.read() for slot in slots] == [[float(n)] * 3 for n in range(len(slots))]


def test_a_slot_that_comes_back_is_used_again_from_zero():
    """Memory does not grow with how often slots change hands."""
    cells = Cells()
    for _ in range(10_000):
        slot = cells.take(16)
        assert slot.read() == [0.0] * 16
        slot.page.cells[slot.at] = 7.0
        cells.give_back(slot)

    assert len(cells._pages) == 1


def test_a_slot_is_no_larger_than_a_page():
    """What no page holds is refused."""
    assert Cells().take(PAGE_CELLS + 1) is None


@pytest.mark.parametrize("locked", [False, True])
def test_counting_in_threads_is_exact(locked, monkeypatch):
    """Eight threads lose nothing, with and without the lock that is for builds without a GIL."""
    if locked:
        monkeypatch.setattr("twh_platform.telemetry._registry._has_gil", lambda: False)
    registry = Registry()
    counter = registry.counter("hits_total", "Hits.").labels()
    histogram = registry.histogram("took_seconds", "Time.", buckets=[1]).labels()

    def work():
        for _ in range(ROUNDS):
            counter.inc()
            histogram.observe(0.5)

    in_threads(work, THREADS)
    page = registry.page()

    assert f"hits_total {THREADS * ROUNDS:.1f}\n".encode() in page
    assert f"took_seconds_count {THREADS * ROUNDS:.1f}\n".encode() in page
    assert f"took_seconds_sum {THREADS * ROUNDS * 0.5}\n".encode() in page


def test_control_a_call_between_reading_and_writing_loses_counts():
    """Control: the same addition with a call in its middle is not exact."""
    cells = memoryview(bytearray(8)).cast("d")

    def one():
        return 1.0

    def work():
        for _ in range(ROUNDS):
            cells[0] = cells[0] + one()

    for _ in range(20):
        cells[0] = 0.0
        in_threads(work, THREADS)
        if cells[0] < THREADS * ROUNDS:
            return
    pytest.skip("no two threads met in twenty runs")


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="the reason is CPython's")
@pytest.mark.parametrize(
    "method",
    [
        BoundCounter.inc,
        BoundGauge.inc,
        BoundGauge.dec,
        BoundHistogram.observe,
        _instruments._UnsetGauge._begin,
    ],
)
def test_no_thread_can_run_within_an_addition(method):
    """From reading a cell to writing it there is no place to give up the GIL."""
    codes = list(dis.get_instructions(method))
    stores = [at for at, code in enumerate(codes) if code.opname == "STORE_SUBSCR"]
    reads = [
        max(
            at for at in range(store) if codes[at].opname == "BINARY_SUBSCR" or _is_index(codes[at])
        )
        for store in stores
    ]
    between = [
        code.opname
        for read, store in zip(reads, stores, strict=True)
        for code in codes[read:store]
        if code.opname.startswith(YIELDS)
    ]

    assert stores
    assert between == []


def _is_index(code):
    # From 3.14 on, an index is a binary operation.
    return code.opname == "BINARY_OP" and code.argrepr == "[]"


def test_the_lock_is_there_where_there_is_no_gil(monkeypatch):
    """A build without a GIL counts under a lock."""
    monkeypatch.setattr("twh_platform.telemetry._registry._has_gil", lambda: False)
    registry = Registry()
    child = registry.gauge("size", "A size.").labels()
    child.set(3)
    child.inc(2)
    child.dec()

    assert isinstance(child, _instruments._LockedGauge)
    assert b"size 4.0\n" in registry.page()


def test_exemplars_do_not_end_up_in_another_series():
    """While children come and go in other threads, no exemplar is written over a count."""
    registry = Registry()
    took = registry.histogram("took_seconds", "Time.", labels=("t",), buckets=[1])

    def work():
        for number in range(300):
            child = took.labels(number % 7)  # perhaps already removed by another
            child.observe(0.5, ("a1" * 16, "b2" * 8))
            took.remove(number % 7)

    in_threads(work, THREADS)
    for number in range(50):
        took.labels(f"new {number}")

    assert {tuple(series.numbers) for series in took.series() if series.labels[0] > "7"} == {
        (0.0, 0.0, 0.0)
    }
