"""
PgBouncer in transaction mode before a database of tenants, sealed and unsealed.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
import pytest

from tests.integration.tenancy._storm import APP, OWNER, TABLE
from tests.integration.tenancy.conftest import server
from tests.support.pgbouncer import PgBouncer
from twh_platform.tenancy.postgres import Seal, TenantTable, install_sql, tenant_sql
from twh_platform.tenancy.postgres.seal import add_seal_key, enforce_seal
from twh_platform.testing import PostgresDatabase, PostgresServer

__all__ = ["House", "built", "house", "hut", "server"]

MATE = "twh_test_mate"
SESSIONS = 2

# What is left is looked for through the pooler itself: only so it is found.
LOOK = """
SELECT pg_backend_pid(), coalesce(current_setting('twh.tenant_id', true), ''),
    (SELECT count(*) FROM pg_cursors WHERE is_holdable)
    + (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())
    + (SELECT count(*) FROM pg_listening_channels()),
    (SELECT count(*) FROM pg_prepared_statements)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """
    A database and the pooler before it.
    """

    database: PostgresDatabase
    pooler: PgBouncer
    seal: Seal | None
    sessions: int

    @property
    def dsn(self) -> str:
        """
        Where the application's role logs in at the pooler.
        """
        return self.pooler.dsn(self.database.name, user=APP)

    def look(self) -> list[tuple[int, str, int, int]]:
        """
        Tell of each server session: process, tenant, what is held, prepared statements.
        """
        clients = [psycopg.connect(self.dsn, prepare_threshold=None) for _ in range(self.sessions)]
        # Each keeps its transaction open, so each has another server session.
        rows = [row for client in clients for row in client.execute(LOOK).fetchall()]
        for client in clients:
            client.close()
        return rows


@pytest.fixture(scope="module")
def roles(server: PostgresServer) -> PostgresServer:
    """
    The server, with its roles.
    """
    for role in (OWNER, APP, MATE):
        server.create_role(role)
    server.execute(f"GRANT {MATE} TO {APP}")
    return server


@contextmanager
def built(
    server: PostgresServer,
    *,
    sessions: int,
    sealed: bool,
    settings: Mapping[str, str] | None = None,
) -> Iterator[House]:
    """
    Build a house.
    """
    database = server.create_database(f"twh_pooled_{secrets.token_hex(4)}", owner=OWNER)
    isolate = tenant_sql([TenantTable(name="parcels")], role=APP)
    database.execute(install_sql() + TABLE + isolate + "CREATE SEQUENCE tickets", user=OWNER)
    grant = f"GRANT USAGE ON SEQUENCE tickets TO {APP};"
    database.execute(grant + "CREATE TYPE mood AS ENUM ('calm')", user=OWNER)
    seal = None
    if sealed:
        with psycopg.connect(database.dsn(user=OWNER)) as owner:
            enforce_seal(owner)
            seal = Seal(add_seal_key(owner))
    with PgBouncer(server, users=[APP], pool_size=sessions, settings=settings) as pooler:
        yield House(database=database, pooler=pooler, seal=seal, sessions=sessions)
    database.drop()


@pytest.fixture(scope="module", params=["unsealed", "sealed"])
def house(request: pytest.FixtureRequest, roles: PostgresServer) -> Iterator[House]:
    """
    A database behind a pooler that has two server sessions.
    """
    with built(roles, sessions=SESSIONS, sealed=request.param == "sealed") as house:
        yield house


@pytest.fixture(scope="module")
def hut(roles: PostgresServer) -> Iterator[House]:
    """
    A database behind a pooler whose clients all share one server session.
    """
    with built(roles, sessions=1, sealed=False) as house:
        yield house
