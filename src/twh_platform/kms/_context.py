"""
What a key is bound to, as bytes and as pairs that no two contexts share.

Two levels: a key service learns the coarse context of a data key (tenant,
purpose, id) and binds the wrapped key to it; the fine context of one value
(table, column, row) is authenticated locally and never leaves the process.

LP(x) below is the length of x in 4 bytes, big-endian, and x.  Text is UTF-8 in
Unicode's NFC form; other forms are refused, not changed.
"""

from __future__ import annotations

import re
import struct
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import ConfigurationError
from ..tenancy._tenant import valid_tenant_id

__all__ = ["DATA_KEY_ID_BYTES", "KeyContext", "encode_context", "length_prefixed"]

DATA_KEY_ID_BYTES = 16

_PURPOSE = re.compile(r"[a-z][a-z0-9_.-]{0,31}", re.ASCII)
_MOST_PAIRS = 32
_LONGEST_TEXT = 1024
_LENGTH = struct.Struct(">I")


def length_prefixed(*parts: bytes) -> bytes:
    """
    Join *parts* so that no other parts give the same bytes.

        >>> length_prefixed(b"a", b"bc").hex()
        '0000000161000000026263'
    """
    return b"".join([piece for part in parts for piece in (_LENGTH.pack(len(part)), part)])


def encode_context(context: Mapping[str, str]) -> bytes:
    """
    The fine context as bytes: the number of pairs in 4 bytes, then each key and value.

    Pairs are sorted by the bytes of their key.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``seal_context_invalid``: for more than 32 pairs, for what is not
            text in NFC of at most 1,024 bytes, or for an empty key.
    """
    if not context:
        return _LENGTH.pack(0)
    if len(context) > _MOST_PAIRS:
        raise _invalid(f"{len(context)} pairs, at most {_MOST_PAIRS}")
    pairs = sorted((_text(key), _text(value)) for key, value in context.items())
    if not pairs[0][0]:
        raise _invalid("a key is empty")
    return _LENGTH.pack(len(pairs)) + length_prefixed(*[part for pair in pairs for part in pair])


def _text(value: object) -> bytes:
    if not isinstance(value, str):
        raise _invalid(f"{type(value).__name__} is not text")
    # ASCII is NFC by itself, and almost all that is ever given.
    if not value.isascii() and not unicodedata.is_normalized("NFC", value):
        raise _invalid("text is not in Unicode's NFC form")
    try:
        encoded = value.encode()
    except UnicodeEncodeError:
        raise _invalid("text has a lone surrogate") from None
    if len(encoded) > _LONGEST_TEXT:
        raise _invalid(f"text of {len(encoded)} bytes, at most {_LONGEST_TEXT}")
    return encoded


def _invalid(what: str) -> ConfigurationError:
    return ConfigurationError(f"the context of a seal: {what}", code="seal_context_invalid")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyContext:
    """
    What a wrapped data key is bound to; a key service may log all of it.

    Args:
        tenant_id: Whose data it seals.

        purpose: What for: 1 to 32 of ``a-z 0-9 _ . -``, a letter first.

        data_key_id: Its id: 16 random bytes.

    Raises:
        twh_platform.errors.TenantUnresolvedError: If the tenant id is not valid.

        twh_platform.errors.ConfigurationError: With code
            ``key_context_invalid``, if another field is not.
    """

    tenant_id: str
    purpose: str
    data_key_id: bytes

    def __post_init__(self) -> None:
        valid_tenant_id(self.tenant_id)
        if not _PURPOSE.fullmatch(self.purpose):
            message = f"purpose={self.purpose[:80]!r} is not 1 to 32 of a-z 0-9 _ . -"
            raise ConfigurationError(message, code="key_context_invalid")
        if len(self.data_key_id) != DATA_KEY_ID_BYTES:
            message = f"data_key_id has {len(self.data_key_id)} bytes, not {DATA_KEY_ID_BYTES}"
            raise ConfigurationError(message, code="key_context_invalid")

    def pairs(self) -> dict[str, str]:
        """
        The context as AWS KMS takes it: always these three keys.

        No value can hold a separator and the id has one length, so that even a
        serialisation without separators tells two contexts apart.
        """
        return {"twh:t": self.tenant_id, "twh:p": self.purpose, "twh:d": self.data_key_id.hex()}

    def encoded(self) -> bytes:
        """
        The context as bytes: LP of tenant, purpose and id.
        """
        return length_prefixed(self.tenant_id.encode(), self.purpose.encode(), self.data_key_id)
