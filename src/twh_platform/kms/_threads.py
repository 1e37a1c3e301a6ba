"""
Blocking calls from an event loop: in a bounded number of threads, awaited for a bounded time.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import ParamSpec, TypeVar

from .._forks import reset_after_fork
from ..errors import ConfigurationError
from ._deadline import time_left

__all__ = ["Threads", "TimedThreads", "answer"]

T = TypeVar("T")
P = ParamSpec("P")


async def answer(future: Future[T], *, seconds: float, late: Callable[[], Exception]) -> T:
    """
    Wait for what runs in a thread, and leave it alone: others may wait for it too.

    Args:
        future: What the pool gave.

        seconds: How long to wait at the most; an earlier deadline of the caller holds.

        late: Makes the error that is raised then.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``async_closed``, if
            the pool was closed before the call began.
    """
    loop = asyncio.get_running_loop()
    landed = loop.create_future()

    def land(_: Future[T]) -> None:
        # The loop may be gone by then: nobody waits any more.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(landed.set_result, None)

    # Only that it has ended goes into the loop: an error that no waiter takes
    # would be reported there.
    future.add_done_callback(land)
    await asyncio.wait((landed,), timeout=time_left(seconds))
    if future.cancelled():
        raise ConfigurationError("it was closed before the call began", code="async_closed")
    if not future.done():
        raise late()
    return future.result()


class Threads:
    """
    A bounded pool of threads, made when the first call comes, and anew in a forked child.

    Args:
        count: How many calls run at once.

        name: How the names of the threads begin.

    Raises:
        twh_platform.errors.ConfigurationError: If *count* is not above zero.
    """

    def __init__(self, count: int, *, name: str) -> None:
        if count <= 0:
            raise ConfigurationError(f"threads={count!r} is above zero")
        self._count, self._name = count, name
        self._closed = False
        self.after_fork()
        reset_after_fork(self)

    def after_fork(self) -> None:
        """
        Forget the pool: its threads are not in the child.
        """
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """
        Have it called in the context of this moment, its tenant and its trace.

        After `close` what is returned is cancelled already.
        """
        work = partial(contextvars.copy_context().run, call)
        with self._lock:
            if self._closed:
                return _cancelled()
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._count, thread_name_prefix=self._name)
            return self._pool.submit(work)

    def close(self, *, cancel: bool = True) -> None:
        """
        Let the threads go; calls that run are not waited for.

        Args:
            cancel: Cancel what has not begun; else it is still done.
        """
        with self._lock:
            self._closed = True
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=cancel)


class TimedThreads(Threads):
    """
    Threads for callers in an event loop, who wait so long and no longer.

    Args:
        count: How many calls run at once.

        name: How the names of the threads begin.

        seconds: How long a caller waits, its turn in the queue included.

        late: Makes the error that is raised then.

    Raises:
        twh_platform.errors.ConfigurationError: If a number is not above zero.
    """

    def __init__(
        self, count: int, *, name: str, seconds: float, late: Callable[[], Exception]
    ) -> None:
        super().__init__(count, name=name)
        if not seconds > 0:
            raise ConfigurationError(f"seconds={seconds!r} is above zero")
        self.seconds, self._late = seconds, late

    async def run(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Call it in a thread and wait for it.

        If the caller is cancelled, or its time is over, a call that has not
        begun never does; one that has begun goes on, and its outcome is lost.

        Raises:
            twh_platform.errors.ConfigurationError: As `answer`.
        """
        future = self.submit(partial(call, *args, **kwargs))
        try:
            return await self.answer(future)
        finally:
            future.cancel()

    async def answer(self, future: Future[T]) -> T:
        """
        Wait for what `submit` gave, as the function `answer` does.
        """
        return await answer(future, seconds=self.seconds, late=self._late)


def _cancelled() -> Future[T]:
    future: Future[T] = Future()
    future.cancel()
    return future
