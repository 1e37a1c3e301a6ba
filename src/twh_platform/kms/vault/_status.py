"""
What each HTTP status of Vault means; hvac knows a part of them only.

Nothing that a server writes enters a message: it may quote what it was sent.
"""

from __future__ import annotations

import email.utils
from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus

from ...errors import (
    KeyAccessDeniedError,
    KeyNotFoundError,
    KeyServiceError,
    KeyServiceThrottledError,
    KeyServiceUnavailableError,
    KeyUnsupportedError,
)

__all__ = ["STALE_READ", "VaultRequestRefusedError", "error_of", "retry_after_of"]

STALE_READ = HTTPStatus.PRECONDITION_FAILED

_LONGEST_WAIT = 300.0
_FIRST_SERVER_ERROR = 500


# By its parameter the test of the reference knows that it is given codes.
def _state(code: str, why: str) -> tuple[str, str]:
    return code, why


# 472 and 473: a standby for disaster recovery, and one for performance.
_UNAVAILABLE = {
    412: _state("vault_stale_read", "has not yet seen a write that it is asked about"),
    472: _state("vault_standby", "is a standby of another cluster"),
    473: _state("vault_standby", "is a standby"),
    501: _state("vault_not_initialized", "is not initialized"),
    503: _state("vault_sealed", "is sealed or in maintenance"),
}


class VaultRequestRefusedError(KeyServiceError):
    """
    Status 400: the server does not take what it was asked.

    It says so for a key that is not there, for a ciphertext that does not open
    and for a check-and-set that lost; who asked finds out which.
    """


def error_of(
    status: int, headers: Mapping[str, str], *, what: str, details: bool = False
) -> KeyServiceError:
    """
    The error that an answer of *status* stands for.

    Args:
        status: The HTTP status, which is not one of success.

        headers: Those of the answer.

        what: What was asked for: a method and a path.

        details: Whether the answer lists errors.  A 404 that lists none is of a
            thing that is not there, one that does is of a path without an engine.
    """
    if 300 <= status < 400:  # noqa: PLR2004  the class of redirects
        return KeyServiceUnavailableError(
            f"{what}: Vault redirects (HTTP {status}), which is not followed:"
            " give the address of the active node or of its load balancer",
            code="vault_redirect_refused",
        )
    if status in _UNAVAILABLE:
        code, why = _UNAVAILABLE[status]
        message = f"{what}: Vault {why} (HTTP {status})"
        return KeyServiceUnavailableError(message, retry_after=retry_after_of(headers), code=code)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        message = f"{what}: Vault asks us to wait (HTTP 429)"
        return KeyServiceThrottledError(message, retry_after=retry_after_of(headers))
    if status >= _FIRST_SERVER_ERROR or status == HTTPStatus.REQUEST_TIMEOUT:
        message = f"{what}: Vault failed (HTTP {status})"
        return KeyServiceUnavailableError(
            message, retry_after=retry_after_of(headers), code="vault_failed"
        )
    return _refusal(status, what, details=details)


def _refusal(status: int, what: str, *, details: bool) -> KeyServiceError:
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return KeyAccessDeniedError(f"{what}: Vault does not let us (HTTP {status})")
    if status == HTTPStatus.NOT_FOUND and details:
        message = f"{what}: no engine of Vault answers there (HTTP 404): is the mount right?"
        return KeyServiceError(message, code="vault_mount_missing")
    if status == HTTPStatus.NOT_FOUND:
        return KeyNotFoundError(f"{what}: not found")
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        return KeyUnsupportedError(f"{what}: this Vault cannot do that (HTTP 405)")
    if status == HTTPStatus.BAD_REQUEST:
        return VaultRequestRefusedError(f"{what}: Vault refuses the request (HTTP 400)")
    return KeyServiceError(f"{what}: Vault answered HTTP {status}")


def retry_after_of(headers: Mapping[str, str], *, now: datetime | None = None) -> float:
    """
    Seconds that the header Retry-After asks for, at most 300; 1 without it.

    RFC 9110, section 10.2.3: seconds, or a date.
    """
    given = headers.get("Retry-After", "").strip()
    if given.isascii() and given.isdigit():
        return min(float(given[:6]), _LONGEST_WAIT)
    try:
        when = email.utils.parsedate_to_datetime(given)
    except ValueError:
        return 1.0
    seconds = (when - (now or datetime.now(UTC))).total_seconds() if when.tzinfo else 1.0
    return min(max(seconds, 0.0), _LONGEST_WAIT)
