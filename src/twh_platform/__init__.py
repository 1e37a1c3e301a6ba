"""
Multi-tenant ASGI services that are safe with other people's data.

The names here are the ones that most services need.  They are loaded on first
use: a receiver that only verifies webhooks does not pay for the rest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._asgi import Problem, request_id
    from ._signals import subscribe
    from .errors import PlatformError
    from .tenancy import (
        Agreement,
        CachedTenantDirectory,
        HeaderResolver,
        HostResolver,
        PathResolver,
        Tenant,
        TenantMiddleware,
        bind_tenant,
        current_tenant,
        require_tenant,
        unbind_tenant,
    )

__all__ = [
    "Agreement",
    "CachedTenantDirectory",
    "HeaderResolver",
    "HostResolver",
    "PathResolver",
    "PlatformError",
    "Problem",
    "Tenant",
    "TenantMiddleware",
    "bind_tenant",
    "current_tenant",
    "request_id",
    "require_tenant",
    "subscribe",
    "unbind_tenant",
]

_ELSEWHERE = {
    "PlatformError": ".errors",
    "Problem": "._asgi",
    "request_id": "._asgi",
    "subscribe": "._signals",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    module = import_module(_ELSEWHERE.get(name, ".tenancy"), __name__)
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
