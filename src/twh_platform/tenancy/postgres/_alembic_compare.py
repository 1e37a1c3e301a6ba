"""
Autogenerate: what is declared against what the database has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

from ..._extras import missing_extra
from ...errors import ConfigurationError
from ._alembic_catalog import (
    Found,
    TenancyFound,
    isolated_tables,
    looking,
    read_table,
    read_tenancy,
    role_exists,
    wanted_table,
)
from ._alembic_declaration import Declaration, declaration_of, tenant_table_of
from ._alembic_operations import (
    InstallTenancyOp,
    IsolateTableOp,
    NothingOp,
    RestoreTableOp,
    RestoreTenancyOp,
)
from ._alembic_state import (
    POLICIES,
    TableIndex,
    TableState,
    Target,
    differences,
    wanted_indexes,
)
from ._policies import TenantTable

try:
    from alembic import util
    from alembic.autogenerate import comparators
    from alembic.autogenerate.api import AutogenContext
    from alembic.operations import MigrateOperation, ops
    from sqlalchemy import Column, Connection, MetaData, Table
except ImportError as error:
    raise missing_extra("alembic", error) from error

__all__ = ["compare_tenancy"]

_SCHEMA = "twh"
_Name = tuple[str, str]  # of the schema and of the table


@dataclass(frozen=True, slots=True, kw_only=True)
class _Project:
    """
    One declared metadata: its tables that belong to tenants, and those that do not.
    """

    declaration: Declaration
    tenants: tuple[TenantTable, ...]
    others: frozenset[_Name]


def _last() -> Callable[[Any], Any]:
    # Ours comes after Alembic's own, whose operations it looks at.  Newer ones
    # keep an order; older ones call in the order of registration.
    priorities = getattr(util, "DispatchPriority", None)
    options = {} if priorities is None else {"priority": priorities.LAST}
    register: Callable[[Any], Any] = comparators.dispatch_for("schema", **options)
    return register


@_last()
def compare_tenancy(
    context: AutogenContext, upgrade_ops: ops.UpgradeOps, _schemas: Iterable[str | None]
) -> None:
    """
    Add to *upgrade_ops* what isolates the tables as declared.

    Raises:
        twh_platform.errors.ConfigurationError: If the declaration does not fit
            the metadata or the database.
    """
    connection = context.connection
    projects = list(_projects(context))
    if connection is None or not projects:
        return
    names = _Names(str(context.dialect.default_schema_name))
    for project in projects:
        _leave_ours_alone(upgrade_ops, project, names)
    created = {names.of(op) for op in upgrade_ops.ops if isinstance(op, ops.CreateTableOp)}
    with looking(connection):
        first: list[MigrateOperation] = list(_tenancy(connection, projects))
        last: list[MigrateOperation] = []
        first += _dropped(connection, projects[0].declaration, upgrade_ops, names)
        for project in projects:
            first += _released(connection, project)
            last += _isolated(connection, project, created)
    upgrade_ops.ops[:] = [*first, *upgrade_ops.ops, *last]


@dataclass(frozen=True, slots=True)
class _Names:
    """
    Names of tables with their schema, which Alembic leaves out if it is the default one.
    """

    default: str

    def of(self, one: Table | Any) -> _Name:
        """
        Name a table, or the table of an operation.
        """
        name = one.name if isinstance(one, Table) else one.table_name
        return str(one.schema or self.default), str(name)


def _projects(context: AutogenContext) -> Iterator[_Project]:
    if context.dialect.name != "postgresql":
        return
    for metadata in util.to_list(context.metadata, []):
        if declaration := declaration_of(metadata):
            yield _project(context, metadata, declaration)


def _project(context: AutogenContext, metadata: MetaData, declaration: Declaration) -> _Project:
    unknown = declaration.shared - metadata.tables.keys()
    if unknown:
        raise ConfigurationError(f"shared tables that are not in the metadata: {sorted(unknown)}")
    names = _Names(str(context.dialect.default_schema_name))
    tables = {names.of(table): table for table in metadata.tables.values()}
    found = {
        name: tenant_table_of(declaration, table, schema=name[0], dialect=context.dialect)
        for name, table in tables.items()
        if context.run_object_filters(table, table.name, "table", False, None)  # noqa: FBT003 -- so it is called
    }
    outside = [one for one in declaration.tables if (one.schema, one.name) not in tables]
    return _Project(
        declaration=declaration,
        tenants=(*filter(None, found.values()), *outside),
        others=frozenset(name for name, one in found.items() if one is None),
    )


def _leave_ours_alone(upgrade_ops: ops.UpgradeOps, project: _Project, names: _Names) -> None:
    """
    Take out of Alembic's operations what is made by ours, not by the metadata.
    """
    tenants = {(table.schema, table.name): table for table in project.tenants}
    kept = []
    for one in upgrade_ops.ops:
        if isinstance(one, ops.DropTableOp) and names.of(one)[0] == _SCHEMA:
            continue
        if isinstance(one, ops.ModifyTableOps):
            name = names.of(one)
            for part in one.ops:
                _without_default(part)
            if name in tenants:
                one.ops[:] = [part for part in one.ops if not _is_ours(part, tenants[name])]
            if not one.ops or (name[0] == _SCHEMA and name not in tenants):
                continue
        kept.append(one)
    upgrade_ops.ops[:] = kept


def _is_ours(part: MigrateOperation, table: TenantTable) -> bool:
    if isinstance(part, ops.DropIndexOp):
        return part.index_name in {index.name for index in wanted_indexes(table)}
    if isinstance(part, ops.AlterColumnOp) and part.column_name == table.column:
        part.modify_nullable = None
        part.modify_server_default = False
        return not part.has_changes()
    return False


def _without_default(part: MigrateOperation) -> None:
    """
    Add a tenant column without its default, which PostgreSQL would compute there and then.

    No tenant is bound in a migration.  `isolate_table` sets the default.
    """
    if isinstance(part, ops.DropColumnOp) and part._reverse:  # noqa: SLF001 -- what adds it again
        _without_default(part._reverse)  # noqa: SLF001
    if isinstance(part, ops.AddColumnOp):
        column = part.column
        default = getattr(column.server_default, "arg", "")
        if f"{_SCHEMA}.current_tenant" in str(default):
            # A new one: this one is the model's.
            part.column = Column(
                column.name, column.type, nullable=column.nullable, comment=column.comment
            )


def _tenancy(connection: Connection, projects: list[_Project]) -> Iterator[MigrateOperation]:
    sealed, allow_unsealed = _seal_of(projects)
    found = read_tenancy(connection, sealed=sealed, allow_unsealed=allow_unsealed)
    if not found.functions and not found.keys:
        return
    install = InstallTenancyOp(
        sealed=sealed,
        allow_unsealed=allow_unsealed,
        differences=() if found.fresh else _tenancy_differences(found, sealed=sealed),
    )
    if found.fresh:
        install.undone_by(RestoreTenancyOp((), drop_keys=True, drop_schema=True))
    else:
        missing = found.keys == "missing"
        install.undone_by(RestoreTenancyOp(found.functions, drop_keys=missing, drop_schema=False))
    yield install


def _seal_of(projects: Iterable[_Project]) -> tuple[bool, bool]:
    declared = (project.declaration for project in projects)
    options = {(one.sealed, one.allow_unsealed) for one in declared}
    if len(options) > 1:
        raise ConfigurationError("one database is either sealed or not: the declarations differ")
    return options.pop()


def _tenancy_differences(found: TenancyFound, *, sealed: bool) -> Iterator[str]:
    if not sealed and any("twh.seal_keys" in (one.definition or "") for one in found.functions):
        yield "the database is sealed, and the declaration is not: this UNSEALS it"
    for function in found.functions:
        state = "missing" if function.definition is None else "changed"
        yield f"function {function.name} is {state}"
    if found.keys:
        yield f"table twh.seal_keys is {found.keys}"


def _dropped(
    connection: Connection,
    declaration: Declaration,
    upgrade_ops: ops.UpgradeOps,
    names: _Names,
) -> Iterator[MigrateOperation]:
    """
    Remember how tables are isolated that are dropped, for the downgrade that makes them again.
    """
    for one in upgrade_ops.ops:
        if isinstance(one, ops.DropTableOp):
            target = _target(connection, *names.of(one), declaration.column)
            found = read_table(connection, target, role=None)
            if found and (found.state.enabled or found.state.policies):
                nothing = NothingOp()
                nothing.undone_by(RestoreTableOp(target, found.state, role=declaration.role))
                yield nothing


def _released(connection: Connection, project: _Project) -> Iterator[MigrateOperation]:
    """
    Give up tables that have our policies and belong to no tenant any more.
    """
    declaration = project.declaration
    for schema, name in sorted(isolated_tables(connection) & project.others):
        target = _target(connection, schema, name, declaration.column)
        live = cast("Found", read_table(connection, target, role=declaration.role)).state
        release = RestoreTableOp(
            target,
            _without_ours(live),
            role=declaration.role,
            differences=["belongs to no tenant, and has the policies of one that does"],
        )
        release.undone_by(RestoreTableOp(target, live, role=declaration.role))
        yield release


def _without_ours(live: TableState) -> TableState:
    rest = [policy for policy in live.policies if policy.name not in POLICIES]
    # Without row security the rest would be there and do nothing.
    return TableState(
        enabled=live.enabled and bool(rest), forced=live.forced and bool(rest), policies=rest
    )


def _isolated(
    connection: Connection, project: _Project, created: set[_Name]
) -> Iterator[MigrateOperation]:
    role = project.declaration.role
    if project.tenants and not role_exists(connection, role):
        raise ConfigurationError(f"there is no role {role!r}: create it before its tables")
    wanted = _Wanted(connection, role)
    for table in project.tenants:
        if (table.schema, table.name) in created:
            isolate = IsolateTableOp(table, role=role)
            isolate.undone_by(NothingOp())  # the table is dropped
            yield isolate
        else:
            yield from _compared(connection, project.declaration, table, wanted)


class _Wanted:
    """
    The wanted states, each asked for once: tables that are declared alike look alike.
    """

    def __init__(self, connection: Connection, role: str) -> None:
        self._connection = connection
        self._role = role
        self._known: dict[object, TableState] = {}

    def of(self, table: TenantTable, live: Found) -> TableState:
        """
        Return the state that a table should have.
        """
        key = table.schema, table.column, table.column_type, live.column_type, table.privileges
        if key not in self._known:
            self._known[key] = wanted_table(self._connection, table, role=self._role)
        return self._known[key]


def _compared(
    connection: Connection, declaration: Declaration, table: TenantTable, wanted: _Wanted
) -> Iterator[MigrateOperation]:
    role, ignored = declaration.role, declaration.other_policies
    live = read_table(connection, Target.of(table), role=role, ignored=ignored)
    if live is None:
        raise ConfigurationError(f"{table.qualified} is declared, and there is no such table")
    missing, replaced = _index_faults(live, table)
    found = [f"index {index.name!r} is missing" for index in missing]
    found += [f"index {index.name!r} is another one" for index in replaced]
    found += _state_differences(live, table, wanted)
    if found:
        isolate = IsolateTableOp(
            table,
            role=role,
            drop_policies=[one.name for one in live.state.policies if one.name not in POLICIES],
            drop_indexes=[index.name for index in replaced],
            differences=found,
        )
        before = replace(live.state, indexes=[index.definition for index in replaced])
        made = [index.name for index in (*missing, *replaced)]
        isolate.undone_by(RestoreTableOp(Target.of(table), before, role=role, drop_indexes=made))
        yield isolate


def _state_differences(live: Found, table: TenantTable, wanted: _Wanted) -> list[str]:
    if live.state.not_null is None:
        return [f"{table.column!r} is new"]
    return differences(live.state, wanted.of(table, live), column=table.column)


def _index_faults(live: Found, table: TenantTable) -> tuple[list[TableIndex], list[TableIndex]]:
    """
    Tell which indexes are missing, and which have the name of one and are another.
    """
    there = {index.name: index for index in live.indexes}
    wanted = wanted_indexes(table)
    missing = [index for index in wanted if index.name not in there]
    replaced = [there[index.name] for index in wanted if there.get(index.name, index) != index]
    return missing, replaced


def _target(connection: Connection, schema: str, name: str, column: str) -> Target:
    """
    Make a target of a table that may have no tenant column.
    """
    target = Target(schema=schema, name=name, column=column)
    found = read_table(connection, target, role=None)
    return target if found and found.state.not_null is not None else replace(target, column=None)
