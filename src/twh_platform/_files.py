"""
Files that are replaced whole: after a crash or a power cut there is the old one or the new one.

A new file is written beside its place, where others cannot read it, and made
durable before it gets its name::

    .NAME.<16 hex digits>.tmp    mode 600, made anew (O_EXCL)
      fsync of the file
      rename or link to NAME
      fsync of the folder
"""

from __future__ import annotations

import errno
import glob
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["remove_left_over", "replace_file", "staged_file"]

# Not on Windows, which imports this module all the same.
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)


def replace_file(path: Path, content: bytes, *, like: os.stat_result | None = None) -> None:
    """
    Put *content* in the place of what is there; a link is replaced, not followed.

    Args:
        path: The file; its folder is there.

        content: All of it.

        like: As in `staged_file`.

    Raises:
        OSError: If it cannot be written.  What was there is left as it was,
            unless the folder alone cannot be made durable.
    """
    with staged_file(path, content, like=like) as staged:
        staged.replace(path)


@contextmanager
def staged_file(
    path: Path, content: bytes, *, like: os.stat_result | None = None
) -> Iterator[Path]:
    """
    Write *content* beside *path*, for the `with` to put it in place by a rename or a link.

    What is left of it at the end is removed.

    Args:
        path: The file that it is to become.

        content: All of it.

        like: Whose mode it gets, and whose owner where that is allowed; else it
            has mode 600.

    Raises:
        OSError: If it cannot be written.
    """
    staged = path.parent / f".{path.name}.{secrets.token_hex(8)}.tmp"
    # Opened first, so that nothing is changed in a folder that cannot be synced.
    with _opened(path.parent) as folder:
        handle = os.open(staged, _NEW, 0o600)
        try:
            _fill(handle, content, like)
            yield staged
        finally:
            staged.unlink(missing_ok=True)
        _sync(folder)


def remove_left_over(path: Path) -> None:
    """
    Remove what killed processes staged; for whoever holds a lock on *path*.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        left.unlink(missing_ok=True)


def _fill(handle: int, content: bytes, like: os.stat_result | None) -> None:
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        if like is not None:
            # The owner first: the group that is named by the mode is his.
            with suppress(PermissionError):
                os.fchown(handle, like.st_uid, like.st_gid)
            os.fchmod(handle, stat.S_IMODE(like.st_mode))
        file.flush()
        os.fsync(handle)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)


def _sync(folder: int) -> None:
    try:
        os.fsync(folder)
    except OSError as error:
        # Some file systems know no fsync of folders.
        if error.errno not in {errno.EINVAL, errno.EBADF}:
            raise
