# mypy: disable-error-code="attr-defined"
"""
The database believes sealed tenants only; the keys are no part of the schema.
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """
    Demand a seal.
    """
    op.install_tenancy(sealed=True)


def downgrade() -> None:
    """
    Believe tenants without one again.
    """
    op.install_tenancy(sealed=False)
