"""
A database for the demo and the tests: made, migrated, dropped.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config

from twh_platform.tenancy.postgres import write_seal_key
from twh_platform.tenancy.postgres.seal import add_seal_key
from twh_platform.testing import PostgresServer

from .schema import ADMINISTRATOR, APP, DIRECTORY, OWNER, SUPPORT
from .settings import Settings

__all__ = ["ADMINISTRATOR_EMAIL", "BYPASSES", "HIDES", "migrate", "temporary_warehouse"]

ADMINISTRATOR_EMAIL = "administrator@warehouse.example"

BYPASSES = "LOGIN NOSUPERUSER BYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION"
"""The attributes of `warehouse_support`, which only a superuser can give."""

HIDES = """\
ALTER ROLE {role} SET track_activities = off;
ALTER ROLE {role} SET pg_stat_statements.track_utility = off;
"""
"""What keeps the seals of a login from its other connections; for a superuser too."""


def migrate(dsn: str) -> None:
    """
    Bring the schema of a database up to date.

    Args:
        dsn: Of the role that owns it.  The application's role could not.
    """
    config = Config(Path(__file__).with_name("alembic.ini"))
    config.attributes["dsn"] = dsn
    command.upgrade(config, "head")


@contextmanager
def temporary_warehouse(
    server: PostgresServer, *, administrator_password_hash: str
) -> Iterator[Settings]:
    """
    Make a database of its own with the five logins and the schema, and drop it at the end.

    Args:
        server: A running server.

        administrator_password_hash: See `passwords.hash_password`.
    """
    for role in (OWNER, APP, DIRECTORY, ADMINISTRATOR):
        server.create_role(role)
    for role in (APP, DIRECTORY, ADMINISTRATOR):
        server.execute(HIDES.format(role=role))
    server.create_role(SUPPORT, attributes=BYPASSES)
    database = server.create_database(f"warehouse_{secrets.token_hex(4)}", owner=OWNER)
    folder = Path(tempfile.mkdtemp(prefix="warehouse-"))
    try:
        migrate(database.dsn(user=OWNER, scheme="postgresql+psycopg"))
        with psycopg.connect(database.dsn(user=OWNER)) as owner:
            write_seal_key(folder / "seal.key", add_seal_key(owner))
        yield Settings(
            app_dsn=database.dsn(user=APP, scheme="postgresql+psycopg"),
            directory_dsn=database.dsn(user=DIRECTORY, scheme="postgresql+psycopg"),
            administrator_dsn=database.dsn(user=ADMINISTRATOR, scheme="postgresql+psycopg"),
            support_dsn=database.dsn(user=SUPPORT, scheme="postgresql+psycopg"),
            seal_file=folder / "seal.key",
            secret=secrets.token_bytes(32),
            administrator_email=ADMINISTRATOR_EMAIL,
            administrator_password_hash=administrator_password_hash,
            trusted_proxies=("127.0.0.1",),  # whoever asks on loopback stands in for one
        )
    finally:
        shutil.rmtree(folder)
        database.drop()
