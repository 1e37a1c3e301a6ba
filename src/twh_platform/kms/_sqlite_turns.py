"""
Whose turn it is to write to a SQLite file.

SQLite lets those who wait look again after longer and longer pauses: who came
last is first, and who writes without a pause keeps the others out until their
time is over.  Here the threads of a process stand in line.  The first of each
line waits at ``NAME.turn``, a lock beside the file, and has it until he may
write: who has just written is not next while another process waits.
Who may not open that file writes all the same, in whatever order.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias
from weakref import WeakValueDictionary

from .._forks import reset_after_fork

__all__ = ["Begin", "Writers", "writers_of"]

_PAUSE = 0.003

Begin: TypeAlias = Callable[[sqlite3.Connection], None]


class Writers:
    """
    Those who write to one file.

    Args:
        path: The file, without links.
    """

    def __init__(self, path: str) -> None:
        self._next = f"{path}.turn"
        self.after_fork()
        reset_after_fork(self)

    def after_fork(self) -> None:
        """
        Begin without those who stood in line in the parent.
        """
        self._lock = threading.Lock()
        # The first of them has the turn; each waits for a lock of his own.
        self._line: deque[threading.Lock] = deque()

    @contextmanager
    def turn(self, timeout: float) -> Iterator[Begin]:
        """
        Be the only one in this process who writes.

        Args:
            timeout: Seconds to wait, for other threads and other processes together.

        Returns:
            What begins a transaction that writes.

        Raises:
            TimeoutError: If too many are before, in this process or, from what
                begins it, in others.

            sqlite3.OperationalError: From what begins it, if somebody writes on.
        """
        ends_at = time.monotonic() + timeout
        ticket = threading.Lock()
        ticket.acquire()
        try:
            if not self._join(ticket) and not ticket.acquire(timeout=_patience(ends_at)):
                raise _too_late()
            yield lambda connection: self._begin(connection, timeout, ends_at)
        finally:
            self._leave(ticket)

    def _join(self, ticket: threading.Lock) -> bool:
        with self._lock:
            self._line.append(ticket)
            return self._line[0] is ticket

    def _leave(self, ticket: threading.Lock) -> None:
        with self._lock:
            was_first = bool(self._line) and self._line[0] is ticket
            # In a child that was forked meanwhile the line is another.
            with suppress(ValueError):
                self._line.remove(ticket)
            if was_first and self._line:
                self._line[0].release()

    def _begin(self, connection: sqlite3.Connection, timeout: float, ends_at: float) -> None:
        with self._being_next(ends_at):
            _be_patient(connection, _patience(ends_at))
            # Immediate: two that read first and write then could not both go on.
            connection.execute("begin immediate")
        _be_patient(connection, timeout)

    @contextmanager
    def _being_next(self, ends_at: float) -> Iterator[None]:
        with _opened(self._next) as file:
            while not _locked(file):
                if time.monotonic() >= ends_at:
                    raise _too_late()
                time.sleep(_PAUSE)
            yield


class _Files:
    def __init__(self) -> None:
        self._writers: WeakValueDictionary[str, Writers] = WeakValueDictionary()
        self.after_fork()
        reset_after_fork(self)

    def after_fork(self) -> None:
        self._lock = threading.Lock()

    def writers_of(self, path: Path) -> Writers:
        place = os.path.realpath(path)
        with self._lock:
            found = self._writers.get(place)
            if found is None:
                found = self._writers[place] = Writers(place)
        return found


_files = _Files()


def writers_of(path: Path) -> Writers:
    """
    Those who write to this file, the same for all that have it open.
    """
    return _files.writers_of(path)


def _patience(ends_at: float) -> float:
    return min(max(0.0, ends_at - time.monotonic()), threading.TIMEOUT_MAX)


def _be_patient(connection: sqlite3.Connection, seconds: float) -> None:
    milliseconds = min(int(seconds * 1000), 2**31 - 1)
    connection.execute(f"pragma busy_timeout = {milliseconds}").fetchone()


@contextmanager
def _opened(path: str) -> Iterator[int | None]:
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        # Another user's, perhaps.  It is about order alone: SQLite has its own locks.
        yield None
        return
    try:
        yield file
    finally:
        # Closing alone would not do: a child forked meanwhile has it open too.
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)
        os.close(file)


def _locked(file: int | None) -> bool:
    if file is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without such locks
    return True


def _too_late() -> TimeoutError:
    return TimeoutError("others write without a pause")
