"""
The tenant directory on a real PostgreSQL: its role, its checks, its faults.
"""

from __future__ import annotations

import asyncio
import zoneinfo
from collections.abc import Iterator

import psycopg
import pytest

from tests.support.serving import PATIENCE, eventually
from tests.support.tenancy import Says, exchange, http_scope, name_tenant
from twh_platform.errors import BackendUnavailableError, ConfigurationError, PlatformError
from twh_platform.tenancy import CachedTenantDirectory, TenantMiddleware
from twh_platform.tenancy.postgres import install_sql
from twh_platform.tenancy.postgres.directory import (
    PostgresTenantDirectory,
    TenantChangeListener,
    directory_pool,
    directory_sql,
)
from twh_platform.testing import PostgresDatabase, PostgresServer

OWNER, READER, APP, ADMIN = "twh_owner", "twh_directory", "twh_app", "twh_admin"
NEVER = 3600.0  # a time to live that no test waits for


@pytest.fixture(scope="module")
def database(twh_private_postgres: PostgresServer) -> Iterator[PostgresDatabase]:
    """A database with tenants, on a server that may be stopped."""
    for role in (OWNER, READER, APP, ADMIN):
        twh_private_postgres.create_role(role)
    database = twh_private_postgres.create_database("tenants", owner=OWNER)
    database.execute(install_sql(), user=OWNER)
    database.execute(directory_sql(role=READER, administrators=[ADMIN]), user=OWNER)
    return database


@pytest.fixture(autouse=True)
def _two_tenants(database: PostgresDatabase) -> None:
    """Start each test with acme and globex."""
    database.execute(
        "TRUNCATE twh.tenants;"
        "INSERT INTO twh.tenants (id, status) VALUES ('acme', 'active'), ('globex', 'active')",
        user=OWNER,
    )


@pytest.fixture
async def directory(database):
    """The directory under test, behind a cache that forgets at once and has a short deadline."""
    async with directory_pool(database.dsn(user=READER), timeout=0.5) as pool:
        await pool.wait()
        reader = PostgresTenantDirectory(pool)
        yield CachedTenantDirectory(reader, ttl=1e-9, negative_ttl=1e-9, timeout=1)


def change(database, status, tenant_id="acme", user=OWNER) -> None:
    """Change a tenant's status behind the cache's back."""
    database.execute(
        f"UPDATE twh.tenants SET status = '{status}' WHERE id = '{tenant_id}'", user=user
    )


def test_the_sql_may_run_again(database):
    """Data and grants stay as they are."""
    database.execute(directory_sql(role=READER, administrators=[ADMIN]), user=OWNER)

    assert database.execute("SELECT count(*) FROM twh.tenants", user=READER) == "2"


def test_the_sql_may_run_again_for_others(database):
    """Who is not listed any more neither writes nor reads, and PUBLIC never did."""
    both = directory_sql(role=READER, administrators=[ADMIN, APP])
    insert = "INSERT INTO twh.tenants (id) VALUES ('late')"
    database.execute(both + "GRANT SELECT ON twh.tenants TO PUBLIC", user=OWNER)
    database.execute(insert, user=ADMIN)
    database.execute(directory_sql(role=APP), user=OWNER)
    try:
        assert database.execute("SELECT count(*) FROM twh.tenants", user=APP) == "3"
        for role, statement in ((ADMIN, insert), (APP, insert), (READER, "TABLE twh.tenants")):
            with pytest.raises(PlatformError, match="permission denied"):
                database.execute(statement, user=role)
    finally:
        database.execute(directory_sql(role=READER, administrators=[ADMIN]), user=OWNER)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE twh.tenants SET tier = 'x'",
        "DELETE FROM twh.tenants",
        "TRUNCATE twh.tenants",
        "INSERT INTO twh.tenants (id) VALUES ('evil')",
        "SELECT twh.tenant_changed()",
        "CREATE TABLE twh.x ()",
        "LOCK twh.tenants IN EXCLUSIVE MODE",
    ],
)
def test_the_directorys_role_only_reads(statement, database):
    """What leaks from it cannot change a tenant."""
    with pytest.raises(PlatformError):
        database.execute(statement, user=READER)


def test_the_apps_role_sees_no_tenant(database):
    """Neither by default, nor when somebody grants it the whole schema."""
    with pytest.raises(PlatformError, match="permission denied"):
        database.execute("SELECT * FROM twh.tenants", user=APP)
    database.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA twh TO {APP}", user=OWNER)

    assert database.execute("SELECT count(*) FROM twh.tenants", user=APP) == "0"
    database.execute(f"REVOKE ALL ON twh.tenants FROM {APP}", user=OWNER)


def test_an_administrator_writes(database):
    """Insert, update and delete; the moment of the change is noted."""
    database.execute("INSERT INTO twh.tenants (id, status) VALUES ('new', 'active')", user=ADMIN)
    change(database, "suspended", "new", user=ADMIN)
    moved = database.execute(
        "SELECT updated_at > created_at FROM twh.tenants WHERE id = 'new'", user=ADMIN
    )
    database.execute("DELETE FROM twh.tenants WHERE id = 'new'", user=ADMIN)

    assert moved == "t"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("id", "''"),
        ("id", "'a b'"),
        ("id", "E'a\\n'"),
        ("id", "'\u0430cme'"),
        ("id", "repeat('a', 65)"),
        ("status", "'gone'"),
        ("kind", "'test'"),
        ("expires_at", "'infinity'"),
        ("time_zone", "'Mars/Base'"),
        ("time_zone", "'EST5EDT4'"),
        ("time_zone", "'europe/berlin'"),
        ("time_zone", "''"),
        ("attributes", "'[]'"),
        ("attributes", "'null'"),
    ],
)
def test_the_table_holds_only_what_a_tenant_can_be(column, value, database):
    """Every row can be read, because the rest is refused."""
    with pytest.raises(PlatformError):
        database.execute(f"UPDATE twh.tenants SET {column} = {value} WHERE id = 'acme'", user=OWNER)


async def test_a_zone_that_this_host_does_not_know_is_served(database, directory, monkeypatch):
    """Control: the zone database of this host cannot be read."""
    monkeypatch.setattr(zoneinfo, "TZPATH", ())
    database.execute("UPDATE twh.tenants SET time_zone = 'EUROPE/BERLIN'", user=OWNER)
    with pytest.raises(zoneinfo.ZoneInfoNotFoundError):
        zoneinfo.ZoneInfo.no_cache("EUROPE/BERLIN")

    assert (await directory.get("acme")).time_zone == "EUROPE/BERLIN"


async def test_look_ups_end_when_the_server_is_stopped_and_work_when_it_is_back(
    database, directory, twh_private_postgres
):
    """Down: a refusal in time.  Up again: answers, without a restart of ours."""
    assert await directory.get("acme") is not None
    twh_private_postgres.stop()
    try:
        with pytest.raises(BackendUnavailableError) as caught:
            await asyncio.wait_for(directory.get("acme"), PATIENCE)
    finally:
        twh_private_postgres.start()

    async def answers() -> bool:
        try:
            return await directory.get("acme") is not None
        except BackendUnavailableError:
            return False

    await eventually(answers)
    assert caught.value.code in {"directory_unavailable", "directory_timeout"}
    assert caught.value.retry_after > 0


async def test_look_ups_end_when_the_server_hangs(database, directory, twh_private_postgres):
    """Frozen: connections stand, nothing answers, a cancellation neither."""
    assert await directory.get("acme") is not None
    with twh_private_postgres.paused():
        found = await asyncio.wait_for(
            asyncio.gather(*(directory.get("acme") for _ in range(10)), return_exceptions=True),
            PATIENCE,
        )

    assert {type(one) for one in found} == {BackendUnavailableError}

    async def answers() -> bool:
        try:
            return await directory.get("acme") is not None
        except BackendUnavailableError:
            return False

    await eventually(answers)


async def test_a_restart_between_two_look_ups_is_not_noticed(
    database, directory, twh_private_postgres
):
    """A dead connection of the pool is found before it is used."""
    assert await directory.get("acme") is not None
    twh_private_postgres.restart(immediate=True)

    assert await directory.get("acme") is not None


async def test_a_pool_opens_though_the_server_is_down(database, twh_private_postgres):
    """The service starts, refuses, and recovers."""
    twh_private_postgres.stop()
    try:
        pool = directory_pool(database.dsn(user=READER), timeout=0.2)
        await asyncio.wait_for(pool.open(), PATIENCE)
        with pytest.raises(BackendUnavailableError):
            await PostgresTenantDirectory(pool).get("acme")
    finally:
        twh_private_postgres.start()
    await pool.close()


async def test_errors_do_not_tell_where_or_who(database):
    """The driver's error is the cause; our message has neither DSN nor password."""
    dsn = database.dsn(user=READER, password="hunter2").replace(READER, "nobody_known")
    async with directory_pool(dsn, timeout=0.2) as pool:
        with pytest.raises(BackendUnavailableError) as caught:
            await PostgresTenantDirectory(pool).get("acme")

    assert isinstance(caught.value.__cause__, psycopg.Error)
    assert not {"hunter2", "nobody_known", "127.0.0.1"} & set(str(caught.value).split())
    assert "hunter2" not in f"{caught.value} {caught.value.__cause__}"


async def test_a_malformed_dsn_is_refused_without_its_text(caplog):
    """Control: the driver's own complaint, which the pool would log, quotes it."""
    dsn = "host=127.0.0.1 password=top secret-half"
    with pytest.raises(psycopg.ProgrammingError, match="secret-half"):
        psycopg.conninfo.conninfo_to_dict(dsn)
    with pytest.raises(ConfigurationError, match="not a DSN") as caught:
        async with directory_pool(dsn, timeout=0.2) as pool:
            await PostgresTenantDirectory(pool).get("acme")

    assert caught.value.__suppress_context__
    assert "secret-half" not in str(caught.value) + caplog.text


async def test_a_missing_table_is_not_an_unknown_tenant(twh_private_postgres):
    """A mistake in the set-up refuses everyone; it never says "no such tenant"."""
    empty = twh_private_postgres.create_database("empty")
    async with directory_pool(empty.dsn(user=READER)) as pool:
        with pytest.raises(BackendUnavailableError, match="42P01"):
            await PostgresTenantDirectory(pool).get("acme")


async def test_the_middleware_answers_503_while_the_server_hangs(
    database, directory, twh_private_postgres
):
    """With Retry-After, within the deadline; afterwards the tenant is served again."""
    cache = CachedTenantDirectory(directory, ttl=0.001, timeout=0.5)
    app = TenantMiddleware(name_tenant, resolver=Says("acme"), directory=cache)
    assert (await exchange(app, http_scope())).body == b"acme"
    with twh_private_postgres.paused():
        await asyncio.sleep(0.01)
        answers = await asyncio.wait_for(
            asyncio.gather(*(exchange(app, http_scope()) for _ in range(20))), PATIENCE
        )

    assert {(one.status, one.json["code"]) for one in answers} == {(503, "backend_unavailable")}
    assert {one.headers["retry-after"] for one in answers} == {"1"}

    async def served() -> bool:
        return (await exchange(app, http_scope())).status == 200

    await eventually(served)


@pytest.fixture
async def listening(database, directory):
    """A cache that forgets nothing by itself, and its listener."""
    cache = CachedTenantDirectory(directory, ttl=NEVER, negative_ttl=NEVER)
    async with TenantChangeListener(database.dsn(user=READER), cache, max_delay=0.2) as listener:
        await asyncio.wait_for(listener.wait_listening(), PATIENCE)
        yield cache, listener


def is_now(cache, status, tenant_id="acme"):
    """A condition: the cache gives this status, or None for no tenant."""

    async def condition() -> bool:
        try:
            tenant = await cache.get(tenant_id)
        except BackendUnavailableError:
            return False
        return (tenant and tenant.status) == status

    return condition


async def test_a_suspension_is_heard(database, directory, listening):
    """Control: a cache without a listener goes on serving."""
    deaf = CachedTenantDirectory(directory, ttl=NEVER)
    cache, _listener = listening
    for one in (cache, deaf):
        await one.get("acme")
    change(database, "suspended")

    await eventually(is_now(cache, "suspended"))
    assert await is_now(deaf, "active")()


async def test_insert_delete_rename_and_truncate_are_heard(database, listening):
    """Every way in which a tenant can come or go."""
    cache, _listener = listening
    assert await cache.get("new") is None
    database.execute("INSERT INTO twh.tenants (id, status) VALUES ('new', 'active')", user=ADMIN)
    await eventually(is_now(cache, "active", "new"))
    assert await cache.get("renamed") is None
    database.execute("UPDATE twh.tenants SET id = 'renamed' WHERE id = 'new'", user=ADMIN)
    await eventually(is_now(cache, None, "new"))
    await eventually(is_now(cache, "active", "renamed"))
    database.execute("DELETE FROM twh.tenants WHERE id = 'renamed'", user=ADMIN)
    await eventually(is_now(cache, None, "renamed"))
    await cache.get("acme")
    database.execute("TRUNCATE twh.tenants", user=OWNER)
    await eventually(is_now(cache, None))


async def test_what_was_missed_is_not_believed(database, listening, twh_private_postgres):
    """After the connection was lost and is back the whole cache is forgotten."""
    cache, listener = listening
    await cache.get("acme")
    await cache.get("globex")
    twh_private_postgres.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%';"
        "ALTER TABLE twh.tenants DISABLE TRIGGER tenant_changed;"
        "UPDATE twh.tenants SET status = 'suspended';"
        "ALTER TABLE twh.tenants ENABLE TRIGGER tenant_changed",
        dbname=database.name,
    )

    await eventually(is_now(cache, "suspended"))
    await eventually(is_now(cache, "suspended", "globex"))
    await asyncio.wait_for(listener.wait_listening(), PATIENCE)


async def test_the_listener_survives_a_restart(database, listening, twh_private_postgres):
    """It tries again until the server is back, and hears the next change."""
    cache, listener = listening
    await cache.get("acme")
    twh_private_postgres.stop()
    twh_private_postgres.start()
    await eventually(is_now(cache, "active"))
    await asyncio.wait_for(listener.wait_listening(), PATIENCE)
    change(database, "suspended")

    await eventually(is_now(cache, "suspended"))


async def test_the_listener_stops_at_once(database, twh_private_postgres):
    """While it listens, while it cannot connect, and while the server hangs."""
    dsn = database.dsn(user=READER)
    for bad in (dsn, "postgresql://nobody@127.0.0.1:9/none"):
        async with TenantChangeListener(bad, CachedTenantDirectory(Nothing())):
            await asyncio.sleep(0.05)
    hearing = TenantChangeListener(dsn, CachedTenantDirectory(Nothing()))
    await hearing.__aenter__()
    await asyncio.wait_for(hearing.wait_listening(), PATIENCE)
    with twh_private_postgres.paused():
        connecting = TenantChangeListener(dsn, CachedTenantDirectory(Nothing()))
        await connecting.__aenter__()
        await asyncio.sleep(0.05)
        for one in (hearing, connecting):
            await asyncio.wait_for(one.__aexit__(None, None, None), PATIENCE)


class Nothing:
    """A directory without tenants."""

    async def get(self, tenant_id):
        """Nobody."""


async def test_a_strangers_notification_only_empties_the_cache(database, listening):
    """Any role may notify; the worst it does is one more look-up."""
    cache, _listener = listening
    await cache.get("acme")
    for payload in ("", "no id'--", "acme", "x" * 500):
        database.execute(f"SELECT pg_notify('twh_tenants', $${payload}$$)", user=APP)

    await eventually(is_now(cache, "active"))
