"""
Each rule finds what was planted for it, and falls silent when its remedy has run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from tests.support.lint_plants import PLANTS
from twh_platform.tenancy.postgres._minors import FIRST_FIXED
from twh_platform.tenancy.postgres.lint import RULES, Report, lint
from twh_platform.tenancy.postgres.lint._lint import lint_catalog
from twh_platform.tenancy.postgres.lint._psycopg_snapshot import read_catalog


@pytest.fixture
def connection(clinic) -> Iterator[psycopg.Connection[Any]]:
    """
    A superuser's connection to the good schema; what is done on it is taken back.
    """
    with psycopg.connect(clinic.dsn()) as connection:
        yield connection
        connection.rollback()


def objects(report: Report) -> list[str]:
    """
    Name what was found, without the arguments of the system's functions.
    """
    return sorted(f"{one.kind} {one.object}".partition("(showtext")[0] for one in report.findings)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda one: one.id)
def test_a_planted_fault_is_found_and_remedied(plant, connection):
    """The rule names exactly what was planted, and nothing after its remedy."""
    if connection.info.server_version // 10_000 < plant.since:
        pytest.skip(f"such a fault needs PostgreSQL {plant.since}")
    before = lint(connection, rules=[plant.rule])
    names = {"database": connection.info.dbname}
    connection.execute(plant.sql.replace("{database}", names["database"]))

    found = lint(connection, rules=[plant.rule])
    for one in found.findings:
        connection.execute(one.remedy)
    after = lint(connection, rules=[plant.rule])

    assert before.findings == ()
    assert objects(found) == sorted(one.format(**names) for one in plant.found)
    assert after.findings == ()


def test_every_rule_has_a_plant():
    """No rule is untested."""
    elsewhere = {"TWH801", "TWH802"}

    assert {one.rule for one in PLANTS} | elsewhere == {rule.id for rule in RULES}


def test_an_old_minor_is_found(connection):
    """A server before the first fixed minor is named with its faults, a newer one is not."""
    now = read_catalog(connection)
    old = replace(now, server=replace(now.server, version=150_002))
    fixed = replace(now, server=replace(now.server, version=150_014))

    found = [one for one in lint_catalog(old).findings if one.rule.id == "TWH801"]

    assert [one.object for one in found] == ["PostgreSQL 15"]
    assert all(fault in found[0].message for fault, majors in FIRST_FIXED.items() if 15 in majors)
    connection.execute(found[0].remedy)
    assert not [one for one in lint_catalog(fixed).findings if one.rule.id == "TWH801"]


def test_a_database_without_tenants_is_not_called_good(lint_server):
    """Nothing to look at is a finding, until the column is named."""
    database = lint_server.create_database("without_tenants")
    database.execute("CREATE TABLE rows (shop text)")

    found = lint(database.dsn(), rules=["TWH802"])
    named = lint(database.dsn(), rules=["TWH802"], tenant_columns=["shop"])

    assert [one.object for one in found.findings] == ["without_tenants"]
    assert named.findings == ()
