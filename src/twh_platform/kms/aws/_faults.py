"""
What botocore raises, as our errors: the whole map, and no text of a server.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

from botocore import exceptions
from botocore.parsers import ResponseParserError

from ...errors import (
    DecryptionError,
    KeyAccessDeniedError,
    KeyDisabledError,
    KeyNotFoundError,
    KeyServiceError,
    KeyServiceThrottledError,
    KeyServiceUnavailableError,
    KeyUnsupportedError,
    PlatformError,
    SecretConflictError,
    SecretError,
    SecretNotFoundError,
)

__all__ = ["KMS", "SECRETS", "Table", "fault_of"]

Kind: TypeAlias = tuple[type[PlatformError], str | None]
Table: TypeAlias = Mapping[str, Kind]

_LONGEST_WAIT = 60.0
_TOO_MANY_REQUESTS = 429
_SERVER_ERROR = 500

_DENIED = (
    "AccessDenied",
    "AccessDeniedException",
    "AuthFailure",
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "IncompleteSignatureException",
    "InvalidClientTokenId",
    "InvalidGrantTokenException",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "NotAuthorized",
    "NotAuthorizedException",
    "OptInRequired",
    "RequestExpired",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "UnauthorizedOperation",
    "UnrecognizedClientException",
)
_THROTTLED = (
    "PriorRequestNotComplete",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "SlowDown",
    "Throttling",
    "ThrottledException",
    "ThrottlingException",
    "TooManyRequestsException",
)
# AWS answers, and what holds this one key does not.
_KEY_UNAVAILABLE = (
    "CloudHsmClusterNotActiveException",
    "CustomKeyStoreInvalidStateException",
    "KeyUnavailableException",
)
_UNAVAILABLE = (
    "DependencyTimeoutException",
    "InternalError",
    "InternalFailure",
    "InternalServerError",
    "InternalServiceError",
    "InternalServiceErrorException",
    "KMSInternalException",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServiceUnavailable",
    "ServiceUnavailableException",
)


def _kind(error: type[PlatformError], *, code: str | None = None) -> Kind:
    return error, code


_COMMON: Table = {
    **dict.fromkeys(_DENIED, _kind(KeyAccessDeniedError)),
    **dict.fromkeys(_THROTTLED, _kind(KeyServiceThrottledError)),
    **dict.fromkeys(_UNAVAILABLE, _kind(KeyServiceUnavailableError)),
    **dict.fromkeys(_KEY_UNAVAILABLE, _kind(KeyServiceUnavailableError, code="key_unavailable")),
    "LimitExceededException": _kind(KeyServiceError, code="key_limit_exceeded"),
    "SerializationException": _kind(KeyServiceError),
    "UnknownOperationException": _kind(KeyUnsupportedError),
    "ValidationException": _kind(KeyServiceError),
    "MalformedPolicyDocumentException": _kind(KeyServiceError),
}

KMS: Table = {
    **_COMMON,
    "NotFoundException": _kind(KeyNotFoundError),
    "DisabledException": _kind(KeyDisabledError),
    # Not yet told apart: the service asks which state it is.
    "KMSInvalidStateException": _kind(KeyDisabledError, code="key_state_invalid"),
    "InvalidCiphertextException": _kind(DecryptionError),
    "IncorrectKeyException": _kind(DecryptionError),
    "KMSInvalidMacException": _kind(DecryptionError),
    "InvalidKeyUsageException": _kind(KeyUnsupportedError, code="key_usage_wrong"),
    "UnsupportedOperationException": _kind(KeyUnsupportedError),
    "AlreadyExistsException": _kind(KeyServiceError, code="key_exists"),
    "ConflictException": _kind(KeyServiceError, code="key_conflict"),
    "InvalidAliasNameException": _kind(KeyServiceError),
    "InvalidArnException": _kind(KeyServiceError),
    "TagException": _kind(KeyServiceError),
    "DryRunOperationException": _kind(KeyServiceError),
}
"""What AWS KMS answers."""

SECRETS: Table = {
    **_COMMON,
    "ResourceNotFoundException": _kind(SecretNotFoundError),
    "ResourceExistsException": _kind(SecretConflictError),
    "InvalidRequestException": _kind(SecretError, code="aws_secret_refused"),
    "InvalidParameterException": _kind(SecretError, code="aws_secret_refused"),
    "InvalidNextTokenException": _kind(SecretError, code="aws_secret_refused"),
    "PreconditionNotMetException": _kind(SecretError, code="aws_secret_refused"),
    # The secret's own KMS key is missing, disabled or not ours to use.
    "DecryptionFailure": _kind(KeyDisabledError),
    "EncryptionFailure": _kind(KeyDisabledError),
}
"""What AWS Secrets Manager answers."""

_NO_CREDENTIALS = (
    exceptions.NoCredentialsError,
    exceptions.PartialCredentialsError,
    exceptions.NoAuthTokenError,
    exceptions.SSOError,
)
_CREDENTIALS_LATE = (exceptions.CredentialRetrievalError, exceptions.MetadataRetrievalError)
_NO_ANSWER = (
    exceptions.HTTPClientError,
    exceptions.ConnectionError,
    exceptions.IncompleteReadError,
)


def fault_of(error: Exception, operation: str, table: Table) -> PlatformError:
    """
    Our error for what botocore raised on *operation*.

    Neither the original nor its text comes along: it may quote what was sent.
    """
    if isinstance(error, exceptions.ClientError):
        return _answered(error.response, operation, table)
    what = f"AWS {operation}: {type(error).__name__}"
    if isinstance(error, _NO_CREDENTIALS):
        return KeyAccessDeniedError(what, code="aws_credentials_missing")
    if isinstance(error, _CREDENTIALS_LATE):
        return KeyServiceUnavailableError(what)
    if isinstance(error, _NO_ANSWER):
        return KeyServiceUnavailableError(what, code="key_service_unreachable")
    if isinstance(error, ResponseParserError):
        return KeyServiceUnavailableError(what)
    return KeyServiceError(what)


def _answered(response: Mapping[str, Any], operation: str, table: Table) -> PlatformError:
    metadata = response.get("ResponseMetadata", {})
    status = metadata.get("HTTPStatusCode", 0)
    # "Code" may be anything, for it is the server's; only a known one is shown.
    code = str(response.get("Error", {}).get("Code", "")).rpartition("#")[2]
    known = table.get(code)
    what = f"AWS {operation}: {code if known else 'an unknown error'}, HTTP {int(status)}"
    kind, narrower = known or _kind(_kind_of(status))
    if issubclass(kind, DecryptionError):
        return DecryptionError()
    if issubclass(kind, KeyServiceUnavailableError):
        headers = metadata.get("HTTPHeaders", {})
        return kind(what, retry_after=_retry_after(headers.get("retry-after")), code=narrower)
    return kind(what, code=narrower)


def _kind_of(status: int) -> type[KeyServiceError]:
    if status == _TOO_MANY_REQUESTS:
        return KeyServiceThrottledError
    if status >= _SERVER_ERROR:
        return KeyServiceUnavailableError
    return KeyAccessDeniedError if status in {401, 403} else KeyServiceError


def _retry_after(header: object) -> float:
    try:
        seconds = float(str(header))
    except ValueError:
        return 1.0
    return min(max(seconds, 0.0), _LONGEST_WAIT) if math.isfinite(seconds) else 1.0
