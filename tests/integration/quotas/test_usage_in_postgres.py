"""
Usage in PostgreSQL: who may what, what the lint says, and what a fault of the server costs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest
from psycopg import errors

from tests.support.quotas import ACME, limiter_of
from tests.support.serving import eventually
from tests.support.tenancy import heard
from twh_platform.errors import BackendUnavailableError, ConfigurationError
from twh_platform.quotas import (
    Calendar,
    MemoryQuotaStore,
    UsageCounter,
    UsageLedgerDegraded,
    UsageMeter,
    UsageQuery,
)
from twh_platform.quotas.postgres.usage import PostgresUsageLedger, usage_sql
from twh_platform.tenancy.postgres import TenantTable, install_sql, tenant_sql
from twh_platform.tenancy.postgres.directory import directory_pool
from twh_platform.tenancy.postgres.lint import lint
from twh_platform.testing import PostgresDatabase, PostgresServer

OWNER, APP = "twh_test_owner", "twh_test_app"
METER, READER = "twh_test_usage_meter", "twh_test_usage_reader"
MONTH = Calendar(name="month", limit=1000, period="month")
ALL = UsageQuery(first=date(2000, 1, 1), until=date(2100, 1, 1))
COUNTER = UsageCounter(
    tenant_id="acme",
    rule="month",
    scope="",
    birth=10**15,
    instance="",
    unit="requests",
    period_start=datetime(2026, 9, 1, tzinfo=UTC),
    period_end=datetime(2026, 10, 1, tzinfo=UTC),
    taken=10,
    refunded=2,
)


def make_database(server: PostgresServer, database: PostgresDatabase) -> PostgresDatabase:
    """The tables of usage, beside a tenants' table of a service."""
    for role in (METER, READER):
        server.create_role(role)
    items = TenantTable(name="items")
    database.execute(install_sql(), user=OWNER)
    database.execute("CREATE TABLE items (tenant_id text, id int)", user=OWNER)
    database.execute(tenant_sql([items], role=APP), user=OWNER)
    database.execute(usage_sql(role=METER, readers=[READER]), user=OWNER)
    return database


@pytest.fixture(scope="module")
def installed(twh_database: PostgresDatabase) -> PostgresDatabase:
    """A database that all tests share."""
    return make_database(twh_database.server, twh_database)


@pytest.fixture
def database(installed: PostgresDatabase) -> Iterator[PostgresDatabase]:
    """The same, with acme's usage."""
    installed.execute(
        "INSERT INTO twh.quota_usage (tenant_id, rule, scope, birth, instance, unit, period_start,"
        " period_end, start_offset, end_offset, taken, refunded) VALUES ('acme', 'month', '', 1,"
        " '', 'requests', '2026-09-01+00', '2026-10-01+00', '0', '0', 5, 1);"
        "INSERT INTO twh.quota_notices VALUES ('acme', 'month', '', '2026-09-01+00', 80, 100)",
        user=OWNER,
    )
    yield installed
    installed.execute("TRUNCATE twh.quota_usage, twh.quota_notices", user=OWNER)


def run(database: PostgresDatabase, role: str, statement: str):
    """One statement of a login."""
    with psycopg.connect(database.dsn(user=role), autocommit=True) as connection:
        return connection.execute(statement.encode()).fetchall()


READ = ("SELECT count(*) FROM twh.quota_usage", "SELECT count(*) FROM twh.quota_notices")
REFUSED = [
    *((APP, statement) for statement in READ),
    (APP, "INSERT INTO twh.quota_usage (tenant_id) VALUES ('acme')"),
    (READER, READ[1]),
    (READER, "UPDATE twh.quota_usage SET taken = 0 RETURNING 1"),
    (READER, "DELETE FROM twh.quota_usage RETURNING 1"),
    (READER, "INSERT INTO twh.quota_usage (tenant_id) VALUES ('acme') RETURNING 1"),
    (METER, "DELETE FROM twh.quota_usage RETURNING 1"),
    (METER, "DELETE FROM twh.quota_notices RETURNING 1"),
    (METER, "TRUNCATE twh.quota_usage"),
    (METER, "UPDATE twh.quota_usage SET tenant_id = 'globex' RETURNING 1"),
    (METER, "UPDATE twh.quota_usage SET birth = 7 RETURNING 1"),
    (METER, "CREATE TABLE twh.mine ()"),
]


@pytest.mark.parametrize(("role", "statement"), REFUSED)
def test_each_login_does_what_it_is_for_and_no_more(role, statement, database):
    """The application's reads nothing: another tenant's usage least of all."""
    with pytest.raises(errors.InsufficientPrivilege):
        run(database, role, statement)


def test_a_login_that_was_granted_the_schema_by_mistake_sees_no_row(database):
    """Row security stands behind the grants; control: the reader sees one."""
    database.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA twh TO {APP}", user=OWNER)
    try:
        assert [run(database, APP, statement) for statement in READ] == [[(0,)], [(0,)]]
        assert run(database, READER, READ[0]) == [(1,)]
    finally:
        database.execute(usage_sql(role=METER, readers=[READER]), user=OWNER)


def test_the_sql_may_run_again_with_other_roles(database):
    """What was there stays, and who is not named any more may nothing."""
    database.execute(usage_sql(role=READER), user=OWNER)
    try:
        assert run(database, READER, READ[0]) == [(1,)]
        with pytest.raises(errors.InsufficientPrivilege):
            run(database, METER, READ[0])
    finally:
        database.execute(usage_sql(role=METER, readers=[READER]), user=OWNER)


@pytest.mark.parametrize("role", ["public", "none", "", "a\0b"])
def test_a_role_that_is_none_is_refused(role):
    """`GRANT ... TO "public"` would be for everybody."""
    with pytest.raises(ConfigurationError):
        usage_sql(role=role)
    with pytest.raises(ConfigurationError):
        usage_sql(role=METER, readers=[role])


def test_the_lint_has_nothing_to_say(database):
    """About these tables, or about the database because of them."""
    report = lint(database.dsn(user=OWNER), app_roles=[APP])
    found = [one for one in report.findings if "quota_" in f"{one.object} {one.message}"]

    assert found == []


@pytest.mark.parametrize(
    "change",
    [
        {"tenant_id": "a b"},
        {"rule": "A"},
        {"scope": "x" * 201},
        {"taken": 1},
        {"refunded": -1},
        {"birth": 0},
        {"period_end": COUNTER.period_start},
        {"instance": "'"},
    ],
)
async def test_the_table_holds_only_what_a_meter_writes(change, database):
    """The rest is refused, and a batch is all or nothing."""
    async with directory_pool(database.dsn(user=METER)) as pool:
        ledger = PostgresUsageLedger(pool)
        with pytest.raises(BackendUnavailableError) as caught:
            await ledger.record([COUNTER, replace(COUNTER, **{"birth": 7, **change})])
        rows = await ledger.page(ALL, after=None, size=10)

    assert caught.value.code == "usage_ledger_unavailable"
    assert [row.taken for row in rows] == [5]


async def test_a_readers_login_is_enough_to_export(database):
    """It reads pages, and records nothing."""
    async with directory_pool(database.dsn(user=READER)) as pool:
        ledger = PostgresUsageLedger(pool)
        assert len(await ledger.page(ALL, after=None, size=10)) == 1
        with pytest.raises(BackendUnavailableError, match="42501"):
            await ledger.record([COUNTER])


async def test_a_page_reads_its_days_and_no_more(database):
    """By the index: what is years old costs a month's export nothing."""
    starts = datetime(2020, 1, 1, tzinfo=UTC)
    async with directory_pool(database.dsn(user=METER), timeout=30) as pool:
        ledger = PostgresUsageLedger(pool)
        for month in range(40):
            begin = starts + timedelta(days=30 * month)
            await ledger.record(
                [
                    replace(
                        COUNTER,
                        scope=f"u.{number}",
                        birth=1 + month,
                        period_start=begin,
                        period_end=begin + timedelta(days=30),
                    )
                    for number in range(500)
                ]
            )
    database.execute("ANALYZE twh.quota_usage", user=OWNER)
    plan = database.execute(
        "EXPLAIN SELECT starts_on, tenant_id, rule, sum(taken) FROM twh.quota_usage"
        " WHERE starts_on >= '2022-01-01' AND starts_on < '2022-02-01'"
        " GROUP BY starts_on, tenant_id, rule ORDER BY 1, 2, 3 LIMIT 1000",
        user=OWNER,
    )

    assert "quota_usage_by_day" in plan
    assert "Seq Scan" not in plan


@pytest.fixture(scope="module")
def private(twh_private_postgres: PostgresServer) -> PostgresDatabase:
    """A database on a server that may be stopped."""
    for role in (OWNER, APP):
        twh_private_postgres.create_role(role)
    database = twh_private_postgres.create_database("usage", owner=OWNER)
    return make_database(twh_private_postgres, database)


async def test_a_server_that_is_down_costs_nothing(private, twh_private_postgres):
    """What was counted meanwhile is written when it is back."""
    async with directory_pool(private.dsn(user=METER), timeout=0.3) as pool:
        ledger = PostgresUsageLedger(pool)
        meter = UsageMeter(ledger)
        limiter = limiter_of(MemoryQuotaStore(), MONTH, meter=meter)
        await limiter.take(ACME)
        assert await meter.flush()
        twh_private_postgres.stop()
        try:
            with heard(UsageLedgerDegraded) as signals:
                for _ in range(3):
                    await limiter.take(ACME)
                    assert not await meter.flush()
        finally:
            twh_private_postgres.start()
        await eventually(meter.flush)
        (row,) = await ledger.page(ALL, after=None, size=10)

    assert row.used == 4
    assert [one.reason for one in signals] == ["usage_ledger_unavailable"]


async def test_a_server_that_hangs_is_given_up_in_time(private, twh_private_postgres):
    """A batch that may have arrived is written again, and counts once."""
    async with directory_pool(private.dsn(user=METER), timeout=30) as pool:
        ledger = PostgresUsageLedger(pool)
        meter = UsageMeter(ledger, timeout=0.3)
        limiter = limiter_of(MemoryQuotaStore(), replace(MONTH, name="hung"), meter=meter)
        await limiter.take(ACME, cost=7)
        assert len(await ledger.page(ALL, after=None, size=10)) >= 0  # a connection is there
        with twh_private_postgres.paused():
            assert not await asyncio.wait_for(meter.flush(), 20)
        await eventually(meter.flush)
        rows = await ledger.page(ALL, after=None, size=10)

    assert [row.used for row in rows if row.rule == "hung"] == [7]
