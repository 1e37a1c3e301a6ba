"""
Gate G4: whatever is changed by hand is noticed, repaired, and put back by a downgrade.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text

from tests.integration.alembic._project import APP, MATE, OWNER, Project
from twh_platform.errors import ConfigurationError
from twh_platform.tenancy.postgres import UNBOUND_SQLSTATE, TenantTable

RENAMED = """
CREATE OR REPLACE FUNCTION twh.current_tenant() RETURNS text LANGUAGE sql STABLE
    RETURN coalesce(nullif(current_setting('app.tenant', true), ''), 'b')
"""
LOCKS = """
SELECT relation::regclass, classid::regclass, objid, mode FROM pg_locks
WHERE pid = pg_backend_pid() AND locktype IN ('relation', 'object')
    AND relation IS DISTINCT FROM 'pg_locks'::regclass
"""


def another_tenants_rows(shop: Project) -> bool:
    """Whether the application sees a row of the other tenant."""
    return "b1" in shop.rows_of("a")


def no_rows(shop: Project) -> bool:
    """Whether a tenant sees nothing of its own."""
    return shop.rows_of("a") == []


def owner_reads(shop: Project) -> bool:
    """Whether the owner reads all tenants without being one."""
    try:
        return len(shop.sql("SELECT * FROM items", user=OWNER)) == 3
    except psycopg.DatabaseError as error:
        return error.sqlstate != UNBOUND_SQLSTATE


def app_empties(shop: Project) -> bool:
    """Whether the application can empty the table for all tenants."""
    return shop.sql(f"SELECT has_table_privilege('{APP}', 'items', 'TRUNCATE')") == [(True,)]


def everybody_reads(shop: Project) -> bool:
    """Whether a login that was granted nothing may read."""
    return shop.sql(f"SELECT has_table_privilege('{MATE}', 'items', 'SELECT')") == [(True,)]


def app_writes_names(shop: Project) -> bool:
    """Whether PUBLIC holds a privilege on one column."""
    return shop.sql(f"SELECT has_column_privilege('{MATE}', 'items', 'name', 'UPDATE')") == [
        (True,)
    ]


def planted_without_a_tenant(shop: Project) -> bool:
    """Whether a row can be inserted only by naming its tenant."""
    return shop.sql(
        "SELECT column_default IS DISTINCT FROM 'twh.current_tenant()'"
        " FROM information_schema.columns WHERE (table_name, column_name) = ('items', 'tenant_id')"
    ) == [(True,)]


@dataclass(frozen=True)
class Fault:
    """What is done by hand, what comes of it, and what autogenerate says of it."""

    planted: str
    harm: Callable[[Project], bool]
    said: str


FAULTS = {
    "policy added": Fault(
        "DROP POLICY tenant_floor ON items; CREATE POLICY odd ON items USING (true)",
        another_tenants_rows,
        "policy 'odd' is extra",
    ),
    "policy altered": Fault(
        "ALTER POLICY tenant_rows ON items USING (true);"
        "ALTER POLICY tenant_floor ON items USING (tenant_id <> 'x''y')",
        another_tenants_rows,
        "policy 'tenant_rows' is changed: using",
    ),
    "policy for another role": Fault(
        f"ALTER POLICY tenant_rows ON items TO {MATE}",
        no_rows,
        "policy 'tenant_rows' is changed: roles",
    ),
    "policy dropped": Fault(
        "DROP POLICY tenant_rows ON items", no_rows, "policy 'tenant_rows' is missing"
    ),
    "policy for one command": Fault(
        "DROP POLICY tenant_floor ON items; CREATE POLICY tenant_floor ON items"
        " AS RESTRICTIVE FOR INSERT WITH CHECK (tenant_id = (SELECT twh.current_tenant()));"
        "ALTER POLICY tenant_rows ON items USING (true)",
        another_tenants_rows,
        "policy 'tenant_floor' is changed: command, using",
    ),
    "setting renamed": Fault(
        RENAMED, another_tenants_rows, "function twh.current_tenant() is changed"
    ),
    "row security disabled": Fault(
        "ALTER TABLE items DISABLE ROW LEVEL SECURITY",
        another_tenants_rows,
        "row security is not enabled",
    ),
    "force removed": Fault(
        "ALTER TABLE items NO FORCE ROW LEVEL SECURITY",
        owner_reads,
        "row security is not forced on the owner",
    ),
    "truncate granted": Fault(
        f"GRANT TRUNCATE ON items TO {APP} WITH GRANT OPTION",
        app_empties,
        f"'{APP}' has TRUNCATE with grant option",
    ),
    "granted to everybody": Fault(
        "GRANT SELECT ON items TO PUBLIC", everybody_reads, "PUBLIC has SELECT"
    ),
    "column granted": Fault(
        "GRANT UPDATE (name) ON items TO PUBLIC", app_writes_names, "PUBLIC has UPDATE on 'name'"
    ),
    "default changed": Fault(
        "ALTER TABLE items ALTER COLUMN tenant_id SET DEFAULT 'a'",
        planted_without_a_tenant,
        "the default of",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_drift(shop, name):
    """A fault does harm, is repaired exactly, and comes back exactly with a downgrade."""
    fault, good = FAULTS[name], shop.snapshot()
    shop.sql(fault.planted, user=OWNER)
    planted, harmed = shop.snapshot(), fault.harm(shop)
    complaint = shop.drift()
    text = shop.migrate()

    assert harmed
    assert fault.said in complaint
    assert fault.said in text
    assert not fault.harm(shop)
    assert (shop.snapshot(), shop.drift()) == (good, "")
    shop.downgrade()
    assert shop.snapshot() == planted
    shop.upgrade()
    assert shop.snapshot() == good


def test_a_new_table_that_nobody_isolated(shop):
    """A table that was made by hand leaks; it gets policies, and loses them again."""
    shop.sql(
        "CREATE TABLE parts (tenant_id text NOT NULL, id uuid, name text NOT NULL,"
        f" PRIMARY KEY (tenant_id, id)); GRANT ALL ON parts TO {APP};"
        "INSERT INTO parts VALUES ('b', gen_random_uuid(), 'b1')",
        user=OWNER,
    )
    shop.models("items", "parts")
    planted, leaked = shop.snapshot(), shop.rows_of("a", "parts")
    text = shop.migrate()

    assert leaked == ["b1"]
    assert "op.isolate_table(" in text
    assert "row security is not enabled" in text
    assert (shop.rows_of("a", "parts"), shop.rows_of("b", "parts"), shop.drift()) == (
        [],
        ["b1"],
        "",
    )
    shop.downgrade()
    assert shop.snapshot() == planted


def test_nullable(shop):
    """A tenant column that may be NULL is found, and made so again by a downgrade."""
    shop.sql("CREATE TABLE notes (tenant_id text, id uuid, name text)", user=OWNER)
    shop.models("items", "notes", tables=[])
    planted = shop.snapshot()
    shop.options = {"include_object": lambda _o, _n, kind, *_: kind == "table"}
    text = shop.migrate()

    assert "'tenant_id' may be NULL" in text
    assert shop.drift() == ""
    shop.downgrade()
    assert shop.snapshot() == planted


def test_missing_and_wrong_indexes(project):
    """An index that is missing, or is not what its name says, is made; a downgrade undoes it."""
    project.models("items", tables=[TenantTable(name="items", keys=[("name",)], indexes=[("id",)])])
    project.migrate()
    good = project.snapshot()
    project.sql(
        "DROP INDEX items_tenant_id_id_idx, items_tenant_id_name_key;"
        "CREATE INDEX items_tenant_id_name_key ON items (tenant_id, name) WHERE name <> ''",
        user=OWNER,
    )
    planted, text = project.snapshot(), project.migrate()

    assert "index 'items_tenant_id_id_idx' is missing" in text
    assert "index 'items_tenant_id_name_key' is another one" in text
    assert (project.snapshot(), project.drift()) == (good, "")
    project.downgrade()
    assert project.snapshot() == planted


def test_nothing_remains(shop):
    """A comparison leaves no object and no lock behind, in its own transaction either."""
    shop.sql(FAULTS["policy added"].planted + ";" + RENAMED)
    before = shop.snapshot()
    engine = create_engine(shop.database.dsn(user=OWNER, scheme="postgresql+psycopg"))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        path = connection.scalar(text("SHOW search_path"))
        assert compare_metadata(context, shop.metadata)
        locks = connection.execute(text(LOCKS)).all()
        assert connection.scalar(text("SHOW search_path")) == path
        inside = connection.scalar(text("SELECT count(*) FROM pg_class WHERE relname ~ 'compare'"))
        connection.commit()
    engine.dispose()

    assert [lock for lock in locks if "Access" not in lock.mode or "Exclusive" in lock.mode] == []
    assert not [lock for lock in locks if str(lock.relation) in {"items", "twh.current_tenant"}]
    assert inside == 0
    assert shop.snapshot() == before


def test_nobody_waits(shop):
    """The table is compared while somebody writes to it; control: a repair has to wait."""
    shop.sql(f"ALTER ROLE {OWNER} IN DATABASE {shop.database.name} SET lock_timeout = '1s'")
    shop.sql(FAULTS["force removed"].planted)
    with psycopg.connect(shop.database.dsn()) as writer:
        writer.execute("UPDATE items SET name = name")
        complaint = shop.drift()
        shop.generate()
        with pytest.raises(Exception, match="lock timeout"):
            shop.upgrade()
        writer.rollback()

    assert "not forced" in complaint


def test_few_privileges(shop):
    """The owner of the tables needs neither TEMPORARY nor CREATE on the database."""
    database = shop.database.name
    shop.sql(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC, {OWNER}")
    shop.sql(f"GRANT CONNECT ON DATABASE {database} TO {OWNER}, {APP}")

    assert shop.drift() == ""
    shop.sql(FAULTS["row security disabled"].planted)
    assert "not enabled" in shop.drift()


def test_a_comparison_that_fails(shop):
    """One that fails half-way leaves nothing either."""
    before = shop.snapshot()
    shop.models("items", role="twh_nobody")
    with pytest.raises(ConfigurationError, match="no role 'twh_nobody'"):
        shop.drift()

    shop.sql(
        f"GRANT SELECT ON items TO {MATE} WITH GRANT OPTION; SET ROLE {MATE};"
        f"GRANT SELECT ON items TO PUBLIC; RESET ROLE"
    )
    shop.models("items")
    with pytest.raises(ConfigurationError, match=f"PUBLIC has SELECT .* from {MATE}"):
        shop.drift()
    shop.sql(f"REVOKE ALL ON items FROM {MATE} CASCADE")
    assert shop.snapshot() == before
