"""
Who the tenants are: the directory protocol, and a directory in memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from ._tenant import Tenant

__all__ = ["MemoryTenantDirectory", "TenantDirectory"]


class TenantDirectory(Protocol):
    """
    Where tenants are looked up.
    """

    async def get(self, tenant_id: str) -> Tenant | None:
        """
        Return the tenant with exactly this id, whatever its status, or None.

        Raises:
            twh_platform.errors.BackendUnavailableError: If it cannot be known
                now.  Not knowing is never answered with None.
        """
        ...


class MemoryTenantDirectory:
    """
    A directory held in memory: for tests, and for tenants fixed at start.

        >>> directory = MemoryTenantDirectory([Tenant(id="acme")])

    Args:
        tenants: Who is in it at first.
    """

    def __init__(self, tenants: Iterable[Tenant] = ()) -> None:
        self._tenants = {tenant.id: tenant for tenant in tenants}

    async def get(self, tenant_id: str) -> Tenant | None:
        """
        Return the tenant with exactly this id, or None.
        """
        return self._tenants.get(tenant_id)

    def put(self, tenant: Tenant) -> None:
        """
        Add *tenant*, in place of one with the same id.
        """
        self._tenants[tenant.id] = tenant

    def remove(self, tenant_id: str) -> None:
        """
        Forget the tenant, if it is there.
        """
        self._tenants.pop(tenant_id, None)
