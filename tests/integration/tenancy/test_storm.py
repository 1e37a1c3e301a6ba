"""
Gate G2: no request gets a row of another tenant, however others were cancelled.
"""

from __future__ import annotations

import pytest

from tests.integration.tenancy._storm import (
    APP,
    CONTROLS,
    OWNER,
    REQUESTS,
    REQUESTS_OF_A_CONTROL,
    STACKS,
    TABLE,
    run,
)
from twh_platform.tenancy.postgres import TenantTable, install_sql, tenant_sql
from twh_platform.testing import PostgresDatabase


@pytest.fixture(scope="module")
def parcels(twh_database: PostgresDatabase) -> PostgresDatabase:
    """
    A database with an isolated table.
    """
    sql = tenant_sql([TenantTable(name="parcels")], role=APP)
    twh_database.execute(install_sql() + TABLE + sql, user=OWNER)
    return twh_database


@pytest.mark.parametrize("name", STACKS)
async def test_storm(
    parcels: PostgresDatabase, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    No wrong row, no residue, no stuck transaction, no error.
    """
    report = await run(parcels, STACKS[name])
    with capsys.disabled():
        print(f"\nG2 {name}: {report}")  # noqa: T201 -- the gate's figures

    assert (report.wrong, report.residue, report.stuck) == (0, 0, 0)
    assert (report.missing, report.errors) == (0, [])
    assert report.requests == REQUESTS
    assert 0 < report.cancelled < report.requests


@pytest.mark.parametrize("name", CONTROLS)
async def test_storm_on_a_naive_binding(
    parcels: PostgresDatabase, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    The control: the same storm finds what a usual binding leaks.
    """
    stack, prepare = CONTROLS[name]
    report = await run(parcels, stack, prepare, count=REQUESTS_OF_A_CONTROL)
    with capsys.disabled():
        print(f"\nG2 control, {name}: {report}")  # noqa: T201 -- the gate's figures

    assert report.wrong > 0
    assert report.residue > 0
