"""
What a tenant is shown is found again under the names that requests use.
"""

from __future__ import annotations

import base64
import json
from uuid import UUID

import pytest

from twh_platform.testing import AppAnswer
from twh_platform.testing._harvest import Harvest, absent_like, resource_of
from twh_platform.testing._steps import parameter_name


def shown(operation: str, body: object, **headers: str) -> Harvest:
    """
    What is harvested from one answer.
    """
    harvest = Harvest()
    answer = AppAnswer(status=200, body=json.dumps(body).encode(), headers=tuple(headers.items()))
    harvest.take(operation, answer)
    return harvest


@pytest.mark.parametrize(
    ("operation", "body", "name"),
    [
        ("POST /items", {"id": 7}, "item_id"),
        ("GET /items", [{"id": 7}], "item_id"),
        ("GET /items", {"data": [{"id": 7}]}, "item_id"),
        ("GET /v1/purchase_orders/{id}", {"id": 7}, "purchase_order_id"),
        ("POST /salesOrders/{orderId}/ship", {"uuid": 7}, "sales_order_id"),
        ("GET /companies", {"items": [{"id": 7}]}, "company_id"),
        ("GET /x", {"order": {"id": 7}}, "order_id"),
        ("GET /x", {"orders": [{"lines": [{"id": 7}]}]}, "line_id"),
        ("GET /x", {"itemId": 7}, "from_item_id"),
        ("GET /x", {"next_cursor": 7}, "cursor"),
        ("GET /x", {"sku": 7}, "sku"),
    ],
)
def test_a_value_is_found_by_the_name_of_a_parameter(operation, body, name):
    """Ids take the name of what they identify; near names are understood."""
    assert shown(operation, body).named(name) == [7]


def test_a_location_names_what_was_made():
    """The last part of a Location is an id."""
    assert shown("POST /items", None, location="/v1/items/7?x=1").named("item_id") == [7]


def test_the_latest_comes_first_and_another_name_is_nothing():
    """What is made anew is asked for first; a name that nothing has finds nothing."""
    harvest = shown("GET /items", [{"id": 1}, {"id": 2}])

    assert harvest.named("item_id") == [2, 1]
    assert harvest.named("order_id") == []


def test_only_what_one_alone_was_shown_tells_of_it():
    """Common words, short texts and moments tell of nobody."""
    common = {"state": "partially_received", "at": "2030-01-01T00:00:00Z", "n": "short"}
    first = shown("GET /x", {**common, "name": "first's own name"})
    other = shown("GET /x", {**common, "name": "other's own name"})

    assert [one.text for one in first.needles(unlike=other)] == ["first's own name"]


@pytest.mark.parametrize(
    ("path", "parameter", "name"),
    [
        ("/items/{id}", "id", "item_id"),
        ("/items/{item}", "item", "item_id"),
        ("/items/{itemId}/lines/{id}", "id", "line_id"),
        ("/items/{itemId}/lines/{id}", "itemId", "item_id"),
        ("/by-sku/{sku}", "sku", "sku"),
        ("/addresses/{id}", "id", "address_id"),
    ],
)
def test_a_parameter_of_a_path_takes_the_name_of_its_resource(path, parameter, name):
    """An `id` is that of what stands before it."""
    assert parameter_name(path, parameter) == name


def test_a_path_is_about_what_has_an_id():
    """A verb at its end is not what it is about."""
    assert resource_of("/purchase_orders/{id}/receive") == "purchase_order"
    assert resource_of("/stock/movements") == "movement"


@pytest.mark.parametrize(
    "value",
    [17, "17", "0190c1de-7b1a-7c3e-9a55-0c1f2e3d4b5a", "ord_4kQ8zz1", "deadbeef01", "first-12ab"],
)
def test_what_nobody_has_looks_alike(value):
    """An absent value has the type, the length where it has one, and the form of a real one."""
    made = absent_like(value)

    assert made != value
    assert type(made) is type(value)
    if isinstance(value, str) and not value.isdigit():
        assert len(made) == len(value)
        assert [one.isdigit() for one in made] == [one.isdigit() for one in value] or "-" in value


def test_an_absent_uuid_keeps_its_version_and_moment():
    """A version 7 stays one, made at the same moment."""
    known = UUID("0190c1de-7b1a-7c3e-9a55-0c1f2e3d4b5a")

    made = UUID(str(absent_like(str(known))))

    assert (made.version, made.variant, made.int >> 80) == (7, known.variant, known.int >> 80)


def test_an_absent_cursor_holds_absent_ids():
    """What is written in base64 is changed within; what is not understood is not made."""
    known = "0190c1de-7b1a-7c3e-9a55-0c1f2e3d4b5a"
    cursor = base64.urlsafe_b64encode(json.dumps([known]).encode()).decode()

    [made] = json.loads(base64.urlsafe_b64decode(str(absent_like(cursor))))

    assert made != known
    assert UUID(made)
    assert absent_like("A1") is None
