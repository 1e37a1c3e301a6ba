"""
The faults of row security that PostgreSQL itself had, and where they end.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["FIRST_FIXED", "open_faults"]

FIRST_FIXED: Mapping[str, Mapping[int, int]] = {
    "CVE-2016-2193": {},
    "CVE-2023-2455": {15: 3},
    "CVE-2023-39418": {15: 4},
    "CVE-2024-10976": {15: 9, 16: 5, 17: 1},
    "CVE-2025-8713": {15: 14, 16: 10, 17: 6},
}
"""
The faults, each with the first minor of a major that is free of it.

A major that is not listed never had it.  CVE-2016-2193 was of 9.5, which is
not supported here.
"""


def open_faults(major: int, minor: int) -> Mapping[str, int]:
    """
    The faults that a version has, each with the minor that ends it.
    """
    return {
        fault: fixed[major] for fault, fixed in FIRST_FIXED.items() if minor < fixed.get(major, 0)
    }
