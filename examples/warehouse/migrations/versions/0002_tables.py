# mypy: disable-error-code="attr-defined"
"""
The tables, all of them of tenants.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

APP = "warehouse_app"
DIRECTORY = "warehouse_directory"

# Login knows which tenant is asked for, so the policies hold it too: the
# directory role sees the users of one tenant at a time, and only these columns.
LOGIN = f"""
GRANT SELECT (tenant_id, id, email, role) ON users TO {DIRECTORY};
GRANT SELECT (tenant_id, user_id, hash) ON passwords TO {DIRECTORY};
"""


def _tenant() -> sa.Column[str]:
    return sa.Column(
        "tenant_id", sa.Text(), server_default=sa.text("twh.current_tenant()"), nullable=False
    )


def _moment(name: str) -> sa.Column[Any]:
    return sa.Column(
        name, sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
    )


def _refers(table: str, column: str, target: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["tenant_id", column],
        [f"{target}.tenant_id", f"{target}.id"],
        name=f"{table}_{column}_fkey",
    )


def upgrade() -> None:
    """
    Make them, then isolate them: each line says what the application may do.
    """
    op.create_table(
        "items",
        _tenant(),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("sku", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("unit_price_minor", sa.BigInteger(), nullable=False),
        sa.Column("reorder_point", sa.BigInteger(), nullable=False),
        _moment("created_at"),
        sa.Column("version", sa.BigInteger(), nullable=False),
        _moment("updated_at"),
        sa.CheckConstraint("reorder_point >= 0", name=op.f("items_reorder_point_check")),
        sa.CheckConstraint("unit_price_minor >= 0", name=op.f("items_unit_price_minor_check")),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="items_pkey"),
        sa.UniqueConstraint("tenant_id", "sku", name="items_sku_key"),
    )
    op.create_table(
        "locations",
        _tenant(),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        _moment("created_at"),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="locations_pkey"),
        sa.UniqueConstraint("tenant_id", "code", name="locations_code_key"),
    )
    op.create_table(
        "users",
        _tenant(),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        _moment("created_at"),
        sa.CheckConstraint(
            "role IN ('viewer', 'clerk', 'manager', 'admin')", name=op.f("users_role_check")
        ),
        sa.CheckConstraint("email = lower(email)", name=op.f("users_email_check")),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="users_pkey"),
        sa.UniqueConstraint("tenant_id", "email", name="users_email_key"),
    )
    op.create_table(
        "idempotency_keys",
        _tenant(),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.BigInteger(), nullable=False),
        sa.Column("headers", postgresql.JSONB(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        _moment("created_at"),
        _refers("idempotency_keys", "user_id", "users"),
        sa.PrimaryKeyConstraint("tenant_id", "user_id", "key", name="idempotency_keys_pkey"),
    )
    op.create_table(
        "passwords",
        _tenant(),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        _refers("passwords", "user_id", "users"),
        sa.PrimaryKeyConstraint("tenant_id", "user_id", name="passwords_pkey"),
    )
    op.create_table(
        "purchase_orders",
        _tenant(),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("supplier", sa.Text(), nullable=False),
        sa.Column("location_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("actor_id", sa.Uuid(), nullable=False),
        _moment("created_at"),
        sa.Column("version", sa.BigInteger(), nullable=False),
        _moment("updated_at"),
        sa.CheckConstraint(
            "status IN ('draft', 'open', 'partially_received', 'received', 'cancelled')",
            name=op.f("purchase_orders_status_check"),
        ),
        _refers("purchase_orders", "actor_id", "users"),
        _refers("purchase_orders", "location_id", "locations"),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="purchase_orders_pkey"),
    )
    op.create_table(
        "sales_orders",
        _tenant(),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("customer", sa.Text(), nullable=False),
        sa.Column("location_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("actor_id", sa.Uuid(), nullable=False),
        _moment("created_at"),
        sa.Column("version", sa.BigInteger(), nullable=False),
        _moment("updated_at"),
        sa.CheckConstraint(
            "status IN ('open', 'shipped', 'cancelled')", name=op.f("sales_orders_status_check")
        ),
        _refers("sales_orders", "actor_id", "users"),
        _refers("sales_orders", "location_id", "locations"),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="sales_orders_pkey"),
    )
    op.create_table(
        "stock_levels",
        _tenant(),
        sa.Column("item_id", sa.Uuid(), nullable=False),
        sa.Column("location_id", sa.Uuid(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("quantity >= 0", name=op.f("stock_levels_quantity_check")),
        _refers("stock_levels", "item_id", "items"),
        _refers("stock_levels", "location_id", "locations"),
        sa.PrimaryKeyConstraint("tenant_id", "item_id", "location_id", name="stock_levels_pkey"),
    )
    op.create_table(
        "stock_movements",
        _tenant(),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("item_id", sa.Uuid(), nullable=False),
        sa.Column("location_id", sa.Uuid(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("actor_id", sa.Uuid(), nullable=False),
        _moment("created_at"),
        sa.CheckConstraint(
            "kind IN ('adjustment', 'receipt', 'shipment',"
            " 'transfer_out', 'transfer_in', 'return')",
            name=op.f("stock_movements_kind_check"),
        ),
        sa.CheckConstraint("quantity <> 0", name=op.f("stock_movements_quantity_check")),
        _refers("stock_movements", "actor_id", "users"),
        _refers("stock_movements", "item_id", "items"),
        _refers("stock_movements", "location_id", "locations"),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="stock_movements_pkey"),
    )
    op.create_index(
        "stock_movements_item_id_idx", "stock_movements", ["tenant_id", "item_id", "location_id"]
    )
    op.create_table(
        "transfers",
        _tenant(),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("from_location_id", sa.Uuid(), nullable=False),
        sa.Column("to_location_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("actor_id", sa.Uuid(), nullable=False),
        _moment("created_at"),
        sa.Column("version", sa.BigInteger(), nullable=False),
        _moment("updated_at"),
        sa.CheckConstraint(
            "status IN ('in_transit', 'received')", name=op.f("transfers_status_check")
        ),
        sa.CheckConstraint(
            "from_location_id <> to_location_id", name=op.f("transfers_to_location_id_check")
        ),
        _refers("transfers", "actor_id", "users"),
        _refers("transfers", "from_location_id", "locations"),
        _refers("transfers", "to_location_id", "locations"),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="transfers_pkey"),
    )
    op.create_table(
        "purchase_order_lines",
        _tenant(),
        sa.Column("unit_cost_minor", sa.BigInteger(), nullable=False),
        sa.Column("received", sa.BigInteger(), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("line", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("item_id", sa.Uuid(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("quantity > 0", name=op.f("purchase_order_lines_quantity_check")),
        sa.CheckConstraint(
            "received BETWEEN 0 AND quantity", name=op.f("purchase_order_lines_received_check")
        ),
        sa.CheckConstraint(
            "unit_cost_minor >= 0", name=op.f("purchase_order_lines_unit_cost_minor_check")
        ),
        _refers("purchase_order_lines", "item_id", "items"),
        _refers("purchase_order_lines", "order_id", "purchase_orders"),
        sa.PrimaryKeyConstraint("tenant_id", "order_id", "line", name="purchase_order_lines_pkey"),
    )
    op.create_table(
        "returns",
        _tenant(),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("sales_order_id", sa.Uuid(), nullable=False),
        sa.Column("location_id", sa.Uuid(), nullable=False),
        sa.Column("actor_id", sa.Uuid(), nullable=False),
        _moment("created_at"),
        _refers("returns", "actor_id", "users"),
        _refers("returns", "location_id", "locations"),
        _refers("returns", "sales_order_id", "sales_orders"),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="returns_pkey"),
    )
    op.create_index("returns_sales_order_id_idx", "returns", ["tenant_id", "sales_order_id"])
    op.create_table(
        "sales_order_lines",
        _tenant(),
        sa.Column("unit_price_minor", sa.BigInteger(), nullable=False),
        sa.Column("returned", sa.BigInteger(), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("line", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("item_id", sa.Uuid(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("quantity > 0", name=op.f("sales_order_lines_quantity_check")),
        sa.CheckConstraint(
            "returned BETWEEN 0 AND quantity", name=op.f("sales_order_lines_returned_check")
        ),
        sa.CheckConstraint(
            "unit_price_minor >= 0", name=op.f("sales_order_lines_unit_price_minor_check")
        ),
        _refers("sales_order_lines", "item_id", "items"),
        _refers("sales_order_lines", "order_id", "sales_orders"),
        sa.PrimaryKeyConstraint("tenant_id", "order_id", "line", name="sales_order_lines_pkey"),
    )
    op.create_table(
        "transfer_lines",
        _tenant(),
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("line", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("item_id", sa.Uuid(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("quantity > 0", name=op.f("transfer_lines_quantity_check")),
        _refers("transfer_lines", "item_id", "items"),
        _refers("transfer_lines", "order_id", "transfers"),
        sa.PrimaryKeyConstraint("tenant_id", "order_id", "line", name="transfer_lines_pkey"),
    )
    op.create_table(
        "return_lines",
        _tenant(),
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("line", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("item_id", sa.Uuid(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("quantity > 0", name=op.f("return_lines_quantity_check")),
        _refers("return_lines", "item_id", "items"),
        _refers("return_lines", "order_id", "returns"),
        sa.PrimaryKeyConstraint("tenant_id", "order_id", "line", name="return_lines_pkey"),
    )
    op.isolate_table("users", role=APP, privileges=["SELECT", "INSERT"])
    op.isolate_table("passwords", role=APP, privileges=["INSERT"])
    op.isolate_table("items", role=APP, privileges=["SELECT", "INSERT", "UPDATE"])
    op.isolate_table("locations", role=APP, privileges=["SELECT", "INSERT"])
    op.isolate_table("stock_movements", role=APP, privileges=["SELECT", "INSERT"])
    op.isolate_table("stock_levels", role=APP, privileges=["SELECT", "INSERT", "UPDATE"])
    op.isolate_table("purchase_order_lines", role=APP, privileges=["SELECT", "INSERT", "UPDATE"])
    op.isolate_table("purchase_orders", role=APP, privileges=["SELECT", "INSERT", "UPDATE"])
    op.isolate_table("sales_order_lines", role=APP, privileges=["SELECT", "INSERT", "UPDATE"])
    op.isolate_table("sales_orders", role=APP, privileges=["SELECT", "INSERT", "UPDATE"])
    op.isolate_table("transfer_lines", role=APP, privileges=["SELECT", "INSERT"])
    op.isolate_table("transfers", role=APP, privileges=["SELECT", "INSERT", "UPDATE"])
    op.isolate_table("return_lines", role=APP, privileges=["SELECT", "INSERT"])
    op.isolate_table("returns", role=APP, privileges=["SELECT", "INSERT"])
    op.isolate_table("idempotency_keys", role=APP, privileges=["SELECT", "INSERT", "UPDATE"])
    op.execute(LOGIN)


def downgrade() -> None:
    """
    Drop them.
    """
    op.drop_table("return_lines")
    op.drop_table("transfer_lines")
    op.drop_table("sales_order_lines")
    op.drop_index("returns_sales_order_id_idx", table_name="returns")
    op.drop_table("returns")
    op.drop_table("purchase_order_lines")
    op.drop_table("transfers")
    op.drop_index("stock_movements_item_id_idx", table_name="stock_movements")
    op.drop_table("stock_movements")
    op.drop_table("stock_levels")
    op.drop_table("sales_orders")
    op.drop_table("purchase_orders")
    op.drop_table("passwords")
    op.drop_table("idempotency_keys")
    op.drop_table("users")
    op.drop_table("locations")
    op.drop_table("items")
