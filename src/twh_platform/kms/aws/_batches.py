"""
One request per item of a batch, a few at a time, each answered in its place.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

from ...errors import KeyServiceError, KeyServiceUnavailableError
from .._service import Result

__all__ = ["each"]

T = TypeVar("T")
R = TypeVar("R")


def each(work: Callable[[T], R], items: Sequence[T], parallel: int) -> list[Result[R]]:
    """
    What *work* gives for each item, or its error.

    After one that the service could not be reached for, no more are asked: the
    rest is answered the same, so that a batch takes about as long as one call.

    Args:
        work: Asks the service for one.

        items: What for.

        parallel: How many at a time.
    """
    lost = threading.Event()

    def one(item: T) -> Result[R]:
        if lost.is_set():
            message = "not asked, as the one before was not answered"
            return KeyServiceUnavailableError(message, code="key_service_unreachable")
        try:
            return work(item)
        except KeyServiceError as error:
            if error.code == "key_service_unreachable":
                lost.set()
            # Its frames hold plaintext.
            error.__context__ = None
            return error.with_traceback(None)

    if len(items) < 2 or parallel < 2:  # noqa: PLR2004 -- nothing to share out
        return [one(item) for item in items]
    # Made anew each time: thread starts are cheap beside requests, and none outlives a fork.
    with ThreadPoolExecutor(min(parallel, len(items)), thread_name_prefix="twh-aws") as pool:
        running = [pool.submit(copy_context().run, one, item) for item in items]
        return [future.result() for future in running]
