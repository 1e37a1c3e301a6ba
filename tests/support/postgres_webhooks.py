"""
A database with the table of claims and one of payments, one for a whole test run.
"""

from __future__ import annotations

import secrets

import pytest
from psycopg_pool import AsyncConnectionPool

from twh_platform.tenancy.postgres import TenantTable, install_sql, tenant_sql
from twh_platform.tenancy.postgres.psycopg import AsyncTenantConnection
from twh_platform.testing import PostgresDatabase, PostgresServer
from twh_platform.webhooks.postgres import webhooks_sql

OWNER, APP = "twh_test_hook_owner", "twh_test_hook_app"
_PAYMENTS = TenantTable(schema="twh", name="payments")
SQL = (
    install_sql()
    + webhooks_sql(role=APP)
    + "CREATE TABLE twh.payments (tenant_id text NOT NULL, event text NOT NULL, by text);\n"
    + tenant_sql([_PAYMENTS], role=APP)
)


def webhooks_database(request: pytest.FixtureRequest) -> PostgresDatabase:
    """
    The database of this test run, emptied; it goes with its server.
    """
    server: PostgresServer = request.getfixturevalue("twh_postgres")
    made = _made.get(id(server))
    if made is None:
        server.create_role(OWNER)
        server.create_role(APP)
        made = server.create_database(f"twh_hooks_{secrets.token_hex(4)}", owner=OWNER)
        made.execute(SQL, user=OWNER)
        _made[id(server)] = made
    made.execute("TRUNCATE twh.webhook_claims, twh.payments")
    return made


def tenant_pool(database: PostgresDatabase) -> AsyncConnectionPool:
    """A pool of tenant connections of the application."""
    return AsyncConnectionPool(
        database.dsn(user=APP),
        connection_class=AsyncTenantConnection,
        min_size=1,
        max_size=8,
        open=False,
    )


_made: dict[int, PostgresDatabase] = {}
