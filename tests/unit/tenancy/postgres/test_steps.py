"""
Steps are carried out alike, by a driver that waits and by one that is awaited.
"""

from __future__ import annotations

import pytest

from twh_platform.tenancy import Tenant
from twh_platform.tenancy.postgres._steps import Ask, Call, drive, drive_async

ACME = Tenant(id="acme")


def steps(function):
    """Ask for a level, count what is there, and say both."""
    ((level,),) = yield Ask("SELECT $1::int", (41,))
    counted = yield Call(function, ACME)
    return level, counted


def answered(ask: Ask) -> list[tuple[int, ...]]:
    """A row of the parameters and one more."""
    return [tuple(value + 1 for value in ask.parameters)]


async def answered_later(ask: Ask) -> list[tuple[int, ...]]:
    """The same, to be awaited."""
    return answered(ask)


async def counted_later(tenant: Tenant) -> int:
    """What an async function of the caller's counts."""
    return len(tenant.id)


def test_a_driver_that_waits_sends_rows_and_what_was_counted():
    """What the generator returns is the answer."""
    assert drive(steps(lambda tenant: len(tenant.id)), answered) == (42, 4)


@pytest.mark.parametrize("function", [counted_later, lambda tenant: len(tenant.id)])
async def test_a_driver_that_is_awaited_takes_both_kinds_of_functions(function):
    """Sync and async ones, and gives the same answer."""
    assert await drive_async(steps(function), answered_later) == (42, 4)


def test_an_error_of_the_driver_ends_the_steps():
    """It comes to the caller as it is."""

    def refused(_: Ask) -> list[tuple[int, ...]]:
        raise LookupError("no such table")

    with pytest.raises(LookupError, match="no such table"):
        drive(steps(len), refused)
