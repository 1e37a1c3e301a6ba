"""
Levels of capacity in a migration with Alembic (extra: `alembic`).

Importing this module registers ``op.install_capacity`` and
``op.uninstall_capacity``.  They send plain SQL and ask the database nothing, so
``alembic upgrade --sql`` writes them out like any other.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..._extras import missing_extra
from ...tenancy.postgres._alembic_catalog import Verbatim
from ...tenancy.postgres._alembic_state import statements_of
from ._capacity_sql import FUNCTIONS, capacity_sql

try:
    from alembic.operations import MigrateOperation, Operations
except ImportError as error:
    raise missing_extra("alembic", error) from error

__all__ = ["InstallCapacityOp", "UninstallCapacityOp"]


@Operations.register_operation("install_capacity")
class InstallCapacityOp(MigrateOperation):
    """
    Make the table `twh.quota_levels` and its functions.
    """

    def __init__(self, *, role: str, reconcilers: Iterable[str] = ()) -> None:
        self.role = role
        self.reconcilers = tuple(reconcilers)

    @classmethod
    def install_capacity(
        cls, operations: Operations, *, role: str, reconcilers: Iterable[str] = ()
    ) -> None:
        """
        Make the table of levels, as `capacity_sql` does; it may be run again.
        """
        operations.invoke(cls(role=role, reconcilers=reconcilers))


@Operations.implementation_for(InstallCapacityOp)
def _install(operations: Operations, operation: InstallCapacityOp) -> None:
    for one in statements_of(capacity_sql(role=operation.role, reconcilers=operation.reconcilers)):
        operations.execute(Verbatim(one))


@Operations.register_operation("uninstall_capacity")
class UninstallCapacityOp(MigrateOperation):
    """
    Drop the table `twh.quota_levels` and its functions.
    """

    @classmethod
    def uninstall_capacity(cls, operations: Operations) -> None:
        """
        Drop the table of levels, with all levels in it.
        """
        operations.invoke(cls())


@Operations.implementation_for(UninstallCapacityOp)
def _uninstall(operations: Operations, _operation: UninstallCapacityOp) -> None:
    operations.execute(Verbatim(f"DROP FUNCTION {', '.join(FUNCTIONS)}"))
    operations.execute(Verbatim("DROP TABLE twh.quota_levels"))
