"""
The two clocks: one that ages are measured by, and the wall clock for what is stored.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

__all__ = ["elapsed", "utc_now"]


def _choose() -> Callable[[], float]:
    # On Linux CLOCK_MONOTONIC stands still while the machine is suspended: a
    # key that was good for 30 seconds would be good for a night more.
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    if boot is None:
        return time.monotonic
    return partial(time.clock_gettime, boot)


elapsed = _choose()
"""Seconds since some moment of the past, suspended time included.  It never goes back."""


def utc_now() -> datetime:
    """
    The wall clock, with time zone.
    """
    return datetime.now(UTC)
