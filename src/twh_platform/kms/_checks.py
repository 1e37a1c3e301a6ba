"""
What every key service refuses before a key is asked for.
"""

from __future__ import annotations

import re

from ..errors import ConfigurationError
from ._service import DATA_KEY_BYTES

__all__ = ["LONGEST_MAC_MESSAGE", "checked_data_key", "checked_mac_key", "checked_mac_message"]

LONGEST_MAC_MESSAGE = 4096

_MAC_KEY = re.compile(r"[a-z][a-z0-9_-]{0,31}", re.ASCII)


def checked_data_key(key: bytes) -> bytes:
    """
    Return *key* if it is as long as a data key is: 32 bytes.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``data_key_length``.
    """
    if len(key) == DATA_KEY_BYTES:
        return key
    message = f"a data key has {DATA_KEY_BYTES} bytes, not {len(key)}"
    # A traceback may be shown with its locals.
    del key
    raise ConfigurationError(message, code="data_key_length")


def checked_mac_message(message: bytes) -> bytes:
    """
    Return *message* if every key service could authenticate it: at most 4,096 bytes.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``mac_message_too_long``.
    """
    if len(message) <= LONGEST_MAC_MESSAGE:
        return message
    what = f"a message of {len(message)} bytes, at most {LONGEST_MAC_MESSAGE}: give its hash"
    raise ConfigurationError(what, code="mac_message_too_long")


def checked_mac_key(key: str) -> str:
    """
    Return *key* if it may name a MAC key: 1 to 32 of ``a-z 0-9 _ -``, a letter first.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``mac_key_invalid``.
    """
    if _MAC_KEY.fullmatch(key):
        return key
    message = f"key={key[:80]!r} is not 1 to 32 of a-z 0-9 _ -, a letter first"
    raise ConfigurationError(message, code="mac_key_invalid")
