"""
What autogenerate writes, and what it leaves alone.
"""

from __future__ import annotations

import asyncio
import io
from contextlib import redirect_stdout

import pytest
from alembic import command
from sqlalchemy import (
    CHAR,
    BigInteger,
    Column,
    MetaData,
    NullPool,
    String,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.ext.asyncio import create_async_engine

from tests.integration.alembic._project import APP, MATE, OWNER, things
from twh_platform.errors import ConfigurationError
from twh_platform.tenancy.postgres import TenantTable, seal_sql
from twh_platform.tenancy.postgres.alembic import declare_tenancy
from twh_platform.tenancy.postgres.directory import directory_sql

KEY = """
INSERT INTO twh.seal_keys (key_id, inner_pad, outer_pad)
VALUES ('1abcd', repeat('x', 64)::bytea, repeat('y', 64)::bytea)
"""


def test_there_and_back(project):
    """The first migration makes everything, and its downgrade leaves nothing of it."""
    before = project.snapshot()
    project.models("items", "moves", tables=[TenantTable(name="moves", privileges=["SELECT"])])
    project.migrate()
    after = project.snapshot()

    assert project.drift() == ""
    project.downgrade()
    assert {
        row for row in project.snapshot() - before if "alembic_version" not in str(row)
    } == set()
    project.upgrade()
    assert project.snapshot() == after


def test_an_undeclared_table_does_not_slip_through(project):
    """A table with the tenant column is isolated unless it is declared as shared."""
    project.models("items", "invitations", plain=["plans"], shared=["invitations"])
    project.migrate()
    policies = project.sql("SELECT DISTINCT tablename FROM pg_policies")

    assert policies == [("items",)]
    assert project.drift() == ""
    assert project.sql(f"SELECT has_table_privilege('{APP}', 'items', 'DELETE')") == [(True,)]


def test_a_table_that_becomes_shared(shop):
    """It loses our policies and the grants, keeps policies of others, and gets all back."""
    shop.sql(f"CREATE POLICY own ON items AS RESTRICTIVE TO {MATE} USING (name <> 'x')", OWNER)
    shop.models("items", other_policies=["own"])
    before = shop.snapshot()
    assert shop.drift() == ""
    shop.models("items", shared=["items"])
    text = shop.migrate()
    policies = shop.sql("SELECT policyname FROM pg_policies")

    assert "belongs to no tenant" in text
    assert policies == [("own",)]
    assert shop.sql("SELECT relrowsecurity FROM pg_class WHERE relname = 'items'") == [(True,)]
    assert shop.drift() == ""
    shop.downgrade()
    assert shop.snapshot() == before


def test_a_table_without_policies_of_others_becomes_shared(shop):
    """Nothing is left of row security, and the generated line says just that."""
    shop.models("items", shared=["items"])
    before, text = shop.snapshot(), shop.migrate()

    assert f"op.release_table('items', role='{APP}')" in text
    assert shop.sql("SELECT relrowsecurity FROM pg_class WHERE relname = 'items'") == [(False,)]
    shop.downgrade()
    assert shop.snapshot() == before


def test_a_table_that_loses_its_column(shop):
    """The policies go before the column that they are about, and come back after it."""
    shop.sql("DELETE FROM items")
    before = shop.snapshot()
    shop.metadata = MetaData()
    Table(
        "items",
        shop.metadata,
        Column("id", Uuid, primary_key=True),
        Column("name", Text, nullable=False),
    )
    declare_tenancy(shop.metadata, role=APP)
    shop.migrate()

    assert shop.sql("SELECT * FROM pg_policies") == []
    assert shop.drift() == ""
    shop.downgrade()
    assert {row for row in before if row[0] == "policy"} <= shop.snapshot()


def test_a_dropped_table_comes_back_isolated(shop):
    """A downgrade that makes a table again isolates it as it was, which Alembic alone would not."""
    shop.sql("CREATE POLICY odd ON items USING (name <> 'x')", user=OWNER)
    before = shop.snapshot()
    shop.models()
    upgrade, downgrade = shop.migrate().split("def downgrade")
    shop.downgrade()

    assert "op.drop_table('items')" in upgrade
    assert "restore_table" not in upgrade
    assert downgrade.index("op.create_table") < downgrade.index("op.restore_table")
    assert shop.snapshot() == before


def test_alembic_and_we_agree(project):
    """What the declaration adds is not what Alembic takes away for lack of it in the model."""
    project.metadata = MetaData()
    Table("notes", project.metadata, Column("tenant_id", Text), Column("name", Text))
    table = TenantTable(name="notes", keys=[("name",)], indexes=[("name", "tenant_id")])
    project.options = {"compare_server_default": True, "include_schemas": True}
    declare_tenancy(project.metadata, [table], role=APP)
    project.migrate()
    project.sql(directory_sql(role=MATE), user=OWNER)

    assert project.drift() == ""
    assert project.sql(
        "SELECT attnotnull FROM pg_attribute WHERE attname = 'tenant_id'"
        " AND attrelid = 'notes'::regclass"
    ) == [(True,)]


def test_alembic_still_has_a_say(project):
    """A change of the model is found beside ours; an index that is declared no more is dropped."""
    project.models("items", tables=[TenantTable(name="items", keys=[("name",)])])
    project.migrate()
    good = project.snapshot()
    project.metadata = MetaData()
    things(project.metadata, "items", Column("size", BigInteger))
    declare_tenancy(project.metadata, role=APP)
    generated = project.migrate()

    assert "op.add_column('items'" in generated
    assert "op.drop_index" in generated
    assert "isolate_table" not in generated
    project.downgrade()
    assert project.snapshot() == good


def test_a_table_becomes_tenants(project):
    """A column that the same migration adds is isolated by it."""
    project.models(plain=["plans"])
    project.migrate()
    before = project.snapshot()
    project.metadata = MetaData()
    Table(
        "plans",
        project.metadata,
        Column("id", BigInteger, primary_key=True),
        Column("tenant_id", Text, nullable=False, server_default=text("twh.current_tenant()")),
    )
    declare_tenancy(project.metadata, role=APP)
    generated = project.migrate()

    assert generated.index("op.add_column") < generated.index("op.isolate_table")
    assert project.drift() == ""
    project.downgrade()
    assert project.snapshot() == before


@pytest.mark.parametrize(
    ("kind", "function"),
    [(Uuid, "current_tenant_uuid"), (BigInteger, "current_tenant_bigint"), (String(64), "text")],
)
def test_types(project, kind, function):
    """The column's own type decides what an undeclared table is compared with."""
    project.metadata = MetaData(schema="ledger")
    Table(
        "moves", project.metadata, Column("tenant_id", kind, primary_key=True, autoincrement=False)
    )
    project.options = {"include_schemas": True}
    declare_tenancy(project.metadata, role=APP)
    project.sql("CREATE SCHEMA ledger", user=OWNER)
    project.migrate()

    assert project.drift() == ""
    assert function in str(project.sql("SELECT qual FROM pg_policies WHERE tablename = 'moves'"))


def test_sealed(project):
    """A database is sealed and unsealed by its declaration; keys are nobody's drift."""
    project.models("items")
    project.migrate()
    unsealed = project.snapshot()
    project.models("items", sealed=True)
    generated = project.migrate()
    project.sql(KEY, user=OWNER)

    assert "op.install_tenancy(sealed=True)" in generated
    assert "op.isolate_table" not in generated
    assert project.drift() == ""
    project.sql(f"GRANT SELECT ON twh.seal_keys TO {APP}", user=OWNER)
    assert "twh.seal_keys is granted" in project.drift()
    project.downgrade()
    assert project.snapshot() == unsealed


def test_sealed_by_hand(shop):
    """What `seal_sql` makes is what a sealed declaration asks for; another would unseal it."""
    shop.sql(seal_sql(), user=OWNER)
    complaint = shop.drift()
    shop.models("items", sealed=True)

    assert "this UNSEALS it" in complaint
    assert shop.drift() == ""


def test_sealed_from_the_start(project):
    """The way back to an empty database takes the seal along; an unsealed function is drift."""
    project.models("items", sealed=True, allow_unsealed=True)
    generated = project.migrate()
    project.models("items", sealed=True)
    complaint = project.drift()
    project.downgrade("base")

    assert "op.install_tenancy(sealed=True, allow_unsealed=True)" in generated
    assert "twh.current_tenant() is changed" in complaint
    assert not [row for row in project.snapshot() if "twh" in row[1] and "alembic" not in row[2]]


def test_hostile_names(project):
    """Names that look like Python, SQL or parameters stay names, in the migration too."""
    evil = "x\"\n    import os; %s :bind ''' --"
    project.metadata = MetaData()
    things(project.metadata, evil[:30])
    declare_tenancy(project.metadata, [TenantTable(name=evil[:30], keys=[("name",)])], role=APP)
    project.migrate()
    quoted = '"' + evil.replace('"', '""') + '"'
    table = '"' + evil[:30].replace('"', '""') + '"'
    project.sql(f"CREATE POLICY {quoted} ON {table} USING (name <> ':x %s \n ''')", user=OWNER)
    project.sql("DROP FUNCTION twh.current_tenant_uuid()", user=OWNER)
    planted, generated = project.snapshot(), project.migrate()

    assert "policy" in generated
    assert project.drift() == ""
    project.downgrade()
    assert project.snapshot() == planted


def test_offline(shop):
    """`--sql` writes the statements out, and psql runs them."""
    shop.sql("ALTER TABLE items NO FORCE ROW LEVEL SECURITY", user=OWNER)
    planted, _ = shop.snapshot(), shop.generate()
    [(current,)] = shop.sql("SELECT version_num FROM alembic_version")
    written = io.StringIO()
    with redirect_stdout(written):
        shop.run(command.upgrade, f"{current}:head", sql=True)
    shop.database.execute(written.getvalue(), user=OWNER)

    assert shop.drift() == ""
    shop.downgrade("-1")
    assert shop.snapshot() == planted


def test_asyncpg(project):
    """A driver that takes one statement at a time does too."""
    from alembic.autogenerate import compare_metadata, produce_migrations
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    project.models("items")
    dsn = project.database.dsn(user=OWNER, scheme="postgresql+asyncpg")

    def migrate(connection):
        context = MigrationContext.configure(connection)
        script = produce_migrations(context, project.metadata)
        operations = Operations(context)
        for one in script.upgrade_ops.ops:
            operations.invoke(one)
        connection.commit()
        return compare_metadata(context, project.metadata)

    async def run():
        engine = create_async_engine(dsn, poolclass=NullPool)
        async with engine.connect() as connection:
            return await connection.run_sync(migrate)

    assert asyncio.run(run()) == []
    assert project.sql("SELECT count(*) FROM pg_policies") == [(2,)]


REFUSED = {
    "another type": ([TenantTable(name="items", column_type="uuid")], {}, "column_type='text'"),
    "no such column": ([TenantTable(name="items", column="org")], {}, "has none"),
    "no such table": ([TenantTable(name="itmes")], {}, "there is no such table"),
    "no such shared table": ([], {"shared": ["itmes"]}, "not in the metadata"),
    "both": ([TenantTable(name="items")], {"shared": ["items"]}, "both"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_declaration_that_does_not_fit(project, name):
    """A mistake in the declaration is said, not guessed around."""
    tables, options, said = REFUSED[name]
    project.models("items", tables=tables, **options)

    with pytest.raises(ConfigurationError, match=said):
        project.generate()


def test_a_type_that_no_tenant_column_has(project):
    """A column that cannot be compared for sure has to be declared by hand."""
    project.metadata = MetaData()
    Table("items", project.metadata, Column("tenant_id", CHAR(8)))
    declare_tenancy(project.metadata, role=APP)

    with pytest.raises(ConfigurationError, match="needs a TenantTable"):
        project.generate()


def test_two_metadatas(project):
    """Each has a declaration of its own; they agree on the seal."""
    first, second = MetaData(), MetaData()
    things(first, "items")
    things(second, "moves")
    declare_tenancy(first, role=APP)
    declare_tenancy(second, role=MATE)
    project.metadata = [first, second]
    project.migrate()

    assert project.drift() == ""
    assert project.sql(f"SELECT has_table_privilege('{MATE}', 'items', 'SELECT')") == [(False,)]
    third = MetaData()
    declare_tenancy(third, role=APP, sealed=True)
    project.metadata = [first, second, third]
    with pytest.raises(ConfigurationError, match="sealed or not"):
        project.drift()
