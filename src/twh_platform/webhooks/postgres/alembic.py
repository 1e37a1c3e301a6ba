"""
The table of claims on webhooks in a migration with Alembic (extra: `alembic`).

Importing this module registers ``op.install_webhooks`` and ``op.uninstall_webhooks``.
They send plain SQL and ask the database nothing, so ``alembic upgrade --sql`` writes
them out like any other.
"""

from __future__ import annotations

from ..._extras import missing_extra
from ...tenancy.postgres._alembic_catalog import Verbatim
from ...tenancy.postgres._alembic_state import statements_of
from ._claims_sql import uninstall_sql, webhooks_sql

try:
    from alembic.operations import MigrateOperation, Operations
except ImportError as error:
    raise missing_extra("alembic", error) from error

__all__ = ["InstallWebhooksOp", "UninstallWebhooksOp"]


@Operations.register_operation("install_webhooks")
class InstallWebhooksOp(MigrateOperation):
    """
    Make the table of claims.
    """

    def __init__(self, *, role: str) -> None:
        self.role = role

    @classmethod
    def install_webhooks(cls, operations: Operations, *, role: str) -> None:
        """
        Make the table, as `webhooks_sql` does; it may be run again.
        """
        operations.invoke(cls(role=role))


@Operations.implementation_for(InstallWebhooksOp)
def _install(operations: Operations, operation: InstallWebhooksOp) -> None:
    for one in statements_of(webhooks_sql(role=operation.role)):
        operations.execute(Verbatim(one))


@Operations.register_operation("uninstall_webhooks")
class UninstallWebhooksOp(MigrateOperation):
    """
    Drop the table of claims.
    """

    @classmethod
    def uninstall_webhooks(cls, operations: Operations) -> None:
        """
        Drop the table; what was handled can be handled again.
        """
        operations.invoke(cls())


@Operations.implementation_for(UninstallWebhooksOp)
def _uninstall(operations: Operations, _operation: UninstallWebhooksOp) -> None:
    for one in statements_of(uninstall_sql()):
        operations.execute(Verbatim(one))
