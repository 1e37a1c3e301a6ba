"""
A database of items with levels, sealed and unsealed, on every PostgreSQL of this machine.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg
import pytest

from tests.integration.quotas.capacity._lines import LINES, Line
from tests.integration.tenancy.conftest import server
from twh_platform import Tenant, bind_tenant
from twh_platform.quotas._rules import Capacity, Rule
from twh_platform.quotas.postgres import capacity_sql
from twh_platform.tenancy.postgres import Seal, TenantTable, install_sql, tenant_sql
from twh_platform.tenancy.postgres.seal import add_seal_key, enforce_seal
from twh_platform.testing import PostgresDatabase, PostgresServer

__all__ = ["server"]

OWNER, APP, RECONCILER = "twh_test_owner", "twh_test_app", "twh_test_reconciler"
ACME, OTHER = Tenant(id="acme"), Tenant(id="other")
COUNTS = {
    "items": "SELECT count(*) FROM items",
    "stored_bytes": "SELECT sum(octet_length(body)) FROM items",
}

_TABLE = """
CREATE TABLE items (
    tenant_id text, id uuid DEFAULT gen_random_uuid(), body bytea NOT NULL DEFAULT '',
    PRIMARY KEY (tenant_id, id)
);
"""
_ITEMS = TenantTable(name="items")


def rule(limit: int, name: str = "items", **more: Any) -> Capacity:
    """A rule of so many items."""
    return Capacity(name=name, limit=limit, unit=name.replace("_", "-"), **more)


@dataclass(frozen=True)
class OnePlan:
    """Plans in which all tenants have the same rules."""

    rules: tuple[Rule, ...]

    def for_tenant(self, _tenant: Tenant) -> OnePlan:
        """The plan."""
        return self


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

    def line(self, name: str = "psycopg", user: str = APP) -> AbstractAsyncContextManager[Line]:
        """A connection of one driver."""
        return LINES[name](self.dsn(user), seal=self.seal)

    def look(self, sql: str) -> Any:
        """The one value of a query, as the superuser sees it."""
        with psycopg.connect(self.database.dsn()) as connection:
            row = connection.execute(sql).fetchone()
        return row and row[0]

    def until(self, sql: str) -> None:
        """Wait until a query says true."""
        while not self.look(sql):
            time.sleep(0.02)

    def level(self, name: str = "items", tenant: Tenant = ACME) -> int:
        """A level, without policies."""
        where = f"tenant_id = '{tenant.id}' AND rule = '{name}'"
        return self.look(f"SELECT level FROM twh.quota_levels WHERE {where}") or 0

    def rows(self, tenant: Tenant = ACME) -> int:
        """How many items there are, without policies."""
        return self.look(f"SELECT count(*) FROM items WHERE tenant_id = '{tenant.id}'")


@contextmanager
def built(server: PostgresServer, *, sealed: bool) -> Iterator[House]:
    """
    Build a house as an operator would: everything as the owner, the seal first.
    """
    for role in (OWNER, APP, RECONCILER):
        server.create_role(role)
    database = server.create_database(f"twh_capacity_{secrets.token_hex(4)}", owner=OWNER)
    isolate = tenant_sql([_ITEMS], role=APP) + f"GRANT SELECT ON items TO {RECONCILER};"
    seal = None
    database.execute(install_sql() + _TABLE + isolate, user=OWNER)
    if sealed:
        with psycopg.connect(database.dsn(user=OWNER)) as owner:
            enforce_seal(owner)
            seal = Seal(add_seal_key(owner))
    database.execute(capacity_sql(role=APP, reconcilers=[RECONCILER]), user=OWNER)
    yield House(database=database, seal=seal)
    database.drop()


@pytest.fixture(scope="module", params=["unsealed", "sealed"])
def built_house(request: pytest.FixtureRequest, server: PostgresServer) -> Iterator[House]:
    """The house of a module."""
    with built(server, sealed=request.param == "sealed") as house:
        yield house


@pytest.fixture
def house(built_house: House) -> House:
    """The house, empty."""
    built_house.database.execute("TRUNCATE items, twh.quota_levels")
    return built_house


@pytest.fixture(params=LINES)
def open_line(
    request: pytest.FixtureRequest, house: House
) -> Callable[..., AbstractAsyncContextManager[Line]]:
    """How one driver opens connections."""
    return partial(house.line, request.param)


@pytest.fixture
def acme() -> Iterator[Tenant]:
    """The tenant, bound."""
    with bind_tenant(ACME):
        yield ACME
