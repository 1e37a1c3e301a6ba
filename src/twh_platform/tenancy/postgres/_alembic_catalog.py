"""
What the catalog says of isolation, and what it would say if the declaration held.

The server deparses both sides: the wanted policies, defaults and functions are
made on an empty copy of a table, read, and undone with a savepoint.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

from ..._extras import missing_extra
from ...errors import ConfigurationError
from ._alembic_state import (
    POLICIES,
    TableGrant,
    TableIndex,
    TablePolicy,
    TableState,
    Target,
    TenancyFunction,
    isolating_statements,
    statements_of,
)
from ._policies import TenantTable, install_sql
from ._seal_sql import seal_sql

try:
    from sqlalchemy import Connection, text
    from sqlalchemy.ext.compiler import compiles
    from sqlalchemy.schema import ExecutableDDLElement
except ImportError as error:
    raise missing_extra("alembic", error) from error

__all__ = [
    "Found",
    "TenancyFound",
    "Verbatim",
    "isolated_tables",
    "looking",
    "read_table",
    "read_tenancy",
    "role_exists",
    "tenancy_statements",
    "wanted_table",
]


class Verbatim(ExecutableDDLElement):
    """
    A statement that is sent as it stands: nothing in it is a parameter.
    """

    inherit_cache = False

    def __init__(self, sql: str) -> None:
        self.sql = sql


@compiles(Verbatim)
def _verbatim(element: Verbatim, compiler: Any, **_options: Any) -> str:
    # It doubles the percent signs for drivers that format.
    return str(compiler.sql_compiler.post_process_text(element.sql))


def tenancy_statements(*, sealed: bool, allow_unsealed: bool) -> list[str]:
    """
    List the statements that make the schema `twh` and its functions.
    """
    seal = seal_sql(allow_unsealed=allow_unsealed) if sealed else ""
    return statements_of(install_sql() + seal)


@contextmanager
def looking(connection: Connection) -> Iterator[None]:
    """
    Undo at the end whatever is done within, and let go of its locks.

    Expressions are read with nothing but `pg_catalog` in the search path, so
    that every other name in them is qualified.
    """
    savepoint = connection.begin_nested()
    try:
        connection.execute(Verbatim("SET LOCAL search_path = pg_catalog"))
        yield
    finally:
        savepoint.rollback()


_ROLE = text("SELECT count(*) FROM pg_catalog.pg_roles WHERE rolname = :role")

_ISOLATED = text("""\
SELECT DISTINCT n.nspname, c.relname
FROM pg_policy AS p JOIN pg_class AS c ON c.oid = p.polrelid
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE p.polname = ANY (string_to_array(:names, ','))
""")

_TABLE = text("""\
SELECT jsonb_build_object(
    'owner', pg_get_userbyid(c.relowner),
    'enabled', c.relrowsecurity,
    'forced', c.relforcerowsecurity,
    'not_null', (
        SELECT attnotnull FROM pg_attribute
        WHERE attrelid = c.oid AND attname = :column AND NOT attisdropped
    ),
    'column_type', (
        SELECT format_type(atttypid, atttypmod) || ' ' || attcollation::regcollation
        FROM pg_attribute
        WHERE attrelid = c.oid AND attname = :column AND NOT attisdropped
    ),
    'default', (
        SELECT pg_get_expr(d.adbin, d.adrelid)
        FROM pg_attrdef AS d JOIN pg_attribute AS a ON (a.attrelid, a.attnum) = (d.adrelid, d.adnum)
        WHERE d.adrelid = c.oid AND a.attname = :column
    ),
    'policies', (
        SELECT jsonb_agg(jsonb_build_object(
            'name', polname,
            'permissive', polpermissive,
            'command', polcmd,
            'roles', ARRAY(SELECT rolname FROM pg_roles WHERE oid = ANY (polroles) ORDER BY 1),
            'using', pg_get_expr(polqual, polrelid),
            'check', pg_get_expr(polwithcheck, polrelid)
        ) ORDER BY polname) FROM pg_policy WHERE polrelid = c.oid
    ),
    'grants', (
        SELECT jsonb_agg(jsonb_build_object(
            'role', CASE held.grantee WHEN 0 THEN NULL ELSE pg_get_userbyid(held.grantee) END,
            'grantor', pg_get_userbyid(held.grantor),
            'privilege', held.privilege_type,
            'grantable', held.is_grantable,
            'column', held.attname
        ) ORDER BY held.attnum, held.grantee, held.is_grantable, held.privilege_type)
        FROM (
            SELECT 0 AS attnum, NULL::name AS attname, given.*
            FROM aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) AS given
            UNION ALL
            SELECT a.attnum, a.attname, given.*
            FROM pg_attribute AS a, aclexplode(a.attacl) AS given
            WHERE a.attrelid = c.oid AND NOT a.attisdropped
        ) AS held
        WHERE held.grantee <> c.relowner
    ),
    'indexes', (
        SELECT jsonb_agg(jsonb_build_object(
            'name', x.relname,
            'unique', i.indisunique,
            'columns', ARRAY(
                SELECT pg_get_indexdef(i.indexrelid, k, false)
                FROM generate_series(1, i.indnkeyatts) AS k ORDER BY k
            ),
            'sound', i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
                AND m.amname = 'btree',
            'definition', pg_get_indexdef(i.indexrelid)
        ) ORDER BY x.relname)
        FROM pg_index AS i JOIN pg_class AS x ON x.oid = i.indexrelid
            JOIN pg_am AS m ON m.oid = x.relam
        WHERE i.indrelid = c.oid
    )
)::text
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = :schema AND c.relname = :name AND c.relkind IN ('r', 'p')
""")

_FUNCTIONS = text("""\
SELECT f.oid::regprocedure::text, f.xmin::text, pg_get_functiondef(f.oid),
    EXISTS (
        SELECT FROM aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) AS held
        WHERE held.grantee = 0
    )
FROM pg_proc AS f
WHERE f.pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'twh') AND f.prokind = 'f'
ORDER BY 1
""")

_KEYS = text("""\
SELECT CASE WHEN EXISTS (
        SELECT FROM aclexplode(c.relacl) AS held WHERE held.grantee <> c.relowner
    ) OR EXISTS (
        SELECT FROM pg_attribute AS a, aclexplode(a.attacl) AS held
        WHERE a.attrelid = c.oid AND held.grantee <> c.relowner
    ) THEN 'granted' ELSE 'closed' END
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = 'twh' AND c.relname = 'seal_keys'
""")

_SCHEMA = text("SELECT count(*) FROM pg_namespace WHERE nspname = 'twh'")

_COMMANDS = {"*": "ALL", "r": "SELECT", "a": "INSERT", "w": "UPDATE", "d": "DELETE"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """
    A table as it was found.

    Attributes:
        state: What isolates it.

        indexes: All of its indexes.

        column_type: Of the tenant column, with its collation; None if it has none.
    """

    state: TableState
    indexes: tuple[TableIndex, ...]
    column_type: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TenancyFound:
    """
    How the schema `twh` differs from what would be installed.

    Attributes:
        functions: Those that differ, as they are now.

        fresh: Whether there is no schema `twh` at all.

        keys: What is wrong with the table of the seal's keys: ``missing``,
            ``granted`` to somebody, or nothing.
    """

    functions: tuple[TenancyFunction, ...]
    fresh: bool
    keys: str = ""


def role_exists(connection: Connection, role: str) -> bool:
    """
    Tell whether there is such a role.
    """
    return bool(connection.execute(_ROLE, {"role": role}).scalar())


def isolated_tables(connection: Connection) -> set[tuple[str, str]]:
    """
    Find the tables that have a policy of ours, with their schema.
    """
    rows = connection.execute(_ISOLATED, {"names": ",".join(POLICIES)})
    return {(schema, name) for schema, name in rows}


def read_table(
    connection: Connection, target: Target, *, role: str | None, ignored: Iterable[str] = ()
) -> Found | None:
    """
    Read how a table is isolated now; None if there is no such table.

    Args:
        connection: In the middle of `looking`.

        target: The table.

        role: Whose grants are read, with those of PUBLIC; None reads all but the owner's.

        ignored: Names of policies to leave out.
    """
    names = {"schema": target.schema, "name": target.name, "column": target.column}
    found = connection.execute(_TABLE, names).scalar()
    if found is None:
        return None
    row = json.loads(found)
    grants = row["grants"] or []
    if role is not None:
        grants = [one for one in grants if one["role"] in {None, role}]
        _refuse_grantors(target, grants, row["owner"])
    policies = [one for one in row["policies"] or () if one["name"] not in ignored]
    return Found(
        state=TableState(
            enabled=row["enabled"],
            forced=row["forced"],
            not_null=row["not_null"],
            default=row["default"],
            policies=map(_policy, policies),
            grants=_grouped(grants),
        ),
        indexes=tuple(map(_index, row["indexes"] or ())),
        column_type=row["column_type"],
    )


def _policy(row: dict[str, Any]) -> TablePolicy:
    return TablePolicy(**{**row, "command": _COMMANDS[row["command"]]})


def _index(row: dict[str, Any]) -> TableIndex:
    columns = tuple(_unquoted(one) for one in row.pop("columns"))
    return TableIndex(columns=columns, **row)


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def _grouped(grants: list[dict[str, Any]]) -> list[TableGrant]:
    groups: dict[tuple[Any, ...], list[str]] = {}
    for one in grants:
        key = one["role"], one["column"], one["grantable"]
        groups.setdefault(key, []).append(one["privilege"])
    return [
        TableGrant(role=role, column=column, grantable=grantable, privileges=privileges)
        for (role, column, grantable), privileges in groups.items()
    ]


def _refuse_grantors(target: Target, grants: list[dict[str, Any]], owner: str) -> None:
    # Only who granted it can take it back, and nobody else can restore it.
    for one in grants:
        if one["grantor"] != owner:
            who = "PUBLIC" if one["role"] is None else one["role"]
            raise ConfigurationError(
                f"{who} has {one['privilege']} on {target.qualified} from {one['grantor']}, who"
                f" does not own it: have that role revoke it, no migration of the owner can"
            )


def wanted_table(connection: Connection, table: TenantTable, *, role: str) -> TableState:
    """
    Ask the server how an existing table would look if it were isolated as declared.

    An empty copy is made beside it: that needs no more than a migration does,
    and locks nobody out of the table itself.
    """
    name = f"twh_compare_{secrets.token_hex(8)}"
    copy = replace(table, name=name, keys=(), indexes=())
    make = f"CREATE TABLE {copy.qualified} (LIKE {table.qualified})"
    for statement in (make, *isolating_statements(copy, role=role)):
        connection.execute(Verbatim(statement))
    found = read_table(connection, Target.of(copy), role=role)
    return cast("Found", found).state


def read_tenancy(connection: Connection, *, sealed: bool, allow_unsealed: bool) -> TenancyFound:
    """
    Install the functions of `twh`, and say which were not as they are now.

    They stay until the end of `looking`, so that policies can be made of them.
    """
    fresh = not connection.execute(_SCHEMA).scalar()
    keys = connection.execute(_KEYS).scalar() or "missing"
    before = _functions(connection)
    for statement in tenancy_statements(sealed=sealed, allow_unsealed=allow_unsealed):
        # IF NOT EXISTS asks for the privilege to create schemas all the same.
        if fresh or not statement.startswith("CREATE SCHEMA"):
            connection.execute(Verbatim(statement))
    after = _functions(connection)
    changed = []
    for name, (version, *wanted) in after.items():
        was, definition, public = before.get(name, ("", None, True))
        # Whatever has a new row version is what we have just made.
        if was != version and wanted != [definition, public]:
            changed.append(TenancyFunction(name=name, definition=definition, public=public))
    fault = keys if sealed and keys != "closed" else ""
    return TenancyFound(functions=tuple(changed), fresh=fresh, keys=fault)


def _functions(connection: Connection) -> dict[str, tuple[str, str | None, bool]]:
    return {
        name: (version, definition, public)
        for name, version, definition, public in connection.execute(_FUNCTIONS)
    }
