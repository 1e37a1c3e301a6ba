"""
Names that belong to the tenant, as a user writes them.
"""

from __future__ import annotations

from typing import assert_type

from twh_platform.tenancy import tenant_key
from twh_platform.tenancy.postgres import tenant_channel, tenant_lock_key

assert_type(tenant_key("item", 7), str)
assert_type(tenant_lock_key("nightly"), int)
assert_type(tenant_channel("orders", secret=b"thirty-two bytes or more of secret"), str)

tenant_key(1.5)  # type: ignore[arg-type]
tenant_channel("orders")  # type: ignore[call-arg]
tenant_channel("orders", secret="text")  # type: ignore[arg-type]
