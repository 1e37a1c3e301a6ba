"""
The ids of a request are made when somebody asks, and are the same for everybody who does.
"""

from __future__ import annotations

import sys
import threading
from itertools import repeat

import pytest

from twh_platform.telemetry._exchange import Exchange
from twh_platform.telemetry._trace_context import new_trace_id

THREADS = 4
ROUNDS = 4_000


class Careless:
    """An id that is made where it is missing, and then returned."""

    __slots__ = ("_trace_id", "span_id")

    def __init__(self):
        self._trace_id = self.span_id = ""

    @property
    def trace_id(self):
        """Of somebody, perhaps."""
        if not self._trace_id:
            self._trace_id = new_trace_id()
        return self._trace_id


def contradictions(requests):
    """
    Have threads ask for all ids at once; how many requests have told two threads different ones.
    """
    answers = [[] for _ in range(THREADS)]
    start = threading.Barrier(THREADS)

    def ask(mine):
        start.wait()
        mine.extend((one.trace_id, one.span_id) for one in requests)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=ask, args=(mine,)) for mine in answers]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    finally:
        sys.setswitchinterval(before)
    return sum(len(set(of_one)) > 1 for of_one in zip(*answers, strict=True))


def test_threads_are_told_the_same_ids():
    """A handler that runs in threads writes lines of one request."""
    requests = [Exchange({}, None, None, None) for _ in range(ROUNDS)]

    assert contradictions(requests) == 0


def test_control_ids_without_care_differ():
    """Control: the same threads are told different ids."""
    for _ in repeat(None, 20):
        if contradictions([Careless() for _ in range(ROUNDS)]):
            return
    pytest.skip("no two threads met in twenty runs")


def test_an_id_has_the_half_that_was_drawn():
    """Else it would be sampled by another id than it has."""
    request = Exchange({}, None, None, None)
    request.chance = 0x0123456789ABCDEF

    assert request.trace_id.endswith("0123456789abcdef")
    assert request.trace_id == request.trace_id
