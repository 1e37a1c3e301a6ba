"""
What passes between us and Transit as text: contexts, keys and messages in base64.
"""

from __future__ import annotations

import base64

from .._checks import checked_mac_message
from .._context import KeyContext
from ._transport import Hidden

__all__ = ["context_text", "decoded", "mac_input", "to_encrypt"]

_MAC_LABEL = b"twh/mac/v1:"


def context_text(context: KeyContext) -> str:
    """
    What a key is derived by.
    """
    return base64.b64encode(context.encoded()).decode()


def to_encrypt(items: list[Hidden]) -> Hidden:
    """
    The items of a batch: each holds a data key and its context.
    """
    return Hidden(
        [
            {"plaintext": base64.b64encode(key).decode(), "context": context_text(context)}
            for key, context in (item.value for item in items)
        ]
    )


def mac_input(message: bytes) -> str:
    """
    What a MAC is made over: the label, which no other use of the key has, and the message.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``mac_message_too_long``.
    """
    return base64.b64encode(_MAC_LABEL + checked_mac_message(message)).decode()


def decoded(text: object) -> Hidden:
    """
    The bytes of an answer's base64; empty for whatever is none.
    """
    try:
        return Hidden(base64.b64decode(text, validate=True) if isinstance(text, str) else b"")
    except ValueError:
        return Hidden(b"")
