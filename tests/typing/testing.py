"""
`twh_platform.testing` as a test suite uses it; checked, never run.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import assert_type

from twh_platform.testing import (
    ManualClock,
    PostgresDatabase,
    PostgresServer,
    PostgresSource,
    find_postgres,
    require_part,
)


def takes_clock(now: Callable[[], float]) -> None:
    """
    Stand for anything that is given a clock.
    """


clock = ManualClock(start=0)
takes_clock(clock)
takes_clock(clock.now)
takes_clock(clock.monotonic)
assert_type(clock.utc(), datetime)

sources: tuple[PostgresSource, ...] = ("system", "embedded")

with PostgresServer(
    sources=sources, data_directory=Path("data"), settings={"jit": "off"}
) as server:
    database = server.create_database("shop", owner=server.create_role("owner"))
    assert_type(database, PostgresDatabase)
    assert_type(database.dsn(user="owner", scheme="postgresql+asyncpg"), str)
    assert_type(server.version, tuple[int, int])
    with server.paused():
        pass

found = require_part("postgres", find_postgres(), hint="apt-get install postgresql")
assert_type(found.psql, Path)

ManualClock(0, 0)  # type: ignore[call-arg]
PostgresServer(sources=["docker"])  # type: ignore[list-item]
