"""
The tiers of the warehouse hold: requests, items, locations, logins (gate G8).
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select
from starlette.applications import Starlette

from examples.warehouse.app import create_app
from examples.warehouse.auth import Role
from examples.warehouse.models import Base, Item, Location, TenantRecord, Tier, User
from examples.warehouse.provisioning import NewUser, provision
from examples.warehouse.settings import Settings
from tests.support.warehouse import PASSWORD, Client, SignIn, add_item, connect
from twh_platform import Tenant, bind_tenant, subscribe
from twh_platform.quotas import QuotaNotice
from twh_platform.testing import RedisServer

NewTenant = Callable[..., Awaitable[Client]]

ITEM = {"name": "Item", "unit_price_minor": 1}
EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"


@pytest.fixture
def new_tenant(app: Starlette) -> NewTenant:
    """
    A function that returns a client who may do everything in a tenant of its own.
    """

    async def new_tenant(tier: Tier = Tier.FREE, *, on: Starlette = app) -> Client:
        tenant_id = f"quota-{secrets.token_hex(6)}"
        user = NewUser(email="a@b.example", name="A", password=PASSWORD)
        await provision(on.state.services, TenantRecord(id=tenant_id, tier=tier), [user])
        with bind_tenant(Tenant(id=tenant_id)):
            async with on.state.services.app.begin() as db:
                [user_id] = (await db.scalars(select(User.id))).all()
        return visitor(on, tenant_id, user_id)

    return new_tenant


def visitor(app: Starlette, tenant_id: str, user_id: UUID = UUID(int=1)) -> Client:  # noqa: B008 -- a value
    """
    A client with a token of this tenant, which it names in each request.
    """
    tokens = app.state.services.tokens
    token = tokens.for_user(tenant_id=tenant_id, user_id=user_id, role=Role.ADMIN)
    client = connect(app, token)
    client.headers["x-tenant-id"] = tenant_id
    return client


async def give(app: Starlette, user: Client, **limits: int) -> None:
    """
    Let the administrator give a tenant limits of its own.
    """
    boss = connect(app, app.state.services.tokens.for_administrator())
    body = {"limits": {name.replace("_", "-"): limit for name, limit in limits.items()}}
    path = f"/admin/quotas/{user.headers['x-tenant-id']}"
    answer = await boss.put(path, json={**body, "reason": "a test"})
    assert answer.status_code == 200, answer.text


async def statuses(user: Client, times: int, path: str = "/items") -> list[int]:
    """
    Ask so many times, one after the other.
    """
    return [(await user.get(path)).status_code for _ in range(times)]


async def rows_and_level(app: Starlette, user: Client, kind: type[Base]) -> tuple[int, int]:
    """
    How many records there are, and how many were taken.
    """
    services, rule = app.state.services, kind.__tablename__
    with bind_tenant(Tenant(id=user.headers["x-tenant-id"])):
        async with services.app.begin() as db:
            rows = await db.scalar(select(func.count()).select_from(kind))
            levels = await services.quotas.capacity.levels(db)
    return rows, levels.get(rule, 0)


@asynccontextmanager
async def running(settings: Settings, instances: int = 1) -> AsyncIterator[list[Starlette]]:
    """
    So many instances of the app.
    """
    async with AsyncExitStack() as stack:
        apps = [create_app(settings) for _ in range(instances)]
        for one in apps:
            await stack.enter_async_context(one.state.services.running())
        yield apps


# --- requests


async def test_the_eleventh_request_in_a_minute(new_tenant: NewTenant) -> None:
    """
    It is refused, says which rule and when to come again, and is nobody else's business.
    """
    user, other = await new_tenant(), await new_tenant()
    first = await statuses(user, 10)
    refused = await user.get("/items")
    body = {name: refused.json()[name] for name in ("type", "status", "code", "violated-policies")}

    assert first == [200] * 10
    assert list(body.values()) == [EXCEEDED, 429, "quota_exceeded", ["minute"]]
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.headers["ratelimit"].startswith('"minute";r=0;t=')
    assert 1 <= int(refused.headers["retry-after"]) <= 8
    assert await statuses(other, 1) == [200]


async def test_what_tenancy_refuses_costs_a_tenant_nothing(
    new_tenant: NewTenant, app: Starlette
) -> None:
    """
    Whoever is not let in uses up nobody's quota, and is not told what is left of it.
    """
    user = await new_tenant()
    stranger = connect(app, user.headers["authorization"].removeprefix("Bearer "))
    stranger.headers["x-tenant-id"] = "acme"
    refused = [await stranger.get("/items") for _ in range(20)]
    answer = await user.get("/items")

    assert {one.status_code for one in refused} == {403}
    assert not any("ratelimit" in one.headers for one in refused)
    assert answer.headers["ratelimit"].startswith('"minute";r=9;')


async def test_six_at_a_time_are_one_too_many(new_tenant: NewTenant) -> None:
    """
    The sixth request in flight is refused; the slots are free when the others end.
    """
    user = await new_tenant()
    answers = await asyncio.gather(*(user.get("/items") for _ in range(6)))

    refused = [one.json()["violated-policies"] for one in answers if one.status_code != 200]
    assert refused == [["in-flight"]]
    assert await statuses(user, 1) == [200]


async def test_health_is_nobodys_quota(client: Client) -> None:
    """
    A load balancer asks as often as it likes.
    """
    assert set(await statuses(client, 30, "/healthz")) == {200}


# --- what there is


async def test_the_hundred_and_first_item(app: Starlette, new_tenant: NewTenant) -> None:
    """
    Of a hundred and twenty at once a hundred are there, whoever comes first.
    """
    user = await new_tenant()
    await give(app, user, minute=10_000, hour=10_000, in_flight=200)
    posts = (user.post("/items", json={**ITEM, "sku": f"S{n}"}) for n in range(120))
    answers = await asyncio.gather(*posts)
    refused = [one for one in answers if one.status_code == 429]

    assert Counter(one.status_code for one in answers) == {201: 100, 429: 20}
    assert {tuple(one.json()["violated-policies"]) for one in refused} == {("items",)}
    assert not any("retry-after" in one.headers for one in refused)
    assert await rows_and_level(app, user, Item) == (100, 100)


async def test_the_sixth_location(app: Starlette, new_tenant: NewTenant) -> None:
    """
    It is refused, and another tenant's first is not.
    """
    user, other = await new_tenant(), await new_tenant()
    posts = [await user.post("/locations", json={"code": f"L{n}", "name": "L"}) for n in range(6)]
    first = await other.post("/locations", json={"code": "L", "name": "L"})

    assert [one.status_code for one in posts] == [201] * 5 + [429]
    assert posts[-1].json()["violated-policies"] == ["locations"]
    assert first.status_code == 201
    assert await rows_and_level(app, user, Location) == (5, 5)


async def test_what_is_not_added_takes_nothing(app: Starlette, new_tenant: NewTenant) -> None:
    """
    A conflict gives back what it took, and a request that is sent twice takes once.
    """
    user = await new_tenant()
    body, key = {**ITEM, "sku": "S"}, {"Idempotency-Key": "once"}
    again = [await user.post("/items", json=body, headers=key) for _ in range(2)]
    conflict = await user.post("/items", json=body)

    assert [one.status_code for one in again] == [201, 201]
    assert conflict.json()["code"] == "already_exists"
    assert await rows_and_level(app, user, Item) == (1, 1)


async def test_the_demo_begins_with_what_it_has(app: Starlette, sign_in: SignIn) -> None:
    """
    The items of the seed are counted as those are that come later.
    """
    user = await sign_in("globex")
    user.headers["x-tenant-id"] = "globex"
    await add_item(user)
    rows, level = await rows_and_level(app, user, Item)

    assert rows == level > 3


async def test_a_notice_is_given_when_it_is_true(app: Starlette, new_tenant: NewTenant) -> None:
    """
    At four of five locations, and not for one that was rolled back.
    """
    user, heard = await new_tenant(), list[QuotaNotice]()
    end = subscribe(QuotaNotice, heard.append)
    for code in ("A", "B", "C", "C", "D"):
        await user.post("/locations", json={"code": code, "name": "L"})
    end()

    told = [(one.rule, one.threshold, one.used) for one in heard if one.rule == "locations"]
    assert told == [("locations", 80, 4)]


# --- the administrator


async def test_a_limit_is_raised_on_every_instance(
    warehouse: Settings, new_tenant: NewTenant
) -> None:
    """
    What one instance is told, another one follows, and what was used stays used.
    """
    async with running(warehouse, 2) as (here, there):
        user = await new_tenant(on=here)
        elsewhere = visitor(there, user.headers["x-tenant-id"])
        before = await statuses(elsewhere, 11)
        await give(here, user, minute=20)
        async with asyncio.timeout(10):  # two seconds, on a machine that has time
            while (  # noqa: ASYNC110 -- nothing announces it here
                answer := await elsewhere.get("/items")
            ).status_code != 200:
                await asyncio.sleep(0.05)

    assert before == [200] * 10 + [429]
    assert '"minute";q=20;w=60' in answer.headers["ratelimit-policy"]
    assert '"month";r=9989;' in answer.headers["ratelimit"]


async def test_it_takes_an_administrator_and_a_reason(
    app: Starlette, new_tenant: NewTenant
) -> None:
    """
    A tenant cannot raise its own limit, nor anybody for no reason.
    """
    user = await new_tenant()
    path, limits = f"/admin/quotas/{user.headers['x-tenant-id']}", {"minute": 999}
    own = await user.put(path, json={"limits": limits, "reason": "I want more"})
    boss = connect(app, app.state.services.tokens.for_administrator())
    silent = await boss.put(path, json={"limits": limits})
    seen = (await boss.get(path)).json()

    assert (own.status_code, own.json()["code"]) == (401, "credentials_invalid")
    assert (silent.status_code, silent.json()["errors"][0]["field"]) == (422, "reason")
    assert (seen["override"], seen["history"]) == (None, [])


async def used(app: Starlette, user: Client) -> dict[str, int]:
    """
    What the export says of the month.
    """
    boss = connect(app, app.state.services.tokens.for_administrator())
    span = "from=2000-01-01&to=2100-01-01"
    answer = await boss.get(f"/admin/usage?{span}&tenant={user.headers['x-tenant-id']}&format=csv")
    lines = [line.split(",") for line in answer.text.splitlines()[1:]]
    return {line[1]: int(line[8]) for line in lines if line[1] == "month"}


async def test_usage_outlives_an_instance(warehouse: Settings, new_tenant: NewTenant) -> None:
    """
    What two instances have counted, one after the other, is billed in one sum.
    """
    async with running(warehouse) as [app]:
        user = await new_tenant(on=app)
        await statuses(user, 3)
    async with running(warehouse) as [app]:
        await statuses(visitor(app, user.headers["x-tenant-id"]), 4)
    async with running(warehouse) as [app]:
        assert await used(app, user) == {"month": 7}


# --- logins


def guess(client: Client, forwarded: str, password: str = "guess") -> Awaitable[Any]:
    """
    Try a password, as somebody whom the proxy calls so.
    """
    body = {"tenant": "acme", "email": "admin@acme.example", "password": password}
    return client.post("/auth/login", json=body, headers={"X-Forwarded-For": forwarded})


async def test_passwords_are_not_guessed(client: Client) -> None:
    """
    From one address five guesses a minute, whatever it makes up; from another the user logs in.
    """
    answers = [await guess(client, "192.0.2.1") for _ in range(6)]
    right = await guess(client, "192.0.2.1", PASSWORD)
    made_up = await guess(client, "192.0.2.9, 192.0.2.1", PASSWORD)
    elsewhere = await guess(client, "192.0.2.2", PASSWORD)

    assert [one.status_code for one in answers] == [401] * 5 + [429]
    assert answers[-1].json()["violated-policies"] == ["login"]
    assert (right.status_code, made_up.status_code, elsewhere.status_code) == (429, 429, 200)


async def test_only_a_listed_proxy_is_believed(warehouse: Settings) -> None:
    """
    Control: with none listed, an address in a header is the client's own invention.
    """
    async with running(replace(warehouse, trusted_proxies=())) as [app], connect(app) as client:
        answers = [await guess(client, f"192.0.2.{n}") for n in range(6)]

    assert [one.status_code for one in answers] == [401] * 5 + [429]


# --- Redis


async def test_instances_share_a_redis(
    warehouse: Settings, redis_server: RedisServer, new_tenant: NewTenant
) -> None:
    """
    Two instances together admit ten; one that stands alone admits ten more.
    """
    async with running(replace(warehouse, redis_url=redis_server.url), 2) as (one, two):
        user = await new_tenant(on=one)
        other = visitor(two, user.headers["x-tenant-id"])
        together = await statuses(user, 6) + await statuses(other, 5)
    async with running(warehouse) as [alone]:
        control = await statuses(visitor(alone, user.headers["x-tenant-id"]), 11)

    assert together == control == [200] * 10 + [429]


async def test_a_redis_that_hangs_gives_nobody_more(
    warehouse: Settings, redis_server: RedisServer, new_tenant: NewTenant
) -> None:
    """
    While it does not answer the limits go on to hold, and requests are answered.
    """
    async with running(replace(warehouse, redis_url=redis_server.url)) as [app]:
        user = await new_tenant(on=app)
        before = await statuses(user, 4)
        with redis_server.frozen():
            during = await statuses(user, 7)
        async with asyncio.timeout(30):
            while app.state.services.quotas.store.degraded:
                await user.get("/items")
                await asyncio.sleep(0.05)

    assert before + during == [200] * 10 + [429]
