"""
Waiting that ends in time.
"""

from __future__ import annotations

import asyncio

import pytest

from twh_platform.errors import BackendUnavailableError
from twh_platform.tenancy import Tenant, bind_tenant, current_tenant, finish_within


def within(work, seconds=30.0):
    """Wait for the work."""
    return finish_within(seconds, work, what="the work", code="work_timeout")


async def test_a_result_and_an_error_come_through():
    """As if the work had been awaited."""

    async def divide(by):
        return 6 / by

    assert await within(divide(2)) == 3
    with pytest.raises(ZeroDivisionError):
        await within(divide(0))


async def test_the_work_is_done_as_the_current_tenant():
    """Though it has a task of its own."""

    async def whose():
        return current_tenant()

    with bind_tenant(Tenant(id="acme")):
        assert await finish_within(30, whose()) == Tenant(id="acme")


async def test_work_that_cancels_itself_does_not_cancel_the_caller():
    """A pool that is closed may do so; the caller sees a backend that is gone."""

    async def give_up():
        raise asyncio.CancelledError

    with pytest.raises(BackendUnavailableError, match="the work did not finish"):
        await within(give_up())


async def test_the_work_is_told_when_nobody_waits_any_more():
    """By the deadline, and by the cancellation of the caller."""
    ends = []

    async def endless():
        try:
            await asyncio.Event().wait()
        finally:
            ends.append("told")
            raise RuntimeError  # which nobody has to hear of

    with pytest.raises(BackendUnavailableError):
        await within(endless(), seconds=0.001)
    caller = asyncio.create_task(within(endless()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait((caller,))
    await asyncio.sleep(0)

    assert caller.cancelled()
    assert ends == ["told", "told"]
