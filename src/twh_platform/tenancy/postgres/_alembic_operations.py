"""
The operations of tenancy: how they run, and how autogenerate writes them down.

They send plain SQL and ask the database nothing, so ``alembic upgrade --sql``
writes them out like any other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ..._extras import missing_extra
from ...errors import ConfigurationError
from ._alembic_catalog import Verbatim, tenancy_statements
from ._alembic_source import call, comments
from ._alembic_state import (
    TableState,
    Target,
    TenancyFunction,
    isolating_statements,
    restoring_statements,
    statements_of,
)
from ._directory_sql import directory_sql
from ._policies import Privilege, TenantTable, tenant_sql
from ._seal_functions import made_by_us

try:
    from alembic.autogenerate import renderers
    from alembic.autogenerate.api import AutogenContext
    from alembic.operations import MigrateOperation, Operations
except ImportError as error:
    raise missing_extra("alembic", error) from error

__all__ = [
    "InstallTenancyOp",
    "IsolateTableOp",
    "NothingOp",
    "RestoreTableOp",
    "RestoreTenancyOp",
]

_MODULE = "twh_platform.tenancy.postgres.alembic"
_EVERYTHING: tuple[Privilege, ...] = ("SELECT", "INSERT", "UPDATE", "DELETE")


class _Reversible(MigrateOperation):
    """
    An operation that was told what undoes it.
    """

    def __init__(self, *, differences: Iterable[str] = ()) -> None:
        self.undo: MigrateOperation | None = None
        self.differences = tuple(differences)

    def reverse(self) -> MigrateOperation:
        if self.undo is None:
            name = type(self).__name__
            raise ConfigurationError(f"{name} does not know what was there before")
        return self.undo

    def undone_by(self, other: MigrateOperation) -> None:
        """
        Make two operations undo each other.
        """
        self.undo = other
        if isinstance(other, _Reversible):
            other.undo = self

    def to_diff_tuple(self) -> tuple[Any, ...]:
        return (type(self).__name__, *self.differences)


class NothingOp(_Reversible):
    """
    Stands where only the other direction has something to do.
    """

    def to_diff_tuple(self) -> tuple[Any, ...]:
        return ("nothing",)


@Operations.implementation_for(NothingOp)
def _nothing(_operations: Operations, _operation: NothingOp) -> None:
    return


@renderers.dispatch_for(NothingOp)
def _render_nothing(_context: AutogenContext, _operation: NothingOp) -> list[str]:
    return []


@Operations.register_operation("install_tenancy")
class InstallTenancyOp(_Reversible):
    """
    Make the schema `twh` and its functions, or make them anew.
    """

    def __init__(
        self,
        *,
        sealed: bool = False,
        allow_unsealed: bool = False,
        differences: Iterable[str] = (),
    ) -> None:
        super().__init__(differences=differences)
        self.options = {"sealed": sealed, "allow_unsealed": allow_unsealed}

    @classmethod
    def install_tenancy(
        cls, operations: Operations, *, sealed: bool = False, allow_unsealed: bool = False
    ) -> None:
        """
        Make the schema `twh` and its functions; it may be run again.
        """
        operations.invoke(cls(sealed=sealed, allow_unsealed=allow_unsealed))

    def to_diff_tuple(self) -> tuple[Any, ...]:
        return ("install_tenancy", self.differences)


@Operations.implementation_for(InstallTenancyOp)
def _install(operations: Operations, operation: InstallTenancyOp) -> None:
    _run(operations, tenancy_statements(**operation.options))


@renderers.dispatch_for(InstallTenancyOp)
def _render_install(_context: AutogenContext, operation: InstallTenancyOp) -> list[str]:
    options = {name: value for name, value in operation.options.items() if value}
    return [*comments("twh", operation.differences), call("install_tenancy", [], options)]


@Operations.register_operation("uninstall_tenancy")
@Operations.register_operation("restore_tenancy")
class RestoreTenancyOp(_Reversible):
    """
    Put the functions of `twh` back, or drop them.
    """

    def __init__(
        self, functions: Iterable[TenancyFunction], *, drop_keys: bool, drop_schema: bool
    ) -> None:
        super().__init__()
        self.functions = tuple(functions)
        self.drop_keys = drop_keys
        self.drop_schema = drop_schema

    @classmethod
    def restore_tenancy(
        cls,
        operations: Operations,
        functions: Iterable[TenancyFunction],
        *,
        drop_keys: bool = False,
    ) -> None:
        """
        Put functions of `twh` back as they were, or drop those that were not there.
        """
        operations.invoke(cls(functions, drop_keys=drop_keys, drop_schema=False))

    @classmethod
    def uninstall_tenancy(cls, operations: Operations) -> None:
        """
        Drop what `install_tenancy` has made, the keys of the seal too.
        """
        made = made_by_us(allow_unsealed=False)
        functions = [TenancyFunction(name=name) for name in made]
        operations.invoke(cls(functions, drop_keys=True, drop_schema=True))

    def to_diff_tuple(self) -> tuple[Any, ...]:
        return ("restore_tenancy", tuple(function.name for function in self.functions))


@Operations.implementation_for(RestoreTenancyOp)
def _restore_tenancy(operations: Operations, operation: RestoreTenancyOp) -> None:
    _run(operations, _tenancy_restoring_statements(operation))


def _tenancy_restoring_statements(operation: RestoreTenancyOp) -> Iterable[str]:
    for function in operation.functions:
        if function.definition is not None:
            yield function.definition
            if not function.public:
                yield f"REVOKE EXECUTE ON FUNCTION {function.name} FROM PUBLIC"
    gone = [function.name for function in operation.functions if function.definition is None]
    if gone:
        # In one statement, because they use each other.
        yield f"DROP FUNCTION IF EXISTS {', '.join(gone)}"
    if operation.drop_keys:
        yield "DROP TABLE IF EXISTS twh.seal_keys"
    if operation.drop_schema:
        yield "DROP SCHEMA twh"


@renderers.dispatch_for(RestoreTenancyOp)
def _render_restore_tenancy(context: AutogenContext, operation: RestoreTenancyOp) -> str:
    if operation.drop_schema:
        return "op.uninstall_tenancy()"
    context.imports.add(f"from {_MODULE} import TenancyFunction")
    options = {"drop_keys": True} if operation.drop_keys else {}
    return call("restore_tenancy", [operation.functions], options)


@Operations.register_operation("isolate_table")
class IsolateTableOp(_Reversible):
    """
    Isolate a table as declared, and take away what stands in the way.
    """

    def __init__(
        self,
        table: TenantTable,
        *,
        role: str,
        drop_policies: Iterable[str] = (),
        drop_indexes: Iterable[str] = (),
        differences: Iterable[str] = (),
    ) -> None:
        super().__init__(differences=differences)
        tenant_sql((), role=role)  # it checks the role
        self.table = table
        self.role = role
        self.drop_policies = tuple(drop_policies)
        self.drop_indexes = tuple(drop_indexes)

    @classmethod
    def isolate_table(
        cls,
        operations: Operations,
        table_name: str,
        *,
        role: str,
        schema: str = "public",
        column: str = "tenant_id",
        column_type: str = "text",
        privileges: Iterable[Privilege] = _EVERYTHING,
        keys: Iterable[tuple[str, ...]] = (),
        indexes: Iterable[tuple[str, ...]] = (),
        drop_policies: Iterable[str] = (),
        drop_indexes: Iterable[str] = (),
    ) -> None:
        """
        Isolate a table for tenants; arguments as of `TenantTable`, it may be run again.
        """
        table = TenantTable(
            name=table_name,
            schema=schema,
            column=column,
            column_type=column_type,
            privileges=privileges,
            keys=keys,
            indexes=indexes,
        )
        operations.invoke(
            cls(table, role=role, drop_policies=drop_policies, drop_indexes=drop_indexes)
        )

    def to_diff_tuple(self) -> tuple[Any, ...]:
        return ("isolate_table", f"{self.table.schema}.{self.table.name}", self.differences)


@Operations.implementation_for(IsolateTableOp)
def _isolate(operations: Operations, operation: IsolateTableOp) -> None:
    _run(
        operations,
        isolating_statements(
            operation.table,
            role=operation.role,
            drop_policies=operation.drop_policies,
            drop_indexes=operation.drop_indexes,
        ),
    )


@renderers.dispatch_for(IsolateTableOp)
def _render_isolate(_context: AutogenContext, operation: IsolateTableOp) -> list[str]:
    table = operation.table
    plain = TenantTable(name=table.name)
    options: dict[str, Any] = {"role": operation.role}
    for one in ("schema", "column", "column_type"):
        if getattr(table, one) != getattr(plain, one):
            options[one] = getattr(table, one)
    # Always written: a migration should say what it grants.
    options["privileges"] = list(table.privileges)
    more: dict[str, Iterable[Any]] = {
        "keys": table.keys,
        "indexes": table.indexes,
        "drop_policies": operation.drop_policies,
        "drop_indexes": operation.drop_indexes,
    }
    options |= {name: list(value) for name, value in more.items() if value}
    name = f"{table.schema}.{table.name}"
    return [
        *comments(name, operation.differences),
        call("isolate_table", [table.name], options),
    ]


@Operations.register_operation("release_table")
@Operations.register_operation("restore_table")
class RestoreTableOp(_Reversible):
    """
    Put a table's isolation back as it was, or take it away.
    """

    def __init__(
        self,
        target: Target,
        state: TableState,
        *,
        role: str,
        drop_indexes: Iterable[str] = (),
        differences: Iterable[str] = (),
    ) -> None:
        super().__init__(differences=differences)
        tenant_sql((), role=role)  # it checks the role
        self.target = target
        self.state = state
        self.role = role
        self.drop_indexes = tuple(drop_indexes)

    @classmethod
    def restore_table(
        cls,
        operations: Operations,
        table_name: str,
        state: TableState,
        *,
        role: str,
        schema: str = "public",
        column: str | None = "tenant_id",
        drop_indexes: Iterable[str] = (),
    ) -> None:
        """
        Put a table's isolation into a state that was written down.
        """
        target = Target(schema=schema, name=table_name, column=column)
        operations.invoke(cls(target, state, role=role, drop_indexes=drop_indexes))

    @classmethod
    def release_table(
        cls,
        operations: Operations,
        table_name: str,
        *,
        role: str,
        schema: str = "public",
        column: str | None = "tenant_id",
        drop_indexes: Iterable[str] = (),
    ) -> None:
        """
        Undo `isolate_table`: no policies, no default, and no grants to the role.

        NOT NULL stays, and indexes that are not named.
        """
        target = Target(schema=schema, name=table_name, column=column)
        operations.invoke(cls(target, TableState(), role=role, drop_indexes=drop_indexes))

    def to_diff_tuple(self) -> tuple[Any, ...]:
        return ("release_table", f"{self.target.schema}.{self.target.name}", self.differences)


@Operations.implementation_for(RestoreTableOp)
def _restore_table(operations: Operations, operation: RestoreTableOp) -> None:
    _run(
        operations,
        restoring_statements(
            operation.target,
            operation.state,
            role=operation.role,
            drop_indexes=operation.drop_indexes,
        ),
    )


@renderers.dispatch_for(RestoreTableOp)
def _render_restore_table(context: AutogenContext, operation: RestoreTableOp) -> list[str]:
    target, state = operation.target, operation.state
    options: dict[str, Any] = {"role": operation.role}
    if target.schema != "public":
        options["schema"] = target.schema
    if target.column != "tenant_id":
        options["column"] = target.column
    if operation.drop_indexes:
        options["drop_indexes"] = list(operation.drop_indexes)
    found = comments(f"{target.schema}.{target.name}", operation.differences)
    if replace(state, not_null=None) == TableState() and state.not_null in {None, True}:
        return [*found, call("release_table", [target.name], options)]
    context.imports.add(f"from {_MODULE} import {', '.join(_named(state))}")
    return [*found, call("restore_table", [target.name, state], options)]


def _named(state: TableState) -> list[str]:
    named = ["TableState"]
    if state.policies:
        named.append("TablePolicy")
    if state.grants:
        named.append("TableGrant")
    return sorted(named)


@Operations.register_operation("install_directory")
class InstallDirectoryOp(MigrateOperation):
    """
    Make the table `twh.tenants`.
    """

    def __init__(self, *, role: str, administrators: Iterable[str] = ()) -> None:
        self.role = role
        self.administrators = tuple(administrators)

    @classmethod
    def install_directory(
        cls, operations: Operations, *, role: str, administrators: Iterable[str] = ()
    ) -> None:
        """
        Make the table of tenants, as `directory_sql` does; it may be run again.
        """
        operations.invoke(cls(role=role, administrators=administrators))


@Operations.implementation_for(InstallDirectoryOp)
def _install_directory(operations: Operations, operation: InstallDirectoryOp) -> None:
    sql = directory_sql(role=operation.role, administrators=operation.administrators)
    _run(operations, statements_of(sql))


@Operations.register_operation("uninstall_directory")
class UninstallDirectoryOp(MigrateOperation):
    """
    Drop the table `twh.tenants`.
    """

    @classmethod
    def uninstall_directory(cls, operations: Operations) -> None:
        """
        Drop the table of tenants, with all tenants in it.
        """
        operations.invoke(cls())


@Operations.implementation_for(UninstallDirectoryOp)
def _uninstall_directory(operations: Operations, _operation: UninstallDirectoryOp) -> None:
    gone = "DROP FUNCTION twh.tenant_touched(), twh.tenant_changed()"
    _run(operations, ["DROP TABLE twh.tenants", gone])


def _run(operations: Operations, statements: Iterable[str]) -> None:
    for statement in statements:
        operations.execute(Verbatim(statement))
