"""
Claims on webhooks as plain SQL: one table of tenants.

A row is a delivery that was handled, or is being handled: ``done`` says which.  From
``ends_at`` on it says nothing, and is written over or deleted by whoever comes by.
"""

from __future__ import annotations

from typing import Final

from ...tenancy.postgres import TenantTable, tenant_sql
from ...tenancy.postgres._policies import quote_name
from .._delivery import KEY_BYTES
from .._replay import NONCE_BYTES

__all__ = ["WEBHOOK_CLAIMS", "uninstall_sql", "webhooks_sql"]

WEBHOOK_CLAIMS: Final = TenantTable(schema="twh", name="webhook_claims")
"""The declaration of the table."""

_TABLE = f"""\
CREATE TABLE IF NOT EXISTS twh.webhook_claims (
    tenant_id text NOT NULL,
    delivery bytea NOT NULL CHECK (length(delivery) = {KEY_BYTES}),
    fingerprint bytea NOT NULL CHECK (length(fingerprint) = {KEY_BYTES}),
    nonce bytea CHECK (length(nonce) = {NONCE_BYTES}),
    done boolean NOT NULL,
    claimed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ends_at timestamptz NOT NULL CHECK (isfinite(ends_at)),
    PRIMARY KEY (tenant_id, delivery),
    CHECK (done OR nonce IS NOT NULL)
);
CREATE INDEX IF NOT EXISTS webhook_claims_end ON twh.webhook_claims (tenant_id, ends_at);
"""


def webhooks_sql(*, role: str) -> str:
    """
    The SQL that makes the table of claims; it comes after `install_sql`.

    It may be run again.  Run it in one transaction, as the role that owns the schema
    ``twh``, which must be no superuser and not the application's role.

    Args:
        role: The login role of the application.

    Raises:
        twh_platform.errors.ConfigurationError: If the role is ``public`` or
            ``none``, which mean no role even between quotes.
    """
    granted = tenant_sql([WEBHOOK_CLAIMS], role=role)
    return f"{_TABLE}{granted}GRANT USAGE ON SCHEMA twh TO {quote_name(role)};\n"


def uninstall_sql() -> str:
    """
    The SQL that drops the table.
    """
    return "DROP TABLE twh.webhook_claims;\n"
