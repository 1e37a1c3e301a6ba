"""
Who the tenants are: the directory protocol, and a directory in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Protocol

from ..errors import TenantMismatchError, TenantUnresolvedError
from ._tenant import Tenant, TenantStatus

__all__ = ["MemoryTenantDirectory", "TenantDirectory", "ensure_found", "served_tenant"]


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


async def served_tenant(
    directory: TenantDirectory, tenant_id: str, clock: Callable[[], datetime]
) -> Tenant:
    """
    Look up a tenant that may be served now.

    Raises:
        twh_platform.errors.TenantUnresolvedError: With code
            ``tenant_unknown``, if there is none.

        twh_platform.errors.TenantMismatchError: With code
            ``tenant_directory_mismatch``, if the directory gave another one.

        twh_platform.errors.TenantSuspendedError: As `Tenant.ensure_served`.

        twh_platform.errors.BackendUnavailableError: If it cannot be known now.
    """
    return ensure_found(await directory.get(tenant_id), tenant_id, clock)


def ensure_found(tenant: Tenant | None, tenant_id: str, clock: Callable[[], datetime]) -> Tenant:
    """
    Return what a directory has answered, if it may be served now.

    Raises:
        twh_platform.errors.TenantError: As `served_tenant`.
    """
    if tenant is None:
        message = f"no tenant {tenant_id!r} in the directory"
        raise TenantUnresolvedError(message, code="tenant_unknown")
    if tenant.id != tenant_id:
        message = f"asked for {tenant_id!r}, the directory gave {tenant.id!r}"
        raise TenantMismatchError(message, code="tenant_directory_mismatch")
    if tenant.expires_at is not None or tenant.status is not TenantStatus.ACTIVE:
        tenant.ensure_served(clock())  # for most, no clock has to be read
    return tenant
