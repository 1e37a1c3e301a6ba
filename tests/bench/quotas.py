"""
The rows of `quotas`: Redis, memory, middleware.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection

from ._database import machine, versions
from ._quotas_memory import memory_rows
from ._quotas_middleware import middleware_rows
from ._quotas_redis import redis_rows
from ._rows import Row, as_table

__all__ = ["PARTS", "rows"]

PARTS: dict[str, Callable[[float], list[Row]]] = {
    "redis": lambda seconds: redis_rows(seconds=seconds),
    "memory": lambda seconds: memory_rows(seconds=seconds),
    "quota-middleware": lambda _: middleware_rows(),
}
"""What `--part` names; each gets the seconds for one comparison."""

_SECONDS = 30.0
_QUICK_SECONDS = 5.0
_PEERS = ("redis", "hiredis", "limits", "throttled-py", "pyrate-limiter", "slowapi", "aiolimiter")


def rows(*, quick: bool = False, parts: Collection[str] | None = None) -> list[Row]:
    """
    Measure and print, part by part.

    Args:
        quick: About one minute in place of five.

        parts: Names of `PARTS`; all if None.
    """
    seconds = _QUICK_SECONDS if quick else _SECONDS
    lines = [*machine(), versions(_PEERS)] + (["quick, and so less certain"] if quick else [])
    sys.stdout.write("".join(f"{line}\n" for line in lines) + "\n")
    result: list[Row] = []
    for name in parts or PARTS:
        measured = PARTS[name](seconds)
        sys.stdout.write(as_table(measured) + "\n")
        sys.stdout.flush()
        result += measured
    return result
