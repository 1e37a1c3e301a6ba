"""
A sealed database, and asking it with tokens that nobody should believe.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from tests.integration.tenancy.conftest import APP, MATE, OWNER, ROWS, TABLE
from twh_platform.tenancy.postgres import SealKey, TenantTable, install_sql, tenant_sql
from twh_platform.tenancy.postgres.seal import add_seal_key, enforce_seal
from twh_platform.testing import PostgresDatabase, PostgresServer

OTHERS = {"uuid": "by_uuid", "bigint": "by_bigint", "integer": "by_integer"}
TABLES = [
    TenantTable(name="things"),
    *(TenantTable(name=name, column_type=kind) for kind, name in OTHERS.items()),
]

ASK = "SELECT twh.current_tenant()"


@contextmanager
def sealed_database(server: PostgresServer) -> Iterator[PostgresDatabase]:
    """
    A database with a table for each type of tenant column, sealed, without a key.
    """
    for role in (OWNER, APP, MATE):
        server.create_role(role)
    database = server.create_database(f"twh_sealed_{secrets.token_hex(4)}", owner=OWNER)
    tables = TABLE + "".join(
        f"CREATE TABLE {name} (tenant_id {kind}, name text);" for kind, name in OTHERS.items()
    )
    database.execute(install_sql() + tables + tenant_sql(TABLES, role=APP), user=OWNER)
    database.execute(ROWS)
    with psycopg.connect(database.dsn(user=OWNER)) as owner:
        enforce_seal(owner)
    yield database
    database.drop()


def fresh_key(database: PostgresDatabase) -> SealKey:
    """
    Draw a key and withdraw all others.
    """
    with psycopg.connect(database.dsn(user=OWNER)) as owner:
        owner.execute("DELETE FROM twh.seal_keys")
        return add_seal_key(owner)


def soon(seconds: int = 60) -> int:
    """
    A Unix second that is near.
    """
    return int(time.time()) + seconds


def answer(connection: psycopg.Connection, token: str | None, sql: str = ASK) -> Any:
    """
    What a transaction with this token is told: the rows, or the SQLSTATE of its refusal.
    """
    try:
        if token is not None:
            connection.execute("SELECT set_config('twh.tenant_id', %s, true)", (token,))
        cursor = connection.execute(sql)
        return cursor.fetchall() if cursor.description else []
    except psycopg.Error as error:
        return error.sqlstate
    finally:
        connection.rollback()
