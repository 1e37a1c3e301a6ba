"""
Where a report goes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ..errors import ConfigurationError

__all__ = ["counted", "write_report"]


def counted(count: int, one: str) -> str:
    """
    A number and what is counted: ``1 tenant``, ``2 tenants``.
    """
    return f"{count} {one}" if count == 1 else f"{count} {one}s"


def write_report(text: str, path: Path | None, *, code: str) -> None:
    """
    Write *text* to a file, or to standard output if *path* is None.

    Raises:
        twh_platform.errors.ConfigurationError: With this code, if the file
            cannot be written.
    """
    if path is None:
        sys.stdout.write(text)
        return
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        message = f"cannot write {str(path)!r}: {error.strerror}"
        raise ConfigurationError(message, code=code) from error
