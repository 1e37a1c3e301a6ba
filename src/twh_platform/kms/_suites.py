"""
The suites: what is derived from a data key, and how each of them seals and opens.

    keys  = HKDF-Expand-SHA512(data key, info, 64 bytes)
    info  = LP("twh/env/v1", suite, data key id, tenant id)
    bound = header | LP(tenant id) | encoded context

| suite | keys | body |
|---|---|---|
| 1 | enc 32, commit 32 | commit, nonce 12, AES-256-GCM under enc with AAD bound |
| 2 | key 32, the rest unused | Cobblestone-256 under key in context bound |
| 3 | enc 32, commit 32 | commit, AES-256-GCM-SIV under enc, nonce 0, AAD bound |

A data key is 32 random bytes, so that it needs no extraction (RFC 5869, 3.3).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from hmac import compare_digest
from typing import NoReturn, Protocol, TypeAlias

from .._extras import missing_extra
from ..errors import ConfigurationError, DecryptionError
from ._context import length_prefixed
from ._envelope import (
    HEADER_BYTES,
    MOST_BYTES_AT_ONCE,
    Parsed,
    Suite,
    encode_inline,
    header_of,
)
from ._service import DATA_KEY_BYTES, WrappedKey

try:
    from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESGCMSIV
    from cryptography.hazmat.primitives.hashes import SHA512
    from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
except ImportError as error:
    raise missing_extra("kms", error) from error

__all__ = ["Keys", "expand"]

_LABEL = b"twh/env/v1"
_COMMIT_BYTES = 32
_NONCE_BYTES = 12
_NO_NONCE = bytes(_NONCE_BYTES)
# Below this a copy costs less than a view.
_COPIED_BYTES = 4096

Random: TypeAlias = Callable[[int], bytes]
Sealer: TypeAlias = Callable[[bytes, bytes], bytes]


def expand(key: bytes, info: bytes, size: int) -> bytes:
    """
    HKDF-Expand with SHA-512 (RFC 5869, section 2.3) of a *key* that is uniformly random.
    """
    return HKDFExpand(SHA512(), size, info).derive(key)


class _Made(Protocol):
    # A suite with the keys of one data key and tenant.
    def seal(self, plaintext: bytes, tail: bytes, /) -> bytes: ...

    def body(self, header: bytes, plaintext: bytes, tail: bytes, /) -> bytes: ...

    def open(self, parsed: Parsed, tail: bytes, /) -> bytes: ...


class Keys:
    """
    The keys that one data key gives for one tenant, each made when first asked for.

    They are not shown and not pickled.  One object may be used by several threads.

    Args:
        data_key: 32 random bytes.

        tenant_id: Whose values are sealed.

        data_key_id: The id of the data key, 16 bytes.

        random: Where nonces come from; for tests on vectors.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``data_key_invalid``
            or ``key_context_invalid``, for a key or an id of another length.
    """

    __slots__ = ("_data_key", "_made", "_random", "_tenant", "data_key_id")

    def __init__(
        self,
        data_key: bytes,
        *,
        tenant_id: str,
        data_key_id: bytes,
        random: Random = os.urandom,
    ) -> None:
        if (size := len(data_key)) != DATA_KEY_BYTES:
            del data_key  # a traceback may show the variables of its frames
            message = f"a data key of {size} bytes, not {DATA_KEY_BYTES}"
            raise ConfigurationError(message, code="data_key_invalid")
        self._data_key = data_key
        self._tenant = tenant_id.encode()
        self._random = random
        self.data_key_id = data_key_id
        self._made: dict[Suite, _Made] = {}

    def seal(
        self,
        plaintext: bytes,
        bound_tail: bytes,
        suite: Suite = Suite.STREAM,
        *,
        inline: Sequence[WrappedKey] = (),
    ) -> bytes:
        """
        Seal *plaintext* as one envelope.

        Args:
            plaintext: What to seal; it may be empty.

            bound_tail: What `bound_tail` gave for the tenant and the context.

            suite: How.

            inline: The data key, wrapped: an envelope that carries it can be
                opened without a store of data keys.

        Raises:
            twh_platform.errors.ConfigurationError: With code
                ``plaintext_too_large`` over 64 MiB, but for suite 2.
        """
        made = self._made.get(suite) or self._make(suite)
        if not inline:
            return made.seal(plaintext, bound_tail)
        header = header_of(suite, self.data_key_id, inline=True)
        return header + encode_inline(inline) + made.body(header, plaintext, bound_tail)

    def sealer(self, suite: Suite) -> Sealer:
        """
        The function of (plaintext, bound tail) that `seal` comes to without *inline*.
        """
        return (self._made.get(suite) or self._make(suite)).seal

    def open(self, parsed: Parsed, bound_tail: bytes) -> bytes:
        """
        Open an envelope that was parsed, all of it or nothing.

        Raises:
            twh_platform.errors.DecryptionError: For whatever does not fit.
        """
        return (self._made.get(parsed.suite) or self._make(parsed.suite)).open(parsed, bound_tail)

    def encryptor(self, header: bytes, bound_tail: bytes) -> Cobblestone256Encryptor:
        """
        The encryptor of suite 2 for the body behind *header*.
        """
        return Cobblestone256Encryptor(self._material(Suite.STREAM)[:32], header + bound_tail)

    def decryptor(self, header: bytes, bound_tail: bytes) -> Cobblestone256Decryptor:
        """
        The decryptor of suite 2 for the body behind *header*.
        """
        return Cobblestone256Decryptor(self._material(Suite.STREAM)[:32], header + bound_tail)

    def __reduce__(self) -> NoReturn:
        message = "keys are not pickled: pass the wrapped data key"
        raise TypeError(message)

    def _material(self, suite: Suite) -> bytes:
        info = length_prefixed(_LABEL, bytes([suite]), self.data_key_id, self._tenant)
        return expand(self._data_key, info, 64)

    def _make(self, suite: Suite) -> _Made:
        suite = Suite(suite)  # a plain number would be no member below
        header = header_of(suite, self.data_key_id)
        material = self._material(suite)
        made: _Made
        match suite:
            case Suite.FIELD:
                made = _Field(header, material, self._random)
            case Suite.STREAM:
                made = _Stream(header, material)
            case Suite.DETERMINISTIC:
                made = _Deterministic(header, material)
        self._made[suite] = made
        return made


class _Field:
    # The hot path: everything that does not change from value to value is made before.
    __slots__ = ("_commitment", "_decrypt", "_encrypt", "_header", "_prefix", "_random")

    def __init__(self, header: bytes, material: bytes, random: Random) -> None:
        cipher = AESGCM(material[:32])
        self._header, self._commitment, self._random = header, material[32:], random
        self._prefix = header + self._commitment
        self._encrypt, self._decrypt = cipher.encrypt, cipher.decrypt

    def seal(self, plaintext: bytes, tail: bytes, /) -> bytes:
        if len(plaintext) > MOST_BYTES_AT_ONCE:
            raise _too_large(len(plaintext))
        nonce = self._random(_NONCE_BYTES)
        return self._prefix + nonce + self._encrypt(nonce, plaintext, self._header + tail)

    def body(self, header: bytes, plaintext: bytes, tail: bytes, /) -> bytes:
        if len(plaintext) > MOST_BYTES_AT_ONCE:
            raise _too_large(len(plaintext))
        nonce = self._random(_NONCE_BYTES)
        return self._commitment + nonce + self._encrypt(nonce, plaintext, header + tail)

    def open(self, parsed: Parsed, tail: bytes, /) -> bytes:
        _, _, _, sealed, at = parsed
        nonce_at = at + _COMMIT_BYTES
        rest_at = nonce_at + _NONCE_BYTES
        if not compare_digest(sealed[at:nonce_at], self._commitment):
            raise DecryptionError
        rest = sealed[rest_at:] if len(sealed) < _COPIED_BYTES else memoryview(sealed)[rest_at:]
        try:
            return self._decrypt(sealed[nonce_at:rest_at], rest, sealed[:HEADER_BYTES] + tail)
        except InvalidTag:
            raise DecryptionError from None


class _Deterministic:
    __slots__ = ("_cipher", "_commitment", "_header")

    def __init__(self, header: bytes, material: bytes) -> None:
        self._header, self._commitment = header, material[32:]
        self._cipher = AESGCMSIV(material[:32])

    def seal(self, plaintext: bytes, tail: bytes, /) -> bytes:
        return self._header + self.body(self._header, plaintext, tail)

    def body(self, header: bytes, plaintext: bytes, tail: bytes, /) -> bytes:
        if len(plaintext) > MOST_BYTES_AT_ONCE:
            raise _too_large(len(plaintext))
        return self._commitment + self._cipher.encrypt(_NO_NONCE, plaintext, header + tail)

    def open(self, parsed: Parsed, tail: bytes, /) -> bytes:
        sealed, rest_at = parsed.sealed, parsed.offset + _COMMIT_BYTES
        if not compare_digest(sealed[parsed.offset : rest_at], self._commitment):
            raise DecryptionError
        try:
            return self._cipher.decrypt(
                _NO_NONCE, memoryview(sealed)[rest_at:], sealed[:HEADER_BYTES] + tail
            )
        except InvalidTag:
            raise DecryptionError from None


class _Stream:
    __slots__ = ("_header", "_key")

    def __init__(self, header: bytes, material: bytes) -> None:
        self._header, self._key = header, material[:32]

    def seal(self, plaintext: bytes, tail: bytes, /) -> bytes:
        encryptor = Cobblestone256Encryptor(self._key, self._header + tail)
        return b"".join([self._header, encryptor.update(plaintext), encryptor.finalize()])

    def body(self, header: bytes, plaintext: bytes, tail: bytes, /) -> bytes:
        encryptor = Cobblestone256Encryptor(self._key, header + tail)
        return encryptor.update(plaintext) + encryptor.finalize()

    def open(self, parsed: Parsed, tail: bytes, /) -> bytes:
        _, _, _, sealed, at = parsed
        decryptor = Cobblestone256Decryptor(self._key, sealed[:HEADER_BYTES] + tail)
        rest = sealed[at:] if len(sealed) < _COPIED_BYTES else memoryview(sealed)[at:]
        try:
            return decryptor.update(rest) + decryptor.finalize()
        except InvalidTag:
            raise DecryptionError from None


def _too_large(size: int) -> ConfigurationError:
    message = (
        f"a plaintext of {size} bytes, at most {MOST_BYTES_AT_ONCE} in this suite: "
        "seal it with Suite.STREAM"
    )
    return ConfigurationError(message, code="plaintext_too_large")
