# mypy: disable-error-code="attr-defined"
"""
Who may connect, what the policies ask, and the table of tenants.
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

APP = "warehouse_app"
DIRECTORY = "warehouse_directory"
ADMINISTRATOR = "warehouse_administrator"

# Temporary tables of one tenant would be seen by the next on the same connection.
CLOSE = f"""
DO $$ BEGIN
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO {APP}, {DIRECTORY}, {ADMINISTRATOR}',
                   current_database());
END $$
"""
OPEN = f"""
DO $$ BEGIN
    EXECUTE format('REVOKE CONNECT ON DATABASE %I FROM {APP}, {DIRECTORY}, {ADMINISTRATOR}',
                   current_database());
    EXECUTE format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO PUBLIC', current_database());
END $$
"""


def upgrade() -> None:
    """
    Close the database to strangers, and install what all tables need.
    """
    op.execute(CLOSE)
    op.install_tenancy()
    op.install_directory(role=DIRECTORY, administrators=[ADMINISTRATOR])


def downgrade() -> None:
    """
    Take it all away, the tenants too.
    """
    op.uninstall_directory()
    op.uninstall_tenancy()
    op.execute(OPEN)
