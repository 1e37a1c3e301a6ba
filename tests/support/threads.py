"""
Threads that meet, and where in its bytecode CPython lets them.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

__all__ = ["YIELDS", "in_threads"]

# Where CPython looks whether another thread wants the GIL: ceval.c, CHECK_EVAL_BREAKER().
YIELDS = ("CALL", "JUMP_BACKWARD", "RESUME", "SEND", "YIELD", "WITH", "FOR_ITER")


def in_threads(work: Callable[[], object], count: int) -> None:
    """
    Run *work* in threads that change places as often as the interpreter lets them.

    Args:
        work: What each does.

        count: How many there are.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
