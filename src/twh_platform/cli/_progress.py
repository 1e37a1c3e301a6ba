"""
A bar of progress on a terminal, and nothing where there is none.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from ..kms.lifecycle import JobProgress

__all__ = ["ProgressBar"]

_WIDTH = 30
_SECONDS = 0.1


class ProgressBar:
    """
    Draws how far a job is, in one line that is written over.

    Args:
        count: Counts the items; it is asked only if the bar will be seen.

        out: Where to; standard error if None.

        clock: Seconds that never go back.
    """

    def __init__(
        self,
        count: Callable[[], int],
        *,
        out: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._out = sys.stderr if out is None else out
        self._clock = clock
        self._shown = self._out.isatty()
        self._total = count() if self._shown else 0
        self._next, self._width = float("-inf"), 0

    def __call__(self, progress: JobProgress) -> None:
        """
        Draw it, ten times a second at most.
        """
        if not self._shown or self._clock() < self._next:
            return
        self._next = self._clock() + _SECONDS
        self._draw(self.line(progress))

    def line(self, progress: JobProgress) -> str:
        """
        The line that stands for this.
        """
        failed = f", {progress.failed} failed" if progress.failed else ""
        rest = f"{failed}  {progress.tenant_id}"
        if not self._total:
            return f"{progress.looked}{rest}"
        # Items are added while it runs: it never says more than all.
        part = min(1.0, progress.looked / self._total)
        bar = "#" * round(part * _WIDTH)
        return f"[{bar:<{_WIDTH}}] {part:4.0%}  {progress.looked}/{self._total}{rest}"

    def close(self) -> None:
        """
        Take the line away.
        """
        if self._width:
            self._draw("")
            self._out.write("\r")
            self._out.flush()

    def _draw(self, line: str) -> None:
        line = line[:100]
        self._out.write(f"\r{line:<{self._width}}")
        self._out.flush()
        self._width = len(line)
