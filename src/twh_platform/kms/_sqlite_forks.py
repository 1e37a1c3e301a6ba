"""
SQLite and forks: while this process forks, none of our connections is open.

SQLite keeps what a process has locked in that process's memory, and a child
inherits it.  A child that opens the same file believes that it has the lock
already and takes none.  Then somebody else, who is the last to close the file
as far as he can see, removes the write-ahead log that the child goes on to
write: what it commits is lost (https://www.sqlite.org/howtocorrupt.html, 2.6).
So whoever forks waits until calls that run have ended, and idle connections
are closed before.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["Closing", "close_before_fork", "using_sqlite"]

# A call takes as long as its `timeout` while another process writes.
_LONGEST_WAIT = 10.0


class Closing(Protocol):
    """
    Something that has idle connections.
    """

    def close(self) -> None:
        """
        Close them.
        """
        ...


class _Gate:
    def __init__(self) -> None:
        self.closing: weakref.WeakSet[Closing] = weakref.WeakSet()
        self.anew()

    def anew(self) -> None:
        self._changed = threading.Condition()
        self._using = self._forking = 0
        self._mine = threading.local()

    def enter(self) -> threading.Condition:
        depth = getattr(self._mine, "depth", 0)
        with self._changed:
            # Who is inside already is waited for: it must not wait itself.
            while self._forking and not depth:
                self._changed.wait()
            self._using += 1
        self._mine.depth = depth + 1
        return self._changed

    def leave(self, entered: threading.Condition) -> None:
        if entered is not self._changed:
            return  # it forked inside, and this is the child
        self._mine.depth -= 1
        with self._changed:
            self._using -= 1
            self._changed.notify_all()

    def before_fork(self) -> None:
        mine = getattr(self._mine, "depth", 0)
        with self._changed:
            self._forking += 1
            self._changed.wait_for(lambda: self._using <= mine, _LONGEST_WAIT)
        for one in list(self.closing):
            one.close()

    def after_in_parent(self) -> None:
        with self._changed:
            self._forking -= 1
            self._changed.notify_all()


_gate = _Gate()
os.register_at_fork(
    before=_gate.before_fork,
    after_in_parent=_gate.after_in_parent,
    after_in_child=_gate.anew,
)


def close_before_fork(one: Closing) -> None:
    """
    Have its idle connections closed before each fork.
    """
    _gate.closing.add(one)


@contextmanager
def using_sqlite() -> Iterator[None]:
    """
    Use a connection inside the `with`: whoever forks meanwhile waits for its end.
    """
    entered = _gate.enter()
    try:
        yield
    finally:
        _gate.leave(entered)
