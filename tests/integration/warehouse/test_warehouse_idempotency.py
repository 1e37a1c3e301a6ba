"""
A request that is sent twice is carried out once.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter

from tests.support.warehouse import SignIn, add_item, add_location


async def test_racing_twins_are_carried_out_once(sign_in: SignIn) -> None:
    """
    Ten of the same at once count once and are all told the same; without a key, ten count.
    """
    user = await sign_in()
    item, place = await add_item(user), await add_location(user)
    body = {"item_id": item, "location_id": place, "quantity": 1, "reason": "race"}

    async def race(headers: dict[str, str]) -> int:
        posts = (user.post("/stock/adjust", json=body, headers=headers) for _ in range(10))
        return len({answer.json()["id"] for answer in await asyncio.gather(*posts)})

    keyed = await race({"Idempotency-Key": secrets.token_hex(8)})
    control = await race({})

    page = await user.get(f"/stock?item_id={item}")
    assert (keyed, control) == (1, 10)
    assert page.json()["data"][0]["quantity"] == 11


async def test_a_key_is_for_one_request(sign_in: SignIn) -> None:
    """
    Racing requests that differ do not share a key: one is carried out, the others refused.
    """
    user = await sign_in()
    item, place = await add_item(user), await add_location(user)
    headers = {"Idempotency-Key": secrets.token_hex(8)}
    body = {"item_id": item, "location_id": place, "reason": "race"}

    answers = await asyncio.gather(
        *(
            user.post("/stock/adjust", json={**body, "quantity": number}, headers=headers)
            for number in range(1, 6)
        )
    )

    assert Counter(one.status_code for one in answers) == {201: 1, 422: 4}


async def test_what_failed_is_not_remembered(sign_in: SignIn) -> None:
    """
    A request that was refused may be sent again with its key, and succeed.
    """
    user = await sign_in()
    item, place = await add_item(user), await add_location(user)
    headers = {"Idempotency-Key": secrets.token_hex(8)}
    take = {"item_id": item, "location_id": place, "quantity": -1, "reason": "take"}

    short = await user.post("/stock/adjust", json=take, headers=headers)
    await user.post("/stock/adjust", json={**take, "quantity": 1})
    again = await user.post("/stock/adjust", json=take, headers=headers)

    assert (short.status_code, again.status_code) == (409, 201)


async def test_a_key_is_the_users_own(sign_in: SignIn) -> None:
    """
    Another user, and another tenant, may use the same key for something else.
    """
    headers = {"Idempotency-Key": secrets.token_hex(8)}
    users = [await sign_in(), await sign_in("acme", "manager"), await sign_in("globex")]

    answers = [
        await user.post(
            "/locations", json={"code": secrets.token_hex(4), "name": "L"}, headers=headers
        )
        for user in users
    ]

    assert [one.status_code for one in answers] == [201, 201, 201]
    assert len({one.json()["id"] for one in answers}) == 3


async def test_a_repeated_key_header_is_refused(sign_in: SignIn) -> None:
    """
    Two keys in one request are no key.
    """
    user = await sign_in()
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    body = {"code": secrets.token_hex(4), "name": "L"}

    answer = await user.post("/locations", json=body, headers=headers)

    assert answer.json()["code"] == "idempotency_key_invalid"
