"""
A service to attack: a good schema with rows of two tenants, and one fault for each attack.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg

from twh_platform.tenancy.postgres import Seal, TenantTable, install_sql, tenant_sql
from twh_platform.tenancy.postgres.attack import AttackReport, attack
from twh_platform.tenancy.postgres.seal import add_seal_key, enforce_seal
from twh_platform.testing import PostgresDatabase, PostgresServer

__all__ = ["APP", "FACTS", "FAULTS", "OWNER", "SWITCHES", "UNSEALED", "Service", "make_template"]

APP, OWNER = "attacked_app", "attacked_owner"

_TABLES = [TenantTable(name=name) for name in ("items", "lines", "visits")]

GOOD = f"""
CREATE TABLE items (tenant_id text, sku text, name text, PRIMARY KEY (tenant_id, sku));
CREATE TABLE lines (
    tenant_id text, id int, sku text, PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, sku) REFERENCES items
);
CREATE TABLE visits (tenant_id text, day date, PRIMARY KEY (tenant_id, day))
    PARTITION BY RANGE (day);
CREATE TABLE visits_2025 PARTITION OF visits FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
INSERT INTO items VALUES ('acme', 'a1', 'anvil'), ('globex', 'g1', 'gear'), ('globex', 'g2', 'gin');
INSERT INTO lines VALUES ('acme', 1, 'a1'), ('globex', 1, 'g1'), ('globex', 2, 'g1');
INSERT INTO visits VALUES ('acme', '2025-05-05'), ('globex', '2025-05-06');
{install_sql()}
{tenant_sql(_TABLES, role=APP)}
ALTER TABLE visits_2025 ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE VIEW lines_of_items WITH (security_invoker = true) AS
    SELECT i.name, l.* FROM items i JOIN lines l USING (tenant_id, sku);
GRANT SELECT ON lines_of_items TO {APP};
ANALYZE items;
"""

SWITCHES = frozenset({"TWHA03", "TWHA04", "TWHA06", "TWHA14"})
"""What whoever runs SQL can do to an unsealed tenant."""

_UNFENCED = "DROP POLICY tenant_floor ON items; ALTER POLICY tenant_rows ON items"
_MINE = "tenant_id = (SELECT twh.current_tenant())"
_OPEN = f"ALTER ROLE {APP} IN DATABASE {{database}} SET track_activities = on"

FAULTS = {
    "TWHA01": f"{_UNFENCED} USING"
    " (coalesce(current_setting('twh.tenant_id', true), '') IN ('', tenant_id))",
    "TWHA02": "ALTER TABLE items DISABLE ROW LEVEL SECURITY",
    "TWHA05": f"{_UNFENCED} USING (tenant_id = current_setting('application_name'))",
    "TWHA07": f"{_UNFENCED} USING ({_MINE} OR current_setting('app.support', true) = 'on')",
    "TWHA08": "CREATE ROLE {database}_admin BYPASSRLS; GRANT SELECT ON items TO {database}_admin;"
    f" GRANT {{database}}_admin TO {APP}",
    "TWHA09": f"{_UNFENCED} USING"
    f" ({_MINE} OR current_setting('session_replication_role') = 'replica');"
    f" GRANT SET ON PARAMETER session_replication_role TO {APP}",
    "TWHA10": f"ALTER TABLE visits_2025 DISABLE ROW LEVEL SECURITY; GRANT SELECT ON visits_2025"
    f" TO {APP}",
    "TWHA11": f"CREATE VIEW seen AS SELECT * FROM items; GRANT SELECT ON seen TO {APP}",
    "TWHA12": "CREATE MATERIALIZED VIEW kept AS SELECT * FROM items;"
    f" GRANT SELECT ON kept TO {APP}",
    "TWHA13": "CREATE FUNCTION all_items() RETURNS SETOF items LANGUAGE sql SECURITY DEFINER"
    " AS 'SELECT * FROM items'",
    "TWHA15": "ALTER FUNCTION twh.current_tenant() IMMUTABLE",
    "TWHA16": "CREATE FUNCTION mine() RETURNS text LANGUAGE plpgsql STABLE AS"
    " $$ BEGIN RETURN left(current_setting('twh.tenant_id'), 4); END $$;"
    " CREATE VIEW filtered AS SELECT * FROM items WHERE tenant_id = mine();"
    f" GRANT SELECT ON filtered TO {APP}",
    "TWHA20": f"{_UNFENCED} WITH CHECK (true)",
    "TWHA21": f"{_UNFENCED} WITH CHECK (true)",
    "TWHA22": "DROP POLICY tenant_floor ON items;"
    " CREATE POLICY more ON items FOR UPDATE USING (true)",
    "TWHA23": "DROP POLICY tenant_floor ON items;"
    " CREATE POLICY more ON items FOR DELETE USING (true)",
    "TWHA24": f"GRANT TRUNCATE ON lines TO {APP}",
    "TWHA25": "ALTER TABLE items DISABLE ROW LEVEL SECURITY",
    "TWHA26": f"GRANT TRIGGER ON items TO {APP}",
    "TWHA27": f"ALTER TABLE items OWNER TO {APP}",
    "TWHA28": f"GRANT TEMPORARY ON DATABASE {{database}} TO {APP}",
    "TWHA30": "CREATE UNIQUE INDEX ON items (sku)",
    "TWHA31": "ALTER TABLE items ADD UNIQUE (sku); ALTER TABLE lines"
    " DROP CONSTRAINT lines_tenant_id_sku_fkey, ADD FOREIGN KEY (sku) REFERENCES items (sku)",
    "TWHA32": f"ALTER TABLE lines ADD COLUMN n bigserial; GRANT USAGE ON lines_n_seq TO {APP}",
    "TWHA33": "ALTER TABLE items DISABLE ROW LEVEL SECURITY",
    "TWHA40": _OPEN,
    "TWHA41": _OPEN,
    "TWHA43": f"GRANT SELECT ON twh.seal_keys TO {APP}",
    "TWHA44": f"SELECT lo_from_bytea(90001, 'x'); GRANT SELECT ON LARGE OBJECT 90001 TO {APP}",
}
"""By attack: SQL that lets it succeed on a sealed database, run by a superuser."""

UNSEALED = {"TWHA01", "TWHA05", "TWHA15"}
"""The faults that are of an unsealed database."""

FACTS = {
    "TWHA34": "EXPLAIN tells of filtered rows",
    "TWHA42": "EXECUTE is granted to PUBLIC",
    "TWHA45": "channels and locks have one space of names",
}
"""Attacks that succeed on the good schema too: advice, with the reason."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """
    A database to attack.
    """

    database: PostgresDatabase
    seal: Seal | None

    @classmethod
    def copy_of(cls, template: PostgresDatabase, name: str, *, sealed: bool) -> Service:
        """
        Copy the template, and seal it.
        """
        server = template.server
        server.execute(f"CREATE DATABASE {name} TEMPLATE {template.name} OWNER {OWNER}")
        database = PostgresDatabase(server=server, name=name)
        # A copy has its template's grants on what is in it, and not those on itself.
        database.execute(f"REVOKE TEMPORARY ON DATABASE {name} FROM PUBLIC")
        if not sealed:
            return cls(database=database, seal=None)
        with psycopg.connect(database.dsn(user=OWNER)) as owner:
            enforce_seal(owner)
            key = add_seal_key(owner)
        return cls(database=database, seal=Seal(key))

    @property
    def dsn(self) -> str:
        """
        The service's own login.
        """
        return self.database.dsn(user=APP)

    def plant(self, sql: str) -> None:
        """
        Change the schema, as a superuser.
        """
        if sql:
            self.database.execute(sql.replace("{database}", self.database.name))

    def attack(self, *attacks: str, **options: Any) -> AttackReport:
        """
        Attack it as acme, for the rows of globex.
        """
        given = {"tenant": "acme", "other": "globex", "seal": self.seal, **options}
        return attack(self.dsn, attacks=attacks, **given)

    def drop(self) -> None:
        """
        Drop it, and the role that a fault has made.
        """
        name, server = self.database.name, self.database.server
        server.execute(f"REVOKE ALL ON PARAMETER session_replication_role FROM {APP}")
        self.database.drop()
        server.execute(f"DROP ROLE IF EXISTS {name}_admin")


def make_template(server: PostgresServer) -> PostgresDatabase:
    """
    Make the good schema.
    """
    server.create_role(OWNER)
    server.create_role(APP)
    server.execute(f"ALTER ROLE {APP} SET track_activities = off")
    database = server.create_database("attacked", owner=OWNER)
    database.execute(GOOD, user=OWNER)
    return database
