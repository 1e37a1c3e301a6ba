"""
What a project declares about the tables of its metadata.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..._extras import missing_extra
from ...errors import ConfigurationError
from ._policies import TenantTable, tenant_sql

try:
    from sqlalchemy import Dialect, MetaData, Table
except ImportError as error:
    raise missing_extra("alembic", error) from error

__all__ = ["Declaration", "declaration_of", "declare_tenancy", "is_shared", "tenant_table_of"]

_INFO = "twh_platform.tenancy"
# As SQLAlchemy writes them; an unbounded or bounded VARCHAR compares as text.
_KINDS = {
    "TEXT": "text",
    "VARCHAR": "text",
    "UUID": "uuid",
    "BIGINT": "bigint",
    "INTEGER": "integer",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """
    What `declare_tenancy` was told.
    """

    tables: tuple[TenantTable, ...]
    role: str
    column: str
    shared: frozenset[str]
    other_policies: frozenset[str]
    sealed: bool
    allow_unsealed: bool


def declare_tenancy(
    metadata: MetaData,
    tables: Iterable[TenantTable] = (),
    *,
    role: str,
    column: str = "tenant_id",
    shared: Iterable[str] = (),
    other_policies: Iterable[str] = (),
    sealed: bool = False,
    allow_unsealed: bool = False,
) -> None:
    """
    Say which tables of *metadata* belong to tenants, so that autogenerate isolates them.

        >>> from sqlalchemy import MetaData
        >>> metadata = MetaData()
        >>> moves = TenantTable(name="moves", privileges=("SELECT", "INSERT"))
        >>> declare_tenancy(metadata, [moves], role="app", shared=["invitations"])

    A table that has *column* belongs to tenants whether it is listed or not:
    one that nobody declared gets what ``TenantTable(name=...)`` says.  Only
    *shared* takes a table out, by its name.

    Call it once per metadata, before or after the tables are made, where
    ``env.py`` imports it from.

    Args:
        metadata: The ``target_metadata`` of ``env.py``.

        tables: The declarations; needed for those that differ from
            ``TenantTable(name=...)``.

        role: The application's login role, as in `tenant_sql`.

        column: The column by which a table that is not listed is known to
            belong to tenants.

        shared: Tables that belong to no tenant though they have the column,
            with their schema if it is not the default one: ``billing.plans``.

        other_policies: Names of policies of your own, on any table, that are
            left as they are.  `tenant_floor` stands under them.

        sealed: Whether the database demands a seal, as of `seal_sql`.

        allow_unsealed: Whether it believes tenants without one too, while a
            running service is being changed over.

    Raises:
        twh_platform.errors.ConfigurationError: If the metadata has a
            declaration already, a table is listed twice, *role* is no role, or
            *allow_unsealed* comes without *sealed*.
    """
    listed = tuple(tables)
    tenant_sql(listed, role=role)  # it checks the role
    if _INFO in metadata.info:
        raise ConfigurationError("declare_tenancy() is called once per metadata")
    if allow_unsealed and not sealed:
        raise ConfigurationError("allow_unsealed is for the change-over: it needs sealed=True")
    names = [(table.schema, table.name) for table in listed]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"a table is declared twice, of {sorted(names)}")
    declaration = Declaration(
        tables=listed,
        role=role,
        column=column,
        shared=frozenset(_names("shared", shared)),
        other_policies=frozenset(_names("other_policies", other_policies)),
        sealed=sealed,
        allow_unsealed=allow_unsealed,
    )
    metadata.info[_INFO] = declaration


def _names(what: str, names: Iterable[str]) -> Iterable[str]:
    if isinstance(names, str):
        raise ConfigurationError(f"{what} is a list of names: [{names!r}]")
    return names


def declaration_of(metadata: MetaData) -> Declaration | None:
    """
    Return what was declared about *metadata*.
    """
    found = metadata.info.get(_INFO)
    return found if isinstance(found, Declaration) else None


def is_shared(declaration: Declaration, table: Table) -> bool:
    """
    Tell whether a table is declared as no tenant's.
    """
    return str(table.key) in declaration.shared


def tenant_table_of(
    declaration: Declaration, table: Table, *, schema: str, dialect: Dialect
) -> TenantTable | None:
    """
    Return the declaration of a table; None if it belongs to no tenant.

    One that is not listed but has the tenant column gets the defaults.

    Raises:
        twh_platform.errors.ConfigurationError: If the declaration does not fit
            the table, or a column has a type that no tenant column can have.
    """
    key = (schema, str(table.name))
    listed = next((one for one in declaration.tables if (one.schema, one.name) == key), None)
    if is_shared(declaration, table):
        if listed:
            raise ConfigurationError(f"{table.key} is declared both as tenants' and as shared")
        return None
    if listed is None and declaration.column not in table.columns:
        return None
    column = listed.column if listed else declaration.column
    if column not in table.columns:
        raise ConfigurationError(
            f"{table.key} is declared with the column {column!r}, and has none"
        )
    kind = _kind(table, column, dialect)
    if listed is None and kind is not None:
        return TenantTable(name=key[1], schema=schema, column=column, column_type=kind)
    if listed is None or (kind is not None and kind != listed.column_type):
        named = f"column_type={kind!r}" if kind else "the column_type that it compares as"
        raise ConfigurationError(f"{table.key}.{column} needs a TenantTable with {named}")
    return listed


def _kind(table: Table, column: str, dialect: Dialect) -> str | None:
    written = table.columns[column].type.compile(dialect=dialect)
    return _KINDS.get(written.partition(" COLLATE ")[0].partition("(")[0])
