"""
What isolation costs a request of the warehouse: the database's time of it (gate G2).

The same app answers with the same rows, sealed, unsealed and without
isolation; see `_houses`.  The database's time is what a request spends between
sending to the database and having the answer, over all its statements: BEGIN,
with what binds the tenant, and COMMIT are among them.  What the handler and
SQLAlchemy do in between is not.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from examples.warehouse.settings import Settings
from tests.support.warehouse import Client

from ._database import Database
from ._houses import ITEMS, PLACE, House, open_databases, open_houses
from ._measure import Series, Variant, measure
from ._rows import Row, paired_row
from ._transactions import distant

__all__ = ["REQUESTS", "Request", "agree", "lasting", "warehouse_rows"]

_LINES = 3
_COMPARED = 5
_LEAST_SECONDS = 8.0  # a request is long: in less there are too few rounds to judge by
_TARGETS = {"sealed": 1.10, "unsealed": 1.02}
"""What isolation may cost (TEN-7); the second is an aim."""


# --- requests

Answers = list[tuple[int, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """
    What a client asks of the warehouse.

    Args:
        name: As the table shows it.

        send: Sends it, or several that belong together; takes a client and a
            number that says for which items.
    """

    name: str
    send: Callable[[Client, int], Awaitable[Answers]]


async def _get_item(client: Client, number: int) -> Answers:
    return [_answer(await client.get(f"/items/{UUID(int=number % ITEMS)}"))]


async def _get_page(client: Client, _number: int) -> Answers:
    return [_answer(await client.get("/items", params={"limit": 50}))]


async def _adjust(client: Client, number: int) -> Answers:
    body = {
        "item_id": str(UUID(int=number % ITEMS)),
        "location_id": str(PLACE),
        "quantity": 1,
        "reason": "counted",
    }
    return [_answer(await client.post("/stock/adjust", json=body))]


async def _sell_and_ship(client: Client, number: int) -> Answers:
    items = [UUID(int=(number * _LINES + line) % ITEMS) for line in range(_LINES)]
    lines = [{"item_id": str(item), "quantity": 1, "unit_price_minor": 100} for item in items]
    body = {"customer": "Customer", "location_id": str(PLACE), "lines": lines}
    sold = await client.post("/sales_orders", json=body, headers=_new_key())
    shipped = await client.post(f"/sales_orders/{sold.json()['id']}/ship", headers=_new_key())
    return [_answer(sold), _answer(shipped)]


def _new_key() -> dict[str, str]:
    return {"Idempotency-Key": secrets.token_hex(8)}


def _answer(response: Any) -> tuple[int, Any]:
    assert response.is_success, response.text
    return response.status_code, response.json()


REQUESTS = (
    # The least work there is to add to: one row, by its key.
    Request(name="GET an item", send=_get_item),
    # What clients ask for most: many rows by one statement.
    Request(name="GET a page of 50 items", send=_get_page),
    # The smallest write: a line of the ledger and a level, each checked.
    Request(name="POST a stock adjustment", send=_adjust),
    # The longest transactions, with keys of idempotency, as careful clients send them.
    Request(name=f"POST a sales order of {_LINES} lines, and ship it", send=_sell_and_ship),
)
"""Two that read and two that write, from the shortest to the longest."""


def lasting(answer: Any) -> Any:
    """
    An answer without what differs each time: new ids and moments.
    """
    if isinstance(answer, Mapping):
        passing = {"id", "created_at", "updated_at"}
        return {name: lasting(value) for name, value in answer.items() if name not in passing}
    if isinstance(answer, list | tuple):
        return [lasting(one) for one in answer]
    return answer


# --- rows


def warehouse_rows(database: Database, *, seconds: float) -> list[Row]:
    """
    Time the requests, next door and at a distance; *seconds* for each, or eight.
    """
    with open_databases(database.server) as settings:
        rows = _rows_at("local", settings, seconds=seconds, port=None)
        with distant(database) as (address, round_trip):
            place = f"at {round_trip * 1e3:.2f} ms"
            rows += _rows_at(place, settings, seconds=seconds, port=urlsplit(address()).port)
    return rows


def _rows_at(
    place: str, settings: Mapping[str, Settings], *, seconds: float, port: int | None
) -> list[Row]:
    with asyncio.Runner() as runner, open_houses(settings, runner, port=port) as houses:
        return [
            row
            for request in REQUESTS
            for row in _request_rows(place, runner, houses, request, seconds=seconds)
        ]


def _request_rows(
    place: str,
    runner: asyncio.Runner,
    houses: Mapping[str, House],
    request: Request,
    *,
    seconds: float,
) -> Iterator[Row]:
    turns = runner.run(agree(houses, request))
    variants = {way: _variant(runner, house, request) for way, house in houses.items()}
    series = measure(variants, seconds=max(seconds, _LEAST_SECONDS))
    workload = f"the database's time of it, in {turns} turns"
    for way, target in _TARGETS.items():
        name = f"warehouse {place}: {request.name}, {way}, against no isolation"
        yield _row(name, workload, "us", _wall(series, way), target)
        if place == "local":  # the server does the same work at any distance
            cpu = f"{workload}; CPU of the server"
            yield _row(name, cpu, "us CPU", _server(series, way), None)


_Pair = tuple[list[float], list[float]]


def _wall(series: Mapping[str, Series], way: str) -> _Pair:
    return series[way].wall, series["none"].wall


def _server(series: Mapping[str, Series], way: str) -> _Pair:
    return series[way].server, series["none"].server


def _row(name: str, workload: str, unit: str, pair: _Pair, target: float | None) -> Row:
    ours, reference = pair
    return paired_row(name, workload, unit=unit, ours=ours, reference=reference, target=target)


def _variant(runner: asyncio.Runner, house: House, request: Request) -> Variant:
    numbers = iter(range(10**9))

    async def run(count: int) -> list[float]:
        taken = []
        for _ in range(count):
            before = house.meter.seconds
            await request.send(house.client, next(numbers))
            taken.append(house.meter.seconds - before)
        return taken

    return Variant(run=lambda count: runner.run(run(count)), backends=sorted(house.meter.backends))


async def agree(houses: Mapping[str, House], request: Request) -> int:
    """
    Ask all of them the same, some times, and have their answers agree.

    Returns:
        How many turns the database takes for it, in each of them.

    Raises:
        AssertionError: If answers or turns differ.
    """
    turns: dict[str, int] = {}
    for number in range(_COMPARED):
        answers = {}
        for way, house in houses.items():
            before = house.meter.turns
            answers[way] = lasting(await request.send(house.client, number))
            turns[way] = house.meter.turns - before
        first = answers["none"]
        assert all(answer == first for answer in answers.values()), answers
    assert len(set(turns.values())) == 1, turns
    return turns["none"]
