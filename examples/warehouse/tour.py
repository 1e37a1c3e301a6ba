"""
The tour: what to ask the warehouse, and what it must answer.

It is a list of steps.  `shell` writes them as lines to copy; `check` drives
them over HTTP and compares every answer.  A step reads variables (`{item}`)
in its path, headers, body and expectation, and may keep one from its answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .seed import EXPIRED, SUSPENDED, email

__all__ = ["ANY", "Contains", "Lacks", "Step", "platform_tour", "tenant_tour"]


class _Any:
    def __repr__(self) -> str:
        return "ANY"


ANY = _Any()
"""Matches any value that is not null."""


@dataclass(frozen=True, slots=True)
class Contains:
    """
    Matches a list with an element that matches.
    """

    element: Any


@dataclass(frozen=True, slots=True)
class Lacks:
    """
    Matches a list without any element that matches.
    """

    element: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """
    One request, and the answer that is right.

    Args:
        title: What is tried, for the reader.

        method: The HTTP method.

        path: The path with its query.

        bearer: The variable that holds the token; empty for none.

        headers: Further headers.

        body: What is sent as JSON; a string is sent as it is.

        status: The right status.

        expect: What the body must match: a dict names the members that count,
            a list must have as many elements.

        expect_headers: Headers that the answer must have.

        keep: A variable, and where its value is in the body: `data.0.id`.

        twin: A variable that names something of another tenant.  The step is
            sent again with the id of nothing in its place, and the answer must
            be the same.

        patient: Ask again for a few seconds while the answer is another one.

        shown: Whether it stands in the tour that is printed.
    """

    title: str
    method: str
    path: str
    bearer: str = "token"
    headers: tuple[tuple[str, str], ...] = ()
    body: Any = None
    status: int
    expect: Any = field(default_factory=dict)
    expect_headers: Mapping[str, str] = field(default_factory=dict)
    keep: tuple[str, str] | None = None
    twin: str = ""
    patient: bool = False
    shown: bool = False


def _problem(code: str, **members: Any) -> dict[str, Any]:
    return {"code": code, "title": ANY, "request_id": ANY, **members}


def _login(title: str, tenant: str, address: str, keep: str, **more: Any) -> Step:
    return Step(
        title=title,
        method="POST",
        path="/auth/login",
        bearer="",
        body={"tenant": tenant, "email": address, "password": "{password}"},
        status=200,
        expect={"access_token": ANY, "token_type": "Bearer", "expires_in": 900},
        keep=(keep, "access_token"),
        **more,
    )


def _no_login(title: str, tenant: str, address: str, password: str = "{password}") -> Step:
    return Step(
        title=title,
        method="POST",
        path="/auth/login",
        bearer="",
        body={"tenant": tenant, "email": address, "password": password},
        status=401,
        expect=_problem("credentials_invalid", status=401),
    )


def _logins(tenant: str, other: str) -> list[Step]:
    return [
        _login("log in as an administrator of the tenant", tenant, email("admin", tenant), "token", shown=True),
        _login("log in as a clerk", tenant, email("clerk", tenant), "clerk"),
        _login("log in as a viewer", tenant, email("viewer", tenant), "viewer"),
        _login(f"log in at {other}", other, email("admin", other), "other", shown=True),
        _no_login("a wrong password", tenant, email("admin", tenant), "not the password"),
        _no_login("an unknown user", tenant, email("nobody", tenant)),
        _no_login(f"a user of {tenant} at {other}", other, email("admin", tenant)),
        _no_login("an unknown tenant", "nowhere", email("admin", "nowhere")),
        _no_login("a suspended tenant", SUSPENDED, email("admin", SUSPENDED)),
        _no_login("an expired sandbox", EXPIRED, email("admin", EXPIRED)),
        _no_login("a tenant id that is SQL", "x'; SET twh.tenant_id = 'acme", email("admin", tenant)),
    ]


def _items() -> list[Step]:
    item = {"sku": "T-{run}", "name": "Tour item", "unit_price_minor": 1250, "reorder_point": 5}
    key = (("Idempotency-Key", "item-{run}"),)
    return [
        Step(title="create an item", method="POST", path="/items", headers=key, body=item,
             status=201, expect={**item, "id": ANY, "version": 1}, keep=("item", "id"),
             expect_headers={"etag": '"1"'}, shown=True),
        Step(title="the same request again: the same answer", method="POST", path="/items",
             headers=key, body=item, status=201, expect={**item, "id": "{item}", "version": 1},
             expect_headers={"idempotency-replayed": "true", "location": "/items/{item}"},
             shown=True),
        Step(title="the same key for another item", method="POST", path="/items", headers=key,
             body={**item, "name": "Another"}, status=422,
             expect=_problem("idempotency_conflict")),
        Step(title="a key that is no key", method="POST", path="/items",
             headers=(("Idempotency-Key", "a b"),), body=item, status=400,
             expect=_problem("idempotency_key_invalid")),
        Step(title="the same sku again", method="POST", path="/items", body=item, status=409,
             expect=_problem("already_exists")),
        Step(title="read the item", method="GET", path="/items/{item}", bearer="viewer",
             status=200, expect={**item, "id": "{item}", "version": 1},
             expect_headers={"etag": '"1"'}),
        Step(title="change the item", method="PATCH", path="/items/{item}",
             headers=(("If-Match", '"1"'),), body={"unit_price_minor": 1300}, status=200,
             expect={**item, "unit_price_minor": 1300, "version": 2},
             expect_headers={"etag": '"2"'}, shown=True),
        Step(title="change it as if nothing had happened", method="PATCH", path="/items/{item}",
             headers=(("If-Match", '"1"'),), body={"unit_price_minor": 1}, status=412,
             expect=_problem("precondition_failed"), shown=True),
        Step(title="change it without If-Match", method="PATCH", path="/items/{item}",
             body={"unit_price_minor": 1}, status=428, expect=_problem("precondition_required")),
        Step(title="a viewer changes it", method="PATCH", path="/items/{item}", bearer="viewer",
             headers=(("If-Match", '"2"'),), body={"unit_price_minor": 1}, status=403,
             expect=_problem("role_insufficient")),
        Step(title="fields that are wrong", method="POST", path="/items",
             body={"sku": "", "name": 1, "unit_price_minor": 1.5, "tenant_id": "{other_id}"},
             status=422, expect=_problem("validation_failed", fields=[
                 {"field": "sku", "message": ANY}, {"field": "name", "message": ANY},
                 {"field": "unit_price_minor", "message": ANY},
                 {"field": "tenant_id", "message": ANY}])),
        Step(title="an item that nobody has", method="GET", path="/items/{nothing}", status=404,
             expect=_problem("not_found")),
        Step(title="an item to run short of", method="POST", path="/items",
             body={**item, "sku": "S-{run}"}, status=201, keep=("scarce", "id"),
             expect={"id": ANY}),
    ]


def _stock() -> list[Step]:
    adjust = {"item_id": "{item}", "location_id": "{hall}", "quantity": 10, "reason": "counted"}
    key = (("Idempotency-Key", "adjust-{run}"),)
    return [
        Step(title="add a location", method="POST", path="/locations",
             body={"code": "H-{run}", "name": "Hall"}, status=201,
             expect={"id": ANY, "code": "H-{run}", "name": "Hall"}, keep=("hall", "id"),
             shown=True),
        Step(title="add another", method="POST", path="/locations",
             body={"code": "D-{run}", "name": "Dock"}, status=201,
             expect={"id": ANY, "code": "D-{run}"}, keep=("dock", "id"), shown=True),
        Step(title="count ten in", method="POST", path="/stock/adjust", bearer="clerk",
             headers=key, body=adjust, status=201, keep=("movement", "id"),
             expect={"id": ANY, "kind": "adjustment", "quantity": 10, "item_id": "{item}"}),
        Step(title="the same request again: counted once", method="POST", path="/stock/adjust",
             bearer="clerk", headers=key, body=adjust, status=201, expect={"id": "{movement}"}),
        Step(title="the level", method="GET", path="/stock?item_id={item}", bearer="viewer",
             status=200, expect={"data": [
                 {"item_id": "{item}", "location_id": "{hall}", "quantity": 10}],
                 "next_cursor": None}),
        Step(title="a viewer adjusts", method="POST", path="/stock/adjust", bearer="viewer",
             body=adjust, status=403, expect=_problem("role_insufficient")),
        Step(title="take out more than there is", method="POST", path="/stock/adjust",
             body={**adjust, "quantity": -11}, status=409,
             expect=_problem("stock_short", lines=[
                 {"item_id": "{item}", "location_id": "{hall}", "wanted": 11, "available": 10}])),
    ]


def _orders() -> list[Step]:
    bought = {"item_id": "{item}", "quantity": 20, "unit_cost_minor": 700}
    sold = {"item_id": "{item}", "quantity": 12, "unit_price_minor": 1300}
    sale = {"customer": "Customer", "location_id": "{hall}"}
    bought_path, sold_path = "/purchase_orders/{bought}", "/sales_orders/{sold}"
    return [
        Step(title="draft a purchase order", method="POST", path="/purchase_orders",
             headers=(("Idempotency-Key", "buy-{run}"),), status=201, keep=("bought", "id"),
             body={"supplier": "Supplier", "location_id": "{hall}", "status": "draft",
                   "lines": [bought]},
             expect={"id": ANY, "status": "draft", "version": 1,
                     "lines": [{**bought, "line": 1, "received": 0}]}, shown=True),
        Step(title="receive a draft", method="POST", path=bought_path + "/receive", body={},
             status=409, expect=_problem("order_closed")),
        Step(title="open it", method="PATCH", path=bought_path, body={"status": "open"},
             headers=(("If-Match", '"1"'),), status=200,
             expect={"status": "open", "version": 2}, shown=True),
        Step(title="open it as if nothing had happened", method="PATCH", path=bought_path,
             body={"status": "cancelled"}, headers=(("If-Match", '"1"'),), status=412,
             expect=_problem("precondition_failed")),
        Step(title="receive five", method="POST", path=bought_path + "/receive",
             body={"lines": [{"line": 1, "quantity": 5}]}, status=200,
             expect={"status": "partially_received", "version": 3,
                     "lines": [{"received": 5}]}, shown=True),
        Step(title="receive more than was ordered", method="POST",
             path=bought_path + "/receive", body={"lines": [{"line": 1, "quantity": 16}]},
             status=409, expect=_problem("quantity_exceeded")),
        Step(title="receive the rest", method="POST", path=bought_path + "/receive", body={},
             bearer="clerk", status=200,
             expect={"status": "received", "lines": [{"received": 20}]}, shown=True),
        Step(title="sell twelve", method="POST", path="/sales_orders",
             headers=(("Idempotency-Key", "sell-{run}"),), body={**sale, "lines": [sold]},
             status=201, keep=("sold", "id"),
             expect={"id": ANY, "status": "open", "version": 1,
                     "lines": [{**sold, "line": 1, "returned": 0}]}, shown=True),
        Step(title="ship them", method="POST", path=sold_path + "/ship", bearer="clerk",
             headers=(("Idempotency-Key", "ship-{run}"),), status=200,
             expect={"status": "shipped", "version": 2}, shown=True),
        Step(title="the same request again: shipped once", method="POST",
             path=sold_path + "/ship", bearer="clerk",
             headers=(("Idempotency-Key", "ship-{run}"),), status=200,
             expect={"status": "shipped", "version": 2}),
        Step(title="ship them once more", method="POST", path=sold_path + "/ship", status=409,
             expect=_problem("order_closed")),
        Step(title="sell more than there is", method="POST", path="/sales_orders",
             body={**sale, "lines": [{**sold, "quantity": 19}]}, status=201,
             keep=("oversold", "id"), expect={"status": "open"}, shown=True),
        Step(title="ship more than there is", method="POST",
             path="/sales_orders/{oversold}/ship", status=409,
             expect=_problem("stock_short", lines=[
                 {"item_id": "{item}", "wanted": 19, "available": 18}]), shown=True),
        Step(title="cancel it", method="PATCH", path="/sales_orders/{oversold}",
             headers=(("If-Match", '"1"'),), body={"status": "cancelled"}, status=200,
             expect={"status": "cancelled", "version": 2}),
    ]


def _moves() -> list[Step]:
    transfer = {"from_location_id": "{hall}", "to_location_id": "{dock}",
                "lines": [{"item_id": "{item}", "quantity": 8}]}
    returned = {"sales_order_id": "{sold}", "location_id": "{dock}",
                "lines": [{"line": 1, "quantity": 2}]}
    return [
        Step(title="send eight to the dock", method="POST", path="/transfers", body=transfer,
             status=201, keep=("transfer", "id"),
             expect={"id": ANY, "status": "in_transit", "lines": [{"quantity": 8}]}, shown=True),
        Step(title="they are in transit", method="GET", path="/stock?item_id={item}",
             status=200, expect={"data": [{"location_id": "{hall}", "quantity": 10}]}),
        Step(title="receive them", method="POST", path="/transfers/{transfer}/receive",
             bearer="clerk", status=200, expect={"status": "received"}, shown=True),
        Step(title="receive them twice", method="POST", path="/transfers/{transfer}/receive",
             status=409, expect=_problem("order_closed")),
        Step(title="to where they are", method="POST", path="/transfers",
             body={**transfer, "to_location_id": "{hall}"}, status=422,
             expect=_problem("validation_failed")),
        Step(title="two come back", method="POST", path="/returns", body=returned, status=201,
             keep=("return", "id"),
             expect={"id": ANY, "lines": [{"line": 1, "item_id": "{item}", "quantity": 2}]},
             shown=True),
        Step(title="more come back than were sold", method="POST", path="/returns",
             body={**returned, "lines": [{"line": 1, "quantity": 11}]}, status=409,
             expect=_problem("quantity_exceeded")),
        Step(title="the ledger tells it all", method="GET",
             path="/stock/movements?item_id={item}", status=200, shown=True,
             expect={"data": [
                 {"kind": "adjustment", "quantity": 10},
                 {"kind": "receipt", "quantity": 5},
                 {"kind": "receipt", "quantity": 15, "reference": "purchase_order:{bought}"},
                 {"kind": "shipment", "quantity": -12, "reference": "sales_order:{sold}"},
                 {"kind": "transfer_out", "quantity": -8, "location_id": "{hall}"},
                 {"kind": "transfer_in", "quantity": 8, "location_id": "{dock}"},
                 {"kind": "return", "quantity": 2, "reference": "return:{return}"}]}),
        Step(title="and the levels are its sums", method="GET", path="/stock?item_id={item}",
             status=200, shown=True,
             expect={"data": [{"location_id": "{hall}", "quantity": 10},
                              {"location_id": "{dock}", "quantity": 10}]}),
        Step(title="what has to be ordered", method="GET", path="/reports/low_stock?limit=100",
             status=200, shown=True,
             expect={"data": Contains({"id": "{scarce}", "quantity": 0, "reorder_point": 5})}),
        Step(title="and what has not", method="GET", path="/reports/low_stock?limit=100",
             status=200, expect={"data": Lacks({"id": "{item}"})}),
    ]


def _pages() -> list[Step]:
    return [
        Step(title="a page of one", method="GET", path="/items?limit=1", status=200,
             expect={"data": [{"id": ANY}], "next_cursor": ANY}, keep=("first", "data.0.id")),
        Step(title="its cursor", method="GET", path="/items?limit=1", status=200,
             expect={"data": [{"id": "{first}"}]}, keep=("cursor", "next_cursor"), shown=True),
        Step(title="the next page", method="GET", path="/items?limit=1&cursor={cursor}",
             status=200, expect={"data": Lacks({"id": "{first}"})}, shown=True),
        Step(title="a cursor that is none", method="GET", path="/items?cursor=WzFd", status=400,
             expect=_problem("cursor_invalid")),
        Step(title="a page of none", method="GET", path="/items?limit=0", status=422,
             expect=_problem("validation_failed", fields=[{"field": "limit"}])),
        Step(title="a parameter that is unknown", method="GET", path="/items?tenant=globex",
             status=422, expect=_problem("validation_failed", fields=[{"field": "tenant"}])),
        Step(title="a path that is none", method="GET", path="/nowhere", status=404,
             expect=_problem("not_found")),
        Step(title="a method that is none", method="DELETE", path="/items/{item}", status=405,
             expect=_problem("method_not_allowed")),
        Step(title="a body that is no JSON", method="POST", path="/items", body="{", status=400,
             expect=_problem("body_malformed")),
        Step(title="a body that is too large", method="POST", path="/items", body=" " * 70_000,
             status=413, expect=_problem("body_too_large")),
    ]


def _theirs() -> list[Step]:
    """
    Let the other tenant have one of everything.
    """
    def made(title: str, path: str, keep: str, **body: Any) -> Step:
        return Step(title=f"the other tenant: {title}", method="POST", path=path, bearer="other",
                    body=body, status=201, expect={"id": ANY}, keep=(keep, "id"))

    line = {"item_id": "{their_item}", "quantity": 3}
    return [
        made("an item", "/items", "their_item", sku="O-{run}", name="Theirs",
             unit_price_minor=100, reorder_point=50),
        made("a location", "/locations", "their_hall", code="O-{run}", name="Theirs"),
        made("another location", "/locations", "their_dock", code="P-{run}", name="Theirs"),
        made("stock", "/stock/adjust", "their_movement", item_id="{their_item}",
             location_id="{their_hall}", quantity=9, reason="counted"),
        made("a purchase order", "/purchase_orders", "their_purchase", supplier="Theirs",
             location_id="{their_hall}", lines=[{**line, "unit_cost_minor": 1}]),
        made("a sales order", "/sales_orders", "their_sale", customer="Theirs",
             location_id="{their_hall}", lines=[{**line, "unit_price_minor": 1}]),
        made("a sale to return", "/sales_orders", "their_shipped", customer="Theirs",
             location_id="{their_hall}", lines=[{**line, "unit_price_minor": 1}]),
        Step(title="the other tenant: ship it", method="POST", bearer="other",
             path="/sales_orders/{their_shipped}/ship", status=200,
             expect={"status": "shipped"}),
        made("a transfer", "/transfers", "their_transfer", from_location_id="{their_hall}",
             to_location_id="{their_dock}", lines=[line]),
        made("a return", "/returns", "their_return", sales_order_id="{their_shipped}",
             location_id="{their_hall}", lines=[{"line": 1, "quantity": 1}]),
    ]


def _unchanged() -> list[Step]:
    """
    Ask the other tenant whether anything of its own has changed.
    """
    def same(title: str, path: str, **expect: Any) -> Step:
        return Step(title=f"unchanged: {title}", method="GET", path=path, bearer="other",
                    status=200, expect=expect)

    return [
        same("their item", "/items/{their_item}", name="Theirs", version=1),
        same("their purchase order", "/purchase_orders/{their_purchase}", status="open",
             version=1, lines=[{"received": 0}]),
        same("their sales order", "/sales_orders/{their_sale}", status="open", version=1),
        same("their transfer", "/transfers/{their_transfer}", status="in_transit", version=1),
        same("their stock", "/stock?item_id={their_item}", data=[{"quantity": 4}]),
        same("their ledger", "/stock/movements?item_id={their_item}",
             data=[{"quantity": 9}, {"quantity": -3}, {"quantity": -3}, {"quantity": 1}]),
    ]


_RECORDS = (
    ("/items/{their_item}", "their_item"),
    ("/locations/{their_hall}", "their_hall"),
    ("/purchase_orders/{their_purchase}", "their_purchase"),
    ("/sales_orders/{their_sale}", "their_sale"),
    ("/transfers/{their_transfer}", "their_transfer"),
    ("/returns/{their_return}", "their_return"),
)

_LISTS = (
    ("/items?limit=100", {"id": "{their_item}"}),
    ("/locations?limit=100", {"id": "{their_hall}"}),
    ("/purchase_orders?limit=100", {"id": "{their_purchase}"}),
    ("/sales_orders?limit=100", {"id": "{their_sale}"}),
    ("/transfers?limit=100", {"id": "{their_transfer}"}),
    ("/returns?limit=100", {"id": "{their_return}"}),
    ("/stock?limit=100", {"item_id": "{their_item}"}),
    ("/stock/movements?limit=100", {"item_id": "{their_item}"}),
    ("/reports/low_stock?limit=100", {"id": "{their_item}"}),
)


def _reading_across() -> list[Step]:
    by_id = [
        Step(title=f"read across: {path}", method="GET", path=path, twin=twin, status=404,
             expect=_problem("not_found"), shown=path.startswith("/items"))
        for path, twin in _RECORDS
    ]
    listed = [
        Step(title=f"read across: {path}", method="GET", path=path, status=200,
             expect={"data": Lacks(theirs)})
        for path, theirs in _LISTS
    ]
    chosen = [
        Step(title=f"read across: {path}", method="GET", path=path, twin=twin, status=200,
             expect={"data": [], "next_cursor": None})
        for path, twin in (
            ("/stock?item_id={their_item}", "their_item"),
            ("/stock?location_id={their_hall}", "their_hall"),
            ("/stock/movements?item_id={their_item}", "their_item"),
            ("/stock/movements?location_id={their_hall}", "their_hall"),
        )
    ]
    return [*by_id, *listed, *chosen]


def _writing_across() -> list[Step]:
    match = (("If-Match", "*"),)

    def act(method: str, path: str, twin: str, body: Any = None) -> Step:
        headers = match if method == "PATCH" else ()
        return Step(title=f"write across: {method} {path}", method=method, path=path, twin=twin,
                    headers=headers, body=body, status=404, expect=_problem("not_found"),
                    shown=path.endswith("/ship"))

    return [
        act("PATCH", "/items/{their_item}", "their_item", {"name": "Mine"}),
        act("PATCH", "/purchase_orders/{their_purchase}", "their_purchase",
            {"status": "cancelled"}),
        act("POST", "/purchase_orders/{their_purchase}/receive", "their_purchase", {}),
        act("PATCH", "/sales_orders/{their_sale}", "their_sale", {"status": "cancelled"}),
        act("POST", "/sales_orders/{their_sale}/ship", "their_sale"),
        act("POST", "/transfers/{their_transfer}/receive", "their_transfer"),
    ]


def _pointing_across() -> list[Step]:
    """
    Mention what is theirs in a body of ours.
    """
    def point(title: str, path: str, twin: str, **body: Any) -> Step:
        return Step(title=f"point across: {title}", method="POST", path=path, twin=twin, body=body,
                    status=422, expect=_problem("reference_unknown"))

    theirs, ours = {"item_id": "{their_item}"}, {"item_id": "{item}"}
    moved = {"quantity": 1}
    buy, sell = {**moved, "unit_cost_minor": 1}, {**moved, "unit_price_minor": 1}
    return [
        point("adjust their item", "/stock/adjust", "their_item", **theirs, location_id="{hall}",
              quantity=1, reason="mine"),
        point("take out their item", "/stock/adjust", "their_item", **theirs,
              location_id="{hall}", quantity=-1, reason="mine"),
        point("adjust at their location", "/stock/adjust", "their_hall", **ours,
              location_id="{their_hall}", quantity=1, reason="mine"),
        point("buy their item", "/purchase_orders", "their_item", supplier="S",
              location_id="{hall}", lines=[{**theirs, **buy}]),
        point("buy for their location", "/purchase_orders", "their_hall", supplier="S",
              location_id="{their_hall}", lines=[{**ours, **buy}]),
        point("sell their item", "/sales_orders", "their_item", customer="C",
              location_id="{hall}", lines=[{**theirs, **sell}]),
        point("sell from their location", "/sales_orders", "their_hall", customer="C",
              location_id="{their_hall}", lines=[{**ours, **sell}]),
        point("move their item", "/transfers", "their_item", from_location_id="{hall}",
              to_location_id="{dock}", lines=[{**theirs, **moved}]),
        point("move to their location", "/transfers", "their_hall", from_location_id="{hall}",
              to_location_id="{their_hall}", lines=[{**ours, **moved}]),
        point("move from their location", "/transfers", "their_hall",
              from_location_id="{their_hall}", to_location_id="{dock}",
              lines=[{**ours, **moved}]),
        point("return their sale", "/returns", "their_shipped", sales_order_id="{their_shipped}",
              location_id="{hall}", lines=[{"line": 1, "quantity": 1}]),
        point("return to their location", "/returns", "their_hall", sales_order_id="{sold}",
              location_id="{their_hall}", lines=[{"line": 1, "quantity": 1}]),
    ]


def _posing() -> list[Step]:
    """
    Claim to be somebody else.
    """
    refused, invalid = _problem("tenant_refused"), _problem("credentials_invalid")

    def ask(title: str, bearer: str, status: int, expect: Any, *header: tuple[str, str],
            path: str = "/items", shown: bool = False) -> Step:
        return Step(title=title, method="GET", path=path, bearer=bearer, headers=header,
                    status=status, expect=expect, shown=shown)

    mine, theirs = ("X-Tenant-ID", "{tenant_id}"), ("X-Tenant-ID", "{other_id}")
    return [
        ask("our token and our tenant header", "token", 200, {"data": ANY}, mine),
        ask("our token and their tenant header", "token", 403, refused, theirs, shown=True),
        ask("both headers", "token", 403, refused, mine, theirs),
        ask("their tenant header and no token", "", 401, invalid, theirs, shown=True),
        ask("no token", "", 401, invalid),
        ask("a token of a suspended tenant", "suspended", 403, refused),
        ask("a token of an expired sandbox", "expired_tenant", 403, refused),
        ask("a token of an unknown tenant", "unknown_tenant", 403, refused),
        ask("a token signed with another key", "forged", 401, invalid),
        ask("a token with algorithm none", "unsigned", 401, invalid),
        ask("a token that has expired", "expired", 401, invalid),
        ask("a token with their tenant put in", "tampered", 401, invalid),
        ask("a platform administrator's token", "platform", 401, invalid),
        ask("a user's token at the platform", "token", 401, invalid, path="/tenants"),
    ]


def tenant_tour(tenant: str, other: str) -> list[Step]:
    """
    The tour as *tenant*, with *other* as the one whose data must stay its own.
    """
    return [
        *_logins(tenant, other),
        *_items(),
        *_stock(),
        *_orders(),
        *_moves(),
        *_pages(),
        *_theirs(),
        *_reading_across(),
        *_writing_across(),
        *_pointing_across(),
        *_posing(),
        *_unchanged(),
    ]


def platform_tour() -> list[Step]:
    """
    What the platform's administrator does, and what anybody may ask.
    """
    user = {"email": "first@example.com", "name": "First", "password": "{password}"}
    sandbox = {"id": "box-{run}", "tier": "FREE", "user": user}
    tenants = [
        {"id": "acme", "tier": "GROWTH"}, {"id": "globex", "tier": "FREE"},
        {"id": "hooli", "tier": "SCALE"}, {"id": "initech", "tier": "DEVELOPER"},
        {"id": "umbrella", "tier": "STARTUP"}, {"id": "wonka", "tier": "ENTERPRISE"},
        {"id": SUSPENDED, "status": "suspended"}, {"id": EXPIRED, "kind": "sandbox"},
    ]
    return [
        Step(title="the service is well", method="GET", path="/healthz", bearer="", status=200,
             expect={"status": "ok"}, shown=True),
        Step(title="what it can do", method="GET", path="/openapi.json", bearer="", status=200,
             expect={"openapi": "3.1.0", "paths": {"/items/{id}": ANY}}),
        Step(title="log in as the platform's administrator", method="POST", path="/auth/login",
             bearer="", body={"email": "{administrator}", "password": "{password}"}, status=200,
             expect={"access_token": ANY}, keep=("platform", "access_token"), shown=True),
        *(
            Step(title=f"the tenant {one['id']}", method="GET", path="/tenants",
                 bearer="platform", status=200, expect={"data": Contains(one)})
            for one in tenants
        ),
        Step(title="make a sandbox", method="POST", path="/tenants", bearer="platform",
             body=sandbox, status=201, shown=True,
             expect={"id": "box-{run}", "kind": "sandbox", "status": "active",
                     "expires_at": ANY}),
        Step(title="make it twice", method="POST", path="/tenants", bearer="platform",
             body=sandbox, status=409, expect=_problem("already_exists")),
        _login("log in to the sandbox", "box-{run}", "first@example.com", "sandboxed"),
        Step(title="it is empty", method="GET", path="/items", bearer="sandboxed", status=200,
             expect={"data": [], "next_cursor": None}),
        Step(title="suspend it", method="PATCH", path="/tenants/box-{run}", bearer="platform",
             body={"status": "suspended"}, status=200, expect={"status": "suspended"},
             shown=True),
        Step(title="its token is refused at once", method="GET", path="/items",
             bearer="sandboxed", status=403, expect=_problem("tenant_refused"), patient=True),
        Step(title="a tenant that nobody has", method="PATCH", path="/tenants/nowhere",
             bearer="platform", body={"status": "suspended"}, status=404,
             expect=_problem("not_found")),
        Step(title="no token at the platform", method="GET", path="/tenants", bearer="",
             status=401, expect=_problem("credentials_invalid")),
    ]
