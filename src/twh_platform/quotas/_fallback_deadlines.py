"""
How long a task waits for a store: deadlines, and one timer for all of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

__all__ = ["TURNS", "Deadline", "Watch"]

# After a stall of our own loop the reply lies in the socket's buffer, and the
# timer fires first: so many turns of the loop, and it has been read.
TURNS = 8


class Deadline:
    """
    When a task is cancelled, if it still waits.

    Attributes:
        task: Whose it is; None once it waits no more.

        at: By the loop's clock.
    """

    __slots__ = ("_cancelling", "_turns", "at", "task")

    def __init__(self, task: asyncio.Task[Any], at: float) -> None:
        self.task: asyncio.Task[Any] | None = task
        self.at = at
        self._cancelling = task.cancelling()
        self._turns = TURNS

    def fire(self, loop: asyncio.AbstractEventLoop) -> None:
        """
        Cancel the task, a few turns of the loop later.
        """
        if self.task is None:
            return
        self._turns -= 1
        if self._turns >= 0:
            loop.call_soon(self.fire, loop)
        else:
            self.task.cancel()

    def passed(self, error: BaseException) -> bool:
        """
        Whether the task was cancelled for this reason alone.
        """
        if self._turns >= 0 or self.task is None:
            return False
        ours = self.task.uncancel() <= self._cancelling
        return ours and isinstance(error, asyncio.CancelledError)


class Watch:
    """
    The deadlines of one loop, which come in their order: one timer is enough for all.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, budget: float) -> None:
        self.loop = loop
        self._budget = budget
        self._deadlines: deque[Deadline] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> Deadline:
        """
        Watch the current task until its deadline's `task` is None.
        """
        task = asyncio.current_task(self.loop)
        if task is None:
            message = "a store of quotas is asked from a task"
            raise RuntimeError(message)
        deadline = Deadline(task, self.loop.time() + self._budget)
        self._deadlines.append(deadline)
        if self._timer is None:
            self._timer = self.loop.call_at(deadline.at, self._look)
        return deadline

    def _look(self) -> None:
        now, deadlines = self.loop.time(), self._deadlines
        while deadlines and (deadlines[0].task is None or deadlines[0].at <= now):
            deadlines.popleft().fire(self.loop)
        self._timer = self.loop.call_at(deadlines[0].at, self._look) if deadlines else None
