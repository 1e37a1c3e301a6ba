"""
Migrations of tenancy with Alembic: operations, autogenerate and drift (extra: `alembic`).

Importing this module registers the operations (``op.isolate_table`` and its
kin) and the comparison that ``alembic revision --autogenerate`` and ``alembic
check`` make.  ``env.py`` does so through the models, where `declare_tenancy`
is called.
"""

from ._alembic_compare import compare_tenancy as _compare_tenancy
from ._alembic_declaration import declare_tenancy
from ._alembic_state import TableGrant, TablePolicy, TableState, TenancyFunction

__all__ = [
    "TableGrant",
    "TablePolicy",
    "TableState",
    "TenancyFunction",
    "declare_tenancy",
]

del _compare_tenancy  # it is registered
