"""
Every error that `twh_platform` raises on purpose.

    PlatformError
    ├── ConfigurationError          the service was put together wrongly
    │   ├── MissingExtraError       an optional dependency is not installed
    │   └── UnsafeLoginError        a login of the database may be more than it should
    ├── TenantError                 a request or a call has no right to a tenant
    │   ├── TenantUnresolvedError   nothing acceptable says which tenant it is
    │   │   └── CredentialsError    the proof of who asks is missing or wrong
    │   │       └── EnvelopeError   a tenant's envelope is forged, expired or not for us
    │   ├── TenantMismatchError     two sources, or code and transaction, disagree
    │   ├── TenantSuspendedError    the tenant exists but may not be served now
    │   ├── AdministratorError      work across tenants that nobody has stated a reason for
    │   └── NoCurrentTenantError    code needs a tenant and none is bound
    ├── QuotaExceededError          a rule has not enough left; later there may be
    │   └── QuotaCostError          one request asks for more than the rule ever admits
    └── BackendUnavailableError     a remote part did not answer; trying again may help

Each class has a `code`: a stable string for logs, metrics and problem
responses.  An instance may carry a narrower one.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "AdministratorError",
    "BackendUnavailableError",
    "ConfigurationError",
    "CredentialsError",
    "EnvelopeError",
    "MissingExtraError",
    "NoCurrentTenantError",
    "PlatformError",
    "QuotaCostError",
    "QuotaExceededError",
    "TenantError",
    "TenantMismatchError",
    "TenantSuspendedError",
    "TenantUnresolvedError",
    "UnsafeLoginError",
]


class PlatformError(Exception):
    """
    The root: catch this to catch everything that the platform raises.

    Args:
        message: What happened, for the operator; never shown to a client.

        code: A stable code that is narrower than the class's own.

    Attributes:
        code: The stable code, such as ``tenant_unresolved``.
    """

    code = "platform_error"

    def __init__(self, message: str = "", *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class ConfigurationError(PlatformError, ValueError):
    """
    The service was put together wrongly; no request can mend it.
    """

    code = "configuration_invalid"


class MissingExtraError(ConfigurationError, ImportError):
    """
    An optional dependency is missing; the message says which extra has it.
    """

    code = "extra_missing"


class UnsafeLoginError(ConfigurationError):
    """
    A login of the database may be or do what policies or the seal do not hold.

    Args:
        message: The faults, each with its remedy.

        faults: The same as values.

    Attributes:
        faults: Each has a `code`, a `message` and a `remedy`.
    """

    code = "login_unsafe"

    def __init__(self, message: str = "", *, faults: tuple[Any, ...] = ()) -> None:
        super().__init__(message)
        self.faults = faults


class TenantError(PlatformError):
    """
    A request or a call has no right to the tenant it asks for.
    """

    code = "tenant_error"


class TenantUnresolvedError(TenantError):
    """
    Nothing acceptable says which tenant this is, or no such tenant exists.
    """

    code = "tenant_unresolved"


class CredentialsError(TenantUnresolvedError):
    """
    The proof of who asks is missing, malformed, expired or forged.

    A request that meets it is answered 401: other credentials may help.
    """

    code = "credentials_invalid"


class EnvelopeError(CredentialsError):
    """
    An envelope is malformed, forged, expired, or meant for others.

    The narrower codes are given only to what one of our keys has signed.
    """

    code = "envelope_invalid"


class TenantMismatchError(TenantError):
    """
    Two sources name different tenants, or code changed tenant in mid-transaction.
    """

    code = "tenant_mismatch"


class TenantSuspendedError(TenantError):
    """
    The tenant exists but may not be served: suspended, expired, or not ready.
    """

    code = "tenant_suspended"


class AdministratorError(TenantError):
    """
    Work across tenants without a stated reason, or after it has ended.
    """

    code = "administrator_error"


class NoCurrentTenantError(TenantError):
    """
    A tenant is required here and none is bound.
    """

    code = "no_current_tenant"


class QuotaExceededError(PlatformError):
    """
    A rule has not enough left for what was asked.

    Args:
        message: Which rules, for the operator.

        decision: What was decided.

        code: A stable code that is narrower than the class's own.

    Attributes:
        decision: The `twh_platform.quotas.Decision`, or what a database took;
            None where there is none.
    """

    code = "quota_exceeded"

    def __init__(self, message: str = "", *, decision: Any = None, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.decision = decision


class QuotaCostError(QuotaExceededError):
    """
    One request asks for more than the rule admits at its fullest: trying again is no use.
    """

    code = "quota_cost_too_large"


class BackendUnavailableError(PlatformError):
    """
    A database or service did not answer in time.

    Args:
        message: What happened, for the operator.

        retry_after: Seconds after which trying again makes sense.

        code: A stable code that is narrower than the class's own.

    Attributes:
        retry_after: The same seconds.
    """

    code = "backend_unavailable"

    def __init__(
        self, message: str = "", *, retry_after: float = 1.0, code: str | None = None
    ) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after
