"""
The envelope's format: a tenant on paper, signed, that ends by itself.

Nothing here knows the time, the current tenant or a directory; `_envelopes` does.

Version 1, numbers big-endian, before it is written in base64url without padding
(RFC 4648, section 5)::

    byte      length  what
    0         1       version: 1
    1         8       key id
    9         16      envelope id, random
    25        8       issued at, in milliseconds since 1970
    33        8       expires at, the same; later by 1 ms to 30 days
    41        1       A, the length of the audience: 1 to 64
    42        A       audience: A-Z a-z 0-9 . _ : / -
    42+A      1       T, the length of the tenant id: 1 to 64
    43+A      T       tenant id: A-Z a-z 0-9 _ -
    43+A+T    1       U, the length of the user id: 0 to 255; 0 stands for none
    44+A+T    U       user id: UTF-8
    44+A+T+U  32      HMAC-SHA256 (RFC 2104) of all bytes before it

So a token has 104 to 612 characters.  One envelope has one spelling.  Nothing
after the key id is read before the HMAC holds.

The HMAC's key and the key id are derived from the secret by HKDF-SHA256 (RFC
5869) with a salt that nothing else has.  Who can have other things signed with
the same secret, such as JWTs or webhooks, cannot have an envelope signed.
"""

from __future__ import annotations

import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NoReturn

from ..errors import ConfigurationError, EnvelopeError, TenantUnresolvedError
from ._tenant import valid_tenant_id

__all__ = ["EnvelopeKeys", "TenantEnvelope", "valid_audience", "valid_user_id"]

_VERSION = b"\x01"
_KEY_ID_BYTES, _ID_BYTES, _TIME_BYTES, _MAC_BYTES = 8, 16, 8, 32
_FIXED_BYTES = 1 + _KEY_ID_BYTES + _ID_BYTES + 2 * _TIME_BYTES
_LONGEST_USER_ID = 255
_MAX_CHARACTERS = 612
_MIN_SECRET_BYTES = 32

_SALT = b"twh-platform/tenant-envelope/v1"
_TOKEN = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_AUDIENCE = re.compile(r"[A-Za-z0-9._:/-]{1,64}", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_LONGEST = timedelta(days=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantEnvelope:
    """
    What a verified token says.

    Attributes:
        id: Random, 32 hexadecimal digits: what tells two envelopes apart.

        tenant_id: Who sealed it.

        audience: Whom it was meant for.

        issued_at: When it was sealed, by the sealer's clock.

        expires_at: From this moment on it is refused.

        user_id: The user on whose behalf, where the sealer gave one.

        key_id: Which key signed it; not secret.
    """

    id: str
    tenant_id: str
    audience: str
    issued_at: datetime
    expires_at: datetime
    user_id: str | None
    key_id: str


def valid_audience(value: object) -> str:
    """
    Return *value* if it may be an audience.

    Raises:
        twh_platform.errors.ConfigurationError: If it may not.
    """
    if isinstance(value, str) and _AUDIENCE.fullmatch(value):
        return value
    message = f"audience={value!r} is not 1 to 64 characters of A-Z, a-z, 0-9, ., _, :, / and -"
    raise ConfigurationError(message)


def valid_user_id(value: object) -> str | None:
    """
    Return *value* if it may be a user id, or None.

    Raises:
        twh_platform.errors.ConfigurationError: If it may not.
    """
    if value is None:
        return None
    if isinstance(value, str):
        length = len(value.encode("utf-8", "surrogatepass"))
        if value.isprintable() and 0 < length <= _LONGEST_USER_ID:
            return value
    message = f"user_id={value!r} is not 1 to {_LONGEST_USER_ID} bytes of printable UTF-8"
    raise ConfigurationError(message)


class EnvelopeKeys:
    """
    The keys: the first signs, each of them verifies.

    Args:
        secrets: One or several, of 32 bytes or more.

    Raises:
        twh_platform.errors.ConfigurationError: For none, a short or a
            repeated one.
    """

    def __init__(self, secrets: str | bytes | Iterable[str | bytes]) -> None:
        given = [secrets] if isinstance(secrets, str | bytes) else list(secrets)
        self._keys = dict(map(_derive, given))
        if not given or len(self._keys) != len(given):
            message = "keys must be at least one secret, and none of them twice"
            raise ConfigurationError(message)
        self._first = next(iter(self._keys))

    def __repr__(self) -> str:
        return repr([key_id.hex() for key_id in self._keys])

    def pack(
        self,
        *,
        envelope_id: bytes,
        tenant_id: str,
        audience: str,
        issued_at: datetime,
        lifetime: float,
        user_id: str | None,
    ) -> str:
        """
        Return the token that says this, signed with the first key.

        Raises:
            twh_platform.errors.ConfigurationError: If it cannot be said.
        """
        message = b"".join(
            (
                _VERSION,
                self._first,
                envelope_id,
                _milliseconds(issued_at),
                _milliseconds(_end(issued_at, lifetime)),
                _with_length(valid_audience(audience)),
                _with_length(valid_tenant_id(tenant_id)),
                _with_length(valid_user_id(user_id) or ""),
            )
        )
        return _text(message + _mac(self._keys[self._first], message))

    def unpack(self, token: object) -> TenantEnvelope:
        """
        Return what *token* says, if one of the keys signed it; its times are not judged.

        Raises:
            twh_platform.errors.EnvelopeError: With code ``envelope_invalid``,
                for everything else.
        """
        signed = _bytes(token)
        message, mac = signed[:-_MAC_BYTES], signed[-_MAC_BYTES:]
        key = self._keys.get(message[1 : 1 + _KEY_ID_BYTES])
        if message[:1] != _VERSION or key is None:
            _refuse()
        if not hmac.compare_digest(mac, _mac(key, message)):
            _refuse()
        return _read(message)


def _derive(secret: str | bytes) -> tuple[bytes, bytes]:
    material = secret.encode() if isinstance(secret, str) else secret
    if not isinstance(material, bytes) or len(material) < _MIN_SECRET_BYTES:
        message = f"a key of envelopes has {_MIN_SECRET_BYTES} bytes or more"
        raise ConfigurationError(message)
    # HKDF: extract, then expand once for each use.
    extracted = hmac.digest(_SALT, material, "sha256")
    key_id = hmac.digest(extracted, b"key id\x01", "sha256")[:_KEY_ID_BYTES]
    return key_id, hmac.digest(extracted, b"mac\x01", "sha256")


def _mac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _end(issued_at: datetime, lifetime: float) -> datetime:
    longest = _LONGEST.total_seconds()
    if not _MILLISECOND.total_seconds() <= lifetime <= longest:
        message = f"lifetime={lifetime!r} is not from 0.001 to {longest:.0f} seconds"
        raise ConfigurationError(message)
    return issued_at + timedelta(seconds=lifetime)


def _milliseconds(moment: datetime) -> bytes:
    return ((moment - _EPOCH) // _MILLISECOND).to_bytes(_TIME_BYTES)


def _with_length(value: str) -> bytes:
    encoded = value.encode()
    return bytes([len(encoded)]) + encoded


def _text(signed: bytes) -> str:
    return urlsafe_b64encode(signed).rstrip(b"=").decode("ascii")


def _bytes(token: object) -> bytes:
    if not isinstance(token, str) or len(token) > _MAX_CHARACTERS or not _TOKEN.fullmatch(token):
        _refuse()
    try:
        signed = urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except ValueError as error:
        _refuse(error)
    # The bits that base64 leaves over could be anything: one spelling only.
    if _text(signed) != token or len(signed) <= _FIXED_BYTES + _MAC_BYTES:
        _refuse()
    return signed


def _read(message: bytes) -> TenantEnvelope:
    # A key of ours has signed it.  It is read as strictly as it was written:
    # a fault here is ours, or the key is known to others.
    try:
        audience, rest = _take(message[_FIXED_BYTES:])
        tenant_id, rest = _take(rest)
        user_id, rest = _take(rest)
        issued_at, expires_at = _moment(message[25:33]), _moment(message[33:41])
        if rest or not _MILLISECOND <= expires_at - issued_at <= _LONGEST:
            _refuse()
        return TenantEnvelope(
            id=message[9:25].hex(),
            tenant_id=valid_tenant_id(tenant_id),
            audience=valid_audience(audience),
            issued_at=issued_at,
            expires_at=expires_at,
            user_id=valid_user_id(user_id or None),
            key_id=message[1:9].hex(),
        )
    except (ValueError, OverflowError, TenantUnresolvedError) as error:
        _refuse(error)


def _take(data: bytes) -> tuple[str, bytes]:
    if not data or data[0] >= len(data):
        _refuse()
    end = 1 + data[0]
    return data[1:end].decode(), data[end:]


def _moment(data: bytes) -> datetime:
    return _EPOCH + int.from_bytes(data) * _MILLISECOND


def _refuse(cause: Exception | None = None) -> NoReturn:
    message = "not an envelope that one of our keys has signed"
    raise EnvelopeError(message) from cause
