"""
The rendered policies on a real server.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql

from tests.integration.tenancy.conftest import APP, MATE, OWNER
from twh_platform.tenancy import Tenant, bind_tenant
from twh_platform.tenancy.postgres import (
    MALFORMED_SQLSTATE,
    UNBOUND_SQLSTATE,
    TenantTable,
    install_sql,
    tenant_sql,
)
from twh_platform.tenancy.postgres.psycopg import TenantConnection
from twh_platform.testing import PostgresDatabase

A, B = Tenant(id="a"), Tenant(id="b")
NAMES = "SELECT name FROM things ORDER BY name"
EVERYTHING = 4


@pytest.fixture
def app(dsn: str) -> Iterator[TenantConnection]:
    """
    The application's connection.
    """
    with TenantConnection.connect(dsn) as connection:
        yield connection
        connection.rollback()


@pytest.fixture
def owner(database: PostgresDatabase) -> Iterator[psycopg.Connection]:
    """
    The owner's connection, in a transaction that is rolled back.
    """
    with psycopg.connect(database.dsn(user=OWNER)) as connection:
        yield connection
        connection.rollback()


@contextmanager
def changed(admin: psycopg.Connection, change: str, undo: str) -> Iterator[None]:
    """
    Have something changed in the schema for a while.
    """
    run(admin, change)
    try:
        yield
    finally:
        run(admin, undo)


def run(connection: psycopg.Connection[Any], text: str) -> list[tuple[Any, ...]]:
    """
    Run SQL that the test has put together.
    """
    cursor = connection.execute(text.encode())
    return cursor.fetchall() if cursor.description else []


class TestRendering:
    """
    The SQL as a migration would run it.
    """

    def test_again(self, owner: psycopg.Connection) -> None:
        """
        Run again, and after a change of the declaration, it leaves what is declared.
        """
        catalog = (
            "SELECT relacl, (SELECT array_agg(polname::text || polpermissive ORDER BY 1)"
            " FROM pg_policy WHERE polrelid = c.oid) FROM pg_class c WHERE relname = 'things'"
        )
        before = run(owner, catalog)
        run(owner, install_sql() + tenant_sql([TenantTable(name="things")], role=APP))
        assert run(owner, catalog) == before

        less = TenantTable(name="things", privileges=["SELECT"], indexes=[("name",)])
        run(owner, tenant_sql([less], role=APP) * 2)
        assert run(owner, catalog) != before

    def test_hostile_names(self, owner: psycopg.Connection) -> None:
        """
        Names that look like SQL stay names.
        """
        evil = 'x"; DROP TABLE things; --'
        table = TenantTable(name=evil, column='t"', keys=[("a b",)], indexes=[("select",)])
        names = [sql.Identifier(one) for one in (evil, 't"', "a b", "select")]
        owner.execute(sql.SQL("CREATE TABLE {} ({} text, {} int, {} int)").format(*names))
        run(owner, tenant_sql([table], role=APP))

        assert run(owner, "SELECT count(*) FROM pg_policy")[0][0] == 4
        assert run(owner, "SELECT to_regclass('things')::text") == [("things",)]

    def test_key_despite_a_global_one(self, owner: psycopg.Connection) -> None:
        """
        A UNIQUE over all tenants is not taken for the tenant's own.
        """
        run(owner, "CREATE TABLE parts (tenant_id text, sku text UNIQUE)")
        run(owner, tenant_sql([TenantTable(name="parts", keys=[("sku",)])], role=APP))
        indexes = run(owner, "SELECT indexdef FROM pg_indexes WHERE tablename = 'parts'")

        assert any("UNIQUE" in row[0] and "(tenant_id, sku)" in row[0] for row in indexes)

    @pytest.mark.parametrize(
        ("kind", "one", "other"),
        [
            (
                "uuid",
                "11111111-1111-1111-1111-111111111111",
                "22222222-2222-4222-8222-22222222222a",
            ),
            ("bigint", "9007199254740993", "9007199254740992"),
            ("integer", "1", "2"),
        ],
    )
    def test_types(
        self, admin: psycopg.Connection, dsn: str, kind: str, one: str, other: str
    ) -> None:
        """
        Tenant columns of other types are filled and kept apart.
        """
        table = TenantTable(name="typed", column_type=kind, keys=[("id",)])
        create = f"CREATE TABLE typed (tenant_id {kind}, id int);"
        with (
            changed(admin, create + tenant_sql([table], role=APP), "DROP TABLE typed"),
            TenantConnection.connect(dsn) as app,
        ):
            for tenant_id in (one, other):
                with bind_tenant(Tenant(id=tenant_id)):
                    app.execute("INSERT INTO typed (id) VALUES (1)")
                    assert app.execute("SELECT count(*) FROM typed").fetchone() == (1,)
                    app.commit()
            with bind_tenant(A), pytest.raises(psycopg.Error):
                app.execute("SELECT * FROM typed")
            app.rollback()

    @pytest.mark.parametrize(
        ("kind", "own", "alias"),
        [
            (
                "uuid",
                "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
                "A0EEBC99-9c0b-4ef8-bb6d-6bb9bd380a11",
            ),
            ("uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "a0eebc999c0b4ef8bb6d6bb9bd380a11"),
            ("bigint", "7", "07"),
            ("integer", "7", "0007"),
        ],
    )
    def test_aliases(
        self, admin: psycopg.Connection, dsn: str, kind: str, own: str, alias: str
    ) -> None:
        """
        Another spelling of an id is another tenant; control: the cast alone gives it the rows.
        """
        table = TenantTable(name="typed", column_type=kind)
        create = f"CREATE TABLE typed (tenant_id {kind}, id int);"
        cast = f"SELECT '{alias}'::{kind} = '{own}'::{kind}"
        with (
            changed(admin, create + tenant_sql([table], role=APP), "DROP TABLE typed"),
            TenantConnection.connect(dsn) as app,
        ):
            assert app.execute(cast).fetchone() == (True,)
            app.rollback()
            with bind_tenant(Tenant(id=own)), app.transaction():
                app.execute("INSERT INTO typed (id) VALUES (1)")
            with bind_tenant(Tenant(id=alias)), pytest.raises(psycopg.Error) as caught:
                app.execute("SELECT * FROM typed")
            app.rollback()

        assert caught.value.sqlstate == MALFORMED_SQLSTATE


class TestReading:
    """
    Who sees what.
    """

    def test_owner(self, owner: psycopg.Connection, admin: psycopg.Connection) -> None:
        """
        The owner is refused like everybody; the control, without FORCE, sees all.
        """
        with pytest.raises(psycopg.Error) as caught:
            run(owner, NAMES)
        owner.rollback()

        assert caught.value.sqlstate == UNBOUND_SQLSTATE
        with changed(
            admin,
            "ALTER TABLE things NO FORCE ROW LEVEL SECURITY",
            "ALTER TABLE things FORCE ROW LEVEL SECURITY",
        ):
            assert len(run(owner, NAMES)) == EVERYTHING
            owner.rollback()

    def test_unset_and_empty(self, dsn: str) -> None:
        """
        A setting that was never set and one that was reset both raise the same.
        """
        states = []
        with psycopg.connect(dsn) as plain:
            for prepare in ("SELECT 1", "SET LOCAL twh.tenant_id = 'a'", "SET twh.tenant_id = ''"):
                run(plain, prepare)
                plain.commit()
                with pytest.raises(psycopg.Error) as caught:
                    run(plain, NAMES)
                states.append(caught.value.sqlstate)
                plain.rollback()

        assert states == [UNBOUND_SQLSTATE] * 3

    def test_unset_and_empty_naive(self, dsn: str) -> None:
        """
        The control: read bare, the setting is nothing, then an empty string.
        """
        with psycopg.connect(dsn) as plain:
            bare = "SELECT current_setting('twh.tenant_id', true)"
            before = run(plain, bare)
            run(plain, "SET LOCAL twh.tenant_id = 'a'")
            plain.commit()

            assert (before, run(plain, bare)) == ([(None,)], [("",)])

    def test_floor(self, app: TenantConnection, admin: psycopg.Connection) -> None:
        """
        A second permissive policy opens nothing; the control, without the floor, all.
        """
        with changed(
            admin,
            f"CREATE POLICY careless ON things TO {APP} USING (true)",
            "DROP POLICY careless ON things",
        ):
            with bind_tenant(A):
                assert len(app.execute(NAMES).fetchall()) == 2
                app.rollback()
            admin.execute("BEGIN")
            admin.execute("DROP POLICY tenant_floor ON things")
            admin.execute(f"SET LOCAL ROLE {APP}")
            admin.execute("SET LOCAL twh.tenant_id = 'a'")
            assert len(admin.execute(NAMES).fetchall()) == EVERYTHING
            admin.execute("ROLLBACK")

    def test_cached_plan(self, app: TenantConnection, admin: psycopg.Connection) -> None:
        """
        A cached plan computes the tenant anew; the control, IMMUTABLE, does not.
        """

        def second_tenant() -> list[tuple[Any, ...]]:
            rows = []
            for tenant in (A, B):
                with bind_tenant(tenant):
                    app.execute("SET LOCAL plan_cache_mode = force_generic_plan")
                    rows = app.execute(NAMES, prepare=True).fetchall()
                    app.commit()  # psycopg forgets what it prepared on a rollback
            return rows

        definition = "ALTER FUNCTION twh.current_tenant() {}"
        assert second_tenant() == [("b1",)]
        with changed(admin, definition.format("IMMUTABLE"), definition.format("STABLE")):
            assert second_tenant() == [("a1",), ("a2",)]

    def test_index(self, app: TenantConnection, admin: psycopg.Connection) -> None:
        """
        A lookup goes through the index that the tenant leads.
        """
        admin.execute(
            "INSERT INTO things SELECT 't' || n % 100, n, n FROM generate_series(10, 20000) AS n"
        )
        admin.execute("ANALYZE things")
        with bind_tenant(Tenant(id="t7")):
            plan = app.execute("EXPLAIN SELECT name FROM things WHERE id = 107").fetchall()

        assert "Index Cond: ((tenant_id = $" in str(plan) or "tenant_id = (InitPlan" in str(plan)
        assert "Seq Scan" not in str(plan)

    def test_copy_out(self, app: TenantConnection) -> None:
        """
        COPY TO reads the tenant's rows alone.
        """
        with bind_tenant(B), app.cursor().copy("COPY things TO STDOUT") as copy:
            assert list(copy.rows()) == [("b", "1", "b1")]

    def test_row_security_off(self, app: TenantConnection) -> None:
        """
        Switching row security off is an error, not a way through.
        """
        with bind_tenant(A):
            app.execute("SET LOCAL row_security = off")
            with pytest.raises(errors.InsufficientPrivilege):
                app.execute(NAMES)


WRITES = {
    "plant": "INSERT INTO things VALUES ('b', 7, 'planted')",
    "move": "UPDATE things SET tenant_id = 'b' WHERE id = 1",
    "take over on conflict": "INSERT INTO things VALUES ('b', 1, 'x') ON CONFLICT (tenant_id, id)"
    " DO UPDATE SET name = 'taken'",
    "merge": "MERGE INTO things USING (SELECT 'b' AS t) AS s ON false"
    " WHEN NOT MATCHED THEN INSERT VALUES (s.t, 8, 'merged')",
}
HARMLESS = {
    "update all": "UPDATE things SET name = name || '!'",
    "delete all": "DELETE FROM things",
}
PRIVILEGES = {
    "truncate": "TRUNCATE things",
    "trigger": "CREATE TRIGGER spy BEFORE INSERT ON things EXECUTE FUNCTION"
    " suppress_redundant_updates_trigger()",
    "alter": "ALTER TABLE things DISABLE ROW LEVEL SECURITY",
    "policy": "CREATE POLICY mine ON things USING (true)",
    "function": "CREATE OR REPLACE FUNCTION twh.current_tenant() RETURNS text RETURN 'b'",
}


class TestWriting:
    """
    Who changes what.
    """

    @pytest.mark.parametrize("name", WRITES)
    def test_refused(self, app: TenantConnection, name: str) -> None:
        """
        No row gets into another tenant's hands.
        """
        with bind_tenant(A), pytest.raises(errors.InsufficientPrivilege):
            run(app, WRITES[name])

    def test_copy_in(self, app: TenantConnection) -> None:
        """
        COPY FROM is not for tables under policies.
        """
        with (
            bind_tenant(A),
            pytest.raises(errors.FeatureNotSupported),
            app.cursor().copy("COPY things FROM STDIN") as copy,
        ):
            copy.write_row(("b", 9, "copied"))

    @pytest.mark.parametrize("name", HARMLESS)
    def test_own_rows_only(
        self, app: TenantConnection, admin: psycopg.Connection, name: str
    ) -> None:
        """
        A statement without a WHERE reaches the tenant's own rows alone.
        """
        with bind_tenant(A):
            run(app, HARMLESS[name])
            app.commit()
        others = admin.execute("SELECT name FROM things WHERE tenant_id <> 'a' ORDER BY 1")

        assert others.fetchall() == [("b1",), ("c1",)]

    @pytest.mark.parametrize("name", PRIVILEGES)
    def test_privileges(self, app: TenantConnection, name: str) -> None:
        """
        What policies do not restrain is not granted.
        """
        with bind_tenant(A), pytest.raises(errors.InsufficientPrivilege):
            run(app, PRIVILEGES[name])

    @pytest.mark.parametrize("privilege", ["TRUNCATE", "TRIGGER", "REFERENCES"])
    def test_never_granted(self, app: TenantConnection, privilege: str) -> None:
        """
        Nor is what a migration could grant by writing ALL.
        """
        asked = f"SELECT has_table_privilege('things', '{privilege}')"

        assert run(app, asked) == [(False,)]

    def test_grants_are_replaced(self, owner: psycopg.Connection) -> None:
        """
        What somebody granted beyond the declaration is taken back.
        """
        run(owner, f"GRANT ALL ON things TO {APP}, PUBLIC; GRANT UPDATE (name) ON things TO {APP}")
        run(owner, tenant_sql([TenantTable(name="things", privileges=["SELECT"])], role=APP))
        asked = "SELECT has_table_privilege(%s, 'things', %s)"
        held = [
            owner.execute(asked, (role, one)).fetchall()[0][0]
            for role, one in ((APP, "SELECT"), (APP, "TRUNCATE"), (APP, "UPDATE"), (MATE, "SELECT"))
        ]

        assert held == [True, False, False, False]
