"""
Suppliers' accounts are sealed for their tenant, and gone when its keys are.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import psycopg
import pytest
from httpx import Response
from psycopg.rows import dict_row
from starlette.applications import Starlette

from examples.warehouse.app import create_app
from examples.warehouse.auth import Role
from examples.warehouse.models import TenantRecord, Tier
from examples.warehouse.provisioning import NewUser, provision
from examples.warehouse.settings import Settings
from examples.warehouse.vault import Vault
from tests.support.tenancy import heard
from tests.support.warehouse import PASSWORD, Client, SignIn, add, connect
from twh_platform import Tenant, bind_tenant
from twh_platform.kms import LocalKeyService, Suite, parse
from twh_platform.kms.lifecycle import TenantShredded, verify_receipt
from twh_platform.tenancy import AdministratorEntered
from twh_platform.tenancy.postgres.psycopg import TenantConnection

ACCOUNT = "GB82WEST12345698765432"
OTHER = "DE89370400440532013000"
REASON = "ticket 4714: they have left"

NewTenant = Callable[..., Awaitable[Client]]


@pytest.fixture
def boss(app: Starlette) -> Client:
    """
    A client with the administrator's token.
    """
    return connect(app, app.state.services.tokens.for_administrator())


@pytest.fixture
def new_tenant(app: Starlette) -> NewTenant:
    """
    A function that returns a client who may do everything in a tenant of its own.
    """

    async def new_tenant() -> Client:
        tenant_id = f"keys-{secrets.token_hex(6)}"
        record = TenantRecord(id=tenant_id, tier=Tier.ENTERPRISE)
        user = NewUser(email="a@b.example", name="A", password=PASSWORD)
        await provision(app.state.services, record, [user])
        return visitor(app, tenant_id)

    return new_tenant


def visitor(app: Starlette, tenant_id: str) -> Client:
    """
    A client with a token of this tenant, which it names in each request.
    """
    tokens = app.state.services.tokens
    token = tokens.for_user(tenant_id=tenant_id, user_id=UUID(int=1), role=Role.ADMIN)
    client = connect(app, token)
    client.headers["x-tenant-id"] = tenant_id
    return client


async def add_supplier(user: Client, account: str = ACCOUNT) -> str:
    """
    Add a supplier and return its id.
    """
    return await add(user, "/suppliers", name="Bolts", bank_account=account)


async def until_other_than(status: int, user: Client, path: str) -> Response:
    """
    Ask until the answer has another status; the test fails if that does not come.
    """
    async with asyncio.timeout(30):
        while (answer := await user.get(path)).status_code == status:  # noqa: ASYNC110 -- nothing announces it
            await asyncio.sleep(0.02)
    return answer


async def found(user: Client, account: str) -> list[str]:
    """
    The ids of the suppliers with this account.
    """
    answer = await user.get("/suppliers", params={"bank_account": account})
    assert answer.status_code == 200, answer.text
    return [one["id"] for one in answer.json()["data"]]


def row_of(settings: Settings, supplier: str) -> dict[str, Any]:
    """
    A supplier's row, as the login reads it that sees all tenants.
    """
    query = "SELECT *, suppliers::text AS whole FROM suppliers WHERE id = %s"
    dsn = settings.support_dsn.replace("+psycopg", "")
    with psycopg.connect(dsn, row_factory=dict_row) as support:
        row = support.execute(query, (supplier,)).fetchone()
    assert row is not None
    return row


def write_account(settings: Settings, tenant_id: str, supplier: str, sealed: bytes) -> int:
    """
    Write over a sealed account, as whoever has taken over the app's login.
    """
    kind = TenantConnection.using(seal=Vault.of(settings).seal())
    update = "UPDATE suppliers SET bank_account = %s WHERE id = %s"
    dsn = settings.app_dsn.replace("+psycopg", "")
    with bind_tenant(Tenant(id=tenant_id)), kind.connect(dsn) as connection:
        written: int = connection.execute(update, (sealed, supplier)).rowcount
    return written


async def shred(boss: Client, user: Client, **changed: str) -> Any:
    """
    Shred the tenant of *user*.
    """
    tenant_id = user.headers["x-tenant-id"]
    body = {"reason": REASON, "confirm": tenant_id, **changed}
    return await boss.post(f"/admin/keys/{tenant_id}/shred", json=body)


# --- what is sealed


async def test_the_database_has_bytes_alone(sign_in: SignIn, warehouse: Settings) -> None:
    """
    Nothing of the account is in the row, as text or in hexadecimal; its header is an envelope's.
    """
    supplier = await add_supplier(await sign_in())

    row = row_of(warehouse, supplier)

    assert ACCOUNT[8:] not in row["whole"]
    assert ACCOUNT[8:].encode().hex() not in row["whole"]
    assert parse(row["bank_account"]).suite is Suite.STREAM
    assert len(row["bank_account_index"]) == 16


@pytest.mark.parametrize("role", list(Role))
async def test_managers_read_it_and_others_its_end(sign_in: SignIn, role: Role) -> None:
    """
    From the role of a manager on, the whole account is in the answer.
    """
    supplier = await add_supplier(await sign_in())
    user = await sign_in("acme", role)

    one = (await user.get(f"/suppliers/{supplier}")).json()
    listed = await user.get("/suppliers", params={"limit": 100})

    assert one["bank_account_last4"] == "5432"
    assert one.get("bank_account") == (ACCOUNT if role.covers(Role.MANAGER) else None)
    assert ("bank_account" in one) is role.covers(Role.MANAGER)
    assert ACCOUNT not in listed.text


@pytest.mark.parametrize("written", ["gb82 west 1234 5698 7654 32", f" {ACCOUNT}\n"])
async def test_an_account_has_one_form(sign_in: SignIn, written: str) -> None:
    """
    Spaces and small letters make no other account.
    """
    user = await sign_in()
    supplier = await add_supplier(user, written)

    assert (await user.get(f"/suppliers/{supplier}")).json()["bank_account"] == ACCOUNT
    assert supplier in await found(user, ACCOUNT)


WRONG = ["GB82WEST12345698765433", "GB82", "82GBWEST12345698765432", "x", f"{ACCOUNT}é", "GB82" * 9]


@pytest.mark.parametrize("account", WRONG)
async def test_a_wrong_account_is_refused(sign_in: SignIn, account: str) -> None:
    """
    With a code of its own, in a body and in a search, and without repeating it.
    """
    user = await sign_in()
    answers = [
        await user.post("/suppliers", json={"name": "Bolts", "bank_account": account}),
        await user.get("/suppliers", params={"bank_account": account}),
    ]

    assert [one.status_code for one in answers] == [422, 422]
    assert {one.json()["code"] for one in answers} == {"bank_account_invalid"}


async def test_a_search_finds_the_tenants_own(new_tenant: NewTenant) -> None:
    """
    Two tenants have the account; each finds its own supplier, by values that differ.
    """
    one, other = await new_tenant(), await new_tenant()
    mine, theirs = await add_supplier(one), await add_supplier(other)
    await add_supplier(one, OTHER)

    assert await found(one, ACCOUNT) == [mine]
    assert await found(other, ACCOUNT) == [theirs]


async def test_the_index_follows_the_account(new_tenant: NewTenant, warehouse: Settings) -> None:
    """
    A changed account is found, the one before is not; a new name alone changes no index.
    """
    user = await new_tenant()
    supplier = await add_supplier(user)
    before = row_of(warehouse, supplier)
    for body in ({"name": "Nuts"}, {"bank_account": OTHER}):
        path, headers = f"/suppliers/{supplier}", {"If-Match": "*"}
        changed = await user.patch(path, json=body, headers=headers)
        assert changed.status_code == 200, changed.text
    after = row_of(warehouse, supplier)

    assert (await found(user, ACCOUNT), await found(user, OTHER)) == ([], [supplier])
    assert before["bank_account_index"] != after["bank_account_index"]
    assert (changed.json()["name"], changed.json()["bank_account"]) == ("Nuts", OTHER)


async def test_another_tenants_bytes_do_not_open(
    new_tenant: NewTenant, warehouse: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """
    What was copied into another tenant's row is refused; control: in a row of its own it opens.
    """
    one, other = await new_tenant(), await new_tenant()
    mine, again, theirs = [await add_supplier(user) for user in (one, one, other)]
    sealed = row_of(warehouse, mine)["bank_account"]
    write_account(warehouse, one.headers["x-tenant-id"], again, sealed)
    write_account(warehouse, other.headers["x-tenant-id"], theirs, sealed)

    refused = await other.get(f"/suppliers/{theirs}")
    opened = await one.get(f"/suppliers/{again}")

    assert (refused.status_code, refused.json()["code"]) == (500, "sealed_unreadable")
    assert opened.json()["bank_account"] == ACCOUNT
    assert ACCOUNT[8:] not in caplog.text + refused.text


async def test_keys_are_asked_for_outside_of_the_loop(
    new_tenant: NewTenant, warehouse: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    No call of the key service is made in the thread that serves, by a process with no key at hand.
    """
    user, threads = await new_tenant(), {}
    tenant_id, supplier = user.headers["x-tenant-id"], await add_supplier(user)
    unwrap = LocalKeyService.unwrap

    def noted(self: Any, keys: Any) -> Any:
        for _, context in keys:
            threads.setdefault(context.tenant_id, set()).add(threading.get_ident())
        return unwrap(self, keys)

    monkeypatch.setattr(LocalKeyService, "unwrap", noted)
    app = create_app(warehouse)
    async with app.state.services.running():
        answer = await visitor(app, tenant_id).get(f"/suppliers/{supplier}")

    assert answer.json()["bank_account"] == ACCOUNT
    assert threads[tenant_id]
    assert threading.get_ident() not in threads[tenant_id]


# --- rotation


async def test_a_rotation_touches_no_row(
    boss: Client, new_tenant: NewTenant, warehouse: Settings
) -> None:
    """
    Data keys are wrapped by the new version, rows stay as they are, and a fresh process opens them.
    """
    user = await new_tenant()
    tenant_id, supplier = user.headers["x-tenant-id"], await add_supplier(user)
    before = row_of(warehouse, supplier)
    keys = [(await boss.get(f"/admin/keys/{tenant_id}")).json()]
    rotated = await boss.post(f"/admin/keys/{tenant_id}/rotate")
    keys.append((await boss.get(f"/admin/keys/{tenant_id}")).json())
    app = create_app(warehouse)
    async with app.state.services.running():
        opened = await visitor(app, tenant_id).get(f"/suppliers/{supplier}")

    done = {"version": 2, "rewrapped": 2, "failed": 0, "remaining": 0}
    assert rotated.json() == {"tenant": tenant_id, **done}
    assert [one["versions"] for one in keys] == [
        [{"version": version, "data_keys": 2}] for version in (1, 2)
    ]
    assert (row_of(warehouse, supplier), opened.json()["bank_account"]) == (before, ACCOUNT)


async def test_a_tenant_without_keys_has_none_to_turn(boss: Client, new_tenant: NewTenant) -> None:
    """
    Neither a tenant that has sealed nothing nor one that does not exist.
    """
    user = await new_tenant()
    path = f"/admin/keys/{user.headers['x-tenant-id']}"
    asked = [await boss.get(path), await boss.post(f"{path}/rotate"), await shred(boss, user)]
    nowhere = await boss.get("/admin/keys/nowhere")

    assert asked[0].json()["versions"] == []
    assert [one.json().get("code") for one in asked[1:]] == ["keys_missing"] * 2
    assert (nowhere.status_code, nowhere.json()["code"]) == (404, "not_found")


# --- the end


async def test_what_is_shredded_is_gone(boss: Client, new_tenant: NewTenant) -> None:
    """
    No route opens or seals for that tenant; the rest of it goes on, and so do other tenants.
    """
    user, other = await new_tenant(), await new_tenant()
    supplier, theirs = await add_supplier(user), await add_supplier(other)
    assert (await shred(boss, user)).status_code == 200
    path, body = f"/suppliers/{supplier}", {"name": "Nuts", "bank_account": ACCOUNT}

    refused = [
        await user.get(path),
        await user.get("/suppliers"),
        await user.get("/suppliers", params={"bank_account": ACCOUNT}),
        await user.post("/suppliers", json=body),
        await user.patch(path, json=body, headers={"If-Match": "*"}),
        await boss.post(f"/admin/keys/{user.headers['x-tenant-id']}/rotate"),
    ]
    assert {(one.status_code, one.json()["code"]) for one in refused} == {(410, "tenant_shredded")}
    assert (await user.get("/items")).status_code == 200
    assert (await other.get(f"/suppliers/{theirs}")).json()["bank_account"] == ACCOUNT


async def test_the_receipt_is_good(
    boss: Client, new_tenant: NewTenant, warehouse: Settings
) -> None:
    """
    It is verified with the keyset, says what was destroyed, and is given again when asked again.
    """
    user = await new_tenant()
    await add_supplier(user)
    with heard(AdministratorEntered, TenantShredded) as signals:
        first = (await shred(boss, user)).json()
    again = (await shred(boss, user)).json()

    receipt = verify_receipt(first["receipt"], LocalKeyService(warehouse.keyset_file))
    entered, shredded = signals
    assert (receipt.tenant_id, receipt.data_keys) == (user.headers["x-tenant-id"], 2)
    assert (receipt.canary, receipt.sealed_canary) == ("key_destroyed", "data_key_destroyed")
    assert again["receipt"] == first["receipt"]
    assert (entered.reason, entered.access_id) == (REASON, first["access_id"])
    assert shredded.tenant_id == receipt.tenant_id


async def test_another_instance_hears_of_it(
    boss: Client, new_tenant: NewTenant, warehouse: Settings
) -> None:
    """
    One that has the key at hand, and would go on for minutes, refuses when the database tells it.
    """
    user = await new_tenant()
    path, app = f"/suppliers/{await add_supplier(user)}", create_app(warehouse)
    async with app.state.services.running():
        await app.state.services.keys.listener.wait_listening()
        elsewhere = visitor(app, user.headers["x-tenant-id"])
        before = await elsewhere.get(path)
        await shred(boss, user)
        after = await until_other_than(200, elsewhere, path)

    assert before.json()["bank_account"] == ACCOUNT
    assert (after.status_code, after.json()["code"]) == (410, "tenant_shredded")


REFUSED = [
    ({"confirm": "acme"}, "confirmation_wrong"),
    ({"confirm": ""}, "confirmation_wrong"),
    ({"reason": " "}, "reason_invalid"),
    ({"reason": "two\nlines"}, "reason_invalid"),
    ({"why": "not"}, "validation_failed"),
]


@pytest.mark.parametrize(("changed", "code"), REFUSED)
async def test_nothing_is_shredded_by_mistake(
    boss: Client, new_tenant: NewTenant, changed: dict[str, str], code: str
) -> None:
    """
    Without a reason, or the tenant's id once more, all is as it was.
    """
    user = await new_tenant()
    supplier = await add_supplier(user)

    answer = await shred(boss, user, **changed)

    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert (await user.get(f"/suppliers/{supplier}")).json()["bank_account"] == ACCOUNT


async def test_no_tenant_manages_keys(new_tenant: NewTenant) -> None:
    """
    Not even its own: these routes are the administrator's.
    """
    user = await new_tenant()
    path = f"/admin/keys/{user.headers['x-tenant-id']}"
    answers = [await user.get(path), await user.post(f"{path}/rotate"), await shred(user, user)]

    assert {(one.status_code, one.json()["code"]) for one in answers} == {
        (401, "credentials_invalid")
    }


async def test_a_key_service_that_is_down(
    app: Starlette, new_tenant: NewTenant, warehouse: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """
    Who needs a key that is not at hand is told to come again, the rest is served; then all is well.
    """
    user, file = await new_tenant(), warehouse.keyset_file
    path, away = f"/suppliers/{await add_supplier(user)}", file.with_suffix(".away")
    caplog.set_level(logging.ERROR)
    file.rename(away)
    try:
        app.state.services.keys.cipher.clear()
        refused = await user.get(path)
        items = await user.get("/items")
    finally:
        away.rename(file)
    after = await until_other_than(503, user, path)

    assert (refused.status_code, refused.json()["code"]) == (503, "backend_unavailable")
    assert "retry-after" in refused.headers
    assert items.status_code == 200
    assert after.json()["bank_account"] == ACCOUNT
