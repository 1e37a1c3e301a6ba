"""
A database for the demo and the tests: made, filled with the schema, dropped.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from twh_platform.testing import PostgresServer

from .schema import ADMINISTRATOR, APP, DIRECTORY, OWNER, schema_sql
from .settings import Settings

__all__ = ["ADMINISTRATOR_EMAIL", "temporary_warehouse"]

ADMINISTRATOR_EMAIL = "administrator@warehouse.example"


@contextmanager
def temporary_warehouse(
    server: PostgresServer, *, administrator_password_hash: str
) -> Iterator[Settings]:
    """
    Make a database of its own with the four logins and the schema, and drop it at the end.

    Args:
        server: A running server.

        administrator_password_hash: See `passwords.hash_password`.
    """
    for role in (OWNER, APP, DIRECTORY, ADMINISTRATOR):
        server.create_role(role)
    database = server.create_database(f"warehouse_{secrets.token_hex(4)}", owner=OWNER)
    try:
        database.execute(schema_sql(), user=OWNER)
        yield Settings(
            app_dsn=database.dsn(user=APP, scheme="postgresql+psycopg"),
            directory_dsn=database.dsn(user=DIRECTORY, scheme="postgresql+psycopg"),
            administrator_dsn=database.dsn(user=ADMINISTRATOR, scheme="postgresql+psycopg"),
            secret=secrets.token_bytes(32),
            administrator_email=ADMINISTRATOR_EMAIL,
            administrator_password_hash=administrator_password_hash,
        )
    finally:
        database.drop()
