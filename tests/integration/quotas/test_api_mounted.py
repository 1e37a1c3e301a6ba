"""
The quotas' app inside of other apps: Starlette, FastAPI, and over a real server's transport.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.support.serving import running
from tests.support.tenancy import Says
from twh_platform import Tenant
from twh_platform.errors import BackendUnavailableError, CredentialsError
from twh_platform.quotas import (
    Limiter,
    MemoryOverrideStore,
    MemoryQuotaStore,
    MemoryUsageLedger,
    OverriddenPlans,
    Plans,
    QuotaApp,
    UsageCounter,
    UsageMeter,
)
from twh_platform.tenancy import MemoryTenantDirectory, TenantMiddleware

ACME = Tenant(id="acme", tier="FREE")
ADMIN = {"authorization": "Bearer admin"}
COUNTER = UsageCounter(
    tenant_id="acme",
    rule="month",
    scope="",
    birth=10**15,
    instance="",
    unit="requests",
    period_start=datetime(2026, 9, 1, tzinfo=UTC),
    period_end=datetime(2026, 10, 1, tzinfo=UTC),
    taken=10,
    refunded=2,
)
SEPTEMBER = {"from": "2026-09-01", "to": "2026-10-01"}


async def administrator(scope) -> str:
    """Whoever has the token."""
    if (b"authorization", b"Bearer admin") not in scope["headers"]:
        raise CredentialsError("no token of an administrator")
    return "ada@example.com"


def starlette(app) -> Starlette:
    """Mounted under a prefix, twice as deep as needed."""
    return Starlette(routes=[Mount("/v1", routes=[Mount("/api", app=app)])])


def fastapi(app) -> FastAPI:
    """Mounted as FastAPI does it."""
    outer = FastAPI()
    outer.mount("/v1/api", app)
    return outer


class House:
    """A service with its quotas' app."""

    def __init__(self, mount: Callable) -> None:
        directory = MemoryTenantDirectory([ACME])
        self.ledger = MemoryUsageLedger()
        self.meter = UsageMeter(self.ledger)
        plans = OverriddenPlans(Plans.example(), MemoryOverrideStore())
        self.limiter = Limiter(MemoryQuotaStore(), plans=plans, meter=self.meter)
        quotas = QuotaApp(
            self.limiter,
            administrator=administrator,
            overrides=plans,
            ledger=self.ledger,
            directory=directory.get,
        )
        self.app = TenantMiddleware(
            mount(quotas),
            resolver=Says("acme"),
            directory=directory,
            public_paths=["/v1/api/admin/*"],
        )

    def client(self) -> httpx.AsyncClient:
        """A client that speaks to it directly."""
        transport = httpx.ASGITransport(self.app)
        return httpx.AsyncClient(transport=transport, base_url="http://shop/v1/api")


@pytest.fixture(params=[starlette, fastapi])
def house(request) -> House:
    """The service on either framework."""
    return House(request.param)


async def test_a_tenant_sees_its_quotas(house):
    """Under the prefix of the mount."""
    async with house.client() as client:
        answer = await client.get("/quotas")

    assert answer.status_code == 200
    assert [rule["name"] for rule in answer.json()["rules"]][:2] == ["minute", "hour"]


async def test_an_administrator_raises_a_limit(house):
    """Read, change what was read, and the tenant has it."""
    async with house.client() as client:
        assert (await house.limiter.take(ACME, only=["minute"], cost=10)).allowed
        assert not (await house.limiter.take(ACME, only=["minute"])).allowed
        before = await client.get("/admin/quotas/acme", headers=ADMIN)
        after = await client.put(
            "/admin/quotas/acme",
            headers={**ADMIN, "if-match": before.headers["etag"]},
            json={"limits": {"minute": 20}, "reason": "ticket 4711"},
        )
        assert (await house.limiter.take(ACME, only=["minute"], cost=10)).allowed
        back = await client.delete(
            "/admin/quotas/acme", headers=ADMIN, params={"reason": "it is over"}
        )

    assert after.status_code == back.status_code == 200
    assert after.json()["override"]["actor"] == "ada@example.com"
    assert [one["reason"] for one in back.json()["history"]] == ["it is over", "ticket 4711"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_the_tenant_is_no_administrator(method, house):
    """Though it is known by the time it asks."""
    async with house.client() as client:
        answer = await client.request(method, "/admin/quotas/acme")
        usage = await client.request("GET", "/admin/usage", params=SEPTEMBER)

    assert answer.status_code == usage.status_code == 401


async def test_usage_is_exported(house):
    """As a file."""
    await house.ledger.record([COUNTER])
    async with house.client() as client:
        answer = await client.get(
            "/admin/usage", headers=ADMIN, params={**SEPTEMBER, "format": "csv"}
        )

    assert answer.text.splitlines()[1].startswith("acme,month,requests,,2026-09-01T00:00:00+00:00")
    assert ",10,2,8," in answer.text


async def test_a_real_server_breaks_off_what_it_cannot_finish(monkeypatch):
    """The client sees that the answer is not whole; control: all of it, where nothing fails."""
    house = House(starlette)
    await house.ledger.record(
        [replace(COUNTER, scope=f"u.{number}", birth=number + 1) for number in range(1500)]
    )
    page = house.ledger.page

    async def once(query, *, after, size):
        if after is not None:
            raise BackendUnavailableError("down")
        return await page(query, after=after, size=size)

    async with running(house.app) as port:
        base = f"http://127.0.0.1:{port}/v1/api"
        async with httpx.AsyncClient(base_url=base, headers=ADMIN) as client:
            whole = await client.get("/admin/usage", params=SEPTEMBER)
            monkeypatch.setattr(house.ledger, "page", once)
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get("/admin/usage", params=SEPTEMBER)

    assert sum(json.loads(line)["used"] for line in whole.text.splitlines()) == 1500 * 8
