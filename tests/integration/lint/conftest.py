"""
Both PostgreSQLs, and the schema that is done well on each.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.schemas import schema_text
from twh_platform.testing import PostgresDatabase, PostgresServer, find_postgres


@pytest.fixture(scope="package", params=["system", "embedded"])
def lint_server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """
    A server of each source that is there: the system's, and the wheel's.

    Both keep statements, as servers in production do.
    """
    if find_postgres((request.param,)) is None:
        pytest.skip(f"there is no {request.param} PostgreSQL")
    settings = {"shared_preload_libraries": "pg_stat_statements"}
    with PostgresServer(sources=(request.param,), settings=settings) as server:
        yield server


@pytest.fixture(scope="package")
def clinic(lint_server: PostgresServer) -> PostgresDatabase:
    """
    The good schema.
    """
    database = lint_server.create_database("clinic")
    database.execute(schema_text("clinic"))
    return database
