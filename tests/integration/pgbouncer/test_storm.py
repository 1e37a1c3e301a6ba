"""
No request gets a row of another tenant behind PgBouncer, however others were cancelled.

Four client connections share two server sessions, so transactions of one
client wander between them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests.integration.pgbouncer._every import OPTIONS
from tests.integration.pgbouncer.conftest import SESSIONS, House
from tests.integration.tenancy._storm import (
    CONTROLS,
    NONE,
    STACKS,
    Report,
    bind_nothing,
    run,
)

REQUESTS = 100
PATIENCE = 0.012  # a request waits for one of the two sessions


async def storm(house: House, stack: Any, prepare: Any = bind_nothing) -> Report:
    """
    Raise a storm through the pooler.
    """
    return await run(
        house.database, stack, prepare, count=REQUESTS, dsn=house.dsn, patience=PATIENCE
    )


@pytest.mark.parametrize("name", STACKS)
async def test_storm(house: House, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """
    No wrong row, no residue, no error, and no tenant in a server session afterwards.
    """
    options = OPTIONS.get(name, NONE)
    report = await storm(
        house, partial(STACKS[name], seal=house.seal, pooled=True, options=options)
    )
    with capsys.disabled():
        print(f"\npgbouncer {name}: {report}")  # noqa: T201 -- the gate's figures

    assert (report.wrong, report.residue, report.stuck) == (0, 0, 0)
    assert (report.missing, report.errors) == (0, [])
    assert 0 < report.cancelled < report.requests
    left = house.look()
    assert len({process for process, *_ in left}) == SESSIONS
    assert {tenant for _, tenant, *_ in left} == {""}


async def test_storm_without_pooled(house: House) -> None:
    """
    Rows are the tenant's even so; what is met then, the tests of residue show.
    """
    stack = partial(STACKS["psycopg_pool"], seal=house.seal, options={"prepare_threshold": None})
    report = await storm(house, stack)

    assert (report.wrong, report.missing, report.errors) == (0, 0, [])


@pytest.mark.parametrize("house", ["unsealed"], indirect=True)
async def test_storm_on_a_session_setting(house: House) -> None:
    """
    The control: what is bound to the session, another client reads (attack 53).
    """
    stack, prepare = CONTROLS["session-level set_config"]
    report = await storm(house, partial(stack, options={"prepare_threshold": None}), prepare)

    assert report.wrong > 0
