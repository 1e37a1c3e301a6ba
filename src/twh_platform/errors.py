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
    ├── KeyServiceError             a key cannot be used, or what it sealed not be opened
    │   ├── DecryptionError         not sealed with this key, for this tenant and context
    │   ├── KeyAccessDeniedError    the key service does not let us
    │   ├── KeyNotFoundError        it has no such key
    │   ├── KeyDisabledError        the key is there and may not be used now
    │   ├── KeyDestroyedError       the key is gone for good, and with it what it sealed
    │   ├── KeyUnsupportedError     this key service cannot do that
    │   └── KeyServiceUnavailableError   it did not answer; also a BackendUnavailableError
    │       └── KeyServiceThrottledError it, or our own budget, asks us to wait
    ├── SecretError                 a secret cannot be had or changed
    │   ├── SecretNotFoundError     no secret, version or stage of that name
    │   ├── SecretConflictError     somebody else changed it first
    │   └── SecretRevokedError      that version was revoked, or has expired
    ├── WebhookError                a webhook is not what it claims to be, or cannot be signed
    │   └── WebhookUsageError       what was given to sign or verify is of the wrong type
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
    "DecryptionError",
    "EnvelopeError",
    "KeyAccessDeniedError",
    "KeyDestroyedError",
    "KeyDisabledError",
    "KeyNotFoundError",
    "KeyServiceError",
    "KeyServiceThrottledError",
    "KeyServiceUnavailableError",
    "KeyUnsupportedError",
    "MissingExtraError",
    "NoCurrentTenantError",
    "PlatformError",
    "QuotaCostError",
    "QuotaExceededError",
    "SecretConflictError",
    "SecretError",
    "SecretNotFoundError",
    "SecretRevokedError",
    "TenantError",
    "TenantMismatchError",
    "TenantSuspendedError",
    "TenantUnresolvedError",
    "UnsafeLoginError",
    "WebhookError",
    "WebhookUsageError",
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


class KeyServiceError(PlatformError):
    """
    A key cannot be used, or what was sealed with it cannot be opened.

    Messages name keys and tenants, never key material, plaintext or what a
    server wrote.

    Attributes:
        retryable: Whether trying the same again can help.
    """

    code = "key_service_error"
    retryable = False


class DecryptionError(KeyServiceError):
    """
    It was not sealed with this key, for this tenant and this context.

    One class and one message, whatever was wrong: which part did not fit is
    what an attacker would ask.
    """

    code = "decryption_failed"

    def __init__(self, message: str = "it cannot be opened", *, code: str | None = None) -> None:
        super().__init__(message, code=code)


class KeyAccessDeniedError(KeyServiceError):
    """
    The key service knows us, or does not, and does not let us.
    """

    code = "key_access_denied"


class KeyNotFoundError(KeyServiceError):
    """
    The key service has no such key, or no such version of it.
    """

    code = "key_not_found"


class KeyDisabledError(KeyServiceError):
    """
    The key is there and may not be used now.
    """

    code = "key_disabled"


class KeyDestroyedError(KeyServiceError):
    """
    The key is destroyed, or will be: what it sealed stays closed.
    """

    code = "key_destroyed"


class KeyUnsupportedError(KeyServiceError):
    """
    This key service, as it was put together, cannot do that.
    """

    code = "key_unsupported"


class KeyServiceUnavailableError(KeyServiceError, BackendUnavailableError):
    """
    The key service did not answer, or not in time.
    """

    code = "key_service_unavailable"
    retryable = True


class KeyServiceThrottledError(KeyServiceUnavailableError):
    """
    The key service, or the tenant's own budget of calls, asks us to wait.
    """

    code = "key_service_throttled"


class SecretError(PlatformError):
    """
    A secret cannot be had or changed; the message has its name, never its value.
    """

    code = "secret_error"


class SecretNotFoundError(SecretError):
    """
    There is no secret of that name, or it has no such version or stage.
    """

    code = "secret_not_found"


class SecretConflictError(SecretError):
    """
    It is not in the version that the caller expected.
    """

    code = "secret_conflict"


class SecretRevokedError(SecretError):
    """
    That version was revoked, or has expired.
    """

    code = "secret_revoked"


class WebhookError(PlatformError):
    """
    A webhook is not what it claims to be, or cannot be signed.

    The code is for our logs.  Whoever sent the request gets one answer for all of
    them.  No message has a part of the body, of a secret, or of the signature that
    would have been right.
    """

    code = "webhook_invalid"


class WebhookUsageError(WebhookError, TypeError):
    """
    What was given to sign or to verify is of the wrong type: a body as text, say.
    """

    code = "webhook_usage_invalid"
