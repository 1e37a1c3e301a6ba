"""
Pytest fixtures, loaded by pytest itself once the package is installed.

All names begin with ``twh_``, nothing is started before a test asks for it, and
no driver is imported.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator

from .._extras import missing_extra
from ._binaries import HINT, find_postgres
from ._clock import ManualClock
from ._postgres import PostgresDatabase, PostgresServer
from ._require import require_part

try:
    import pytest
except ImportError as error:
    raise missing_extra("testing", error) from error

__all__ = [
    "twh_clock",
    "twh_database",
    "twh_postgres",
    "twh_private_postgres",
]


@pytest.fixture
def twh_clock() -> ManualClock:
    """
    A clock that stands still until the test advances it.
    """
    return ManualClock()


@pytest.fixture(scope="session")
def twh_postgres() -> Iterator[PostgresServer]:
    """
    A running PostgreSQL that all tests share; leave it running.
    """
    require_part("postgres", find_postgres(), hint=HINT)
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="module")
def twh_private_postgres() -> Iterator[PostgresServer]:
    """
    A running PostgreSQL of this module alone, to stop, restart and pause.
    """
    require_part("postgres", find_postgres(("system", "embedded")), hint=HINT)
    with PostgresServer(sources=("system", "embedded")) as server:
        yield server


@pytest.fixture(scope="module")
def twh_database(twh_postgres: PostgresServer) -> Iterator[PostgresDatabase]:
    """
    An empty database of this module alone, dropped at its end.

    It belongs to the role `twh_test_owner`; `twh_test_app` may connect and owns
    nothing.  Neither is a superuser and neither bypasses row-level security.
    """
    owner = twh_postgres.create_role("twh_test_owner")
    twh_postgres.create_role("twh_test_app")
    database = twh_postgres.create_database(f"twh_{secrets.token_hex(6)}", owner=owner)
    yield database
    database.drop()
