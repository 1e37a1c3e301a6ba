"""
The administrator crosses tenants by one route, with a reason, through a login of its own.
"""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from starlette.applications import Starlette

from examples.warehouse.settings import Settings
from tests.support.tenancy import heard
from tests.support.warehouse import Client, SignIn, add, add_location, add_stock, connect
from twh_platform.errors import AdministratorError
from twh_platform.tenancy import AdministratorEntered, AdministratorLeft, administrator

REASON = "ticket 4711: lot 12 breaks"


@pytest.fixture
def boss(app: Starlette) -> Client:
    """
    A client with the administrator's token.
    """
    return connect(app, app.state.services.tokens.for_administrator())


async def hold(user: Client, sku: str, *quantities: int) -> None:
    """
    Let a tenant have an item at as many locations.
    """
    item = await add(user, "/items", sku=sku, name="Brittle", unit_price_minor=1)
    for quantity in quantities:
        await add_stock(user, item, await add_location(user), quantity)


async def test_a_recall_finds_every_tenant_that_holds_it(boss: Client, sign_in: SignIn) -> None:
    """
    How much of it each one has, at all locations; those without it are not named.
    """
    await hold(await sign_in("acme"), "BRITTLE", 3, 4)
    await hold(await sign_in("globex"), "BRITTLE")

    answer = await boss.post("/admin/recalls", json={"sku": "BRITTLE", "reason": REASON})

    assert answer.status_code == 200
    assert answer.json()["data"] == [
        {"tenant_id": "acme", "name": "Brittle", "quantity": 7},
        {"tenant_id": "globex", "name": "Brittle", "quantity": 0},
    ]


async def test_it_is_announced_with_who_and_why(boss: Client, warehouse: Settings) -> None:
    """
    The answer names the access that the record is found by.
    """
    with heard(AdministratorEntered, AdministratorLeft) as signals:
        answer = await boss.post("/admin/recalls", json={"sku": "NONE", "reason": REASON})

    [entered, left] = signals
    assert (entered.actor, entered.reason) == (warehouse.administrator_email, REASON)
    assert answer.json() == {"access_id": entered.access_id, "data": []}
    assert (left.access_id, left.error) == (entered.access_id, None)
    assert left.transactions >= 1


@pytest.mark.parametrize("reason", ["", "  ", "two\nlines", "esc\x1b[2K", "\u2028"])
async def test_without_a_reason_nothing_is_read(boss: Client, reason: str) -> None:
    """
    Refused with a code of its own, and never announced.
    """
    with heard(AdministratorEntered) as signals:
        answer = await boss.post("/admin/recalls", json={"sku": "SAW", "reason": reason})

    assert (answer.status_code, answer.json()["code"]) == (422, "reason_invalid")
    assert signals == []


@pytest.mark.parametrize("body", [{"sku": "SAW"}, {"sku": "SAW", "reason": "r" * 1001}])
async def test_a_reason_is_part_of_the_body(boss: Client, body: dict[str, Any]) -> None:
    """
    One that is left out or too long is told as any other field.
    """
    answer = await boss.post("/admin/recalls", json=body)

    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
    assert [one["field"] for one in answer.json()["fields"]] == ["reason"]


async def test_nobody_else_recalls(client: Client, sign_in: SignIn) -> None:
    """
    Neither a tenant's own administrator nor a stranger.
    """
    with heard(AdministratorEntered) as signals:
        for user in (client, await sign_in("acme", "admin")):
            answer = await user.post("/admin/recalls", json={"sku": "SAW", "reason": REASON})
            assert (answer.status_code, answer.json()["code"]) == (401, "credentials_invalid")

    assert signals == []


@pytest.mark.parametrize(
    "table", ["users", "passwords", "stock_movements", "twh.tenants", "twh.data_keys"]
)
async def test_the_login_reads_what_a_recall_needs(app: Starlette, table: str) -> None:
    """
    BYPASSRLS skips policies, not grants: no other table is there for it.
    """
    with administrator(actor="ada@example.com", reason=REASON), pytest.raises(DBAPIError) as caught:
        async with app.state.services.support.begin() as db:
            await db.execute(text(f"SELECT * FROM {table}"))

    assert caught.value.orig.sqlstate == "42501"


async def test_a_handler_that_forgets_to_say_why_is_refused(app: Starlette) -> None:
    """
    The engine itself asks; control: the same statement inside reads all tenants.
    """
    tenants = text("SELECT count(DISTINCT tenant_id) FROM items")
    with pytest.raises(AdministratorError):
        async with app.state.services.support.begin() as db:
            await db.execute(tenants)
    with administrator(actor="ada@example.com", reason=REASON):
        async with app.state.services.support.begin() as db:
            assert await db.scalar(tenants) >= 2


async def test_the_other_logins_stay_unable(app: Starlette) -> None:
    """
    A reason opens nothing on the logins that serve tenants.
    """
    for sessions in (app.state.services.app, app.state.services.login):
        with (
            administrator(actor="ada@example.com", reason=REASON),
            pytest.raises(DBAPIError) as caught,
        ):
            async with sessions.begin() as db:
                await db.execute(text("SELECT tenant_id FROM users"))
        assert caught.value.orig.sqlstate == "TW001"
