"""
What the administrators' login may do, as plain SQL.

The login itself is made by a superuser, for nobody else gives BYPASSRLS away::

    CREATE ROLE shop_support LOGIN PASSWORD '...' NOSUPERUSER BYPASSRLS
        NOCREATEDB NOCREATEROLE NOREPLICATION;

It skips policies, so its grants are all that holds it: they are given table by
table, and never on the keys of the seal.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...errors import ConfigurationError
from ._policies import Privilege, TenantTable, quote_name

__all__ = ["administrator_sql"]

# Who reads the keys can be any tenant, on the application's connections too.
_NO_KEYS = """\
BEGIN
    IF to_regclass('twh.seal_keys') IS NOT NULL THEN
        REVOKE ALL ON twh.seal_keys FROM {name};
        IF has_table_privilege({literal}, 'twh.seal_keys', 'SELECT, INSERT, UPDATE, DELETE')
            OR has_any_column_privilege({literal}, 'twh.seal_keys', 'SELECT, INSERT, UPDATE')
        THEN
            RAISE EXCEPTION 'role % may use the keys of the seal, '
                'by a membership, as their owner or as a superuser', {literal};
        END IF;
    END IF;
END
"""


def administrator_sql(
    tables: Iterable[TenantTable],
    *,
    role: str,
    privileges: Iterable[Privilege] = ("SELECT",),
) -> str:
    """
    The SQL that lets *role* work on *tables*, across all tenants.

    It may be run again, and after a change: this role's grants on these tables
    are replaced.  Run it after `tenant_sql`, as the owner of the tables, in one
    transaction.  It fails if the role may use the keys of a sealed database.

    Args:
        tables: The declarations; their `privileges` are the application's and
            do not count here.

        role: The administrators' login role, with BYPASSRLS.  The application
            must have no way to become it.

        privileges: What it may do on each of the tables.

    Raises:
        twh_platform.errors.ConfigurationError: If *role* is ``public`` or
            ``none``, which mean no role even between quotes; for the table
            of the seal's keys; for a privilege that policies do not know.
    """
    if role in {"public", "none"}:
        message = f"{role!r} is not a role: name the administrators' login role"
        raise ConfigurationError(message)
    name, granted = quote_name(role), tuple(privileges)
    sql = []
    for table in tables:
        if (table.schema, table.name) == ("twh", "seal_keys"):
            message = "whoever reads twh.seal_keys can be any tenant: grant it to nobody"
            raise ConfigurationError(message)
        # Its own check, of what a declaration may grant.
        checked = TenantTable(name=table.name, schema=table.schema, privileges=granted)
        sql.append(f"REVOKE ALL ON {checked.qualified} FROM {name};\n")
        if granted:
            sql.append(f"GRANT {', '.join(checked.privileges)} ON {checked.qualified} TO {name};\n")
    without_keys = _NO_KEYS.format(name=name, literal=_literal(role))
    return "".join(sql) + f"DO {_literal(without_keys)};\n"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
