"""
How a master key of a keyset wraps a data key.

::

    0      form = 1                    1 byte
    1..16  salt                       16, random
    17..28 nonce                      12, random
    29..60 data key, AES-256-GCM      32
    61..76 tag                        16

The key of each wrapping is HKDF-SHA256 (RFC 5869) of the master key's version
with the salt, so that no number of wrappings wears one key out.  Authenticated
with it are the form, the master key's name and version, and the context.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable

from .._extras import missing_extra
from ..errors import DecryptionError
from ._context import KeyContext, length_prefixed
from ._secret import HiddenBytes
from ._service import DATA_KEY_BYTES

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
except ImportError as error:
    raise missing_extra("kms", error) from error

__all__ = ["WRAPPED_BYTES", "derive_key", "unwrap_key", "wrap_key"]

_FORM = 1
_SALT_BYTES = 16
_NONCE_BYTES = 12
_HEAD = 1 + _SALT_BYTES + _NONCE_BYTES
WRAPPED_BYTES = _HEAD + DATA_KEY_BYTES + 16

_LABEL = b"twh/local/wrap/v1"
_VERSION = struct.Struct(">I")


def derive_key(material: bytes, *, salt: bytes | None = None, info: bytes) -> bytes:
    """
    32 bytes of HKDF-SHA256, which do not show themselves.
    """
    hkdf = HKDF(algorithm=SHA256(), length=32, salt=salt, info=info)
    return HiddenBytes(hkdf.derive(material))


def wrap_key(
    data_key: bytes,
    material: bytes,
    *,
    key_ref: str,
    version: int,
    context: KeyContext,
    random: Callable[[int], bytes] = os.urandom,
) -> bytes:
    """
    Wrap a data key of 32 bytes by one version of a master key.
    """
    salt, nonce = random(_SALT_BYTES), random(_NONCE_BYTES)
    key = derive_key(material, salt=salt, info=_LABEL)
    sealed = AESGCM(key).encrypt(nonce, data_key, _bound(key_ref, version, context))
    return bytes((_FORM,)) + salt + nonce + sealed


def unwrap_key(
    wrapped: bytes, material: bytes, *, key_ref: str, version: int, context: KeyContext
) -> bytes:
    """
    Recover a data key.

    Raises:
        twh_platform.errors.DecryptionError: For every kind of mismatch.
    """
    if len(wrapped) != WRAPPED_BYTES or wrapped[0] != _FORM:
        raise DecryptionError
    salt, nonce = wrapped[1 : 1 + _SALT_BYTES], wrapped[1 + _SALT_BYTES : _HEAD]
    key = derive_key(material, salt=salt, info=_LABEL)
    try:
        opened = AESGCM(key).decrypt(nonce, wrapped[_HEAD:], _bound(key_ref, version, context))
    except InvalidTag:
        raise DecryptionError from None
    return HiddenBytes(opened)


def _bound(key_ref: str, version: int, context: KeyContext) -> bytes:
    mine = length_prefixed(_LABEL, key_ref.encode(), _VERSION.pack(version))
    return mine + context.encoded()
