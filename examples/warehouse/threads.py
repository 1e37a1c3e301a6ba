"""
Threads for what blocks and is asked for rarely: the loop's own are others' to use up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, ParamSpec, Self, TypeVar

__all__ = ["Threads"]

T = TypeVar("T")
P = ParamSpec("P")


class Threads:
    """
    A few threads; they are made when they are needed.

    Args:
        count: How many at the most.
    """

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="warehouse")

    async def run(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """
        The result of a call that blocks, made with the tenant that is bound here.
        """
        work: Callable[[], Any] = partial(copy_context().run, call, *args, **kwargs)
        result: T = await asyncio.get_running_loop().run_in_executor(self._pool, work)
        return result

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
