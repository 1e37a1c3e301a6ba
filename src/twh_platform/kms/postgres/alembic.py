"""
Tables of keys and secrets in a migration with Alembic (extra: `alembic`).

Importing this module registers ``op.install_keys`` and ``op.uninstall_keys``.
They send plain SQL and ask the database nothing, so ``alembic upgrade --sql``
writes them out like any other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from ..._extras import missing_extra
from ...tenancy.postgres._alembic_catalog import Verbatim
from ...tenancy.postgres._alembic_state import statements_of
from ._keys_sql import keys_sql, uninstall_sql

try:
    from alembic.operations import MigrateOperation, Operations
except ImportError as error:
    raise missing_extra("alembic", error) from error

__all__ = ["InstallKeysOp", "UninstallKeysOp", "render_sealed"]


@Operations.register_operation("install_keys")
class InstallKeysOp(MigrateOperation):
    """
    Make the tables of data keys and secrets, and their functions.
    """

    def __init__(
        self, *, role: str, administrators: Iterable[str] = (), auditors: Iterable[str] = ()
    ) -> None:
        self.role = role
        self.administrators = tuple(administrators)
        self.auditors = tuple(auditors)

    @classmethod
    def install_keys(
        cls,
        operations: Operations,
        *,
        role: str,
        administrators: Iterable[str] = (),
        auditors: Iterable[str] = (),
    ) -> None:
        """
        Make the tables, as `keys_sql` does; it may be run again.
        """
        operations.invoke(cls(role=role, administrators=administrators, auditors=auditors))


@Operations.implementation_for(InstallKeysOp)
def _install(operations: Operations, operation: InstallKeysOp) -> None:
    sql = keys_sql(
        role=operation.role,
        administrators=operation.administrators,
        auditors=operation.auditors,
    )
    for one in statements_of(sql):
        operations.execute(Verbatim(one))


@Operations.register_operation("uninstall_keys")
class UninstallKeysOp(MigrateOperation):
    """
    Drop the tables of data keys and secrets, and their functions.
    """

    @classmethod
    def uninstall_keys(cls, operations: Operations) -> None:
        """
        Drop the tables; what the keys in them have sealed never opens again.
        """
        operations.invoke(cls())


@Operations.implementation_for(UninstallKeysOp)
def _uninstall(operations: Operations, _operation: UninstallKeysOp) -> None:
    for one in statements_of(uninstall_sql()):
        operations.execute(Verbatim(one))


def render_sealed(kind: str, item: Any, context: Any) -> str | Literal[False]:
    """
    Write sealed columns into migrations as what the database has: ``sa.LargeBinary()``.

    It is the ``render_item`` of ``env.py``, so that a migration needs no cipher.
    """
    from .sqlalchemy import BlindIndexed, Sealed

    if kind == "type" and isinstance(item, Sealed | BlindIndexed):
        prefix: str = context.opts["sqlalchemy_module_prefix"]
        return f"{prefix}LargeBinary()"
    return False
