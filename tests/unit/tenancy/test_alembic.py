"""
Declarations, statements and what is written into migrations, without a database.
"""

from __future__ import annotations

import ast

import pytest
from alembic.autogenerate import compare_metadata, render_python_code
from alembic.migration import MigrationContext
from alembic.operations import ops
from sqlalchemy import Column, Integer, MetaData, Table, create_engine

from twh_platform.errors import ConfigurationError
from twh_platform.tenancy.postgres import TenantTable, install_sql, seal_sql, tenant_sql
from twh_platform.tenancy.postgres._alembic_operations import IsolateTableOp, RestoreTableOp
from twh_platform.tenancy.postgres._alembic_state import (
    Target,
    differences,
    statements_of,
    wanted_indexes,
)
from twh_platform.tenancy.postgres.alembic import (
    TableGrant,
    TablePolicy,
    TableState,
    declare_tenancy,
)
from twh_platform.tenancy.postgres.directory import directory_sql

ITEMS = TenantTable(name="items", keys=[("sku",)], indexes=[("a", "b")])


def written(operation) -> str:
    """The upgrade that a migration would have."""
    return f"def upgrade():\n    {render_python_code(ops.UpgradeOps([operation]))}"


def statements_in(text: str) -> list[ast.stmt]:
    """What Python reads there."""
    [function] = ast.parse(text).body
    return function.body


@pytest.mark.parametrize(
    ("sql", "statements"),
    [
        ("a; b;\n", ["a", "b"]),
        ("a ';' \";\" $$;$$ $x$;$$;$x$; b", ["a ';' \";\" $$;$$ $x$;$$;$x$", "b"]),
        ("a 'it''s;'; b -- no; end\n c", ["a 'it''s;'", "b -- no; end\n c"]),
        (" ; ;", []),
    ],
)
def test_scripts_are_split_where_statements_end(sql, statements):
    """A semicolon inside of quotes, a body or a comment ends nothing."""
    assert statements_of(sql) == statements


def test_our_scripts_are_split():
    """Each statement of our own begins with a verb, and none is lost."""
    sql = install_sql() + seal_sql() + tenant_sql([ITEMS], role="app") + directory_sql(role="d")
    statements = statements_of(sql)

    assert {one.split()[0] for one in statements} == {
        "ALTER",
        "CREATE",
        "DO",
        "DROP",
        "GRANT",
        "REVOKE",
    }
    assert "".join(sql.split()) == "".join("".join(one.split()) + ";" for one in statements)


def test_indexes_of_a_declaration():
    """They are led by the tenant column."""
    assert [(one.name, one.unique, one.columns) for one in wanted_indexes(ITEMS)] == [
        ("items_tenant_id_sku_key", True, ("tenant_id", "sku")),
        ("items_tenant_id_a_b_idx", False, ("tenant_id", "a", "b")),
    ]


def test_a_state_is_written_as_python():
    """What is written down reads back as the same state, whatever the names are."""
    state = TableState(
        enabled=True,
        policies=[TablePolicy(name="o'd\"d\n", using="a = 'b\n;'", roles=["x", "y"])],
        grants=[TableGrant(role=None, privileges=["SELECT"], column="c", grantable=True)],
    )
    target = Target(schema="s", name='t"', column="org")
    [call] = statements_in(written(RestoreTableOp(target, state, role="app")))
    names = {one.__name__: one for one in (TableGrant, TablePolicy, TableState)}
    read = eval(ast.unparse(call.value.args[1]), names)

    assert read == state
    assert ast.literal_eval(call.value.args[0]) == 't"'
    assert {one.arg: ast.literal_eval(one.value) for one in call.value.keywords} == {
        "role": "app",
        "schema": "s",
        "column": "org",
    }


def test_a_name_cannot_leave_its_comment():
    """What was found is written as comments, one line each."""
    found = ["policy 'x\nimport os' is extra", "policy 'y\u2028' is extra"]
    text = written(IsolateTableOp(TenantTable(name="items"), role="app", differences=found))

    assert [type(one).__name__ for one in statements_in(text)] == ["Expr"]
    assert len([line for line in text.splitlines() if "is extra" in line]) == 2


def test_a_release_is_written_as_such():
    """Nothing to put back is said in one word, not as an empty state."""
    target = Target(schema="public", name="items", column="tenant_id")

    assert "op.release_table('items', role='app')" in written(
        RestoreTableOp(target, TableState(not_null=True), role="app")
    )


def test_a_hand_made_operation_has_no_way_back():
    """Only autogenerate knows what was there before."""
    with pytest.raises(ConfigurationError, match="what was there before"):
        IsolateTableOp(ITEMS, role="app").reverse()


def test_differences_are_named():
    """Each is a phrase of its own; equal states have none."""
    live = TableState(enabled=True, grants=[TableGrant(role="app", privileges=["TRUNCATE"])])
    wanted = TableState(enabled=True, forced=True, not_null=True)

    assert differences(live, wanted, column="org") == [
        "row security is not forced on the owner",
        "'org' may be NULL",
        "'app' has TRUNCATE",
    ]
    assert differences(wanted, wanted, column="org") == []


@pytest.mark.parametrize(
    ("tables", "options", "said"),
    [
        ([], {"role": "public"}, "not a role"),
        ([ITEMS, TenantTable(name="items")], {"role": "app"}, "declared twice"),
        ([], {"role": "app", "shared": "plans"}, "list of names"),
        ([], {"role": "app", "other_policies": "own"}, "list of names"),
        ([], {"role": "app", "allow_unsealed": True}, "sealed=True"),
    ],
)
def test_a_declaration_is_checked(tables, options, said):
    """Mistakes are found where they are made."""
    with pytest.raises(ConfigurationError, match=said):
        declare_tenancy(MetaData(), tables, **options)


def test_a_metadata_is_declared_once():
    """Two declarations of one metadata would contradict each other."""
    metadata = MetaData()
    declare_tenancy(metadata, role="app")

    with pytest.raises(ConfigurationError, match="once"):
        declare_tenancy(metadata, role="app")


@pytest.mark.parametrize("declared", [False, True])
def test_who_has_no_postgresql_is_left_alone(declared):
    """Another database has no policies, and a metadata without a declaration is not ours."""
    metadata = MetaData()
    Table("items", metadata, Column("tenant_id", Integer, primary_key=True))
    if declared:
        declare_tenancy(metadata, role="app")
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection), metadata)
    engine.dispose()

    assert [one[0] for one in found] == ["add_table"]
