"""
What the warehouse's tests do again and again.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from starlette.applications import Starlette

from examples.warehouse.seed import MAIN, email, seed
from examples.warehouse.services import Services
from examples.warehouse.settings import Settings
from twh_platform import Tenant

PASSWORD = "a password for the tests"

Client = httpx.AsyncClient
SignIn = Callable[..., Awaitable[Client]]


async def fill(settings: Settings) -> None:
    """
    Put the demo's tenants into an empty warehouse.

    The main ones may ask for more at a time: tests send what a day brings at once.
    """
    services = Services.of(settings)
    room = {"minute": 10_000, "in-flight": 500}
    async with services.running():
        await seed(services, password=PASSWORD)
        for tenant_id, tier in MAIN.items():
            tenant = Tenant(id=tenant_id, tier=tier)
            await services.quotas.plans.put(tenant, room, actor="tests", reason="room for tests")


def connect(app: Starlette, token: str = "") -> Client:
    """
    Make a client of an app in this process, with a token if there is one.
    """
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return Client(transport=transport, base_url="http://warehouse", headers=headers, timeout=30)


def somewhere() -> dict[str, str]:
    """
    The header of a request from a place of its own: each may log in so many times a minute.
    """
    return {"X-Forwarded-For": f"2001:db8:{secrets.token_hex(2)}:{secrets.token_hex(2)}::1"}


async def log_in(client: Client, tenant: str, role: str) -> str:
    """
    Exchange the password of a user of the demo for a token.
    """
    body = {"tenant": tenant, "email": email(role, tenant), "password": PASSWORD}
    answer = await client.post("/auth/login", json=body, headers=somewhere())
    token: str = answer.json()["access_token"]
    return token


async def add(user: Client, path: str, **body: Any) -> str:
    """
    Add a record and return its id.
    """
    answer = await user.post(path, json=body)
    assert answer.status_code == 201, answer.text
    identity: str = answer.json()["id"]
    return identity


async def add_item(user: Client) -> str:
    """
    Add an item and return its id.
    """
    sku = secrets.token_hex(4)
    return await add(user, "/items", sku=sku, name="Item", unit_price_minor=100)


async def add_location(user: Client) -> str:
    """
    Add a location and return its id.
    """
    return await add(user, "/locations", code=secrets.token_hex(4), name="Place")


async def add_stock(user: Client, item: str, location: str, quantity: int) -> None:
    """
    Count stock in.
    """
    body = {"item_id": item, "location_id": location, "quantity": quantity, "reason": "test"}
    await add(user, "/stock/adjust", **body)
