"""
Whose keys are used: the current tenant's, or the platform's own.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Final

from ..errors import TenantMismatchError
from ..tenancy._context import bind_tenant, require_tenant
from ..tenancy._tenant import Tenant

__all__ = ["PLATFORM", "as_owner", "platform_owner", "require_owner"]

PLATFORM: Final = Tenant(id="_platform")
"""The owner of what belongs to no tenant: the platform's own secrets."""


def platform_owner() -> bind_tenant:
    """
    Make the platform itself the owner of what is sealed and kept inside a `with`.

        >>> with platform_owner():
        ...     require_owner().id
        '_platform'

    A tenant of that id from anywhere else, as from a directory or another
    process, is refused.
    """
    return bind_tenant(PLATFORM)


def as_owner(tenant_id: str) -> AbstractContextManager[object]:
    """
    Bind an owner by its id inside a `with`: a tenant, or the platform itself.

    It is for what works for many owners in turn, and is trusted to choose them.

    Raises:
        twh_platform.errors.TenantUnresolvedError: If the id is not valid.
    """
    return platform_owner() if tenant_id == PLATFORM.id else bind_tenant(Tenant(id=tenant_id))


def require_owner() -> Tenant:
    """
    The tenant bound here, or the platform.

    Raises:
        twh_platform.errors.NoCurrentTenantError: If none is bound.

        twh_platform.errors.TenantSuspendedError: If its lease is over.

        twh_platform.errors.TenantMismatchError: With code
            ``tenant_reserved``, for a tenant with the platform's id that
            `platform_owner` has not bound.
    """
    tenant = require_tenant()
    if tenant.id == PLATFORM.id and tenant is not PLATFORM:
        message = f"the tenant id {PLATFORM.id!r} is the platform's own: use platform_owner()"
        raise TenantMismatchError(message, code="tenant_reserved")
    return tenant
