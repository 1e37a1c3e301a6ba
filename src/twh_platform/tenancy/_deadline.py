"""
Waiting that ends in time, even if what is waited for cannot be cancelled.

A driver may answer a cancellation by talking to the very server that does not
answer.  So the work runs in a task of its own, and the wait for it ends at the
deadline whether or not the task has noticed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from ..errors import BackendUnavailableError
from ._carry import create_clean_task

__all__ = ["finish_within"]

T = TypeVar("T")


async def finish_within(seconds: float, work: Coroutine[Any, Any, T], *, what: str, code: str) -> T:
    """
    Return the result of *work*, or give up on it after so many seconds.

    The work runs in an empty context.  It is told to stop when the wait for it
    ends early, by deadline or by cancellation.

    Raises:
        twh_platform.errors.BackendUnavailableError: With *code*, at the deadline.
    """
    task = create_clean_task(work, name=what)
    try:
        done, _ = await asyncio.wait((task,), timeout=seconds)
    except asyncio.CancelledError:
        _abandon(task)
        raise
    # Work that cancelled itself has not finished; its CancelledError is not ours.
    if done and not task.cancelled():
        return task.result()
    _abandon(task)
    message = f"{what} did not finish within {seconds:g} s"
    raise BackendUnavailableError(message, code=code)


def _abandon(task: asyncio.Task[Any]) -> None:
    # Its outcome is read, so that nobody reports it as never retrieved.
    task.add_done_callback(lambda one: one.cancelled() or one.exception())
    task.cancel()
