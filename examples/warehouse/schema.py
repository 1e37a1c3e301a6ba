"""
The database as SQL: tables, who may do what, and the isolation of tenants.

Four logins, none of them a superuser, none with BYPASSRLS:

- `warehouse_owner` owns the tables and runs this file.  The application never
  connects as it.
- `warehouse_app` serves requests.  Every table it touches is under policies,
  and it cannot read a password hash.
- `warehouse_directory` is the narrow one that works before a request is
  trusted: it looks tenants up and checks passwords at login.
- `warehouse_administrator` manages the rows of `twh.tenants`, and nothing else.
"""

from __future__ import annotations

from sqlalchemy.dialects.postgresql import dialect
from sqlalchemy.schema import CreateIndex, CreateTable

from twh_platform.tenancy.postgres import TenantTable, install_sql, tenant_sql
from twh_platform.tenancy.postgres.directory import directory_sql

from .models import Base

__all__ = ["ADMINISTRATOR", "APP", "DIRECTORY", "OWNER", "TENANT_TABLES", "schema_sql"]

OWNER = "warehouse_owner"
APP = "warehouse_app"
DIRECTORY = "warehouse_directory"
ADMINISTRATOR = "warehouse_administrator"

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
    TenantTable(name="sales_orders", privileges=("SELECT", "INSERT", "UPDATE")),
    TenantTable(name="sales_order_lines", privileges=("SELECT", "INSERT", "UPDATE")),
    TenantTable(name="transfers", privileges=("SELECT", "INSERT", "UPDATE")),
    TenantTable(name="transfer_lines", privileges=("SELECT", "INSERT")),
    TenantTable(name="returns", privileges=("SELECT", "INSERT")),
    TenantTable(name="return_lines", privileges=("SELECT", "INSERT")),
    TenantTable(name="idempotency_keys", privileges=("SELECT", "INSERT", "UPDATE")),
)

# Login knows which tenant is asked for, so the policies hold it too: the
# directory role sees the users of one tenant at a time, and only these columns.
_LOGIN = f"""\
GRANT SELECT (tenant_id, id, email, role) ON users TO {DIRECTORY};
GRANT SELECT (tenant_id, user_id, hash) ON passwords TO {DIRECTORY};
"""

# Temporary tables of one tenant would be seen by the next on the same connection.
_DATABASE = f"""\
DO $$ BEGIN
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO {APP}, {DIRECTORY}, {ADMINISTRATOR}',
                   current_database());
END $$;
"""


def schema_sql() -> str:
    """
    The whole schema, for an empty database; run it as the owner.
    """
    return "\n".join(
        (
            _DATABASE,
            install_sql(),
            _tables_sql(),
            tenant_sql(TENANT_TABLES, role=APP),
            directory_sql(role=DIRECTORY, administrators=(ADMINISTRATOR,)),
            _LOGIN,
        )
    )


def _tables_sql() -> str:
    postgres = dialect()  # type: ignore[no-untyped-call]
    statements = []
    for table in Base.metadata.sorted_tables:
        statements.append(str(CreateTable(table).compile(dialect=postgres)))
        indexes = sorted(table.indexes, key=lambda index: str(index.name))
        statements += [str(CreateIndex(index).compile(dialect=postgres)) for index in indexes]
    return "".join(f"{statement.strip()};\n" for statement in statements)
