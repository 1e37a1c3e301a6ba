"""
Who is asking: the tenant, bound to the request and carried to the row.
"""

from ._administrator import administrator, current_administrator
from ._announcements import (
    AdministratorEntered,
    AdministratorLeft,
    TenantRefused,
    TenantResolved,
    TenantViolation,
)
from ._carry import TenantExecutor, TenantThread, carry_tenant, create_clean_task
from ._claim import TenantClaim, TenantResolver
from ._composition import Agreement, FirstAnswer, Membership
from ._context import bind_tenant, current_tenant, require_tenant, unbind_tenant
from ._deadline import finish_within
from ._directory import MemoryTenantDirectory, TenantDirectory
from ._directory_cache import CachedTenantDirectory
from ._envelope import TenantEnvelope
from ._envelopes import ENVELOPE_HEADER, EnvelopeResolver, TenantEnvelopes
from ._keys import tenant_key
from ._lease import renew_lease
from ._middleware import Resolution, TenantMiddleware, resolution_of
from ._refusals import REFUSALS
from ._resolvers import FunctionResolver, HeaderResolver, HostResolver, PathResolver
from ._tenant import Tenant, TenantKind, TenantStatus, valid_tenant_id

__all__ = [
    "ENVELOPE_HEADER",
    "REFUSALS",
    "AdministratorEntered",
    "AdministratorLeft",
    "Agreement",
    "CachedTenantDirectory",
    "EnvelopeResolver",
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
    "TenantEnvelope",
    "TenantEnvelopes",
    "TenantExecutor",
    "TenantKind",
    "TenantMiddleware",
    "TenantRefused",
    "TenantResolved",
    "TenantResolver",
    "TenantStatus",
    "TenantThread",
    "TenantViolation",
    "administrator",
    "bind_tenant",
    "carry_tenant",
    "create_clean_task",
    "current_administrator",
    "current_tenant",
    "finish_within",
    "renew_lease",
    "require_tenant",
    "resolution_of",
    "tenant_key",
    "unbind_tenant",
    "valid_tenant_id",
]
