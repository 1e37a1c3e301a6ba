"""
Schemas as one meets them: one that is done well, two that are not.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["schema_text"]


def schema_text(name: str) -> str:
    """
    Read ``clinic`` (good), ``helpdesk`` or ``board`` (bad), to be run by a superuser.
    """
    return (Path(__file__).parent / f"{name}.sql").read_text()
