"""
Overrides in PostgreSQL: who may what, and what several instances see.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import errors
from psycopg.types.json import Jsonb

from twh_platform import Tenant
from twh_platform.errors import BackendUnavailableError
from twh_platform.quotas._limits import read_limits
from twh_platform.quotas._overridden_plans import OverriddenPlans
from twh_platform.quotas._plans import Plans
from twh_platform.quotas.postgres.overrides import PostgresOverrideStore, overrides_sql
from twh_platform.tenancy.postgres.directory import directory_pool, directory_sql
from twh_platform.testing import PostgresDatabase

ACME = Tenant(id="acme", tier="FREE")
WHO = {"actor": "ada", "reason": "ticket 4711"}
READER, ADMIN, APP = "twh_test_quota_reader", "twh_test_quota_admin", "twh_test_quota_app"
CHANGE = "SELECT version FROM twh.change_quota_override(%s, %s, 'ada', 'ticket 4711')"
MINUTE = Jsonb({"minute": {"limit": 50}})


@pytest.fixture(scope="module")
def installed(twh_database: PostgresDatabase) -> PostgresDatabase:
    """A database with the table, and the three logins."""
    for role in (READER, ADMIN, APP):
        twh_database.server.create_role(role)
    twh_database.execute(overrides_sql(role=READER, administrators=[ADMIN]), user="twh_test_owner")
    return twh_database


@pytest.fixture
def database(installed: PostgresDatabase) -> Iterator[PostgresDatabase]:
    """The same, without overrides."""
    yield installed
    installed.execute("TRUNCATE twh.quota_overrides", user="twh_test_owner")


def connect(database: PostgresDatabase, role: str) -> psycopg.Connection:
    """A connection of a login; in autocommit mode."""
    return psycopg.connect(database.dsn(user=role), autocommit=True)


async def until(condition) -> None:
    """Wait, at most half a minute, for something to become true."""
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it has not become true")


def limit(plans: OverriddenPlans) -> int:
    """What the tenant has a minute."""
    return plans.for_tenant(ACME).rule("minute").limit


FORBIDDEN = [
    (APP, "SELECT FROM twh.quota_overrides"),
    (APP, "SELECT FROM twh.quota_overrides_head"),
    (APP, "SELECT twh.change_quota_override('acme', '{}', 'a', 'b')"),
    (READER, "SELECT FROM twh.quota_overrides_head"),
    (READER, "SELECT twh.change_quota_override('acme', '{}', 'a', 'b')"),
    (READER, "DELETE FROM twh.quota_overrides"),
    (ADMIN, "INSERT INTO twh.quota_overrides VALUES (9, 'a', '{}', 'a', 'b', 'c', now())"),
    (ADMIN, "UPDATE twh.quota_overrides SET actor = 'somebody else'"),
    (ADMIN, "DELETE FROM twh.quota_overrides"),
    (ADMIN, "TRUNCATE twh.quota_overrides"),
    (ADMIN, "UPDATE twh.quota_overrides_head SET version = 0"),
]


@pytest.mark.parametrize(("role", "statement"), FORBIDDEN)
def test_nobody_may_more_than_needed(role, statement, database):
    """The application nothing, the reader read, the administrator add and not rewrite."""
    with connect(database, role) as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute(statement)


async def test_one_login_reads_and_another_changes(database):
    """Each statement goes through the pool of the login that may; control: the reader may not."""
    async with (
        directory_pool(database.dsn(user=READER)) as reader,
        directory_pool(database.dsn(user=ADMIN)) as admin,
    ):
        store = PostgresOverrideStore(reader, administrators=admin)
        change = await store.put("acme", read_limits({"minute": 50}), **WHO)
        with pytest.raises(BackendUnavailableError, match="42501"):
            await PostgresOverrideStore(reader).delete("acme", **WHO)

        assert (await store.changes(0)) == [change.after]
        assert (await store.delete("acme", **WHO)).before == change.after


def test_who_did_it_is_the_login_whatever_was_stated(database):
    """The actor is stated; the login and the time are the server's."""
    with connect(database, ADMIN) as connection:
        connection.execute(CHANGE, ("acme", MINUTE))
        row = connection.execute(
            "SELECT login, actor, now() - changed_at < '1 hour' FROM twh.quota_overrides"
        ).fetchone()

    assert row == (ADMIN, "ada", True)


def test_a_grant_by_mistake_shows_no_row(database):
    """Control: the reader sees it. Then the grant is taken back by the next installation."""
    with connect(database, ADMIN) as connection:
        connection.execute(CHANGE, ("acme", MINUTE))
    database.execute(f"GRANT SELECT ON twh.quota_overrides TO {APP}", user="twh_test_owner")
    database.execute(f"GRANT USAGE ON SCHEMA twh TO {APP}", user="twh_test_owner")
    count = "SELECT count(*) FROM twh.quota_overrides"
    with connect(database, APP) as app, connect(database, READER) as reader:
        assert reader.execute(count).fetchone() == (1,)
        assert app.execute(count).fetchone() == (0,)
        again = overrides_sql(role=READER, administrators=[ADMIN])
        database.execute(again, user="twh_test_owner")
        with pytest.raises(errors.InsufficientPrivilege):
            app.execute(count)
        assert reader.execute(count).fetchone() == (1,)


@pytest.mark.parametrize(
    "limits",
    [
        None,
        [],
        5,
        {"minute": 5},
        {"minute": [5]},
        {"minute": {}},
        {"minute": {"burst": 5}},
        {"minute": {"limit": "5"}},
        {"minute": {"limit": None}},
        {"minute": {"limit": -1}},
        {"minute": {"limit": 1.5}},
        {"minute": {"limit": 2**52 + 1}},
        {"minute": {"limit": 10**40}},
        {"minute": {"limit": 1, "burst": 0}},
        {"minute": {"limit": 1, "per": 1}},
        {"Minute": {"limit": 1}},
        {f"n{number}": {"limit": 1} for number in range(101)},
    ],
    ids=range(17),
)
def test_what_no_reader_could_read_cannot_be_written(limits, database):
    """Not even by hand: one bad row would stop every instance from learning."""
    with connect(database, ADMIN) as connection:
        with pytest.raises((errors.CheckViolation, errors.InvalidParameterValue)):
            connection.execute(CHANGE, ("acme", Jsonb(limits)))

        assert connection.execute("SELECT count(*) FROM twh.quota_overrides").fetchone() == (0,)


NAIVE = "CREATE TABLE naive_overrides (version bigserial PRIMARY KEY, tenant_id text)"
NAIVELY = "INSERT INTO naive_overrides (tenant_id) VALUES (%s)"
OURS = "SELECT twh.change_quota_override(%s, '{\"minute\": {\"limit\": 1}}', 'ada', 'ticket 4711')"


async def seen_by_a_reader(database, write: str, table: str, user: str) -> list[str]:
    """What a reader sees who reads on from the newest, while a slow writer commits late."""
    seen: list[tuple[int, str]] = [(0, "")]
    read = f"SELECT version, tenant_id FROM {table} WHERE version > %s ORDER BY version"
    dsn, connect_to = database.dsn(user=user), psycopg.AsyncConnection.connect
    async with (
        await connect_to(dsn, autocommit=True) as reader,
        await connect_to(dsn) as slow,
        await connect_to(dsn) as quick,
    ):

        async def look() -> None:
            seen.extend(await (await reader.execute(read, (seen[-1][0],))).fetchall())

        async def write_quickly() -> None:
            await quick.execute(write, ("quick",))
            await quick.commit()

        await slow.execute(write, ("slow",))
        writing = asyncio.create_task(write_quickly())
        await asyncio.wait((writing,), timeout=0.5)  # where versions are in order, it waits
        await look()
        await slow.commit()
        await writing
        await look()
    return [tenant_id for _, tenant_id in seen[1:]]


async def test_a_change_that_commits_late_is_not_missed(database):
    """Control: with a sequence, who commits late has the smaller number, and is missed."""
    database.execute(NAIVE, user="twh_test_owner")
    missed = await seen_by_a_reader(database, NAIVELY, "naive_overrides", "twh_test_owner")
    seen = await seen_by_a_reader(database, OURS, "twh.quota_overrides", ADMIN)

    assert missed == ["quick"]
    assert seen == ["slow", "quick"]


async def test_every_instance_sees_a_change(database):
    """An administrator's instance writes, two readers poll: no restart, no message."""
    reader, admin = database.dsn(user=READER), database.dsn(user=ADMIN)
    async with (
        directory_pool(reader) as reading,
        directory_pool(admin) as writing,
        OverriddenPlans(Plans.example(), PostgresOverrideStore(writing)) as back_office,
        OverriddenPlans(Plans.example(), PostgresOverrideStore(reading)) as one,
        OverriddenPlans(Plans.example(), PostgresOverrideStore(reading)) as two,
    ):
        before = [limit(one), limit(two)]
        await back_office.put(ACME, {"minute": 50}, **WHO)
        await until(lambda: [limit(one), limit(two)] == [50, 50])
        await back_office.delete("acme", **WHO)
        await until(lambda: [limit(one), limit(two)] == [10, 10])

    assert before == [10, 10]


async def test_a_reader_cannot_write(database):
    """The login of the instances that serve tenants raises nobody's limits."""
    async with directory_pool(database.dsn(user=READER)) as pool:
        store = PostgresOverrideStore(pool)
        with pytest.raises(BackendUnavailableError, match="SQLSTATE 42501"):
            await store.put("acme", read_limits({"minute": 50}), **WHO)

        assert await store.get("acme") is None


async def test_a_frozen_server_keeps_what_is_known(database):
    """The readings fail, the limits stay, and it goes on by itself."""
    if not database.server.managed:
        pytest.skip("only a server of our own can be frozen")
    async with (
        directory_pool(database.dsn(user=ADMIN)) as pool,
        OverriddenPlans(
            Plans.example(), PostgresOverrideStore(pool), interval=0.05, timeout=0.5
        ) as plans,
    ):
        await plans.put(ACME, {"minute": 50}, **WHO)
        with database.server.paused():
            await until(lambda: plans.failures >= 1)
            assert limit(plans) == 50
        await until(lambda: plans.failures == 0)

        assert limit(plans) == 50


def test_it_stands_beside_the_directory(database):
    """One reader for both tables, installed in either order, again and again."""
    statements = [directory_sql(role=READER), overrides_sql(role=READER, administrators=[ADMIN])]
    for sql in [*statements, *statements]:
        database.execute(sql, user="twh_test_owner")
    with connect(database, READER) as connection:
        tables = [
            connection.execute(f"SELECT count(*) FROM twh.{table}").fetchone()
            for table in ("tenants", "quota_overrides")
        ]

    assert tables == [(0,), (0,)]
