"""
What the benchmark of the warehouse compares is comparable.
"""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from tests.bench._houses import open_databases, open_houses
from tests.bench._warehouse import REQUESTS, agree, lasting


@pytest.fixture(scope="module")
def runner():
    """The loop of the houses."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def databases(twh_postgres):
    """The three databases."""
    with open_databases(twh_postgres) as settings:
        yield settings


@pytest.fixture(scope="module")
def houses(databases, runner):
    """The three of them."""
    with open_houses(databases, runner) as houses:
        yield houses


def items_seen(settings) -> int:
    """Count the items that the application's login sees without a tenant."""
    dsn = settings.app_dsn.replace("postgresql+psycopg://", "postgresql://", 1)
    with psycopg.connect(dsn) as connection:
        return connection.execute("SELECT count(*) FROM items").fetchone()[0]


def test_the_three_differ_in_isolation(databases):
    """Two refuse whoever is no tenant; the third, the reference, shows all."""
    for way in ("sealed", "unsealed"):
        with pytest.raises(psycopg.Error, match="no tenant is bound"):
            items_seen(databases[way])

    assert items_seen(databases["none"]) == 1000


def test_only_one_demands_a_seal(databases):
    """A tenant without a seal is believed by one, and refused by the other."""
    seen = {}
    for way in ("sealed", "unsealed"):
        dsn = databases[way].app_dsn.replace("postgresql+psycopg://", "postgresql://", 1)
        with psycopg.connect(dsn) as connection:
            connection.execute("SET LOCAL twh.tenant_id = 'acme'")
            try:
                seen[way] = connection.execute("SELECT count(*) FROM items").fetchone()[0]
            except psycopg.Error as error:
                seen[way] = error.sqlstate

    assert seen == {"sealed": "TW003", "unsealed": 1000}


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda one: one.name)
def test_all_three_answer_alike(runner, houses, request_):
    """Isolation changes neither an answer nor the number of turns."""
    before = {way: house.meter.seconds for way, house in houses.items()}

    assert runner.run(agree(houses, request_)) >= 3
    assert all(house.meter.seconds > before[way] for way, house in houses.items())
    assert all(len(house.meter.backends) == 1 for house in houses.values())


def test_an_answer_that_differs_is_noticed(runner, houses):
    """The comparison is one: an item that is another in one of them fails it."""
    [first, *_] = REQUESTS
    change = {"name": "Another"}

    async def rename() -> None:
        client = houses["sealed"].client
        item = f"/items/{'0' * 8}-0000-0000-0000-{'0' * 12}"
        answer = await client.patch(item, json=change, headers={"If-Match": "*"})
        assert answer.status_code == 200

    runner.run(rename())
    with pytest.raises(AssertionError, match="Another"):
        runner.run(agree(houses, first))


def test_what_passes_is_left_out():
    """Ids and moments of new records differ each time, and nothing else may."""
    line = {"id": "1", "line": 1, "item_id": "2"}
    answer = [(201, {"id": "3", "created_at": "now", "lines": [line]})]

    assert lasting(answer) == [[201, {"lines": [{"line": 1, "item_id": "2"}]}]]
