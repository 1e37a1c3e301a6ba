"""
A seeded warehouse, in process, on a real PostgreSQL.

What is not the standard library's is imported in the fixtures: this file is
read on a bare install too, where the tests beside it are skipped.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from twh_platform.testing import PostgresServer

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from examples.warehouse.settings import Settings
    from tests.support.warehouse import Client, SignIn


@pytest.fixture(scope="session")
def warehouse(twh_postgres: PostgresServer) -> Iterator[Settings]:
    """
    The settings of a seeded warehouse that the tests share.
    """
    from examples.warehouse.database import temporary_warehouse
    from examples.warehouse.passwords import hash_password
    from tests.support.warehouse import PASSWORD, fill

    digest = asyncio.run(hash_password(PASSWORD))
    with temporary_warehouse(twh_postgres, administrator_password_hash=digest) as settings:
        asyncio.run(fill(settings))
        # A hundred races on a busy machine are no fault of the warehouse.
        yield replace(settings, database_seconds=60.0)


@pytest.fixture
async def app(warehouse: Settings) -> AsyncIterator[Starlette]:
    """
    The running app.
    """
    from examples.warehouse.app import create_app

    app = create_app(warehouse)
    async with app.state.services.running():
        yield app


@pytest.fixture
async def client(app: Starlette) -> AsyncIterator[Client]:
    """
    A client without a token.
    """
    from tests.support.warehouse import connect

    async with connect(app) as client:
        yield client


@pytest.fixture(scope="module")
def known_tokens() -> dict[tuple[str, str, int], str]:
    """
    The tokens that were given out already: a login takes a third of a second.

    Each is known with the version of the secret that it is signed with.  They are
    good for less time than all tests take.
    """
    return {}


@pytest.fixture
def sign_in(
    app: Starlette, client: Client, known_tokens: dict[tuple[str, str, int], str]
) -> SignIn:
    """
    A function that returns a client with the token of a user.
    """
    from examples.warehouse.vault import TOKENS
    from tests.support.warehouse import connect, log_in
    from twh_platform.kms import platform_owner

    async def sign_in(tenant: str = "acme", role: str = "admin") -> Client:
        with platform_owner():
            version = app.state.services.vault.secrets.get(TOKENS).version.version
        key = (tenant, role, version)
        if key not in known_tokens:
            known_tokens[key] = await log_in(client, tenant, role)
        return connect(app, known_tokens[key])

    return sign_in
