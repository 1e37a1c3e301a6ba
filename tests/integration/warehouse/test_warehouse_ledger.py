"""
The levels are the sums of the ledger, and never below zero, whoever moves at once.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

from sqlalchemy import text
from starlette.applications import Starlette

from tests.support.warehouse import Client, SignIn, add, add_item, add_location, add_stock
from twh_platform import Tenant, bind_tenant

SUMS = text("""
    SELECT m.item_id, m.location_id, sum(m.quantity)::bigint, max(l.quantity)
    FROM stock_movements m FULL JOIN stock_levels l USING (item_id, location_id)
    GROUP BY 1, 2
""")


async def sums(app: Starlette) -> list[tuple[Any, ...]]:
    """
    What the ledger adds up to, beside the level, for each item and location of acme.
    """
    with bind_tenant(Tenant(id="acme")):
        async with app.state.services.app.begin() as db:
            return [tuple(row) for row in (await db.execute(SUMS)).all()]


async def test_levels_are_the_sums_of_the_ledger_under_concurrency(
    app: Starlette, sign_in: SignIn
) -> None:
    """
    Adjustments, shipments and transfers at once lose nothing and overdraw nothing.
    """
    user, chance = await sign_in(), random.Random(7)
    items = [await add_item(user) for _ in range(2)]
    places = [await add_location(user) for _ in range(2)]

    def adjust() -> tuple[str, dict[str, Any]]:
        quantity = chance.choice([-9, -5, -2, 3, 6])
        where = {"item_id": chance.choice(items), "location_id": chance.choice(places)}
        return "/stock/adjust", {**where, "quantity": quantity, "reason": "race"}

    def transfer() -> tuple[str, dict[str, Any]]:
        start, end = chance.sample(places, 2)
        lines = [{"item_id": item, "quantity": 2} for item in chance.sample(items, 2)]
        return "/transfers", {"from_location_id": start, "to_location_id": end, "lines": lines}

    planned = [chance.choice([adjust, transfer])() for _ in range(80)]
    answers = await asyncio.gather(*(user.post(path, json=body) for path, body in planned))

    seen = Counter(answer.status_code for answer in answers)
    assert set(seen) == {201, 409}
    assert all(total == level >= 0 for _, _, total, level in await sums(app))


async def test_a_naive_level_loses_updates(app: Starlette, sign_in: SignIn) -> None:
    """
    Control: read, add and write loses what others added, where the ledger's way does not.
    """
    user = await sign_in()
    item, place = await add_item(user), await add_location(user)
    await add_stock(user, item, place, 1)
    keys = {"i": item, "l": place}
    where = "WHERE item_id = cast(:i AS uuid) AND location_id = cast(:l AS uuid)"
    ready = asyncio.Barrier(4)

    async def naive() -> None:
        with bind_tenant(Tenant(id="acme")):
            async with app.state.services.app.begin() as db:
                read = text(f"SELECT quantity FROM stock_levels {where}")
                level = await db.scalar(read, keys)
                await ready.wait()
                write = text(f"UPDATE stock_levels SET quantity = :q {where}")
                await db.execute(write, {**keys, "q": level + 1})

    async def level() -> int:
        page = await user.get(f"/stock?item_id={item}")
        return int(page.json()["data"][0]["quantity"])

    await asyncio.gather(*(naive() for _ in range(4)))
    lost = 5 - await level()
    before = await level()
    await asyncio.gather(*(add_stock(user, item, place, 1) for _ in range(4)))

    assert lost == 3
    assert await level() == before + 4
    # Leave the ledger as true as it was found.
    with bind_tenant(Tenant(id="acme")):
        async with app.state.services.app.begin() as db:
            await db.execute(text(f"UPDATE stock_levels SET quantity = 5 {where}"), keys)


async def open_sale(user: Client, item: str, place: str, quantity: int) -> str:
    """
    Sell some of an item.
    """
    line = {"item_id": item, "quantity": quantity, "unit_price_minor": 1}
    return await add(user, "/sales_orders", customer="C", location_id=place, lines=[line])


async def test_the_last_piece_is_shipped_once(sign_in: SignIn) -> None:
    """
    Of ten orders for the last three pieces, three are shipped.
    """
    user = await sign_in()
    item, place = await add_item(user), await add_location(user)
    await add_stock(user, item, place, 3)
    orders = [await open_sale(user, item, place, 1) for _ in range(10)]

    answers = await asyncio.gather(*(user.post(f"/sales_orders/{one}/ship") for one in orders))

    assert Counter(one.status_code for one in answers) == {200: 3, 409: 7}
    refused = {one.json()["code"] for one in answers if one.status_code == 409}
    assert refused == {"stock_short"}


async def test_one_order_is_shipped_once(sign_in: SignIn) -> None:
    """
    Of five who ship the same order at once, one does.
    """
    user = await sign_in()
    item, place = await add_item(user), await add_location(user)
    await add_stock(user, item, place, 10)
    order = await open_sale(user, item, place, 2)

    answers = await asyncio.gather(*(user.post(f"/sales_orders/{order}/ship") for _ in range(5)))

    assert Counter(one.status_code for one in answers) == {200: 1, 409: 4}
    page = await user.get(f"/stock?item_id={item}")
    assert page.json()["data"][0]["quantity"] == 8


async def test_a_return_gives_no_more_back_than_was_sold(sign_in: SignIn) -> None:
    """
    Of five who return the same two pieces at once, one does.
    """
    user = await sign_in()
    item, place = await add_item(user), await add_location(user)
    await add_stock(user, item, place, 2)
    order = await open_sale(user, item, place, 2)
    await user.post(f"/sales_orders/{order}/ship")
    lines = [{"line": 1, "quantity": 2}]
    body = {"sales_order_id": order, "location_id": place, "lines": lines}

    answers = await asyncio.gather(*(user.post("/returns", json=body) for _ in range(5)))

    assert Counter(one.status_code for one in answers) == {201: 1, 409: 4}


async def test_a_failed_line_moves_nothing(app: Starlette, sign_in: SignIn) -> None:
    """
    An order of which one line is short leaves no trace in the ledger.
    """
    user = await sign_in()
    plenty, scarce, place = await add_item(user), await add_item(user), await add_location(user)
    await add_stock(user, plenty, place, 10)
    lines = [{"item_id": one, "quantity": 1, "unit_price_minor": 1} for one in (plenty, scarce)]
    order = await add(user, "/sales_orders", customer="C", location_id=place, lines=lines)

    answer = await user.post(f"/sales_orders/{order}/ship")

    assert answer.json()["lines"] == [
        {"item_id": scarce, "location_id": place, "wanted": 1, "available": 0}
    ]
    moved = await user.get(f"/stock/movements?location_id={place}")
    assert [one["quantity"] for one in moved.json()["data"]] == [10]
