"""
A lease that ends while a connection is in use, on every driver.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest

from tests.integration.tenancy._stacks import STACKS
from twh_platform.errors import TenantSuspendedError
from twh_platform.tenancy import Tenant, bind_tenant
from twh_platform.testing import ManualClock

A, B = Tenant(id="a"), Tenant(id="b")
NAMES = "SELECT name FROM things ORDER BY name"
OF_A, OF_B = [("a1",), ("a2",)], [("b1",)]


@pytest.mark.parametrize("lease", [None, 60], ids=["no lease", "lease"])
@pytest.mark.parametrize("stack", STACKS)
async def test_a_transaction_is_refused_when_the_lease_is_over(
    stack: str, lease: float | None, dsn: str
) -> None:
    """
    Control: without one it goes on; the connection serves the next tenant either way.
    """
    clock, refused = ManualClock(), False
    async with STACKS[stack](dsn) as checkout:
        with bind_tenant(A, lease=lease, clock=clock.monotonic):
            async with checkout() as session:
                assert await session.fetch(NAMES) == OF_A
                clock.advance(60)
                try:
                    await session.fetch(NAMES)
                except TenantSuspendedError:
                    refused = True
                await session.rollback()
        with bind_tenant(B):
            async with checkout() as session:
                assert await session.fetch(NAMES) == OF_B

    assert refused is (lease is not None)


def ends_after(reads: int) -> Callable[[], float]:
    """
    A clock on which an hour passes after it was read so often.
    """
    times = iter([0.0] * reads)
    return lambda: next(times, 3600.0)


# asyncpg takes a BEGIN that was refused for an open transaction; where the
# binding does not see the BEGIN, the connection is of no use to anyone then.
SEEING = [name for name in STACKS if name != "asyncpg-late"]


@pytest.mark.parametrize("reads", range(1, 8))
@pytest.mark.parametrize("stack", SEEING)
async def test_it_does_not_matter_when_the_lease_ends(stack: str, reads: int, dsn: str) -> None:
    """
    Before BEGIN, between BEGIN and its answer, or at a statement: nothing is left behind.
    """
    async with STACKS[stack](dsn) as checkout:
        for _ in range(2):
            with (
                suppress(TenantSuspendedError),
                bind_tenant(A, lease=60, clock=ends_after(reads)),
            ):
                async with checkout() as session:
                    assert await session.fetch(NAMES) == OF_A
                    await session.fetch(NAMES)
            with bind_tenant(B):
                async with checkout() as session:
                    assert await session.fetch(NAMES) == OF_B
                    await session.commit()
