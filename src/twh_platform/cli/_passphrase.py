"""
Reading a passphrase: from a file that its owner alone reads, or through a pipe.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from ..errors import ConfigurationError

__all__ = ["read_passphrase"]


def read_passphrase(path: Path) -> str:
    """
    The first line of a file that its owner alone may read, or of ``-``: standard input.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``keyset_passphrase_unreadable`` or ``keyset_mode_too_wide``.
    """
    try:
        line = _first_line(path)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise _unreadable(path, str(why)) from None
    if not line.strip():
        raise _unreadable(path, "its first line is empty")
    return line.rstrip("\r\n")


def _first_line(path: Path) -> str:
    if str(path) == "-":
        return sys.stdin.readline()
    with path.open(encoding="utf-8") as file:
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_ISREG(mode) and mode & (stat.S_IRWXG | stat.S_IRWXO):
            message = f"the passphrase in {str(path)!r} has mode {stat.S_IMODE(mode):o}: chmod 600"
            raise ConfigurationError(message, code="keyset_mode_too_wide")
        return file.readline()


def _unreadable(path: Path, why: str) -> ConfigurationError:
    message = f"cannot read the passphrase in {str(path)!r}: {why}"
    return ConfigurationError(message, code="keyset_passphrase_unreadable")
