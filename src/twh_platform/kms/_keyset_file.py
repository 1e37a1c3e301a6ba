"""
Where a keyset is kept: a file that several processes share, or memory.

A file is replaced whole and never written in place, so that a process that is
killed leaves the old or the new one.  Who changes it holds the lock of the file
beside it, ``NAME.lock``, and begins with what is in the file at that moment.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .._files import remove_left_over, replace_file, staged_file
from .._forks import reset_after_fork
from ..errors import ConfigurationError, KeyServiceUnavailableError, KeyUnsupportedError
from ._deadline import time_left
from ._keyset import Keyset
from ._keyset_document import LARGEST_DOCUMENT_BYTES, Passphrase, decode_keyset, encode_keyset
from ._secret import HiddenBytes, Secret

__all__ = [
    "Change",
    "FixedKeyset",
    "KeysetFile",
    "KeysetSource",
    "MemoryKeyset",
    "create_keyset",
]

_LONGEST_WAIT = 5.0
_FRESH_NS = 2_000_000_000
_WIDE = stat.S_IRWXG | stat.S_IRWXO

Change = Callable[[Keyset], Keyset]


class KeysetSource(Protocol):
    """
    Where the keyset is.
    """

    def current(self) -> Keyset:
        """
        The keyset as it is now, whoever changed it.
        """
        ...

    def change(self, change: Change) -> Keyset:
        """
        Keep what *change* makes of it; nothing is written if it makes itself.
        """
        ...


class FixedKeyset:
    """
    A keyset that nobody changes.
    """

    def __init__(self, keyset: Keyset) -> None:
        self._keyset = keyset

    def current(self) -> Keyset:
        """
        The keyset.
        """
        return self._keyset

    def change(self, change: Change) -> Keyset:
        """
        Refuse, unless there is nothing to change.

        Raises:
            twh_platform.errors.KeyUnsupportedError: If there is.
        """
        if change(self._keyset) is self._keyset:
            return self._keyset
        raise KeyUnsupportedError("the keyset cannot be changed here: it is no file")


class MemoryKeyset:
    """
    A keyset in the memory of this process, gone with it.
    """

    def __init__(self, keyset: Keyset) -> None:
        self._keyset = keyset
        self._lock = threading.Lock()
        reset_after_fork(self)

    def current(self) -> Keyset:
        """
        The keyset.
        """
        return self._keyset

    def change(self, change: Change) -> Keyset:
        """
        Keep what *change* makes of it.
        """
        with self._lock:
            self._keyset = change(self._keyset)
            return self._keyset

    def after_fork(self) -> None:
        """
        Forget a lock that a thread of the parent may have held.
        """
        self._lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class _Read:
    keyset: Keyset
    stamp: tuple[int, ...] | None


class KeysetFile:
    """
    A keyset in a file that only its owner may read.

    Another process's change is noticed at the next call.

    Args:
        path: The file.

        passphrase: What it is sealed under, or None.

    Raises:
        twh_platform.errors.ConfigurationError: If it cannot be used as it is:
            ``keyset_missing``, ``keyset_unreadable``, ``keyset_mode_too_wide``,
            ``keyset_owner_wrong``, and what `decode_keyset` raises.
    """

    def __init__(self, path: Path, *, passphrase: Passphrase | None = None) -> None:
        # Replacing a link would leave the keyset that it points to as it was.
        self._path = path.resolve()
        self._passphrase = passphrase
        self._last = self._read()

    def current(self) -> Keyset:
        """
        The keyset that is in the file now.

        Raises:
            twh_platform.errors.KeyServiceUnavailableError: With the code of what
                is wrong with the file, ``keyset_rolled_back`` among them: an
                older revision lies there, as after a backup was restored, and
                what was destroyed since would live again.
        """
        last = self._last
        try:
            if last.stamp is not None and _stamp(self._path.stat()) == last.stamp:
                return last.keyset
        except OSError:
            pass
        return self._reread().keyset

    def change(self, change: Change) -> Keyset:
        """
        Replace the file by what *change* makes of what is in it.

        Raises:
            twh_platform.errors.KeyServiceUnavailableError: As `current`; with
                code ``keyset_locked`` if another holds it for too long, and
                ``keyset_unwritable``.
        """
        with _locked(self._path):
            before = self._reread().keyset
            after = change(before)
            if after is not before:
                _replace(self._path, encode_keyset(after, self._passphrase))
                # Its stamp is not known: the next call reads it once more.
                self._last = _Read(after, None)
            return after

    def _reread(self) -> _Read:
        try:
            read = self._read()
            if self._is_older(read):
                # Another thread may have gone ahead while this one was reading.
                read = self._read()
        except ConfigurationError as error:
            raise KeyServiceUnavailableError(str(error), code=error.code) from error
        if self._is_older(read):
            message = f"the keyset {str(self._path)!r} is not the one, or older than, what was read"
            raise KeyServiceUnavailableError(message, code="keyset_rolled_back")
        self._last = read
        return read

    def _is_older(self, read: _Read) -> bool:
        last = self._last.keyset
        return read.keyset.id != last.id or read.keyset.revision < last.revision

    def _read(self) -> _Read:
        document, status = _read_checked(self._path)
        stamp = _stamp(status)
        # Within the grain of the file system's clock two changes look like one.
        fresh = abs(time.time_ns() - status.st_mtime_ns) < _FRESH_NS
        return _Read(decode_keyset(document, self._passphrase), None if fresh else stamp)


def create_keyset(
    path: str | os.PathLike[str],
    *,
    passphrase: str | bytes | Secret | None = None,
    tenants: tuple[str, ...] = (),
) -> None:
    """
    Write a new keyset, which only its owner may read, for `LocalKeyService`.

    Args:
        path: The file; there must be none.

        passphrase: What to seal it under, at least 12 characters; without one
            whoever reads the file has the keys.

        tenants: Whose master keys to make at once, such as for a keyset that is
            given to processes through the environment.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``keyset_exists``,
            ``keyset_unwritable`` or ``keyset_passphrase_short``.
    """
    target = Path(path).resolve()
    keyset = Keyset.new().created(*tenants)
    try:
        secret = Passphrase(passphrase) if passphrase is not None else None
    finally:
        # No traceback is to show it among its locals.
        del passphrase
    document = encode_keyset(keyset, secret)
    try:
        with staged_file(target, document) as staged:
            # Unlike a replacement, a link does not overwrite what came in between.
            os.link(staged, target)
    except FileExistsError:
        message = f"there is a keyset at {str(path)!r} already"
        raise ConfigurationError(message, code="keyset_exists") from None
    except OSError as error:
        message = f"cannot write the keyset {str(path)!r}: {error.strerror}"
        raise ConfigurationError(message, code="keyset_unwritable") from error


def _read_checked(path: Path) -> tuple[bytes, os.stat_result]:
    try:
        # A FIFO in its place must not hold the process.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        message = f"there is no keyset at {str(path)!r}: make one with `twh-platform kms init`"
        raise ConfigurationError(message, code="keyset_missing") from None
    except OSError as error:
        raise _unreadable(path, str(error.strerror)) from error
    try:
        status = os.fstat(descriptor)
        _check(path, status)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return HiddenBytes(file.read()), status
    except OSError as error:
        raise _unreadable(path, str(error.strerror)) from error
    finally:
        os.close(descriptor)


def _check(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _unreadable(path, "it is no regular file")
    if status.st_size > LARGEST_DOCUMENT_BYTES:
        raise _unreadable(path, f"it is larger than {LARGEST_DOCUMENT_BYTES} bytes")
    if status.st_uid != os.geteuid():
        message = f"the keyset {str(path)!r} belongs to user {status.st_uid}, not to this process's"
        raise ConfigurationError(message, code="keyset_owner_wrong")
    if status.st_mode & _WIDE:
        _refuse_mode(f"the keyset {str(path)!r}", status, "chmod 600")
    folder = path.parent.stat()
    writable = folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if writable and not folder.st_mode & stat.S_ISVTX:
        # Whoever may write there may put another keyset in its place.
        _refuse_mode(f"the folder of the keyset {str(path)!r}", folder, "chmod go-w")


def _refuse_mode(what: str, status: os.stat_result, remedy: str) -> None:
    message = f"{what} has mode {stat.S_IMODE(status.st_mode):o}: {remedy}"
    raise ConfigurationError(message, code="keyset_mode_too_wide")


def _unreadable(path: Path, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"cannot read the keyset {str(path)!r}: {why}", code="keyset_unreadable"
    )


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(path.with_name(f"{path.name}.lock"), flags, 0o600)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        _wait_for(descriptor, path)
        yield
    finally:
        # Closing alone would not do: a child forked meanwhile has it open too.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _wait_for(descriptor: int, path: Path) -> None:
    # Polled, because a blocking flock() knows no deadline.
    ends_at = time.monotonic() + time_left(_LONGEST_WAIT)
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.EACCES}:
                raise _unwritable(path, error) from error
        if time.monotonic() >= ends_at:
            message = f"another process holds the lock of the keyset {str(path)!r}"
            raise KeyServiceUnavailableError(message, code="keyset_locked")
        time.sleep(0.005)


def _replace(path: Path, document: bytes) -> None:
    try:
        # What a killed process left may hold keys that are destroyed by now.
        remove_left_over(path)
        replace_file(path, document)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> KeyServiceUnavailableError:
    message = f"cannot change the keyset {str(path)!r}: {error.strerror}"
    return KeyServiceUnavailableError(message, code="keyset_unwritable")
