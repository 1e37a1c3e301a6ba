"""
Who may do what in the database, and which tables belong to tenants.

`alembic revision --autogenerate` compares this and the models with the
database, and writes what is to be done into `migrations`.

Five logins, none of them a superuser, and only the last with BYPASSRLS:

- `warehouse_owner` owns the tables and runs the migrations.  The application never
  connects as it.
- `warehouse_app` serves requests.  Every table it touches is under policies,
  and it cannot read a password hash.
- `warehouse_directory` is the narrow one that works outside of any tenant: it
  looks tenants up, checks passwords at login, reads which limits tenants have
  of their own, and writes down what they used.
- `warehouse_administrator` manages the rows of `twh.tenants`, gives tenants
  limits of their own and reads what they used, keeps the wrapped data keys of
  one tenant at a time, and nothing else.
- `warehouse_support` reads items, stock levels and suppliers across all tenants,
  for an administrator who has stated a reason; accounts are bytes to it.
"""

from __future__ import annotations

from twh_platform.tenancy.postgres import TenantTable
from twh_platform.tenancy.postgres.alembic import declare_tenancy

from .models import Base

__all__ = [
    "ADMINISTRATOR",
    "APP",
    "DIRECTORY",
    "METADATA",
    "OWNER",
    "SUPPORT",
    "TENANT_TABLES",
]

OWNER = "warehouse_owner"
APP = "warehouse_app"
DIRECTORY = "warehouse_directory"
ADMINISTRATOR = "warehouse_administrator"
SUPPORT = "warehouse_support"

TENANT_TABLES = (
    TenantTable(name="users", privileges=("SELECT", "INSERT")),
    # The application sets passwords and cannot read them back.
    TenantTable(name="passwords", privileges=("INSERT",)),
    TenantTable(name="items", privileges=("SELECT", "INSERT", "UPDATE")),
    TenantTable(name="locations", privileges=("SELECT", "INSERT")),
    # The ledger: lines are added, never changed.
    TenantTable(name="stock_movements", privileges=("SELECT", "INSERT")),
    TenantTable(name="stock_levels", privileges=("SELECT", "INSERT", "UPDATE")),
    TenantTable(name="purchase_orders", privileges=("SELECT", "INSERT", "UPDATE")),
    TenantTable(name="purchase_order_lines", privileges=("SELECT", "INSERT", "UPDATE")),
    TenantTable(name="suppliers", privileges=("SELECT", "INSERT", "UPDATE")),
    TenantTable(name="sales_orders", privileges=("SELECT", "INSERT", "UPDATE")),
    TenantTable(name="sales_order_lines", privileges=("SELECT", "INSERT", "UPDATE")),
    TenantTable(name="transfers", privileges=("SELECT", "INSERT", "UPDATE")),
    TenantTable(name="transfer_lines", privileges=("SELECT", "INSERT")),
    TenantTable(name="returns", privileges=("SELECT", "INSERT")),
    TenantTable(name="return_lines", privileges=("SELECT", "INSERT")),
    # A subscription is given up, and its secrets with it.
    TenantTable(name="webhooks", privileges=("SELECT", "INSERT", "UPDATE", "DELETE")),
    TenantTable(name="webhook_secrets", privileges=("SELECT", "INSERT", "UPDATE", "DELETE")),
    TenantTable(name="idempotency_keys", privileges=("SELECT", "INSERT", "UPDATE")),
)

METADATA = Base.metadata
"""The tables that the migrations make; those of the directory are not among them."""

declare_tenancy(METADATA, TENANT_TABLES, role=APP, sealed=True)
