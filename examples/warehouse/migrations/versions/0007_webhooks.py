# mypy: disable-error-code="attr-defined"
"""
Subscriptions to webhooks, and their secrets, which are sealed.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

APP = "warehouse_app"
PRIVILEGES = ["SELECT", "INSERT", "UPDATE", "DELETE"]


def upgrade() -> None:
    """
    Make the tables; the application is the only login that sees them.
    """
    op.create_table(
        "webhooks",
        *_record(),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("profile", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        _moment("updated_at"),
        sa.CheckConstraint("profile IN ('standard', 'twh')", name="webhooks_profile_check"),
        sa.CheckConstraint("state IN ('active', 'paused')", name="webhooks_state_check"),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="webhooks_pkey"),
    )
    op.create_table(
        "webhook_secrets",
        *_record(),
        sa.Column("webhook_id", sa.Uuid(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("not_after", sa.DateTime(timezone=True), nullable=True),
        sa.Column("secret", sa.LargeBinary(), nullable=True),
        sa.CheckConstraint(
            "(state = 'revoked') = (secret IS NULL)", name="webhook_secrets_secret_check"
        ),
        sa.CheckConstraint(
            "state IN ('pending', 'active', 'retiring', 'revoked')",
            name="webhook_secrets_state_check",
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "webhook_id"],
            ["webhooks.tenant_id", "webhooks.id"],
            name="webhook_secrets_webhook_id_fkey",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="webhook_secrets_pkey"),
        sa.UniqueConstraint(
            "tenant_id", "webhook_id", "fingerprint", name="webhook_secrets_webhook_id_key"
        ),
    )
    for table in ("webhooks", "webhook_secrets"):
        op.isolate_table(table, role=APP, privileges=PRIVILEGES)


def downgrade() -> None:
    """
    Drop them.
    """
    op.drop_table("webhook_secrets")
    op.drop_table("webhooks")


def _record() -> tuple[sa.Column[Any], ...]:
    tenant = sa.text("twh.current_tenant()")
    return (
        sa.Column("tenant_id", sa.Text(), server_default=tenant, nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        _moment("created_at"),
    )


def _moment(name: str) -> sa.Column[Any]:
    return sa.Column(
        name, sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
    )
