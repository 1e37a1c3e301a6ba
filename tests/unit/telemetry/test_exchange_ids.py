"""
The ids of a request are made when somebody asks, and are the same for everybody who does.
"""

from __future__ import annotations

import dis
import os
import sys
import threading
from itertools import repeat

import pytest

from tests.support.threads import YIELDS, in_threads
from twh_platform.telemetry._exchange import Exchange
from twh_platform.telemetry._trace_context import new_trace_id, new_trace_number

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
    answers = []
    start = threading.Barrier(THREADS)

    def ask():
        start.wait()
        answers.append([(one.trace_id, one.span_id) for one in requests])

    in_threads(ask, THREADS)
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


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="the reason is CPython's")
@pytest.mark.parametrize("getter", [Exchange.trace_id, Exchange.span_id])
def test_no_thread_can_run_before_an_id_is_kept(getter):
    """From looking for one to keeping it there is no place to give up the GIL."""
    codes = list(dis.get_instructions(getter.fget))
    (store,) = (at for at, code in enumerate(codes) if code.opname == "STORE_ATTR")
    kept = codes[store].argval
    looked = max(at for at in range(store) if codes[at].argval == kept)
    between = [code.opname for code in codes[looked:store]]

    assert codes[looked].opname == "LOAD_ATTR"
    assert not [name for name in between if name.startswith(YIELDS)]


def test_an_id_is_the_number_that_was_drawn():
    """Else it would be sampled by another id than it has."""
    request = Exchange({}, None, None, None)
    request.number = 0x0AF7651916CD43DD8448EB211C80319C

    assert request.trace_id == "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_child_that_a_handler_forks_has_the_same_trace():
    """Its lines are found with those of the request, whoever asks first."""
    request = Exchange({}, None, None, None)
    request.number = new_trace_number()
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.write(writing, request.trace_id.encode())
        os._exit(0)
    os.wait()
    theirs = os.read(reading, 200).decode()
    os.close(reading)
    os.close(writing)

    assert theirs == request.trace_id
