"""
The four answers that a refused client may get, whatever the reason was.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from .._asgi import Problem

__all__ = ["REFUSALS"]

_ALL = (
    Problem(
        status=401,
        code="credentials_invalid",
        title="Valid credentials are required",
        headers={"www-authenticate": "Bearer"},
    ),
    Problem(
        status=403,
        code="tenant_refused",
        title="This tenant is not available to you",
    ),
    Problem(
        status=503,
        code="backend_unavailable",
        title="Not available at the moment",
        headers={"retry-after": "1"},
    ),
    Problem(
        status=500,
        code="internal_error",
        title="Something went wrong here",
    ),
)

REFUSALS: Mapping[str, Problem] = MappingProxyType({one.code: one for one in _ALL})
"""
What `TenantMiddleware` answers, by code: for a service that refuses in the same words.
"""
