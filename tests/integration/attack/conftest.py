"""
A service's database that is done well, and copies of it to plant faults in.

Nothing but the standard library is imported here: this file is read on a bare
install too, where the tests beside it are skipped.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from twh_platform.testing import PostgresDatabase, PostgresServer, find_postgres

if TYPE_CHECKING:
    from tests.support.attacked import Service

_numbers = itertools.count()


@pytest.fixture(scope="package", params=["system", "embedded"])
def attacked_server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """
    A server of each source that is there: the system's, and the wheel's.
    """
    if find_postgres((request.param,)) is None:
        pytest.skip(f"there is no {request.param} PostgreSQL")
    settings = {"shared_preload_libraries": "pg_stat_statements"}
    with PostgresServer(sources=(request.param,), settings=settings) as server:
        yield server


@pytest.fixture(scope="package")
def template(attacked_server: PostgresServer) -> PostgresDatabase:
    """
    The good schema, with rows of two tenants.
    """
    from tests.support.attacked import make_template

    return make_template(attacked_server)


@pytest.fixture
def service(template: PostgresDatabase) -> Iterator[Callable[..., Service]]:
    """
    Make a copy of the good schema for this test, sealed or not, with a fault or without.
    """
    from tests.support.attacked import Service

    made: list[Any] = []

    def make(fault: str = "", *, sealed: bool = False) -> Service:
        one = Service.copy_of(template, f"attacked_{next(_numbers)}", sealed=sealed)
        made.append(one)
        one.plant(fault)
        return one

    yield make
    for one in made:
        one.drop()
