"""
The current moment, for whoever is not given a clock of their own.
"""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["utc_now"]


def utc_now() -> datetime:
    """
    The current moment, with time zone.
    """
    return datetime.now(UTC)
