"""
Tables that threads are told to forget from while an event loop fills them.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import nullcontext

import pytest

from twh_platform.errors import BackendUnavailableError
from twh_platform.testing import ManualClock
from twh_platform.webhooks._read_through import Limits, ReadThrough

USUAL = {
    "max_age": 30,
    "stale_if_error": 900,
    "retry_after": 1,
    "timeout": 10,
    "capacity": 2,
    "readings": 4,
    "waiting": 100,
}


def remembering(there=bool, **limits) -> ReadThrough[str, object]:
    """With few places, and a clock that stands."""
    return ReadThrough(Limits(**{**USUAL, **limits}), clock=ManualClock(), there=there)


class Source:
    """What is read, and how often it was."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self) -> int:
        """The first, the second, and so on."""
        self.calls += 1
        return self.calls


@pytest.mark.parametrize(("locked", "served"), [(True, 2), (False, 1)], ids=["ours", "control"])
async def test_what_lands_while_a_thread_forgets_is_not_kept(locked, served):
    """The moment between finding that nobody has told, and keeping it, is none."""
    source, tellers = Source(), []

    def there(_value) -> bool:
        tellers.append(threading.Thread(target=memory.forget, args=(lambda _: True,)))
        tellers[-1].start()
        tellers[-1].join(0.2)  # without a lock it is done by now
        return True

    memory = remembering(there)
    if not locked:
        memory._lock = nullcontext()
    await memory.get("orders", source)
    tellers[0].join()

    assert await memory.get("orders", source) == served


async def test_of_many_the_one_that_was_read_longest_ago_goes():
    """The table has its places and no more."""
    memory, source = remembering(), Source()
    for name in ("a", "b", "c"):
        await memory.get(name, source)

    assert [await memory.get(name, source) for name in ("c", "b", "a")] == [3, 2, 4]


async def test_what_is_no_failure_of_the_store_is_nobody_elses():
    """Its error is raised, nothing is held off, and the next reads again."""
    memory, source = remembering(), Source()

    async def broken():
        raise LookupError

    with pytest.raises(LookupError):
        await memory.get("orders", broken)

    assert await memory.get("orders", source) == 1


async def test_a_store_of_which_time_runs_out_is_not_our_time_out():
    """What it raises is passed on."""

    async def late():
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await remembering().get("orders", late)


async def test_what_nobody_waits_for_any_more_is_kept():
    """Who is cancelled, and who was not patient, leave it to those who come."""
    memory, go = remembering(timeout=0.05), asyncio.Event()

    async def slow() -> str:
        await go.wait()
        return "read"

    cancelled = asyncio.create_task(memory.get("orders", slow))
    with pytest.raises(BackendUnavailableError):
        await memory.get("orders", slow)
    cancelled.cancel()
    go.set()
    await asyncio.sleep(0.01)

    assert await memory.get("orders", Source()) == "read"


def test_event_loops_share_what_was_read():
    """What is being read is each one's own."""
    memory, source = remembering(), Source()

    assert [asyncio.run(memory.get("orders", source)) for _ in range(2)] == [1, 1]
    memory.forget(lambda name: name == "orders")
    assert asyncio.run(memory.get("orders", source)) == 2
    assert len(memory._loops) == 1  # those that are closed are let go
