"""
Migrations of tenancy as a user writes them; checked, never run.
"""

from __future__ import annotations

from typing import assert_type

from sqlalchemy import MetaData

from twh_platform.tenancy.postgres import TenantTable
from twh_platform.tenancy.postgres.alembic import (
    TableGrant,
    TablePolicy,
    TableState,
    TenancyFunction,
    declare_tenancy,
)

METADATA = MetaData()

declare_tenancy(
    METADATA,
    [TenantTable(name="items", keys=[("sku",)])],
    role="shop_app",
    column="tenant_id",
    shared=["billing.plans"],
    other_policies={"for_support"},
    sealed=True,
    allow_unsealed=True,
)

FOUND = TableState(
    enabled=True,
    not_null=None,
    default="twh.current_tenant()",
    policies=[TablePolicy(name="odd", permissive=False, command="SELECT", roles=["shop_app"])],
    grants=[TableGrant(role=None, privileges=["SELECT"], column="name", grantable=True)],
    indexes=["CREATE INDEX i ON items (name)"],
)
assert_type(FOUND.default, str | None)
assert_type(TenancyFunction(name="twh.current_tenant()").definition, str | None)
