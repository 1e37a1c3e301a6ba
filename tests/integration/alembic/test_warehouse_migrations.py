"""
The migrations of the warehouse.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config

from examples.warehouse import schema
from examples.warehouse.database import BYPASSES, migrate
from tests.integration.alembic._project import SNAPSHOT
from twh_platform.testing import PostgresDatabase, PostgresServer

INI = "examples/warehouse/alembic.ini"
DATABASE = "SELECT coalesce(datacl, acldefault('d', datdba)) FROM pg_database WHERE datname = "


@pytest.fixture
def database(server: PostgresServer) -> Iterator[PostgresDatabase]:
    """
    An empty database of the warehouse's owner.
    """
    for role in (schema.OWNER, schema.APP, schema.DIRECTORY, schema.ADMINISTRATOR):
        server.create_role(role)
    server.create_role(schema.SUPPORT, attributes=BYPASSES)
    name = f"warehouse_{secrets.token_hex(6)}"
    database = server.create_database(name, owner=schema.OWNER)
    yield database
    database.drop()


@pytest.fixture
def config(database: PostgresDatabase, project_root: Path) -> Config:
    """
    Alembic's configuration for it.
    """
    config = Config(project_root / INI)
    config.attributes["dsn"] = owner_dsn(database)
    return config


def owner_dsn(database: PostgresDatabase) -> str:
    """Where the migrations run."""
    return database.dsn(user=schema.OWNER, scheme="postgresql+psycopg")


def seen(database: PostgresDatabase) -> set[str]:
    """All that can be seen of isolation, and who may connect."""
    who = database.execute(f"SELECT unnest(({DATABASE} current_database()))::text")
    return {*database.execute(SNAPSHOT).splitlines(), *who.splitlines()}


def test_there_is_no_drift(database, config):
    """What the migrations make is what the models and the declaration say."""
    migrate(owner_dsn(database))

    command.check(config)


def test_back_to_base(database, config):
    """A downgrade to base leaves Alembic's own table; an upgrade makes the same again."""
    before = seen(database)
    migrate(owner_dsn(database))
    migrated = seen(database)
    command.downgrade(config, "base")

    assert {line for line in seen(database) ^ before if "alembic_version" not in line} == set()
    command.upgrade(config, "head")
    assert seen(database) == migrated


@pytest.mark.parametrize(
    ("change", "status"),
    [("SELECT 1", 0), ("ALTER TABLE items NO FORCE ROW LEVEL SECURITY", 255)],
    ids=["as declared", "changed by hand"],
)
def test_the_command_for_ci(database, project_root, change, status):
    """`alembic check` has a status that a pipeline understands."""
    migrate(owner_dsn(database))
    database.execute(change)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "alembic", "-c", project_root / INI, "check"],
        env={**os.environ, "WAREHOUSE_OWNER_DSN": owner_dsn(database)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == status, done.stderr
    assert ("row security is not forced" in done.stdout + done.stderr) == bool(status)
