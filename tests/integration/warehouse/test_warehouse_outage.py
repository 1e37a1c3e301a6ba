"""
A database that is down, frozen or back again: refused in time, with a hint when to retry.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from uuid import UUID

import pytest

from examples.warehouse.app import create_app
from examples.warehouse.auth import Role
from examples.warehouse.database import temporary_warehouse
from examples.warehouse.models import TenantRecord
from examples.warehouse.provisioning import NewUser, provision
from examples.warehouse.services import Services
from examples.warehouse.settings import Settings
from tests.support.warehouse import PASSWORD, Client, connect
from twh_platform.testing import PostgresServer

PATHS = ("/items", "/healthz", "/tenants")


async def _fill(settings: Settings) -> None:
    services = Services.of(settings)
    async with services.running():
        user = NewUser(email="a@acme.example", name="A", password=PASSWORD)
        await provision(services, TenantRecord(id="acme", tier="ENTERPRISE"), [user])


@pytest.fixture(scope="module")
def brittle(twh_private_postgres: PostgresServer) -> Iterator[Settings]:
    """
    A warehouse on a server that may be stopped and frozen.
    """
    with temporary_warehouse(twh_private_postgres, administrator_password_hash="") as settings:
        asyncio.run(_fill(settings))
        yield replace(settings, database_seconds=1.0)


@pytest.fixture
async def user(brittle: Settings) -> AsyncIterator[Client]:
    """
    A client that may ask for items.
    """
    app = create_app(brittle)
    tokens = app.state.services.tokens
    token = tokens.for_user(tenant_id="acme", user_id=UUID(int=1), role=Role.ADMIN)
    async with app.state.services.running(), connect(app, token) as client:
        client.headers["x-administrator"] = tokens.for_administrator()
        yield client


async def statuses(user: Client) -> list[tuple[int, bool]]:
    """
    Ask on every login; the test fails if an answer does not come.
    """
    found = []
    administrator = {"Authorization": f"Bearer {user.headers['x-administrator']}"}
    for path in PATHS:
        headers = administrator if path == "/tenants" else {}
        async with asyncio.timeout(20):
            answer = await user.get(path, headers=headers)
        found.append((answer.status_code, "retry-after" in answer.headers))
    return found


WELL, UNAVAILABLE = (200, False), (503, True)


async def recovered(user: Client) -> None:
    """
    Ask until all is well; the test fails if that does not come.
    """
    async with asyncio.timeout(30):
        while await statuses(user) != [WELL] * 3:  # noqa: ASYNC110 -- nothing announces it
            await asyncio.sleep(0.1)


async def test_a_frozen_database_is_given_up(
    user: Client, twh_private_postgres: PostgresServer
) -> None:
    """
    A server that does not answer makes no request hang, and is used again when it does.
    """
    before = await statuses(user)
    with twh_private_postgres.paused():
        frozen = await statuses(user)
    await recovered(user)

    assert before == [WELL] * 3
    assert frozen == [UNAVAILABLE] * 3


async def test_a_stopped_database_is_missed_and_found_again(
    user: Client, twh_private_postgres: PostgresServer
) -> None:
    """
    While the server is down the answer is 503; after a restart the pools recover.
    """
    before = await statuses(user)
    twh_private_postgres.stop()
    down = await statuses(user)
    twh_private_postgres.start()
    await recovered(user)

    assert before == [WELL] * 3
    assert down == [UNAVAILABLE] * 3
