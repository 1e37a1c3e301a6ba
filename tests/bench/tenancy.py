"""
The rows of `tenancy`: turns, time, scrub, seal, pooler, policies, middleware,
warehouse.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection

from ._database import Database, conditions, open_database
from ._policies import policy_rows
from ._pooler import pooler_rows
from ._rows import Row, as_table
from ._scrub import scrub_rows
from ._sealed import sealed_rows
from ._transactions import local_rows, remote_rows, turn_rows
from ._warehouse import warehouse_rows

__all__ = ["PARTS", "rows"]


def _middleware_rows(_database: Database, _seconds: float) -> list[Row]:
    from . import middleware

    return [Row.from_mapping(values) for values in middleware.rows()]


_Part = Callable[[Database, float], list[Row]]

PARTS: dict[str, _Part] = {
    "turns": lambda database, _: turn_rows(database),
    "local": lambda database, seconds: local_rows(database, seconds=seconds),
    "remote": lambda database, seconds: remote_rows(database, seconds=seconds),
    "scrub": lambda database, seconds: scrub_rows(database, seconds=seconds),
    "sealed": lambda database, seconds: sealed_rows(database, seconds=seconds),
    "pooler": lambda database, seconds: pooler_rows(database, seconds=seconds),
    "policies": lambda database, seconds: policy_rows(database, seconds=seconds),
    "middleware": _middleware_rows,
    "warehouse": lambda database, seconds: warehouse_rows(database, seconds=seconds),
}
"""What `--part` names; each gets the seconds for one comparison."""

_SECONDS = 20.0
_QUICK_SECONDS = 3.0


def rows(*, quick: bool = False, parts: Collection[str] | None = None) -> list[Row]:
    """
    Measure and print, part by part.

    Args:
        quick: About five minutes in place of twenty.

        parts: Names of `PARTS`; all if None.
    """
    seconds = _QUICK_SECONDS if quick else _SECONDS
    result: list[Row] = []
    with open_database() as database:
        lines = conditions(database) + (["quick, and so less certain"] if quick else [])
        sys.stdout.write("".join(f"{line}\n" for line in lines) + "\n")
        for name in parts or PARTS:
            measured = PARTS[name](database, seconds)
            sys.stdout.write(as_table(measured) + "\n")
            sys.stdout.flush()
            result += measured
    return result
