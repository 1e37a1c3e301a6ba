"""
Ids that sort by the time they were made: UUID version 7.
"""

from __future__ import annotations

import os
import time
from uuid import UUID

__all__ = ["new_id"]


def new_id() -> UUID:
    """
    Return a new UUID, version 7 (RFC 9562, section 5.7).

    It begins with the time, 48 bits in milliseconds and 12 bits of what is
    left of a millisecond (section 6.2, method 3), so ids made one after the
    other lie side by side in an index; the other 62 bits are random.
    """
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    fraction = nanoseconds * 4096 // 1_000_000
    chance = int.from_bytes(os.urandom(8), "big") >> 2
    return UUID(int=milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | chance)
