"""
No route gives, changes or betrays what belongs to another tenant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jwt
import psycopg
import pytest
from starlette.applications import Starlette

from examples.warehouse.app import OPERATIONS
from examples.warehouse.auth import Role
from examples.warehouse.ids import new_id
from examples.warehouse.settings import Settings
from examples.warehouse.tour.isolation import isolation
from examples.warehouse.vault import TOKENS, Vault
from examples.warehouse.web import Operation
from tests.support.warehouse import Client, SignIn, add, add_item, add_location, add_stock
from twh_platform import Tenant, bind_tenant, unbind_tenant
from twh_platform.kms import platform_owner
from twh_platform.tenancy.postgres.psycopg import TenantConnection

BY_ID = [one for one in OPERATIONS if one.for_user and "{id:uuid}" in one.path]
ACCOUNT = "GB82 WEST 1234 5698 7654 32"
ABOVE_VIEWER = [one for one in OPERATIONS if one.for_user and one.access is not Role.VIEWER]


def name(one: Operation) -> str:
    """
    How a test of this operation is called.
    """
    return one.handler.__name__


SIMPLE: dict[str, dict[str, Any]] = {
    "suppliers": {"name": "S", "bank_account": ACCOUNT},
    "webhooks": {"url": "http://127.0.0.1:9/", "events": ["stock.low"]},
}


async def one_of(user: Client, area: str) -> str:
    """
    Add a record to this area and return its id.
    """
    item, place, other = await add_item(user), await add_location(user), await add_location(user)
    await add_stock(user, item, place, 5)
    line: dict[str, Any] = {"item_id": item, "quantity": 1}
    bought, sold = {**line, "unit_cost_minor": 1}, {**line, "unit_price_minor": 1}
    sale = {"customer": "C", "location_id": place, "lines": [sold]}
    if area in {"items", "locations"}:
        return item if area == "items" else place
    if area in SIMPLE:
        return await add(user, f"/{area}", **SIMPLE[area])
    if area == "purchase_orders":
        return await add(user, "/purchase_orders", supplier="S", location_id=place, lines=[bought])
    if area == "transfers":
        ends = {"from_location_id": place, "to_location_id": other}
        return await add(user, "/transfers", **ends, lines=[line])
    order = await add(user, "/sales_orders", **sale)
    if area == "sales_orders":
        return order
    await user.post(f"/sales_orders/{order}/ship")
    lines = [{"line": 1, "quantity": 1}]
    return await add(user, "/returns", sales_order_id=order, location_id=place, lines=lines)


BODIES: dict[str, Any] = {
    "change_item": {"name": "Mine"},
    "change_supplier": {"name": "Mine"},
    "change_purchase_order": {"status": "cancelled"},
    "receive_purchase_order": {},
    "change_sales_order": {"status": "cancelled"},
    "change_webhook": {"events": ["item.changed"]},
    "rotate_webhook_secret": {},
}


async def body_for(tried: Operation, owner: Client, record: str) -> Any:
    """
    A body with which the owner of the record is served.
    """
    if name(tried) != "revoke_webhook_secret":
        return BODIES.get(name(tried))
    hook = (await owner.post(f"/webhooks/{record}/rotate", json={})).json()
    return {"fingerprint": hook["secrets"][-1]["fingerprint"]}


@pytest.mark.parametrize("tried", BY_ID, ids=name)
async def test_another_tenants_id_is_answered_like_no_id(sign_in: SignIn, tried: Operation) -> None:
    """
    The answer for a record of another tenant is the one for a record that nobody has.
    """
    acme, globex = await sign_in("acme"), await sign_in("globex")
    area = tried.path.split("/")[1]
    theirs = await one_of(globex, area)
    sent = await body_for(tried, globex, theirs)

    async def ask(user: Client, identity: str) -> tuple[int, dict[str, Any], list[str]]:
        path = tried.path.replace("{id:uuid}", identity)
        answer = await user.request(tried.method, path, headers={"If-Match": "*"}, json=sent)
        return answer.status_code, answer.json(), sorted(answer.headers)

    status, body, headers = await ask(acme, theirs)
    missing = await ask(acme, str(new_id()))
    own, _, _ = await ask(globex, theirs)

    assert (status, own) == (404, 200)
    body["request_id"] = missing[1]["request_id"] = "-"
    assert (status, body, headers) == missing


@pytest.mark.parametrize("tried", ABOVE_VIEWER, ids=name)
async def test_a_viewer_changes_nothing(sign_in: SignIn, tried: Operation) -> None:
    """
    A role that is too low is refused before anything else is looked at.
    """
    viewer = await sign_in("acme", "viewer")
    path = tried.path.replace("{id:uuid}", str(new_id()))

    answer = await viewer.request(tried.method, path, json={})

    assert (answer.status_code, answer.json()["code"]) == (403, "role_insufficient")


@pytest.mark.parametrize("tried", [one for one in OPERATIONS if one.access != "public"], ids=name)
async def test_a_stranger_gets_nowhere(client: Client, tried: Operation) -> None:
    """
    Without a token every route but the public ones answers alike.
    """
    path = re.sub(r"\{.*\}", str(new_id()), tried.path)

    answer = await client.request(tried.method, path, headers={"X-Tenant-ID": "acme"}, json={})

    assert (answer.status_code, answer.json()["code"]) == (401, "credentials_invalid")


def test_the_tour_tries_every_route_across_tenants() -> None:
    """
    No route of a tenant is left out of the attempts that `--check` makes.
    """
    tried = {
        (step.method, re.sub(r"\{\w+\}", "{id:uuid}", step.path.partition("?")[0]))
        for step in isolation()
        if "theirs" in repr(step) or "their_" in repr(step)
    }
    of_a_tenant = {(one.method, one.path) for one in OPERATIONS if one.for_user}

    assert of_a_tenant <= tried


REFUSED = {
    "warehouse_app": (
        "UPDATE stock_movements SET quantity = 1",
        "DELETE FROM stock_movements",
        "TRUNCATE stock_movements",
        "SELECT hash FROM passwords",
        "SELECT * FROM twh.tenants",
        "CREATE TEMP TABLE t (a int)",
        "CREATE TABLE public.t (a int)",
        "ALTER TABLE items NO FORCE ROW LEVEL SECURITY",
        "UPDATE items SET tenant_id = 'globex'",
        "DELETE FROM suppliers",
        "SELECT twh.shred_tenant()",
        "SELECT * FROM twh.key_tenants",
        "DELETE FROM twh.data_keys",
    ),
    "warehouse_directory": (
        "SELECT name FROM users",
        "SELECT * FROM items",
        "UPDATE passwords SET hash = ''",
        "UPDATE twh.tenants SET status = 'active'",
        "SELECT * FROM suppliers",
        "SELECT wrapped FROM twh.data_keys",
        "SELECT url FROM webhooks",
        "SELECT secret FROM webhook_secrets",
    ),
    "warehouse_administrator": (
        "SELECT * FROM users",
        "SELECT * FROM items",
        "SELECT hash FROM passwords",
        "TRUNCATE twh.tenants",
        "SELECT * FROM suppliers",
        "DELETE FROM twh.data_keys",
        "SELECT url FROM webhooks",
        "SELECT secret FROM webhook_secrets",
    ),
    "warehouse_support": (
        "SELECT url FROM webhooks",
        "SELECT secret FROM webhook_secrets",
    ),
}


@contextmanager
def as_acme(warehouse: Settings, dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """
    Connect with a login's DSN, as acme.
    """
    kind = TenantConnection.using(seal=Vault.of(warehouse).seal())
    with bind_tenant(Tenant(id="acme")), kind.connect(dsn) as connection:
        yield connection


@pytest.mark.parametrize(
    ("role", "statement"), [(role, one) for role, all_ in REFUSED.items() for one in all_]
)
def test_each_login_may_do_only_its_own_work(
    warehouse: Settings, role: str, statement: str
) -> None:
    """
    What a login does not need, the database refuses, with a tenant bound.
    """
    dsn = warehouse.app_dsn.replace("+psycopg", "").replace("warehouse_app", role)

    refused = pytest.raises(psycopg.errors.InsufficientPrivilege)
    with as_acme(warehouse, dsn) as connection, refused:
        connection.execute(statement)


def test_login_reads_one_tenant_at_a_time(warehouse: Settings) -> None:
    """
    The login that reads password hashes sees those of the bound tenant, and none unbound.
    """
    dsn = warehouse.directory_dsn.replace("+psycopg", "")
    with as_acme(warehouse, dsn) as connection:
        seen = connection.execute("SELECT DISTINCT tenant_id FROM passwords").fetchall()
        connection.rollback()
        with unbind_tenant(), pytest.raises(psycopg.Error) as unbound:
            connection.execute("SELECT hash FROM passwords")

    assert seen == [("acme",)]
    assert unbound.value.sqlstate == "TW001"


def test_injected_sql_does_not_switch_the_tenant(warehouse: Settings) -> None:
    """
    The seal of acme opens nothing of globex, however the setting is changed.
    """
    dsn = warehouse.app_dsn.replace("+psycopg", "")
    for change in ("SET LOCAL twh.tenant_id = 'globex'", "RESET twh.tenant_id; SET ROLE NONE"):
        with as_acme(warehouse, dsn) as connection:
            connection.execute(change)
            with pytest.raises(psycopg.Error) as refused:
                connection.execute("SELECT sku FROM items")
        assert refused.value.sqlstate in {"TW001", "TW003"}


async def test_an_administrators_token_is_read_like_a_users(app: Starlette, client: Client) -> None:
    """
    Sent twice, beyond the limit, or with a header that changes its meaning, it is refused.
    """
    services = app.state.services
    good = services.tokens.for_administrator()
    with platform_owner():
        secret = services.vault.secrets.get(TOKENS).secret.reveal()
    claims = jwt.decode(good, options={"verify_signature": False})
    critical = jwt.encode(claims, secret, headers={"crit": ["exp"]})
    long = jwt.encode({**claims, "filler": "x" * 9000}, secret)
    answers = []
    for tokens in ([good], [good, good], [critical], [long], []):
        headers = [("Authorization", f"Bearer {token}") for token in tokens]
        answers.append(await client.get("/tenants", headers=headers))

    assert [one.status_code for one in answers] == [200, 401, 401, 401, 401]
    assert all(one.headers["www-authenticate"] == "Bearer" for one in answers[1:])


async def test_a_suspension_is_seen_at_once(app: Starlette, sign_in: SignIn) -> None:
    """
    A token given before does not outlive the tenant's suspension.
    """
    user = await sign_in("hooli")
    before = await user.get("/items")
    administrator = {"Authorization": f"Bearer {app.state.services.tokens.for_administrator()}"}
    answers = []
    for status in ("suspended", "active"):
        await user.patch("/tenants/hooli", json={"status": status}, headers=administrator)
        app.state.services.directory.invalidate("hooli")  # the tour waits for the notice
        answers.append((await user.get("/items")).status_code)

    assert (before.status_code, answers) == (200, [403, 200])
