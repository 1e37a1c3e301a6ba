"""
Signing a webhook: the bytes that are signed are the bytes to send.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from types import MappingProxyType
from typing import Final, TypeAlias, final

from ..errors import WebhookError, WebhookUsageError
from ._candidates import ENCODINGS
from ._headers import LONGEST_TIMESTAMP, usual_head, valid_id
from ._keyring import Key, Keys, keyring_of
from ._messages import signed_message
from ._profiles import STANDARD, Form, Profile, Scheme
from ._secrets import HmacSecret, SigningKey

__all__ = ["SignedRequest", "Signer", "Time", "new_event_id", "sign"]

Time: TypeAlias = int | datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRequest:
    """
    A webhook that is ready to be sent, and is sent as it is.

    Attributes:
        body: The bytes that were signed.

        headers: Those that the signature needs; `Content-Type` and others are
            the sender's own.

        id: The event's id, "" if the profile signs none.

        timestamp: Unix seconds, 0 if the profile signs none.
    """

    body: bytes
    headers: Mapping[str, str]
    id: str
    timestamp: int


_Make: TypeAlias = Callable[[bytes, bytes], bytes]
_Part: TypeAlias = tuple[str, str, _Make]
"""The id of a key, its scheme, and what makes its signature."""


@final
class Signer:
    """
    Signs the webhooks for one endpoint; make it once and use it for all.

        >>> from twh_platform.webhooks import StandardSecret
        >>> signer = Signer(StandardSecret.generate())
        >>> sent = signer.sign(b'{"type":"order.paid"}', event_id="msg_1")
        >>> sent.headers["webhook-id"]
        'msg_1'

    Sign each attempt anew, with the same id: receivers refuse an old timestamp.

    Args:
        keys: A secret, several, or a `Keyring`.  The active ones sign and, where
            the profile has room for several signatures, the retiring ones too.

        profile: How to sign.

        clock: Unix seconds.

    Raises:
        twh_platform.errors.WebhookUsageError: With code ``secret_type_invalid``,
            if a key is of a kind that the profile does not sign with.
    """

    __slots__ = ("_always", "_clock", "_keys", "_signing", "_usual", "profile")

    def __init__(
        self,
        keys: Keys,
        *,
        profile: Profile = STANDARD,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.profile = profile
        self._keys = keyring_of(keys)
        self._clock = clock
        self._signing = {key.id: _part(key, profile) for key in self._keys.keys}
        self._always = self._parts(0) if self._keys.timeless else None
        self._usual = _usual_of(profile, self._always or [])

    def sign(
        self,
        body: bytes,
        *,
        event_id: str | None = None,
        timestamp: Time | None = None,
        method: str = "",
        url: str = "",
    ) -> SignedRequest:
        """
        Sign a body.

        Args:
            body: What will be sent.

            event_id: The event's id, the same for each attempt: 1 to 256 letters,
                digits, ``_`` and ``-``.  A new one if None.

            timestamp: When this attempt is made: Unix seconds, or an aware
                datetime.  Now if None.

            method: Of the request, ``POST`` if "" is given; only `MESSAGE` signs it.

            url: Where it will be sent; likewise.

        Raises:
            twh_platform.errors.WebhookError: With code ``id_malformed``,
                ``timestamp_malformed``, ``no_signing_key``, ``key_id_malformed`` or
                ``request_malformed``.

            twh_platform.errors.WebhookUsageError: With code ``body_not_bytes``,
                ``timestamp_invalid`` or ``request_missing``.
        """
        if type(body) is not bytes:
            body = _bytes(body)
        profile, now = self.profile, self._clock()
        if timestamp is None:
            request = self._usual(body, event_id, now)
            if request is not None:
                return request
        event = _id(event_id) if profile.id_header else ""
        seconds = _seconds(now if timestamp is None else timestamp) if profile.timed else 0
        stamp = str(seconds) if seconds else ""
        parts = self._parts(now) if self._always is None else self._always
        if not parts:
            raise WebhookError("no key is active", code="no_signing_key")
        if profile.form is Form.MESSAGE:
            headers = _message_headers(parts[0], body, event, seconds, method=method, url=url)
        else:
            head = profile.signed_head(event.encode(), stamp.encode())
            signatures = [(name, make(head, body).decode()) for _, name, make in parts]
            headers = _headers(profile, event, stamp, signatures)
        return _request(body, headers, event, seconds)

    def _parts(self, now: float) -> list[_Part]:
        keys = self._keys.signing(now)[: None if self.profile.several else 1]
        return [self._signing[key.id] for key in keys]


def sign(
    body: bytes,
    keys: Keys,
    *,
    event_id: str | None = None,
    timestamp: Time | None = None,
    profile: Profile = STANDARD,
    method: str = "",
    url: str = "",
) -> SignedRequest:
    """
    Sign a body, in one line; a `Signer` that is kept is faster.

        >>> from twh_platform.webhooks import StandardSecret
        >>> signed = sign(b'{"type":"order.paid"}', StandardSecret.generate(), event_id="msg_1")
        >>> sorted(signed.headers)
        ['webhook-id', 'webhook-signature', 'webhook-timestamp']

    Args:
        body: What will be sent.

        keys: A secret, several, or a `Keyring`.

        event_id: See `Signer.sign`.

        timestamp: See `Signer.sign`.

        profile: How to sign.

        method: See `Signer.sign`.

        url: See `Signer.sign`.

    Raises:
        twh_platform.errors.WebhookError: See `Signer.sign`.

        twh_platform.errors.WebhookUsageError: See `Signer` and `Signer.sign`.
    """
    signer = Signer(keys, profile=profile)
    return signer.sign(body, event_id=event_id, timestamp=timestamp, method=method, url=url)


def new_event_id() -> str:
    """
    Make an event's id that nobody can guess: ``msg_`` and 32 hexadecimal digits.
    """
    return f"msg_{secrets.token_hex(16)}"


_new: Final = object.__new__
_set_body, _set_headers, _set_id, _set_timestamp = (
    getattr(SignedRequest, one.name).__set__ for one in fields(SignedRequest)
)


def _request(body: bytes, headers: dict[str, str], event: str, seconds: int) -> SignedRequest:
    # What the class does, in a third of the time: its fields cannot be set otherwise.
    request = _new(SignedRequest)
    _set_body(request, body)
    _set_headers(request, MappingProxyType(headers))
    _set_id(request, event)
    _set_timestamp(request, seconds)
    return request


_Usual: TypeAlias = Callable[[bytes, str | None, float], SignedRequest | None]


def _usual_of(profile: Profile, parts: Sequence[_Part]) -> _Usual:
    """
    Make what signs the usual webhook: one key, the headers of Standard Webhooks, now.

    It says None to whatever is unusual, right or wrong, which is then the general
    way's; what both sign is the same.
    """
    if profile.form is not Form.SPACED or profile.head != "{id}.{timestamp}." or len(parts) != 1:
        return lambda _body, _event, _now: None
    [(_, scheme, make)] = parts
    names = profile.id_header, profile.timestamp_header, profile.signature_header
    id_header, timestamp_header, signature_header = names
    prefix = f"{scheme},"

    def usual(body: bytes, event: str | None, now: float) -> SignedRequest | None:
        if type(now) is not float or type(event) is not str:
            return None
        try:
            seconds = int(now)
            stamp = str(seconds)
            head = f"{event}.{stamp}.".encode()
        except (ValueError, OverflowError):
            return None
        if usual_head(head) is None:
            return None
        headers = {
            id_header: event,
            timestamp_header: stamp,
            signature_header: prefix + make(head, body).decode(),
        }
        return _request(body, headers, event, seconds)

    return usual


def _part(key: Key, profile: Profile) -> _Part:
    secret = key.secret
    for name, scheme in profile.schemes.items():
        if secret.kind in scheme.kinds:
            if isinstance(secret, HmacSecret):
                return key.id, name, _mac(secret, scheme)
            if isinstance(secret, SigningKey):
                return key.id, name, _signature(secret, scheme)
    message = f"profile {profile.name!r} does not sign with a {type(secret).__name__}"
    raise WebhookUsageError(message, code="secret_type_invalid")


def _mac(secret: HmacSecret, scheme: Scheme) -> _Make:
    inner, outer = secret.pads(scheme.algorithm.removeprefix("hmac-"))
    encode = ENCODINGS[scheme.encoding]

    def make(head: bytes, body: bytes) -> bytes:
        inside, outside = inner.copy(), outer.copy()
        inside.update(head)
        inside.update(body)
        outside.update(inside.digest())
        return encode(outside.digest())

    return make


def _signature(secret: SigningKey, scheme: Scheme) -> _Make:
    encode = ENCODINGS[scheme.encoding]
    return lambda head, body: encode(secret.sign(head + body))


def _bytes(body: object) -> bytes:
    if isinstance(body, bytes):
        return body
    if isinstance(body, (bytearray, memoryview)):
        # A copy: what was signed must not change before it is sent.
        return bytes(body)
    message = f"a body is the bytes to send, not {type(body).__name__}"
    raise WebhookUsageError(message, code="body_not_bytes")


def _id(event: str | None) -> str:
    if event is None:
        return new_event_id()
    if not isinstance(event, str) or not event.isascii() or not valid_id(event.encode()):
        raise WebhookError("an id is 1 to 256 letters, digits, _ and -", code="id_malformed")
    return event


def _seconds(moment: object) -> int:
    if isinstance(moment, datetime):
        if moment.utcoffset() is None:
            message = "a datetime without a time zone is no moment"
            raise WebhookUsageError(message, code="timestamp_invalid")
        moment = moment.timestamp()
    if not isinstance(moment, (int, float)) or isinstance(moment, bool):
        message = f"a timestamp is Unix seconds, or an aware datetime, not {type(moment).__name__}"
        raise WebhookUsageError(message, code="timestamp_invalid")
    if not 1 <= moment < 10**LONGEST_TIMESTAMP:
        raise WebhookError("a timestamp has 1 to 12 digits", code="timestamp_malformed")
    return int(moment)


def _headers(
    profile: Profile, event: str, stamp: str, signatures: list[tuple[str, str]]
) -> dict[str, str]:
    headers = {}
    if profile.id_header:
        headers[profile.id_header] = event
    if profile.timestamp_header:
        headers[profile.timestamp_header] = stamp
    headers[profile.signature_header] = _WRITE[profile.form](stamp, signatures)
    return headers


def _message_headers(
    part: _Part, body: bytes, event: str, seconds: int, *, method: str, url: str
) -> dict[str, str]:
    key_id, scheme, make = part
    return signed_message(
        body,
        event=event,
        seconds=seconds,
        method=method,
        url=url,
        key_id=key_id,
        algorithm=scheme,
        sign=lambda base: make(base, b""),
    )


def _prefixed(_: str, signatures: list[tuple[str, str]]) -> str:
    return f"{signatures[0][0]}={','.join(text for _, text in signatures)}"


_WRITE: Final[dict[Form, Callable[[str, list[tuple[str, str]]], str]]] = {
    Form.SPACED: lambda _, all_: " ".join(f"{name},{text}" for name, text in all_),
    Form.FIELDS: lambda stamp, all_: ",".join(
        [f"t={stamp}", *(f"{name}={text}" for name, text in all_)]
    ),
    Form.PREFIXED: _prefixed,
    Form.PLAIN: lambda _, all_: all_[0][1],
}
