"""
Sealed values as a tool reads them; checked, never run.
"""

from __future__ import annotations

from typing import assert_type

from twh_platform.kms import (
    Parsed,
    Suite,
    WrappedKey,
    from_text,
    parse,
    replace_inline,
    to_text,
)


def rewrapped(text: str, key: WrappedKey) -> str:
    """Another wrapped key in an exported envelope."""
    sealed = from_text(text)
    assert_type(sealed, bytes)
    return to_text(replace_inline(sealed, [key]))


def described(sealed: bytes) -> tuple[str, str]:
    """What can be told of an envelope without a key."""
    parsed = parse(sealed)
    assert_type(parsed, Parsed)
    assert_type(parsed.suite, Suite)
    assert_type(parsed.inline, tuple[WrappedKey, ...])
    return parsed.suite.name, parsed.data_key_id.hex()
