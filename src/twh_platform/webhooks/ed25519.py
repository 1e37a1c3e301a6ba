"""
Ed25519 keys (extra: `webhooks`): a receiver that holds no secret.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final, Self, final

from .._extras import missing_extra
from .._hidden import HiddenBytes
from ..errors import BackendUnavailableError, WebhookError, WebhookUsageError
from ._points import PUBLIC_KEY_BYTES, fault_of_public_key
from ._secrets import SigningKey, VerifyingKey, decoded, encoded, malformed

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )
except ImportError as error:
    raise missing_extra("webhooks", error) from error

__all__ = ["PrivateKey", "PublicKey", "RemoteKey"]

LONGEST_REMOTE_MESSAGE: Final = 4_096
"""What AWS KMS signs with Ed25519."""


@final
class PublicKey(VerifyingKey):
    """
    The key that Ed25519 signatures are verified with.

    Points of small order, points outside of the prime-order group and other
    spellings of a point are refused: with some of them anybody can sign.

    Args:
        text: ``whpk_`` and the 32 bytes in standard base64.

    Raises:
        twh_platform.errors.WebhookError: With code ``secret_malformed``.
    """

    __slots__ = ("_key",)
    kind = "ed25519"

    _key: Ed25519PublicKey

    def __init__(self, text: str) -> None:
        raw = decoded(text, "whpk_")
        del text  # which may be the private key, by mistake
        fault = fault_of_public_key(raw)
        if fault:
            raise malformed(fault)
        self._keep(raw, b"ed25519" + raw)
        object.__setattr__(self, "_key", Ed25519PublicKey.from_public_bytes(raw))

    def reveal(self) -> str:
        """
        Its text, which is no secret.
        """
        return encoded("whpk_", self._hidden)

    def fits(self, signature: bytes, message: bytes) -> bool:
        """
        Whether this is its signature (RFC 8032) of that message.
        """
        try:
            self._key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


@final
class PrivateKey(SigningKey):
    """
    The key that Ed25519 signatures are made with.

    Args:
        text: ``whsk_`` and, in standard base64, the seed of 32 bytes with the
            public key of 32 bytes behind it.

    Raises:
        twh_platform.errors.WebhookError: With code ``secret_malformed``, also
            if the two halves do not belong together.
    """

    __slots__ = ("_key", "public")
    kind = "ed25519"

    _key: Ed25519PrivateKey
    public: PublicKey

    def __init__(self, text: str) -> None:
        raw = HiddenBytes(decoded(text, "whsk_"))
        del text  # which an error reporter would show
        if len(raw) != 2 * PUBLIC_KEY_BYTES or _public_half(raw[:32]) != raw[32:]:
            raise malformed("is a seed of 32 bytes and its public key")
        self._keep(raw, b"ed25519" + raw[32:])
        object.__setattr__(self, "_key", Ed25519PrivateKey.from_private_bytes(raw[:32]))
        object.__setattr__(self, "public", PublicKey(encoded("whpk_", raw[32:])))

    @classmethod
    def generate(cls) -> Self:
        """
        Make one from the system's random source.
        """
        seed = secrets.token_bytes(32)
        return cls(encoded("whsk_", seed + _public_half(seed)))

    def reveal(self) -> str:
        """
        The text, to be kept where secrets are kept.
        """
        return encoded("whsk_", self._hidden)

    def sign(self, message: bytes) -> bytes:
        """
        The signature (RFC 8032), 64 bytes.
        """
        return self._key.sign(message)


@final
class RemoteKey(SigningKey):
    """
    A private key that a key service holds, and signs with.

    With the profile `MESSAGE` the service is given under 4096 bytes, whatever the size
    of the body is; with the others, the whole body::

        def sign(message):
            answer = client.sign(
                KeyId=key_id,
                Message=message,
                MessageType="RAW",
                SigningAlgorithm="ED25519_SHA_512",
            )
            return answer["Signature"]

        key = RemoteKey(public, sign)

    The service is called in the thread of who signs: from async code, sign in a thread.

    Args:
        public: Its public key.  What the service answers is verified with it before
            anything is sent, so that a wrong key shows here and not at a receiver.

        sign: Takes the bytes, and returns the signature (RFC 8032), 64 bytes.

    Raises:
        twh_platform.errors.WebhookUsageError: With code ``secret_type_invalid``.
    """

    __slots__ = ("_sign", "public")
    kind = "ed25519"

    _sign: Callable[[bytes], bytes]
    public: PublicKey

    def __init__(self, public: PublicKey, sign: Callable[[bytes], bytes]) -> None:
        if not isinstance(public, PublicKey) or not callable(sign):
            message = "a remote key is a PublicKey and a callable that signs"
            raise WebhookUsageError(message, code="secret_type_invalid")
        raw = decoded(public.reveal(), "whpk_")
        self._keep(raw, b"ed25519" + raw)
        object.__setattr__(self, "_sign", sign)
        object.__setattr__(self, "public", public)

    def sign(self, message: bytes) -> bytes:
        """
        The signature (RFC 8032), 64 bytes.

        Raises:
            twh_platform.errors.BackendUnavailableError: With code
                ``signer_unavailable``, if the service raised.

            twh_platform.errors.WebhookError: With code ``message_too_large``, above
                4096 bytes; with ``signer_mismatch``, if its answer is no signature
                with that public key.
        """
        if len(message) > LONGEST_REMOTE_MESSAGE:
            what = f"a key service signs at most {LONGEST_REMOTE_MESSAGE} bytes: use MESSAGE"
            raise WebhookError(what, code="message_too_large")
        try:
            signature = self._sign(message)
        except Exception as error:
            what = "the key service did not sign"
            raise BackendUnavailableError(what, code="signer_unavailable") from error
        if not isinstance(signature, bytes) or not self.public.fits(signature, message):
            what = "the key service's answer is no signature with that public key"
            raise WebhookError(what, code="signer_mismatch")
        return signature


def _public_half(seed: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
