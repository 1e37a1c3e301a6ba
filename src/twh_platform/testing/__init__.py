"""
What we use to test ourselves, for users as well.

Nothing here needs more than the standard library to be imported.  The fixtures
are in `twh_platform.testing.pytest_plugin`, which pytest loads on its own.
"""

from __future__ import annotations

from ._binaries import PostgresBinaries, PostgresSource, find_postgres
from ._clock import ManualClock
from ._postgres import PostgresDatabase, PostgresServer
from ._require import require_part

__all__ = [
    "ManualClock",
    "PostgresBinaries",
    "PostgresDatabase",
    "PostgresServer",
    "PostgresSource",
    "find_postgres",
    "require_part",
]
