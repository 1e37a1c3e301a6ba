"""
What is attacked: a shop of three tenants, each time a database of its own.

Each row of another tenant holds the word ``secret``, so what an attacker got
can be counted whatever it came out as: a row, a message, a plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg

from twh_platform.errors import UnsafeLoginError
from twh_platform.tenancy import Tenant, bind_tenant
from twh_platform.tenancy.postgres import Seal, TenantTable, install_sql, tenant_sql
from twh_platform.tenancy.postgres.lint import lint
from twh_platform.tenancy.postgres.psycopg import TenantConnection, verify_login
from twh_platform.testing import PostgresDatabase

__all__ = ["APP", "MINE", "OWNER", "SHOP", "THEIRS", "A", "B", "Shop", "attempt", "run", "secrets"]

APP, OWNER = "twh_attack_app", "twh_attack_owner"

# A is the attacker's own tenant, B the one that is attacked.
A, B = Tenant(id="a"), Tenant(id="b")

_COLUMNS = "(tenant_id text, id int, body text, PRIMARY KEY (tenant_id, id))"
_ROWS = (
    "VALUES ('a', 1, 'own 1'), ('a', 2, 'own 2'), ('b', 1, 'secret of b 1'),"
    " ('b', 2, 'secret of b 2'), ('b', 3, 'secret of b 3'), ('c', 1, 'secret of c 1')"
)
MINE, THEIRS = 2, 4

SHOP = f"""
CREATE TABLE orders {_COLUMNS};
INSERT INTO orders {_ROWS};
{install_sql()}
{tenant_sql([TenantTable(name="orders")], role=APP)}
"""

_NAIVE = f"""
CREATE TABLE naive {_COLUMNS};
INSERT INTO naive {_ROWS};
ALTER TABLE naive ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON naive USING (tenant_id = current_setting('app.tenant_id', true));
GRANT SELECT, INSERT, UPDATE, DELETE ON naive TO {APP};
"""

_PATIENCE = "-c lock_timeout=10s -c statement_timeout=60s"


@dataclass(frozen=True, kw_only=True)
class Shop:
    """
    The database, and whoever logs in to it.

    ``orders`` is isolated by `tenant_sql`.  What a test plants goes with the
    database; of roles, `role` takes care.

    Args:
        database: The database.

        admin: The superuser's connection, in autocommit.

        seal: Seals the tenants, where the database is sealed.
    """

    database: PostgresDatabase
    admin: psycopg.Connection[Any]
    seal: Seal | None = None
    roles: list[str] = field(default_factory=list)

    def plant(self, sql: str, *, owner: bool = False) -> None:
        """
        Change the schema, as the superuser or as the owner of the tables.
        """
        run(self.admin, f"SET ROLE {OWNER if owner else 'NONE'}; {sql}; RESET ROLE")

    def plant_naive(self) -> None:
        """
        Plant ``naive``: the same rows, under the policy that most people write first.

        It compares with the setting ``app.tenant_id``, without FORCE or a floor.
        """
        self.plant(_NAIVE, owner=True)

    def role(self, suffix: str, attributes: str = "") -> str:
        """
        Make a role for this test.
        """
        name = f"{self.database.name}_{suffix}"
        run(self.admin, f"CREATE ROLE {name} LOGIN {attributes}")
        self.roles.append(name)
        return name

    @contextmanager
    def connect(self, user: str = APP, *, autocommit: bool = False) -> Iterator[Any]:
        """
        Open a plain connection, without anything of ours.
        """
        with psycopg.connect(
            self.database.dsn(user=user), autocommit=autocommit, options=_PATIENCE
        ) as connection:
            yield connection
            connection.rollback()

    @contextmanager
    def naive(self, tenant: Tenant = A, *, user: str = APP) -> Iterator[Any]:
        """
        Open a plain connection that does what most people do for ``naive``.
        """
        with self.connect(user) as connection:
            connection.execute("SELECT set_config('app.tenant_id', %s, true)", [tenant.id])
            yield connection

    @contextmanager
    def ours(self, tenant: Tenant | None = A, *, user: str = APP) -> Iterator[Any]:
        """
        Open a tenant connection for *tenant*, who is bound within.
        """
        kind = TenantConnection.using(seal=self.seal)
        dsn = self.database.dsn(user=user)
        with kind.connect(dsn, options=_PATIENCE) as connection, bind_tenant(tenant):
            yield connection
            if not connection.closed:
                connection.rollback()

    def steal(self, sql: str, *, user: str = APP) -> int:
        """
        Count the secrets that SQL brings which is injected into a transaction of tenant A.
        """
        with self.ours(A, user=user) as connection:
            return secrets(attempt(connection, sql))

    def faults(self, user: str = APP) -> set[str]:
        """
        Collect the codes of what a service is told that verifies this login at its start.
        """
        with self.ours(None, user=user) as connection:
            try:
                verify_login(connection)
            except UnsafeLoginError as error:
                return {one.code for one in error.faults}
        return set()

    def mend(self, *rules: str, role: str = APP) -> None:
        """
        Run the remedies of what these rules of the lint find; each has to find something.
        """
        for rule in rules:
            found = lint(self.admin, rules=[rule], app_roles=[role]).findings
            assert found, f"{rule} found nothing"
            for one in found:
                run(self.admin, one.remedy)


def run(connection: psycopg.Connection[Any], sql: str) -> list[tuple[Any, ...]]:
    """
    Send SQL as an injection would be sent, and collect the rows of all its statements.
    """
    cursor = connection.execute(sql.encode())
    rows = cursor.fetchall() if cursor.description else []
    while cursor.nextset():
        rows += cursor.fetchall() if cursor.description else []
    return rows


def attempt(connection: psycopg.Connection[Any], sql: str) -> list[tuple[Any, ...]]:
    """
    Do the same; what the server refuses gives what its error says.
    """
    try:
        return run(connection, sql)
    except psycopg.Error as error:
        connection.rollback()
        diagnosis = error.diag
        said = (diagnosis.message_primary, diagnosis.message_detail, diagnosis.context)
        return [(one,) for one in said if one]


def secrets(rows: Iterable[Any]) -> int:
    """
    Count how often another tenant's secret is in there.
    """
    return sum(str(row).count("secret of") for row in rows)
