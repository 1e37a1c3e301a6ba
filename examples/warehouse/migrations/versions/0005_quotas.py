# mypy: disable-error-code="attr-defined"
"""
How much each tenant has taken, may take, and has used.

The levels start at 0.  On a database that has items already, `twh-platform
quotas reconcile` counts them once.
"""

from __future__ import annotations

from alembic import op

from twh_platform.quotas.postgres import alembic as _capacity  # noqa: F401 -- its operations
from twh_platform.quotas.postgres.overrides import overrides_sql
from twh_platform.quotas.postgres.usage import usage_sql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

APP = "warehouse_app"
DIRECTORY = "warehouse_directory"
ADMINISTRATOR = "warehouse_administrator"

OVERRIDES = """
DROP FUNCTION twh.change_quota_override;
DROP TABLE twh.quota_overrides, twh.quota_overrides_head;
"""
USAGE = "DROP TABLE twh.quota_usage, twh.quota_notices"


def upgrade() -> None:
    """
    Make the tables, each with the logins that it is for.

    A tenant's levels are the application's, under policies.  What is of all
    tenants is read and written by the logins that work outside of any.
    """
    op.install_capacity(role=APP)
    op.execute(overrides_sql(role=DIRECTORY, administrators=[ADMINISTRATOR]))
    op.execute(usage_sql(role=DIRECTORY, readers=[ADMINISTRATOR]))


def downgrade() -> None:
    """
    Drop them.
    """
    op.execute(USAGE)
    op.execute(OVERRIDES)
    op.uninstall_capacity()
