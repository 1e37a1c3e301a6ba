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

__all__ = ["finish_within"]

T = TypeVar("T")


async def finish_within(
    seconds: float,
    work: Coroutine[Any, Any, T],
    *,
    what: str = "the work",
    code: str | None = None,
) -> T:
    """
    Return the result of *work*, or give up on it after so many seconds.

    The wait ends at the deadline, even if the work cannot be cancelled: a
    driver may answer a cancellation by asking a server that does not answer.
    The work is told to stop when the wait ends early, by deadline or by
    cancellation; until it notices, it goes on.

        >>> async def count() -> int:
        ...     return 3
        >>> asyncio.run(finish_within(2.0, count()))
        3

    Args:
        seconds: How long to wait.

        work: What to do, in a task of its own, as the current tenant.

        what: What the work is called in the error.

        code: A stable code for the error, narrower than the class's own.

    Raises:
        twh_platform.errors.BackendUnavailableError: At the deadline, or if the
            work has cancelled itself.
    """
    task = asyncio.create_task(work, name=what)
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
