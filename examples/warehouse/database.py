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
from typing import Any

import psycopg
from alembic import command
from alembic.config import Config

from twh_platform.kms import create_keyset
from twh_platform.tenancy.postgres.seal import add_seal_key
from twh_platform.testing import PostgresServer

from .schema import ADMINISTRATOR, APP, DIRECTORY, OWNER, SUPPORT
from .settings import Settings
from .vault import Vault

__all__ = [
    "ADMINISTRATOR_EMAIL",
    "BYPASSES",
    "HIDES",
    "fill_vault",
    "migrate",
    "temporary_warehouse",
]

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


def fill_vault(settings: Settings, owner: psycopg.Connection[Any]) -> None:
    """
    Make the keyset, and in the vault all that an app needs to start.

    Args:
        settings: Where they are to be.

        owner: A connection of the role that owns the schema; it is not committed here.
    """
    create_keyset(settings.keyset_file)
    vault = Vault.of(settings)
    vault.put_seal(add_seal_key(owner))
    vault.make_token_secret(token_seconds=settings.token_seconds)


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
    folder = Path(tempfile.mkdtemp(prefix="warehouse-"))  # of mode 700
    try:
        migrate(database.dsn(user=OWNER, scheme="postgresql+psycopg"))
        settings = Settings(
            app_dsn=database.dsn(user=APP, scheme="postgresql+psycopg"),
            directory_dsn=database.dsn(user=DIRECTORY, scheme="postgresql+psycopg"),
            administrator_dsn=database.dsn(user=ADMINISTRATOR, scheme="postgresql+psycopg"),
            support_dsn=database.dsn(user=SUPPORT, scheme="postgresql+psycopg"),
            keyset_file=folder / "keyset.json",
            secrets_file=folder / "secrets.sqlite",
            administrator_email=ADMINISTRATOR_EMAIL,
            administrator_password_hash=administrator_password_hash,
            webhook_loopback=True,  # the receivers of the tour are here
            trusted_proxies=("127.0.0.1",),  # whoever asks on loopback stands in for one
        )
        with psycopg.connect(database.dsn(user=OWNER)) as owner:
            fill_vault(settings, owner)
        yield settings
    finally:
        shutil.rmtree(folder)
        database.drop()
