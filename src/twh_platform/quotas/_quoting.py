"""
Quoting a value in an error, whatever it is and whoever sent it.
"""

from __future__ import annotations

__all__ = ["WORD_BITS", "shown"]

WORD_BITS = 63
_LONGEST = 80


def shown(value: object) -> str:
    """
    Quote *value* in one short line.

    Python itself refuses to print an integer of more than 4300 digits.
    """
    if isinstance(value, int) and value.bit_length() > WORD_BITS:
        return "an integer beyond 64 bits"
    if isinstance(value, dict | list):
        return f"a {'table' if isinstance(value, dict) else 'list'} of {len(value)}"
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
