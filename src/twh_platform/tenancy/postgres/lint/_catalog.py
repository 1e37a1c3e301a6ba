"""
What a lint knows of a database: one snapshot of its catalog, as plain values.

`QUERIES` read it, each of them whole sets at once, and `build_catalog` makes the
values.  Nothing here talks to a server; `_psycopg_snapshot` does.

Oids stand for objects throughout; the role with oid 0 is PUBLIC.
"""

# ruff: noqa: S608 -- the queries are put together of constants of this file alone

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "PUBLIC",
    "QUERIES",
    "Catalog",
    "Column",
    "Constraint",
    "DefaultGrant",
    "Function",
    "Grant",
    "Index",
    "Membership",
    "OperatorClass",
    "ParameterGrant",
    "Policy",
    "Preset",
    "Publication",
    "Relation",
    "Role",
    "Schema",
    "Server",
    "Trigger",
    "build_catalog",
]

PUBLIC = 0
"""The oid that stands for everybody."""

Row = Sequence[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """
    The server and the database.

    Args:
        settings: The watched ones that this server has, as they are for a login
            for whom nothing else was set.
    """

    version: int
    database: str
    database_oid: int
    database_owner: int
    has_large_objects: bool
    settings: Mapping[str, str]

    @property
    def major(self) -> int:
        """
        The major version, such as 15.
        """
        return self.version // 10_000

    @property
    def minor(self) -> int:
        """
        The minor version, such as 18.
        """
        return self.version % 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """
    A role and its attributes.
    """

    oid: int
    name: str
    superuser: bool
    bypasses_rls: bool
    creates_roles: bool
    creates_databases: bool
    replicates: bool
    logs_in: bool
    inherits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """
    That one role is a member of another, and what it may do with that.

    Before PostgreSQL 16 `inherits` follows from the member and `sets` is always true.
    """

    role: int
    member: int
    administers: bool
    inherits: bool
    sets: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """
    A schema of users.
    """

    oid: int
    name: str
    owner: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """
    A table (``r``, ``p``), view (``v``), materialized view (``m``), foreign table or sequence.
    """

    oid: int
    schema: str
    name: str
    kind: str
    owner: int
    row_security: bool
    forced: bool
    options: tuple[str, ...]
    is_partition: bool
    from_extension: bool

    @property
    def is_table(self) -> bool:
        """
        Whether it can carry policies.
        """
        return self.kind in {"r", "p"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """
    A column of a relation.
    """

    relation: int
    number: int
    name: str
    type: str
    type_name: str
    type_kind: str
    not_null: bool
    default: str | None
    modifier: int
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """
    A policy; `command` is ``*`` for ALL, or ``r``, ``a``, ``w``, ``d``.
    """

    name: str
    relation: int
    command: str
    permissive: bool
    roles: tuple[int, ...]
    using: str | None
    check: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """
    A primary (``p``), unique (``u``), exclusion (``x``) or foreign (``f``) key.
    """

    oid: int
    name: str
    kind: str
    relation: int
    columns: tuple[int, ...]
    foreign: int
    foreign_columns: tuple[int, ...]
    on_delete: str
    on_update: str
    index: int
    inherited: bool
    definition: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """
    An index; a column is 0 where it is an expression.
    """

    oid: int
    schema: str
    name: str
    relation: int
    columns: tuple[int, ...]
    keys: int
    unique: bool
    primary: bool
    excludes: bool
    valid: bool
    method: str
    classes: tuple[int, ...]
    expressions: tuple[str, ...]
    types: tuple[str, ...]
    predicate: str | None
    definition: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorClass:
    """
    How an index compares, and which of its operators are not leakproof.
    """

    oid: int
    name: str
    type: str
    leaky: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """
    A function or procedure that somebody made.

    Args:
        text: Its body, also where it was written in SQL's standard way.

        resolved: Whether the names in it were resolved when it was made.

        definition: CREATE OR REPLACE of it; empty for other languages.
    """

    oid: int
    schema: str
    name: str
    arguments: str
    owner: int
    definer: bool
    volatility: str
    parallel: str
    leakproof: bool
    language: str
    config: tuple[str, ...]
    text: str
    resolved: bool
    returns: str
    kind: str
    definition: str

    @property
    def qualified(self) -> str:
        """
        Its name with its schema, not quoted, as `Node.name` has it.
        """
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """
    A trigger that somebody made.
    """

    name: str
    relation: int
    function: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """
    One privilege on one object; `column` is 0 for the whole of it.

    The kinds are ``table`` (sequences too), ``schema``, ``database`` and ``function``.
    """

    kind: str
    oid: int
    column: int
    grantee: int
    privilege: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultGrant:
    """
    A privilege that objects get when `creator` makes them, in one schema or in all.
    """

    creator: int
    schema: str | None
    kind: str
    grantee: int
    privilege: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """
    A setting that a session begins with; role or database 0 stands for all.
    """

    database: int
    role: int
    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterGrant:
    """
    A privilege to set what only a superuser may, given away by name.
    """

    name: str
    grantee: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """
    What logical replication sends out.
    """

    name: str
    all_tables: bool
    relations: tuple[int, ...]
    schemas: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """
    The snapshot.

    Args:
        parents: Pairs of child and parent tables: partitions and inheritance.

        sources: Pairs of a view and a relation that it reads.

        builtin: Functions of the system that are watched, by name.

        leakproof: Names of the system's functions that are leakproof.

        databases: The names of all databases that allow connections.
    """

    server: Server
    roles: Mapping[int, Role]
    memberships: tuple[Membership, ...]
    schemas: tuple[Schema, ...]
    relations: Mapping[int, Relation]
    columns: tuple[Column, ...]
    policies: tuple[Policy, ...]
    constraints: tuple[Constraint, ...]
    indexes: tuple[Index, ...]
    operator_classes: Mapping[int, OperatorClass]
    functions: Mapping[int, Function]
    triggers: tuple[Trigger, ...]
    grants: tuple[Grant, ...]
    default_grants: tuple[DefaultGrant, ...]
    presets: tuple[Preset, ...]
    parameter_grants: tuple[ParameterGrant, ...]
    publications: tuple[Publication, ...]
    parents: tuple[tuple[int, int], ...]
    sources: tuple[tuple[int, int], ...]
    builtin: Mapping[int, str]
    leakproof: frozenset[str]
    databases: Mapping[int, str]


_OURS = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"

# Functions of the system and of pg_stat_statements whose EXECUTE matters.
_WATCHED = (
    "'pg_stat_get_activity', 'pg_stat_get_backend_activity', 'pg_terminate_backend', "
    "'pg_cancel_backend', 'lo_create', 'lo_creat', 'lo_from_bytea', 'lo_get', 'lo_open', "
    "'lo_put', 'loread', 'lowrite'"
)

_NOT_EXTENSION = """\
NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_proc'::regclass
            AND e.objid = p.oid AND e.deptype = 'e')"""

# The snapshot needs PostgreSQL 15; what came later is asked for by version.
QUERIES: Mapping[str, str] = {
    "server": """
        SELECT current_setting('server_version_num')::int, d.datname, d.oid, d.datdba,
               EXISTS (SELECT FROM pg_largeobject_metadata),
               -- What was set for this session's own login says nothing of others.
               (SELECT jsonb_object_agg(s.name, CASE
                    WHEN s.source IN ('default', 'environment variable', 'configuration file',
                        'command line') THEN s.reset_val ELSE s.boot_val END)
                FROM pg_settings s WHERE s.name IN ('track_activities',
                    'pg_stat_statements.track', 'pg_stat_statements.track_utility'))
        FROM pg_database d WHERE d.datname = current_database()""",
    "roles": """
        SELECT oid, rolname, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb,
               rolreplication, rolcanlogin, rolinherit
        FROM pg_roles""",
    "memberships": """
        SELECT m.roleid, m.member, m.admin_option, r.rolinherit, true
        FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member""",
    "schemas": f"SELECT n.oid, n.nspname, n.nspowner FROM pg_namespace n WHERE {_OURS}",
    "relations": f"""
        SELECT c.oid, n.nspname, c.relname, c.relkind::text, c.relowner, c.relrowsecurity,
               c.relforcerowsecurity, coalesce(c.reloptions, '{{}}'), c.relispartition,
               EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass
                       AND e.objid = c.oid AND e.deptype = 'e')
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND {_OURS}""",
    "columns": f"""
        SELECT a.attrelid, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod),
               t.typname, t.typtype::text, a.attnotnull, pg_get_expr(d.adbin, d.adrelid),
               a.atttypmod,
               ARRAY(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = t.oid
                     ORDER BY e.enumsortorder)
        FROM pg_attribute a
        JOIN pg_class c ON c.oid = a.attrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_type t ON t.oid = a.atttypid
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attnum > 0 AND NOT a.attisdropped
          AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND {_OURS}
        ORDER BY a.attrelid, a.attnum""",
    "policies": """
        SELECT polname, polrelid, polcmd::text, polpermissive, polroles,
               pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)
        FROM pg_policy ORDER BY polrelid, polname""",
    "constraints": f"""
        SELECT k.oid, k.conname, k.contype::text, k.conrelid, coalesce(k.conkey, '{{}}'),
               k.confrelid, coalesce(k.confkey, '{{}}'), k.confdeltype::text,
               k.confupdtype::text, k.conindid, k.conparentid <> 0,
               pg_get_constraintdef(k.oid)
        FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace
        WHERE k.contype IN ('p', 'u', 'x', 'f') AND {_OURS}
        ORDER BY k.conrelid, k.conname""",
    "indexes": f"""
        SELECT i.indexrelid, n.nspname, c.relname, i.indrelid,
               string_to_array(i.indkey::text, ' ')::int[], i.indnkeyatts, i.indisunique,
               i.indisprimary, i.indisexclusion, i.indisvalid, m.amname,
               string_to_array(i.indclass::text, ' ')::oid[],
               CASE WHEN i.indexprs IS NULL THEN '{{}}' ELSE ARRAY(
                   SELECT pg_get_indexdef(i.indexrelid, k, false)
                   FROM generate_series(1, i.indnkeyatts) k) END,
               ARRAY(SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute a
                     WHERE a.attrelid = i.indexrelid ORDER BY a.attnum),
               pg_get_expr(i.indpred, i.indrelid), pg_get_indexdef(i.indexrelid)
        FROM pg_index i
        JOIN pg_class c ON c.oid = i.indexrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_am m ON m.oid = c.relam
        WHERE {_OURS} ORDER BY i.indrelid, c.relname""",
    # Of a B-tree, hash or BRIN class the operators that compare its own type;
    # of the others all, because there both sides are of different types.
    "operator_classes": f"""
        SELECT o.oid, o.opcname, t.typname,
               coalesce(array_agg(DISTINCT r.oprname::text)
                        FILTER (WHERE NOT p.proleakproof), '{{}}')
        FROM pg_opclass o
        JOIN pg_am m ON m.oid = o.opcmethod
        JOIN pg_type t ON t.oid = o.opcintype
        JOIN pg_amop a ON a.amopfamily = o.opcfamily AND a.amoplefttype = o.opcintype
             AND a.amoppurpose = 's'
             AND (m.amname NOT IN ('btree', 'hash', 'brin') OR a.amoprighttype = o.opcintype)
        JOIN pg_operator r ON r.oid = a.amopopr
        JOIN pg_proc p ON p.oid = r.oprcode
        WHERE o.oid IN (
            SELECT unnest(string_to_array(i.indclass::text, ' ')::oid[]) FROM pg_index i
            JOIN pg_class c ON c.oid = i.indexrelid
            JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {_OURS})
        GROUP BY o.oid, o.opcname, t.typname""",
    "functions": f"""
        SELECT p.oid, n.nspname, p.proname, pg_get_function_identity_arguments(p.oid),
               p.proowner, p.prosecdef, p.provolatile::text, p.proparallel::text,
               p.proleakproof, l.lanname,
               coalesce(p.proconfig, '{{}}'),
               coalesce(pg_get_function_sqlbody(p.oid), p.prosrc), p.prosqlbody IS NOT NULL,
               format_type(p.prorettype, NULL), p.prokind::text,
               CASE WHEN l.lanname IN ('sql', 'plpgsql') AND p.prokind IN ('f', 'p')
                    THEN pg_get_functiondef(p.oid) ELSE '' END
        FROM pg_proc p
        JOIN pg_namespace n ON n.oid = p.pronamespace
        JOIN pg_language l ON l.oid = p.prolang
        WHERE {_OURS} AND p.prokind <> 'a' AND {_NOT_EXTENSION}
        ORDER BY n.nspname, p.proname, p.oid""",
    "triggers": """
        SELECT tgname, tgrelid, tgfoid FROM pg_trigger
        WHERE NOT tgisinternal ORDER BY tgrelid, tgname""",
    "grants": f"""
        SELECT 'table', c.oid, 0, a.grantee, a.privilege_type
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,
             aclexplode(coalesce(c.relacl, acldefault(
                 CASE c.relkind WHEN 'S' THEN 's'::"char" ELSE 'r'::"char" END, c.relowner))) a
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND {_OURS}
        UNION ALL
        SELECT 'table', t.attrelid, t.attnum, a.grantee, a.privilege_type
        FROM pg_attribute t JOIN pg_class c ON c.oid = t.attrelid
             JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(t.attacl) a
        WHERE t.attacl IS NOT NULL AND {_OURS}
        UNION ALL
        SELECT 'schema', n.oid, 0, a.grantee, a.privilege_type
        FROM pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a
        WHERE {_OURS}
        UNION ALL
        SELECT 'database', d.oid, 0, a.grantee, a.privilege_type
        FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
        WHERE d.datallowconn
        UNION ALL
        SELECT 'function', p.oid, 0, a.grantee, a.privilege_type
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace,
             aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
        WHERE ({_OURS} AND {_NOT_EXTENSION})
           OR (n.nspname = 'pg_catalog' AND p.proname IN ({_WATCHED}))
           OR p.proname = 'pg_stat_statements'""",
    "default_grants": """
        SELECT d.defaclrole, n.nspname, d.defaclobjtype::text, a.grantee, a.privilege_type
        FROM pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace,
             aclexplode(d.defaclacl) a""",
    "presets": """
        SELECT s.setdatabase, s.setrole, split_part(c.one, '=', 1),
               substr(c.one, strpos(c.one, '=') + 1)
        FROM pg_db_role_setting s, unnest(s.setconfig) AS c (one)
        WHERE s.setdatabase IN (
            0, (SELECT oid FROM pg_database WHERE datname = current_database()))""",
    "parameter_grants": """
        SELECT p.parname, a.grantee FROM pg_parameter_acl p, aclexplode(p.paracl) a""",
    "databases": "SELECT oid, datname FROM pg_database WHERE datallowconn",
    "publications": """
        SELECT p.pubname, p.puballtables,
               ARRAY(SELECT r.prrelid FROM pg_publication_rel r WHERE r.prpubid = p.oid),
               ARRAY(SELECT s.pnnspid FROM pg_publication_namespace s WHERE s.pnpubid = p.oid)
        FROM pg_publication p""",
    "parents": f"""
        SELECT i.inhrelid, i.inhparent FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'f') AND {_OURS}""",
    "sources": f"""
        SELECT DISTINCT c.oid, d.refobjid
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_rewrite r ON r.ev_class = c.oid
        JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
             AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> c.oid
        WHERE c.relkind IN ('v', 'm') AND {_OURS}""",
    "builtin": f"""
        SELECT p.oid, n.nspname || '.' || p.proname || '('
               || pg_get_function_identity_arguments(p.oid) || ')'
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE (n.nspname = 'pg_catalog' AND p.proname IN ({_WATCHED}))
           OR p.proname = 'pg_stat_statements'""",
    "leakproof": """
        SELECT DISTINCT proname FROM pg_proc
        WHERE proleakproof AND pronamespace = 'pg_catalog'::regnamespace""",
}

MEMBERSHIPS_16 = """
    SELECT roleid, member, bool_or(admin_option), bool_or(inherit_option), bool_or(set_option)
    FROM pg_auth_members GROUP BY roleid, member"""
"""In place of ``memberships`` from PostgreSQL 16 on."""


def build_catalog(rows: Mapping[str, Iterable[Row]]) -> Catalog:
    """
    Make the values from what `QUERIES` returned, by the queries' names.
    """
    made: dict[str, list[Any]] = {
        name: [_make(kind, row) for row in rows[name]] for name, kind in _CLASSES.items()
    }
    return Catalog(
        server=made["server"][0],
        roles={one.oid: one for one in made["roles"]},
        relations={one.oid: one for one in made["relations"]},
        functions={one.oid: one for one in made["functions"]},
        operator_classes={one.oid: one for one in made["operator_classes"]},
        memberships=tuple(made["memberships"]),
        schemas=tuple(made["schemas"]),
        columns=tuple(made["columns"]),
        policies=tuple(made["policies"]),
        constraints=tuple(made["constraints"]),
        indexes=tuple(made["indexes"]),
        triggers=tuple(made["triggers"]),
        grants=tuple(made["grants"]),
        default_grants=tuple(made["default_grants"]),
        presets=tuple(made["presets"]),
        parameter_grants=tuple(made["parameter_grants"]),
        publications=tuple(made["publications"]),
        parents=tuple((child, parent) for child, parent in rows["parents"]),
        sources=tuple((view, source) for view, source in rows["sources"]),
        builtin={oid: name for oid, name in rows["builtin"]},  # noqa: C416 -- rows, not pairs
        leakproof=frozenset(name for (name,) in rows["leakproof"]),
        databases={oid: name for oid, name in rows["databases"]},  # noqa: C416 -- rows, not pairs
    )


# The fields of each class stand in the order of its query's columns.
_CLASSES: Mapping[str, type] = {
    "server": Server,
    "roles": Role,
    "memberships": Membership,
    "schemas": Schema,
    "relations": Relation,
    "columns": Column,
    "policies": Policy,
    "constraints": Constraint,
    "indexes": Index,
    "operator_classes": OperatorClass,
    "functions": Function,
    "triggers": Trigger,
    "grants": Grant,
    "default_grants": DefaultGrant,
    "presets": Preset,
    "parameter_grants": ParameterGrant,
    "publications": Publication,
}


def _make(kind: type, row: Row) -> Any:
    names: Sequence[str] = kind.__slots__  # type: ignore[attr-defined]
    values = (tuple(value) if isinstance(value, list) else value for value in row)
    return kind(**dict(zip(names, values, strict=True)))
