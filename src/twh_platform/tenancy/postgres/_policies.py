"""
Row-level security as plain SQL, from one declaration per table.

What is rendered, and why:

- ``FORCE`` as well as ``ENABLE``: without it the owner of a table reads all.
- A permissive policy lets the tenant's rows through.  The same expression
  again, as a restrictive *floor*, holds even when somebody adds a second
  permissive policy, because PostgreSQL joins permissive ones with OR.
- Both are for every role; grants say who reaches the table at all.  A role
  without a policy would be shown no rows and no error.
- ``(select twh.current_tenant())`` is computed once per statement; without
  the sub-select a scan computes it for every row.
- The function is strict: no tenant bound raises, also for the table's owner.
  It is STABLE: an IMMUTABLE one would be folded into a cached plan and
  answer with another tenant's rows.
- Functions name pg_temp, last, in their search_path.  Left out, it is searched
  first for types, ``text`` and ``uuid`` among them.
- Privileges are granted by name, so never TRUNCATE, TRIGGER or REFERENCES,
  which policies do not restrain.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from ...errors import ConfigurationError
from ._binding import SETTING

__all__ = [
    "MALFORMED_SQLSTATE",
    "UNBOUND_SQLSTATE",
    "TenantTable",
    "install_sql",
    "quote_name",
    "tenant_sql",
]

UNBOUND_SQLSTATE = "TW001"
"""The SQLSTATE of the error that says no tenant is bound."""

MALFORMED_SQLSTATE = "TW002"
"""The SQLSTATE of the error that says the tenant's id is no value of the column's type."""

Privilege = Literal["SELECT", "INSERT", "UPDATE", "DELETE"]
_PRIVILEGES: tuple[Privilege, ...] = get_args(Privilege)
_COLUMN_TYPES = ("text", "uuid", "bigint", "integer")


def quote_name(name: str) -> str:
    """
    Quote an SQL identifier.

    Raises:
        twh_platform.errors.ConfigurationError: If it is empty, has a NUL, or
            is longer than the 63 bytes that PostgreSQL keeps.
    """
    if not name or "\0" in name or len(name.encode()) > 63:  # noqa: PLR2004 -- NAMEDATALEN - 1
        message = f"not a name that PostgreSQL keeps whole: {name!r}"
        raise ConfigurationError(message)
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantTable:
    """
    One table whose rows belong to tenants.

        >>> items = TenantTable(name="items", keys=[("id",), ("sku",)])

    Args:
        name: The table.

        schema: Its schema.

        column: The column that holds the tenant's id.

        column_type: Its type: ``text``, ``uuid``, ``bigint`` or ``integer``.

        privileges: What the application role may do; for an append-only
            ledger, leave out UPDATE and DELETE.

        keys: Columns that are unique within a tenant.  Each becomes a unique
            index that is led by the tenant column.  Leave out those that the
            table's own definition has already.

        indexes: Columns of further indexes, led by the tenant column too.

    Raises:
        twh_platform.errors.ConfigurationError: For a type or privilege that
            is not listed, a name that PostgreSQL would cut, or two indexes
            of one name.
    """

    name: str
    schema: str = "public"
    column: str = "tenant_id"
    column_type: str = "text"
    privileges: Iterable[Privilege] = _PRIVILEGES
    keys: Iterable[tuple[str, ...]] = ()
    indexes: Iterable[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for one in ("privileges", "keys", "indexes"):
            object.__setattr__(self, one, tuple(getattr(self, one)))
        if self.column_type not in _COLUMN_TYPES:
            message = f"column_type is one of {_COLUMN_TYPES}, not {self.column_type!r}"
            raise ConfigurationError(message)
        for privilege in self.privileges:
            if privilege not in _PRIVILEGES:
                message = f"privileges are of {_PRIVILEGES}, not {privilege!r}"
                raise ConfigurationError(message)
        for name in (self.schema, self.name, self.column):
            quote_name(name)
        for columns in (*self.keys, *self.indexes):
            if isinstance(columns, str):
                message = f"keys and indexes are tuples of columns: ({columns!r},)"
                raise ConfigurationError(message)
            for name in columns:
                quote_name(name)
        names = [name for name, _, _ in self._indexes]
        if len(set(names)) < len(names):
            message = f"two indexes would have one name, of {names}"
            raise ConfigurationError(message)

    @property
    def qualified(self) -> str:
        """
        The quoted name with its schema.
        """
        return f"{quote_name(self.schema)}.{quote_name(self.name)}"

    @property
    def _indexes(self) -> list[tuple[str, str, tuple[str, ...]]]:
        # Named as PostgreSQL itself would, tenant column included: without it
        # the name is that of a UNIQUE over all tenants, and IF NOT EXISTS
        # would take that one for ours.
        kinds = (("UNIQUE INDEX", "key", self.keys), ("INDEX", "idx", self.indexes))
        return [
            (quote_name("_".join((self.name, self.column, *columns, suffix))), kind, columns)
            for kind, suffix, several in kinds
            for columns in several
        ]

    @property
    def tenant_expression(self) -> str:
        """
        The current tenant in the column's type, as an SQL expression.
        """
        suffix = "" if self.column_type == "text" else f"_{self.column_type}"
        return f"twh.current_tenant{suffix}()"


def install_sql() -> str:
    """
    The SQL that makes the schema ``twh`` and its function `current_tenant`.

    For columns of other types there are `current_tenant_uuid`, ``_bigint`` and
    ``_integer``.  They refuse an id that is not written as PostgreSQL writes
    the value: a cast alone would take ``7`` and ``07`` for the same tenant.

    It may be run again.  Run it as the role that owns the schema, never as
    the application's role.  Alone, on a sealed database, it takes the seal
    away: there `seal_sql` follows it in the same transaction.
    """
    return f"""\
CREATE SCHEMA IF NOT EXISTS twh;
GRANT USAGE ON SCHEMA twh TO PUBLIC;
CREATE OR REPLACE FUNCTION twh.raise_no_tenant() RETURNS text
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'no tenant is bound to this transaction'
        USING ERRCODE = '{UNBOUND_SQLSTATE}',
              HINT = 'Open the transaction on a tenant connection, inside bind_tenant(...).';
END
$$;
CREATE OR REPLACE FUNCTION twh.current_tenant() RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN coalesce(
        nullif(pg_catalog.current_setting('{SETTING}', true), ''),
        twh.raise_no_tenant()
    );
GRANT EXECUTE ON FUNCTION twh.current_tenant(), twh.raise_no_tenant() TO PUBLIC;
""" + "".join(map(_typed_function, _COLUMN_TYPES[1:]))


def _typed_function(kind: str) -> str:
    return f"""\
CREATE OR REPLACE FUNCTION twh.current_tenant_{kind}() RETURNS {kind}
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    tenant_id CONSTANT text := twh.current_tenant();
BEGIN
    IF tenant_id::{kind}::text <> tenant_id THEN
        RAISE EXCEPTION 'tenant id % is no {kind} as PostgreSQL writes it', tenant_id
            USING ERRCODE = '{MALFORMED_SQLSTATE}';
    END IF;
    RETURN tenant_id::{kind};
END
$$;
GRANT EXECUTE ON FUNCTION twh.current_tenant_{kind}() TO PUBLIC;
"""


def tenant_sql(tables: Iterable[TenantTable], *, role: str) -> str:
    """
    The SQL that isolates *tables*, and grants them to *role*.

    It may be run again, and after a change of the declaration: policies and
    this role's grants are replaced, indexes are made if they are missing.
    Run it as the owner of the tables, in one transaction.  PostgreSQL 15 or
    newer.

    The policies hold every role that is no superuser and has no BYPASSRLS, the
    owner too.  A second login that may read some columns needs a grant, no
    more.

    Args:
        tables: The declarations.

        role: The login role of the application, which must not own the
            tables, nor be a superuser, nor have BYPASSRLS.

    Raises:
        twh_platform.errors.ConfigurationError: If *role* is ``public`` or
            ``none``, which mean no role even between quotes.
    """
    if role in {"public", "none"}:
        message = f"{role!r} is not a role: name the application's login role"
        raise ConfigurationError(message)
    return "\n".join(_table_sql(table, quote_name(role)) for table in tables)


def _table_sql(table: TenantTable, role: str) -> str:
    column = quote_name(table.column)
    lines = [
        f"ALTER TABLE {table.qualified}",
        f"    ALTER COLUMN {column} SET NOT NULL,",
        f"    ALTER COLUMN {column} SET DEFAULT {table.tenant_expression},",
        "    ENABLE ROW LEVEL SECURITY,",
        "    FORCE ROW LEVEL SECURITY;",
        *_policy(table, "tenant_rows", "PERMISSIVE"),
        *_policy(table, "tenant_floor", "RESTRICTIVE"),
        f"REVOKE ALL ON {table.qualified} FROM PUBLIC, {role};",
    ]
    if table.privileges:
        granted = ", ".join(table.privileges)
        lines.append(f"GRANT {granted} ON {table.qualified} TO {role};")
    for name, kind, columns in table._indexes:  # noqa: SLF001 -- it is ours
        led = ", ".join(map(quote_name, (table.column, *columns)))
        lines.append(f"CREATE {kind} IF NOT EXISTS {name} ON {table.qualified} ({led});")
    return "\n".join(lines) + "\n"


def _policy(table: TenantTable, name: str, kind: str) -> list[str]:
    rule = f"{quote_name(table.column)} = (SELECT {table.tenant_expression})"
    return [
        f"DROP POLICY IF EXISTS {name} ON {table.qualified};",
        f"CREATE POLICY {name} ON {table.qualified} AS {kind} FOR ALL TO PUBLIC",
        f"    USING ({rule})",
        f"    WITH CHECK ({rule});",
    ]
