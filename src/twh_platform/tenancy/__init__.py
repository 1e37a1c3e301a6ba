"""
Who is asking: the tenant, bound to the request and carried to the row.
"""

from ._announcements import TenantRefused, TenantResolved
from ._carry import TenantExecutor, TenantThread, carry_tenant, create_clean_task
from ._claim import TenantClaim, TenantResolver
from ._composition import Agreement, FirstAnswer, Membership
from ._context import bind_tenant, current_tenant, require_tenant, unbind_tenant
from ._deadline import finish_within
from ._directory import MemoryTenantDirectory, TenantDirectory
from ._directory_cache import CachedTenantDirectory
from ._middleware import Resolution, TenantMiddleware, resolution_of
from ._refusals import REFUSALS
from ._resolvers import FunctionResolver, HeaderResolver, HostResolver, PathResolver
from ._tenant import Tenant, TenantKind, TenantStatus, valid_tenant_id

__all__ = [
    "REFUSALS",
    "Agreement",
    "CachedTenantDirectory",
    "FirstAnswer",
    "FunctionResolver",
    "HeaderResolver",
    "HostResolver",
    "Membership",
    "MemoryTenantDirectory",
    "PathResolver",
    "Resolution",
    "Tenant",
    "TenantClaim",
    "TenantDirectory",
    "TenantExecutor",
    "TenantKind",
    "TenantMiddleware",
    "TenantRefused",
    "TenantResolved",
    "TenantResolver",
    "TenantStatus",
    "TenantThread",
    "bind_tenant",
    "carry_tenant",
    "create_clean_task",
    "current_tenant",
    "finish_within",
    "require_tenant",
    "resolution_of",
    "unbind_tenant",
    "valid_tenant_id",
]
