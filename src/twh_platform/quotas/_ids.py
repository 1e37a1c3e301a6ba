"""
Ids that nobody else has, in the time of counting.
"""

from __future__ import annotations

import itertools
import os

__all__ = ["UniqueIds"]

_RANDOM_BYTES = 9


class UniqueIds:
    """
    A random prefix and a number; in another process, another prefix.

    Workers that are forked from a process which has counted already would
    otherwise go on with the same ids.
    """

    __slots__ = ("_numbers", "_prefix", "_process")

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._prefix = ""
        self._process = 0

    def next(self) -> str:
        """
        An id that no other call has returned, in any process.
        """
        process = os.getpid()
        if process != self._process:
            self._process, self._prefix = process, os.urandom(_RANDOM_BYTES).hex()
        return f"{self._prefix}{next(self._numbers):x}"
