# mypy: disable-error-code="attr-defined"
"""
Keys of tenants, and suppliers with an account that is sealed.

The master keys are no part of the database.  The administrator keeps the data
keys: that login rewraps and destroys those of one tenant at a time.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from twh_platform.kms.postgres import alembic as _keys  # noqa: F401 -- its operations
from twh_platform.tenancy.postgres import TenantTable, administrator_sql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

APP = "warehouse_app"
ADMINISTRATOR = "warehouse_administrator"
SUPPORT = "warehouse_support"

SUPPLIERS = [TenantTable(name="suppliers")]
"""Support sees all rows, and of an account what everybody without its key sees: bytes."""


def upgrade() -> None:
    """
    Make the tables.
    """
    op.install_keys(role=APP, administrators=[ADMINISTRATOR])
    op.create_table(
        "suppliers",
        sa.Column(
            "tenant_id", sa.Text(), server_default=sa.text("twh.current_tenant()"), nullable=False
        ),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("bank_account", sa.LargeBinary(), nullable=False),
        sa.Column("bank_account_index", sa.LargeBinary(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="suppliers_pkey"),
    )
    op.create_index(
        "suppliers_bank_account_index_idx", "suppliers", ["tenant_id", "bank_account_index"]
    )
    op.isolate_table("suppliers", role=APP, privileges=["SELECT", "INSERT", "UPDATE"])
    op.execute(administrator_sql(SUPPLIERS, role=SUPPORT))


def downgrade() -> None:
    """
    Drop them; with the keys, all that was sealed is lost.
    """
    op.drop_index("suppliers_bank_account_index_idx", table_name="suppliers")
    op.drop_table("suppliers")
    op.uninstall_keys()
