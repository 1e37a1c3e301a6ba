"""
Both PostgreSQLs, each with a plain and a sealed database and their logins.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.support.login_plants import APP, OWNER
from twh_platform.tenancy.postgres import TenantTable, install_sql, seal_sql, tenant_sql
from twh_platform.testing import PostgresDatabase, PostgresServer, find_postgres

TABLE = "CREATE TABLE things (tenant_id text, id int, PRIMARY KEY (tenant_id, id));"


@pytest.fixture(scope="package", params=["system", "embedded"])
def login_server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """
    A server of each source that is there, with pg_stat_statements loaded.
    """
    if find_postgres((request.param,)) is None:
        pytest.skip(f"there is no {request.param} PostgreSQL")
    settings = {"shared_preload_libraries": "pg_stat_statements"}
    with PostgresServer(sources=(request.param,), settings=settings) as server:
        server.create_role(OWNER)
        server.create_role(APP)
        yield server


@pytest.fixture(scope="package")
def plain(login_server: PostgresServer) -> PostgresDatabase:
    """
    A database with policies and no seal.
    """
    database = login_server.create_database("plain", owner=OWNER)
    database.execute(_SCHEMA, user=OWNER)
    return database


@pytest.fixture(scope="package")
def sealed(login_server: PostgresServer) -> PostgresDatabase:
    """
    A sealed database, done well.
    """
    database = login_server.create_database("sealed", owner=OWNER)
    database.execute(_SCHEMA + seal_sql(), user=OWNER)
    # In this database only: the plain one shall be as PostgreSQL makes it.
    database.execute("REVOKE TEMPORARY ON DATABASE sealed FROM PUBLIC")
    for setting in ("track_activities", "pg_stat_statements.track_utility"):
        database.execute(f"ALTER ROLE {APP} IN DATABASE sealed SET {setting} = off")
    return database


@pytest.fixture
def planter(sealed: PostgresDatabase) -> Iterator[psycopg.Connection]:
    """
    The superuser in the sealed database.
    """
    with psycopg.connect(sealed.dsn(), autocommit=True) as connection:
        yield connection


_SCHEMA = TABLE + install_sql() + tenant_sql([TenantTable(name="things")], role=APP)
