"""
SQLite and descriptors: we never close one of a file that SQLite may have locked.

Whatever a process has locked of a file, POSIX unlocks as soon as it closes any
descriptor of that file (https://www.sqlite.org/howtocorrupt.html, 2.2).  SQLite
does not notice: the next process that closes the file takes itself for the last
one and removes the write-ahead log that this one goes on to write.  What it
commits from then on is lost.  So a file that is there is opened by SQLite alone.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from .._files import staged_file

__all__ = ["make_for_owner"]


def make_for_owner(path: Path) -> None:
    """
    Make an empty file that nobody but its owner can read for even a moment.

    What is there already is not touched, not opened either.

    Args:
        path: The file; a link is followed.

    Raises:
        OSError: If it cannot be made.
    """
    place = Path(os.path.realpath(path))
    if place.exists():
        return
    # Its descriptor is closed before it has the name by which others open it.
    with staged_file(place, b"") as staged, suppress(FileExistsError):
        os.link(staged, place)
