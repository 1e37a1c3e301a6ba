"""
The envelope around a sealed value, version 1: its header, and a parser for it.

    offset  size
    0       1     version: 1
    1       1     suite: 1, 2 or 3
    2       1     flags: bit 0, wrapped data keys follow; all others 0
    3       16    id of the data key

Only with bit 0 set:

    19      1     how many wrapped keys: 1 to 4
    each    1     key service: 1 local, 2 vault, 3 aws
            2, n  length and name of the master key, UTF-8
            4     version of the master key
            2, n  length (at most 1,024) and wrapped data key

Then the body, as its suite makes it.  Integers are big-endian.  There is one
way to write an envelope, and whatever does not fit it, to the byte, is refused.
"""

from __future__ import annotations

import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple

from ..errors import ConfigurationError, DecryptionError
from ._context import DATA_KEY_ID_BYTES, encode_context, length_prefixed
from ._service import LONGEST_KEY_REF, LONGEST_WRAPPED_BYTES, WrappedKey

__all__ = [
    "HEADER_BYTES",
    "MOST_BYTES_AT_ONCE",
    "MOST_WRAPPED_KEYS",
    "VERSION",
    "Parsed",
    "Suite",
    "bound_tail",
    "encode_inline",
    "from_text",
    "header_of",
    "parse",
    "parse_head",
    "replace_inline",
    "to_text",
]

VERSION = 1
HEADER_BYTES = 3 + DATA_KEY_ID_BYTES
MOST_WRAPPED_KEYS = 4
MOST_BYTES_AT_ONCE = 64 * 1024 * 1024

_INLINE = 1
_PREFIX = "tw1."
_TEXT_ALPHABET = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
_CHUNK_BYTES = 16 * 1024 + 16
_STREAM_HEAD_BYTES = 24 + 32
_TAG_BYTES = 16
_LONGEST_ENCODED_REF = 4 * LONGEST_KEY_REF
_BEFORE_REF = struct.Struct(">BH")
_AFTER_REF = struct.Struct(">IH")
_LARGEST_VERSION = 2**32 - 1

_PROVIDERS = {"local": 1, "vault": 2, "aws": 3}
_PROVIDER_NAMES = {number: name for name, number in _PROVIDERS.items()}

# What a named tuple's own constructor comes to, in a third of its time.
_new = tuple.__new__


class Suite(IntEnum):
    """
    How a value is sealed.  Each suite has keys of its own.
    """

    FIELD = 1
    """
    AES-256-GCM with a commitment to the key; for small values in great numbers.

    Its data keys belong to one process, which counts what they seal.
    """

    STREAM = 2
    """
    Cobblestone-256 in chunks of 16 KiB, committed to key and context; for everything else.
    """

    DETERMINISTIC = 3
    """
    AES-256-GCM-SIV without a nonce, with a commitment to the key.

    Equal values in equal contexts give equal bytes: whoever reads them learns
    that.  Ask for it column by column, where values are compared.
    """


# Looked up in the class a member costs more than the whole comparison.
_STREAM = Suite.STREAM

# The shortest and the longest body of a suite.
_BODIES = {
    Suite.FIELD: (32 + 12 + _TAG_BYTES, 32 + 12 + _TAG_BYTES + MOST_BYTES_AT_ONCE),
    Suite.STREAM: (_STREAM_HEAD_BYTES + _TAG_BYTES, 2**52),
    Suite.DETERMINISTIC: (32 + _TAG_BYTES, 32 + _TAG_BYTES + MOST_BYTES_AT_ONCE),
}
_BY_REFERENCE = {bytes([VERSION, suite, 0]): (suite, *_BODIES[suite]) for suite in Suite}
_KINDS = [bytes([VERSION, suite, flags]) for suite in Suite for flags in (0, _INLINE)]


class Parsed(NamedTuple):
    """
    An envelope whose form is right; nothing in it is authenticated yet.

    Attributes:
        suite: How it was sealed.

        data_key_id: The id of the data key, 16 bytes.

        inline: The data key, wrapped, in envelopes that carry it.

        sealed: The whole envelope.

        offset: Where its body begins.
    """

    suite: Suite
    data_key_id: bytes
    inline: tuple[WrappedKey, ...]
    sealed: bytes
    offset: int


def header_of(suite: Suite, data_key_id: bytes, *, inline: bool = False) -> bytes:
    """
    The first 19 bytes of every envelope of *suite* by this data key.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``key_context_invalid``, for an id of another length.
    """
    if len(data_key_id) != DATA_KEY_ID_BYTES:
        message = f"data_key_id has {len(data_key_id)} bytes, not {DATA_KEY_ID_BYTES}"
        raise ConfigurationError(message, code="key_context_invalid")
    return bytes([VERSION, suite, _INLINE if inline else 0]) + data_key_id


def bound_tail(tenant_id: str, context: Mapping[str, str]) -> bytes:
    """
    What an envelope is bound to beyond its header: LP of the tenant, then the context.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``seal_context_invalid``; see `encode_context`.
    """
    return length_prefixed(tenant_id.encode()) + encode_context(context)


def parse(sealed: bytes) -> Parsed:
    """
    Read an envelope's header, and check that its body can be one of its suite.

    Raises:
        twh_platform.errors.DecryptionError: For everything else, always alike.
    """
    if type(sealed) is not bytes:
        sealed = _as_bytes(sealed)
    known = _BY_REFERENCE.get(sealed[:3])
    if known is not None:
        suite, least, most = known
        parsed = _new(Parsed, (suite, sealed[3:HEADER_BYTES], (), sealed, HEADER_BYTES))
    else:
        head = parse_head(sealed)
        if head is None:
            raise DecryptionError
        parsed, (least, most) = head, _BODIES[head.suite]
    size = len(sealed) - parsed.offset
    if not least <= size <= most:
        raise DecryptionError
    # The last chunk is the only short one: nothing else ends where a chunk ends.
    if parsed.suite is _STREAM and (size - _STREAM_HEAD_BYTES) % _CHUNK_BYTES < _TAG_BYTES:
        raise DecryptionError
    return parsed


def parse_head(start: bytes) -> Parsed | None:
    """
    Read the header of an envelope of which this is the start.

    Returns:
        None, if so far all is well and more is needed.  What is returned says
        nothing of the body.

    Raises:
        twh_platform.errors.DecryptionError: If no envelope begins like this.
    """
    if not any(kind.startswith(start[:3]) for kind in _KINDS):
        raise DecryptionError
    if len(start) < HEADER_BYTES:
        return None
    suite = Suite(start[1])
    data_key_id = start[3:HEADER_BYTES]
    if not start[2]:
        return Parsed(suite, data_key_id, (), start, HEADER_BYTES)
    reader = _Reader(start, HEADER_BYTES)
    try:
        inline = reader.wrapped_keys()
    except _MoreNeeded:
        return None
    except (ConfigurationError, UnicodeDecodeError):
        raise DecryptionError from None
    return Parsed(suite, data_key_id, inline, start, reader.at)


class _MoreNeeded(Exception):  # noqa: N818 - a turn of the parser, not an error
    pass


class _Reader:
    # Takes pieces off the front; every length is checked before it is believed.
    __slots__ = ("_data", "at")

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self.at = data, at

    def take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self._data):
            raise _MoreNeeded
        piece, self.at = self._data[self.at : end], end
        return piece

    def wrapped_keys(self) -> tuple[WrappedKey, ...]:
        (count,) = self.take(1)
        if not 1 <= count <= MOST_WRAPPED_KEYS:
            raise DecryptionError
        return tuple([self._wrapped_key() for _ in range(count)])

    def _wrapped_key(self) -> WrappedKey:
        number, size = _BEFORE_REF.unpack(self.take(_BEFORE_REF.size))
        provider = _PROVIDER_NAMES.get(number)
        if provider is None or not 0 < size <= _LONGEST_ENCODED_REF:
            raise DecryptionError
        key_ref = self.take(size).decode()
        version, size = _AFTER_REF.unpack(self.take(_AFTER_REF.size))
        if not 0 < size <= LONGEST_WRAPPED_BYTES:
            raise DecryptionError
        return WrappedKey(
            provider=provider, key_ref=key_ref, key_version=version, ciphertext=self.take(size)
        )


def _as_bytes(sealed: object) -> bytes:
    if isinstance(sealed, bytes | bytearray | memoryview):
        return bytes(sealed)
    raise DecryptionError


def encode_inline(keys: Sequence[WrappedKey]) -> bytes:
    """
    The list of wrapped data keys, as an envelope that carries them has it.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``wrapped_key_invalid``: for no key or more than 4, for a key
            service that is none of ours, or for what does not fit its field.
    """
    if not 1 <= len(keys) <= MOST_WRAPPED_KEYS:
        message = f"{len(keys)} wrapped keys, not 1 to {MOST_WRAPPED_KEYS}"
        raise ConfigurationError(message, code="wrapped_key_invalid")
    return bytes([len(keys)]) + b"".join([_encode_key(key) for key in keys])


def _encode_key(key: WrappedKey) -> bytes:
    number = _PROVIDERS.get(key.provider)
    if number is None or key.key_version > _LARGEST_VERSION:
        message = f"provider={key.provider!r}, version {key.key_version}: an envelope has no such"
        raise ConfigurationError(message, code="wrapped_key_invalid")
    key_ref = key.key_ref.encode()
    return b"".join(
        [
            _BEFORE_REF.pack(number, len(key_ref)),
            key_ref,
            _AFTER_REF.pack(key.key_version, len(key.ciphertext)),
            key.ciphertext,
        ]
    )


def replace_inline(sealed: bytes, keys: Sequence[WrappedKey]) -> bytes:
    """
    The same envelope with its data key wrapped otherwise; its body stays as it is.

    The list of wrapped keys is not bound to the body, so that a rewrapped one
    can take its place.  One that is no key of this envelope opens nothing.

    Raises:
        twh_platform.errors.DecryptionError: If it is not an envelope that
            carries wrapped keys.

        twh_platform.errors.ConfigurationError: See `encode_inline`.
    """
    parsed = parse(sealed)
    if not parsed.inline:
        raise DecryptionError
    whole = parsed.sealed
    return whole[:HEADER_BYTES] + encode_inline(keys) + whole[parsed.offset :]


def to_text(sealed: bytes) -> str:
    """
    An envelope as text: ``tw1.`` and base64url without padding (RFC 4648, section 5).
    """
    return _PREFIX + urlsafe_b64encode(sealed).rstrip(b"=").decode()


def from_text(text: str) -> bytes:
    """
    The envelope that `to_text` made this of; it is not parsed yet.

    There is one text for an envelope: padding, spaces, other alphabets and
    bits that are left over are refused.

    Raises:
        twh_platform.errors.DecryptionError: For every other text.
    """
    if not isinstance(text, str) or not text.isascii() or not text.startswith(_PREFIX):
        raise DecryptionError
    encoded = text[len(_PREFIX) :].encode()
    if not _TEXT_ALPHABET.issuperset(encoded):
        raise DecryptionError
    try:
        sealed = urlsafe_b64decode(encoded + b"=" * (-len(encoded) % 4))
    except Base64Error:
        raise DecryptionError from None
    if to_text(sealed) != text:
        raise DecryptionError
    return sealed
