"""
A database for the demo and the tests: made, filled with the schema, dropped.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from twh_platform.testing import PostgresServer

from .schema import APP, DIRECTORY, OPERATOR, OWNER, schema_sql
from .settings import Settings

__all__ = ["ADMINISTRATOR", "temporary_warehouse"]

ADMINISTRATOR = "root@platform.example"


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
    for role in (OWNER, APP, DIRECTORY, OPERATOR):
        server.create_role(role)
    database = server.create_database(f"warehouse_{secrets.token_hex(4)}", owner=OWNER)
    try:
        database.execute(schema_sql(), user=OWNER)
        yield Settings(
            app_dsn=database.dsn(user=APP, scheme="postgresql+psycopg"),
            directory_dsn=database.dsn(user=DIRECTORY, scheme="postgresql+psycopg"),
            operator_dsn=database.dsn(user=OPERATOR, scheme="postgresql+psycopg"),
            secret=secrets.token_bytes(32),
            administrator=ADMINISTRATOR,
            administrator_password_hash=administrator_password_hash,
        )
    finally:
        database.drop()
