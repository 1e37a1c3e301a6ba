"""
What webhooks are signed and verified with: typed, so that no kind passes for another.

The same text means different keys to different senders: for Standard Webhooks
``whsec_`` is followed by the key in base64, for Stripe it is a part of the key.
So the type says what a secret is, and a profile says which types it takes.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import secrets
from typing import Any, ClassVar, Final, NoReturn, Protocol, Self, SupportsIndex, final

from .._hidden import HiddenBytes, not_pickled
from ..errors import WebhookError

__all__ = [
    "HmacSecret",
    "RawSecret",
    "SigningKey",
    "StandardSecret",
    "VerifyingKey",
    "WebhookKey",
    "decoded",
    "encoded",
    "malformed",
]

_INNER: Final = bytes(one ^ 0x36 for one in range(256))
_OUTER: Final = bytes(one ^ 0x5C for one in range(256))

LEAST_STANDARD_BYTES: Final = 24
LEAST_RAW_BYTES: Final = 8
_ED25519_PREFIXES: Final = (b"whpk_", b"whsk_")
_LONGEST_TEXT: Final = 128
MOST_BYTES: Final = 64
"""Longer HMAC keys are hashed first, and so equal to a shorter one."""


class Hash(Protocol):
    """
    What hashlib's objects are.
    """

    def copy(self) -> Hash: ...

    def update(self, data: Any, /) -> None: ...

    def digest(self) -> bytes: ...


class WebhookKey:
    """
    What every kind has in common: an identity that gives nothing away.

    Attributes:
        kind: ``standard``, ``raw`` or ``ed25519``: what a profile goes by.

        fingerprint: 16 hexadecimal digits; equal for secrets that sign alike.
    """

    __slots__ = ("_hidden", "fingerprint")

    kind: ClassVar[str]
    _hidden: HiddenBytes
    fingerprint: str

    def _keep(self, hidden: bytes, identity: bytes) -> None:
        object.__setattr__(self, "_hidden", HiddenBytes(hidden))
        object.__setattr__(self, "fingerprint", _fingerprint(identity))

    def __repr__(self) -> str:
        # An error reporter shows one also while it is being made.
        return f"{type(self).__name__}(fingerprint={getattr(self, 'fingerprint', '')!r})"

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other) or not isinstance(other, WebhookKey):
            return NotImplemented
        return hmac.compare_digest(self._hidden, other._hidden)

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"a {type(self).__name__} does not change")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a {type(self).__name__} does not change")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise not_pickled()


class HmacSecret(WebhookKey):
    """
    A secret that both sides share; `StandardSecret` or `RawSecret`.
    """

    __slots__ = ("_pads",)

    _pads: dict[str, tuple[Hash, Hash]]

    def _take(self, key: bytes) -> None:
        # Filled up to a block: that is all that HMAC makes of it (RFC 2104, section 2).
        self._keep(key, b"hmac" + key.ljust(MOST_BYTES, b"\0"))
        object.__setattr__(self, "_pads", {})

    def pads(self, algorithm: str) -> tuple[Hash, Hash]:
        """
        The inner and the outer hash with their pads taken in, to be copied.

        Half of what HMAC costs for a short message is saved by keeping them.
        """
        pads = self._pads.get(algorithm)
        if pads is None:
            block = self._hidden.ljust(hashlib.new(algorithm).block_size, b"\0")
            inner = hashlib.new(algorithm, block.translate(_INNER))
            outer = hashlib.new(algorithm, block.translate(_OUTER))
            pads = self._pads[algorithm] = (inner, outer)
        return pads


class VerifyingKey(WebhookKey):
    """
    A public key: `twh_platform.webhooks.ed25519.PublicKey`.
    """

    __slots__ = ()

    def fits(self, signature: bytes, message: bytes) -> bool:
        """
        Whether that is a signature of the message with this key.
        """
        raise NotImplementedError


class SigningKey(WebhookKey):
    """
    A private key: `twh_platform.webhooks.ed25519.PrivateKey`.
    """

    __slots__ = ()

    def sign(self, message: bytes) -> bytes:
        """
        The signature of the message.
        """
        raise NotImplementedError


@final
class StandardSecret(HmacSecret):
    """
    A shared secret of Standard Webhooks: 24 to 64 random bytes.

        >>> StandardSecret.generate()  # doctest: +ELLIPSIS
        StandardSecret(fingerprint='...')

    Args:
        text: ``whsec_`` and the bytes in standard base64, padded.

    Raises:
        twh_platform.errors.WebhookError: With code ``secret_malformed``.
    """

    __slots__ = ()
    kind = "standard"

    def __init__(self, text: str) -> None:
        key = HiddenBytes(decoded(text, "whsec_"))
        del text  # which an error reporter would show
        if not LEAST_STANDARD_BYTES <= len(key) <= MOST_BYTES:
            sizes = f"{LEAST_STANDARD_BYTES} to {MOST_BYTES} bytes"
            raise malformed(f"is whsec_ and {sizes} in standard base64, padded")
        self._take(key)

    @classmethod
    def generate(cls, size: int = 32) -> Self:
        """
        Make one from the system's random source.

        Args:
            size: Its bytes, 24 to 64.

        Raises:
            twh_platform.errors.WebhookError: With code ``secret_malformed``.
        """
        if not LEAST_STANDARD_BYTES <= size <= MOST_BYTES:
            raise malformed(f"has {LEAST_STANDARD_BYTES} to {MOST_BYTES} bytes")
        return cls(encoded("whsec_", secrets.token_bytes(size)))

    def reveal(self) -> str:
        """
        The text to show to the receiver, once.
        """
        return encoded("whsec_", self._hidden)


@final
class RawSecret(HmacSecret):
    """
    A shared secret whose bytes are the key as they are: GitHub, Stripe, Slack and others.

    Args:
        key: 8 to 64 bytes, or the text that the sender gave, in ASCII.  A prefix is a
            part of it: ``whsec_`` is for Stripe.  What begins with ``whpk_`` or
            ``whsk_`` is a key of Ed25519, and refused: whoever knows the public one
            could sign.

    Raises:
        twh_platform.errors.WebhookError: With code ``secret_malformed``.
    """

    __slots__ = ()
    kind = "raw"

    def __init__(self, key: str | bytes) -> None:
        raw = HiddenBytes(_raw(key))
        del key
        if not LEAST_RAW_BYTES <= len(raw) <= MOST_BYTES:
            sizes = f"{LEAST_RAW_BYTES} to {MOST_BYTES} bytes"
            raise malformed(f"has {sizes}, or is as much ASCII without a space at its ends")
        if raw.startswith(_ED25519_PREFIXES):
            raise malformed("is shared, and no key of Ed25519: give that as what it is")
        self._take(raw)

    def reveal(self) -> bytes:
        """
        The bytes.
        """
        return bytes(self._hidden)


def _fingerprint(identity: bytes) -> str:
    return hashlib.sha256(b"twh/webhooks/fingerprint/v1\0" + identity).hexdigest()[:16]


def _raw(key: object) -> bytes:
    if isinstance(key, str) and key.isascii() and key == key.strip():
        return key.encode()
    return key if isinstance(key, bytes) else b""


def decoded(text: object, prefix: str) -> bytes:
    """
    Read the bytes behind a prefix, in the one spelling that standard base64 has.

    There are none if it is something else: whoever raises forgets the text first.
    """
    if not isinstance(text, str) or not text.startswith(prefix) or len(text) > _LONGEST_TEXT:
        return b""
    try:
        found = binascii.a2b_base64(text[len(prefix) :], strict_mode=True)
    except ValueError:
        return b""
    # One spelling only: the bits after the last byte are zero.
    return found if encoded(prefix, found) == text else b""


def encoded(prefix: str, raw: bytes) -> str:
    """
    Write bytes behind a prefix, in standard base64.
    """
    return prefix + binascii.b2a_base64(raw, newline=False).decode("ascii")


def malformed(what: str) -> WebhookError:
    """
    The error of a secret that is none of its kind.
    """
    return WebhookError(f"a secret of this kind {what}", code="secret_malformed")
