"""
How long a call may still take, told to whoever makes the next attempt.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["deadline", "no_deadline", "time_left"]

_ends_at: ContextVar[float | None] = ContextVar("twh_key_deadline", default=None)


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """
    Let everything inside end within *seconds*; an earlier deadline outside holds.
    """
    token = _ends_at.set(time.monotonic() + time_left(seconds))
    try:
        yield
    finally:
        _ends_at.reset(token)


@contextmanager
def no_deadline() -> Iterator[None]:
    """
    Leave the caller's deadline outside: for work that others wait for too.
    """
    token = _ends_at.set(None)
    try:
        yield
    finally:
        _ends_at.reset(token)


def time_left(longest: float) -> float:
    """
    Seconds that one attempt may take: *longest*, or what is left of the deadline.

    It is never negative; 0 says that there is no time for an attempt.
    """
    ends_at = _ends_at.get()
    if ends_at is None:
        return longest
    return max(0.0, min(longest, ends_at - time.monotonic()))
