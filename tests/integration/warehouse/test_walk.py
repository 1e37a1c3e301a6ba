"""
A walk through every route of the warehouse as a tenant that must learn nothing (gate G6).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import pytest
from sqlalchemy import event
from starlette.applications import Starlette

from examples.warehouse.app import OPERATIONS
from examples.warehouse.auth import Role
from examples.warehouse.models import TenantRecord, Tier
from examples.warehouse.provisioning import NewUser, provision
from examples.warehouse.routes.quotas import DESCRIBED
from tests.support.warehouse import PASSWORD, connect
from twh_platform import Tenant
from twh_platform.testing import AppRequest, TenantPair, WalkReport, WalkStep, walk

ADMINISTRATOR = "the administrator's; a tenant's user is refused whatever is asked"
EXCEPTIONS = {
    "GET /healthz": "about the service, the same for everyone",
    "GET /openapi.json": "about the service, the same for everyone",
    "POST /auth/login": "takes a password; who has one is let in",
    "GET /tenants": ADMINISTRATOR,
    "POST /tenants": ADMINISTRATOR,
    "PATCH /tenants/{id}": ADMINISTRATOR,
    "POST /admin/recalls": ADMINISTRATOR,
    "GET /admin/quotas/{tenant_id}": ADMINISTRATOR,
    "PUT /admin/quotas/{tenant_id}": ADMINISTRATOR,
    "DELETE /admin/quotas/{tenant_id}": ADMINISTRATOR,
    "GET /admin/usage": ADMINISTRATOR,
    "GET /admin/keys/{tenant_id}": ADMINISTRATOR,
    "POST /admin/keys/{tenant_id}/rotate": ADMINISTRATOR,
    "POST /admin/keys/{tenant_id}/shred": ADMINISTRATOR,
    "GET /admin/secrets": ADMINISTRATOR,
    "POST /admin/secrets/{name}/rotate": ADMINISTRATOR,
    "POST /admin/secrets/{name}/revoke": ADMINISTRATOR,
}

LINE = {"item_id": "{item_id}", "quantity": 1}
SALE = {
    "customer": "{mark}",
    "location_id": "{hall_id}",
    "lines": [{**LINE, "quantity": 9, "unit_price_minor": 1}],
}
ONCE = {"Idempotency-Key": "{mark}"}

SUPPLIER = {"name": "{mark}", "bank_account": "GB82 WEST 1234 5698 7654 32"}
HOOK = {"url": "http://127.0.0.1:9/{mark}", "events": ["stock.low"]}
HOOK_CHANGE = {"url": "http://127.0.0.1:9/{mark}/new"}
ITEM = {"sku": "{mark}", "name": "{mark}", "unit_price_minor": 1, "reorder_point": 500}

STEPS = [
    WalkStep("POST /items", ITEM),  # two of them, so that a page of one has a cursor
    WalkStep("POST /items", ITEM, headers=ONCE),
    WalkStep("POST /locations", {"code": "{mark}", "name": "{mark}"}, keep={"hall_id": "id"}),
    WalkStep("POST /locations", {"code": "{mark}", "name": "{mark}"}, keep={"dock_id": "id"}),
    WalkStep(
        "POST /stock/adjust",
        {"item_id": "{item_id}", "location_id": "{hall_id}", "quantity": 99, "reason": "{mark}"},
        headers=ONCE,
    ),
    WalkStep(
        "POST /purchase_orders",
        {
            "supplier": "{mark}",
            "location_id": "{hall_id}",
            "lines": [{**LINE, "unit_cost_minor": 1}],
        },
    ),
    WalkStep("POST /suppliers", SUPPLIER),
    WalkStep("PATCH /suppliers/{id}", {"name": "{mark}"}, headers={"If-Match": "*"}),
    WalkStep("POST /webhooks", HOOK),
    WalkStep("DELETE /webhooks/{id}"),
    WalkStep("POST /webhooks", HOOK, keep={"first_secret": "secrets.0.fingerprint"}),
    WalkStep("PATCH /webhooks/{id}", HOOK_CHANGE, headers={"If-Match": "*"}),
    WalkStep("POST /webhooks/{id}/rotate", {"overlap_seconds": 600}),
    WalkStep("POST /webhooks/{id}/revoke", {"fingerprint": "{first_secret}"}),
    WalkStep("POST /webhooks/{id}/test"),
    WalkStep("POST /sales_orders", SALE, keep={"shipped_id": "id"}),
    WalkStep("POST /sales_orders/{id}/ship", given={"id": "{shipped_id}"}),
    WalkStep("POST /sales_orders", SALE),
    WalkStep(
        "POST /transfers",
        {"from_location_id": "{hall_id}", "to_location_id": "{dock_id}", "lines": [LINE]},
    ),
    WalkStep(
        "POST /returns",
        {
            "sales_order_id": "{shipped_id}",
            "location_id": "{hall_id}",
            "lines": [{"line": 1, "quantity": 1}],
        },
    ),
    WalkStep("GET /items", query={"limit": "1"}),
]


@pytest.fixture
def statements(app: Starlette) -> Iterator[list[str]]:
    """
    What the app says to the database while the test runs.
    """
    said: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        said.append(statement)

    engines = [engine.sync_engine for engine in app.state.services.engines]
    for engine in engines:
        event.listen(engine, "before_cursor_execute", note)
    yield said
    for engine in engines:
        event.remove(engine, "before_cursor_execute", note)


@pytest.fixture
async def tokens(app: Starlette, twh_tenants: TenantPair) -> dict[str, str]:
    """
    The token of an administrator of each of two new tenants, by tenant.
    """
    services, tokens = app.state.services, {}
    for tenant in twh_tenants:
        user = NewUser(email="a@b.example", name="A", password=PASSWORD, role=Role.ADMIN)
        # A tier with room for all that the walk asks.
        await provision(services, TenantRecord(id=tenant.id, tier=Tier.ENTERPRISE), [user])
        async with connect(app) as client:
            body = {"tenant": tenant.id, "email": user.email, "password": PASSWORD}
            tokens[tenant.id] = (await client.post("/auth/login", json=body)).json()["access_token"]
    return tokens


class Cached:
    """
    A cache before the app that forgets whose answer it keeps: what the control is to find.
    """

    def __init__(self, app: Any) -> None:
        self.app = app
        self.kept: dict[str, list[Any]] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """
        Give an answer again, or keep it.
        """
        path = f"{scope['path']}?{scope['query_string'].decode()}"
        if scope["method"] != "GET" or "/items/" not in path:
            await self.app(scope, receive, send)
            return
        messages = self.kept.setdefault(path, [])
        if not messages:
            await self.app(scope, receive, partial(_keep, messages))
        for message in messages:
            await send(message)


async def _keep(messages: list[Any], message: Any) -> None:
    messages.append(message)


@pytest.fixture
def walk_through(
    app: Starlette, twh_tenants: TenantPair, tokens: dict[str, str], statements: list[str]
) -> Callable[[Any], Awaitable[WalkReport]]:
    """
    Walk through the warehouse, or through something that stands before it.
    """

    def authorize(request: AppRequest, tenant: Tenant) -> AppRequest:
        return request.with_header("authorization", f"Bearer {tokens[tenant.id]}")

    async def walk_through(outermost: Any) -> WalkReport:
        return await walk(
            outermost,
            tenants=twh_tenants,
            authorize=authorize,
            document=app.state.openapi,
            routes=app.routes,
            steps=STEPS,
            exceptions=EXCEPTIONS,
            # Of quotas: a period may end between two answers, as each day does.
            volatile=("reset_after", "period_start", "period_end"),
            work=lambda: len(statements),
        )

    return walk_through


async def test_no_route_tells_of_another_tenant(app: Starlette, walk_through: Any) -> None:
    """
    No body, header or amount of work tells of the first tenant, on any route; nothing is left out.
    """
    report = await walk_through(app)

    report.ensure_clean()
    described = sum(map(len, DESCRIBED.values()))
    assert len(report.operations) == len(OPERATIONS) + described
    assert {one.name for one in report.operations if one.state == "excepted"} == set(EXCEPTIONS)
    # Whatever takes an id, or a cursor, was compared with one that nobody has.
    taking = [one for one in report.operations if "{id}" in one.name or one.name == "GET /items"]
    assert [one.name for one in taking if not one.compared] == []


async def test_a_leak_before_the_warehouse_is_found(app: Starlette, walk_through: Any) -> None:
    """
    Control: the same walk finds a cache that forgets the tenant, and nothing else.
    """
    report = await walk_through(Cached(app))

    assert {(one.kind, one.operation) for one in report.findings} >= {
        ("leak", "GET /items/{id}"),
        ("existence", "GET /items/{id}"),
    }
    assert {one.operation for one in report.findings} == {"GET /items/{id}"}
