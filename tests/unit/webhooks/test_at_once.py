"""
Awaiting in two parts: what is there at once, and what has to be waited for.
"""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from twh_platform.webhooks._at_once import Started


class Value:
    """Something to return that can be watched."""


async def test_what_is_there_is_had_at_once():
    """Nothing is awaited for it."""
    started = Started(asyncio.sleep(0, "soon"))
    at_once = Started(returned("here"))

    assert (started.done, at_once.done, at_once.result) == (False, True, "here")
    assert [await started, await at_once] == ["soon", "here"]


async def returned(value):
    """A coroutine that has no need to wait."""
    return value


async def test_handing_it_over_keeps_nothing():
    """A chunk of a body is not held for as long as the next ones come."""
    value = Value()
    watched, started = weakref.ref(value), Started(returned(value))
    del value
    held = watched() is not None
    await started
    gc.collect()

    assert (held, watched()) == (True, None)


@pytest.mark.parametrize("waits", ["event", "task", "several"])
async def test_what_has_to_wait_goes_on_where_it_was(waits):
    """Of events, of tasks, and more than once."""
    event, steps = asyncio.Event(), []

    async def waiting():
        steps.append("begun")
        await event.wait()
        if waits == "several":
            await asyncio.sleep(0)
        steps.append("over")
        return waits

    started = Started(asyncio.create_task(waiting()) if waits == "task" else waiting())
    asyncio.get_running_loop().call_soon(event.set)

    assert (await started, steps) == (waits, ["begun", "over"])


async def test_a_deadline_that_is_set_later_ends_it():
    """It sees the cancellation where it waits, as without the first step."""
    seen = []

    async def waiting():
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    for awaited in (Started(waiting()), waiting()):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await awaited

    assert seen == ["cancelled"] * 2


async def test_an_error_can_be_dealt_with_where_it_waits():
    """What catches its cancellation goes on."""

    async def stubborn():
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return "still here"

    async def outer():
        return await Started(stubborn())

    task = asyncio.create_task(outer())
    await asyncio.sleep(0)
    task.cancel()

    assert await task == "still here"


async def test_what_is_not_awaited_is_closed():
    """Its end is reached, and the event has nobody waiting any more."""
    event, ended = asyncio.Event(), []

    async def waiting():
        try:
            await event.wait()
        finally:
            ended.append(True)

    started = Started(waiting())
    started.close()

    assert (started.done, ended, list(event._waiters)) == (False, [True], [])


async def test_an_error_in_the_first_step_is_raised_there():
    """And later ones where it is awaited."""

    async def failing(first):
        if not first:
            await asyncio.sleep(0)
        raise LookupError

    with pytest.raises(LookupError):
        Started(failing(first=True))
    started = Started(failing(first=False))
    with pytest.raises(LookupError):
        await started
