"""
Databases of keys, sealed and unsealed, on every PostgreSQL of this machine.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.kms._house import ACME, House, built
from tests.integration.tenancy.conftest import server
from tests.support.postgres_keys import TABLES
from twh_platform import Tenant, bind_tenant
from twh_platform.testing import PostgresServer

__all__ = ["server"]


@pytest.fixture(scope="module", params=["unsealed", "sealed"])
def built_house(request: pytest.FixtureRequest, server: PostgresServer) -> Iterator[House]:
    """The house of a module."""
    with built(server, sealed=request.param == "sealed") as house:
        yield house


@pytest.fixture
def house(built_house: House) -> House:
    """The house, empty."""
    built_house.database.execute(f"TRUNCATE {TABLES}")
    return built_house


@pytest.fixture
def acme() -> Iterator[Tenant]:
    """The tenant, bound."""
    with bind_tenant(ACME):
        yield ACME
