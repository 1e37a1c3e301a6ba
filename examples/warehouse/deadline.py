"""
Work that is given up at a deadline, even if it cannot be stopped.

A driver answers a cancellation by talking to the server, and waits ten seconds
for one that is frozen.  So the work has a task of its own, and the request does
not wait for that task to notice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["within"]

T = TypeVar("T")


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """
    Return the result of *work*, which runs as the current tenant.

    Args:
        seconds: How long to wait.

        work: What to do; it is told to stop when the wait ends early.

    Raises:
        TimeoutError: At the deadline.
    """
    task = asyncio.create_task(work)
    # Its outcome is read, so that nobody reports it as never retrieved.
    task.add_done_callback(lambda one: one.cancelled() or one.exception())
    try:
        done, _ = await asyncio.wait((task,), timeout=seconds)
    finally:
        task.cancel()
    if not done:
        raise TimeoutError
    return task.result()
