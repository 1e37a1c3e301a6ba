"""
A database of keys as an operator builds it, and how its roles reach it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import copy_context
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import psycopg

from tests.support.postgres_keys import APP, AUDITOR, OWNER, SQL, make_roles
from tests.support.serving import PATIENCE
from twh_platform import Tenant, bind_tenant
from twh_platform.kms import WrappedKey
from twh_platform.kms._data_keys import DataKeyRecord
from twh_platform.kms.postgres.data_keys import PostgresDataKeyStore
from twh_platform.tenancy.postgres import Seal, install_sql
from twh_platform.tenancy.postgres.psycopg import TenantConnection
from twh_platform.tenancy.postgres.seal import add_seal_key, enforce_seal
from twh_platform.testing import PostgresDatabase, PostgresServer

STRANGER = "twh_test_stranger"
ACME, OTHER = Tenant(id="acme"), Tenant(id="other")
MADE = datetime(2031, 5, 1, tzinfo=UTC)


def record(tenant: Tenant = ACME, **more: Any) -> DataKeyRecord:
    """A new data key, wrapped by nobody."""
    wrapped = WrappedKey(provider="local", key_ref="k", key_version=1, ciphertext=b"wrapped")
    plain: dict[str, Any] = {
        "tenant_id": tenant.id,
        "data_key_id": secrets.token_bytes(16),
        "purpose": "data",
        "wrapped": wrapped,
        "shared": False,
        "created_at": MADE,
    }
    return DataKeyRecord(**{**plain, **more})


@dataclass(frozen=True, kw_only=True)
class House:
    """
    A database, and how its roles reach it.
    """

    database: PostgresDatabase
    seal: Seal | None

    def dsn(self, user: str = APP) -> str:
        """Where a role logs in."""
        return self.database.dsn(user=user)

    def connect(self, user: str = APP, **more: Any) -> psycopg.Connection:
        """A tenant connection of a role."""
        kind = TenantConnection if self.seal is None else sealed_connection(self.seal)
        return kind.connect(self.dsn(user), **more)

    def store(self, user: str = APP, **more: Any) -> PostgresDataKeyStore:
        """A store on connections of a role."""
        return PostgresDataKeyStore(
            lambda: self.connect(user),
            auditors=lambda: psycopg.connect(self.dsn(AUDITOR)),
            **more,
        )

    def store_on(self, connection: psycopg.Connection) -> PostgresDataKeyStore:
        """A store whose calls are part of a transaction that is open."""
        return PostgresDataKeyStore(lambda: nullcontext(connection))

    def as_tenant(self, call: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
        """A call for another thread, in the tenant that is bound here."""
        return partial(copy_context().run, call, *arguments)

    def sql(self, statement: str, tenant: Tenant | None = ACME, user: str = APP) -> list[Any]:
        """What a statement of a role gives in a tenant's transaction."""
        with bind_tenant(tenant), self.connect(user) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def look(self, statement: str) -> Any:
        """The one value of a query, as the superuser sees it."""
        with psycopg.connect(self.database.dsn()) as connection:
            row = connection.execute(statement).fetchone()
        return row and row[0]

    def until(self, statement: str) -> None:
        """Wait until a query says true."""
        ends_at = time.monotonic() + PATIENCE
        while not self.look(statement):
            assert time.monotonic() < ends_at, f"not yet: {statement}"
            time.sleep(0.02)


def sealed_connection(seal: Seal) -> type[TenantConnection]:
    """The class of connections that seal their tenants."""
    return TenantConnection.using(seal=seal)


@contextmanager
def built(server: PostgresServer, *, sealed: bool = False) -> Iterator[House]:
    """
    Build a house as an operator would: everything as the owner, the seal first.
    """
    make_roles(server)
    server.create_role(STRANGER)
    database = server.create_database(f"twh_keys_{secrets.token_hex(4)}", owner=OWNER)
    database.execute(install_sql(), user=OWNER)
    seal = None
    if sealed:
        with psycopg.connect(database.dsn(user=OWNER)) as owner:
            enforce_seal(owner)
            seal = Seal(add_seal_key(owner))
    database.execute(SQL, user=OWNER)
    yield House(database=database, seal=seal)
    database.drop()
