# mypy: disable-error-code="attr-defined"
"""
What the administrators' login may read, across all tenants.
"""

from __future__ import annotations

from alembic import op

from twh_platform.tenancy.postgres import TenantTable, administrator_sql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SUPPORT = "warehouse_support"
TABLES = [TenantTable(name="items"), TenantTable(name="stock_levels")]

CONNECT = """
DO $$ BEGIN
    EXECUTE format('{what} CONNECT ON DATABASE %I {whom} warehouse_support', current_database());
END $$
"""


def upgrade() -> None:
    """
    Let it in, and grant it what a recall has to know.
    """
    op.execute(CONNECT.format(what="GRANT", whom="TO"))
    op.execute(administrator_sql(TABLES, role=SUPPORT))


def downgrade() -> None:
    """
    Take both back.
    """
    op.execute(administrator_sql(TABLES, role=SUPPORT, privileges=()))
    op.execute(CONNECT.format(what="REVOKE", whom="FROM"))
