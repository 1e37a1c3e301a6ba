"""
A day's work as one tenant: logins, items, stock, orders, transfers, returns, pages.
"""

from __future__ import annotations

from ..seed import EXPIRED, SUSPENDED, email
from .step import ANY, Contains, Lacks, Step, client, log_in, problem

__all__ = ["work"]


def work(tenant: str, other: str) -> list[Step]:
    """
    The steps as *tenant*; they keep a token of *other* for later.
    """
    return [*_logins(tenant, other), *_items(), *_stock(), *_orders(), *_moves(), *_pages()]


def _no_login(title: str, tenant: str, address: str, said: str = "{password}", *, at: int) -> Step:
    return Step(
        title,
        "POST /auth/login",
        401,
        problem("credentials_invalid", status=401),
        bearer="",
        headers=(client(at),),
        body={"tenant": tenant, "email": address, "password": said},
    )


def _logins(tenant: str, other: str) -> list[Step]:
    admin = email("admin", tenant)
    return [
        log_in("log in as an admin of the tenant", tenant, admin, "token", at=1, shown=True),
        log_in("log in as a clerk", tenant, email("clerk", tenant), "clerk", at=2),
        log_in("log in as a viewer", tenant, email("viewer", tenant), "viewer", at=3),
        log_in(f"log in at {other}", other, email("admin", other), "other", at=4, shown=True),
        _no_login("a wrong password", tenant, admin, "not the password", at=5),
        _no_login("an unknown user", tenant, email("nobody", tenant), at=6),
        _no_login(f"a user of {tenant} at {other}", other, admin, at=7),
        _no_login("an unknown tenant", "nowhere", email("admin", "nowhere"), at=8),
        _no_login("a suspended tenant", SUSPENDED, email("admin", SUSPENDED), at=9),
        _no_login("an expired sandbox", EXPIRED, email("admin", EXPIRED), at=10),
        _no_login("a tenant id that is SQL", "x'; SET twh.tenant_id = 'acme", admin, at=11),
    ]


def _items() -> list[Step]:
    item = {"sku": "T-{run}", "name": "Tour item", "unit_price_minor": 1250, "reorder_point": 5}
    key = (("Idempotency-Key", "item-{run}"),)
    return [
        Step(
            "create an item",
            "POST /items",
            201,
            {**item, "id": ANY, "version": 1},
            headers=key,
            body=item,
            expect_headers={"etag": '"1"'},
            keep=("item", "id"),
            shown=True,
        ),
        Step(
            "the same request again: the same answer",
            "POST /items",
            201,
            {**item, "id": "{item}", "version": 1},
            headers=key,
            body=item,
            expect_headers={"idempotency-replayed": "true", "location": "/items/{item}"},
            shown=True,
        ),
        Step(
            "the same key for another item",
            "POST /items",
            422,
            problem("idempotency_conflict"),
            headers=key,
            body={**item, "name": "Another"},
        ),
        Step(
            "a key that is no key",
            "POST /items",
            400,
            problem("idempotency_key_invalid"),
            headers=(("Idempotency-Key", "a b"),),
            body=item,
        ),
        Step("the same sku again", "POST /items", 409, problem("already_exists"), body=item),
        Step(
            "read the item",
            "GET /items/{item}",
            200,
            {**item, "id": "{item}", "version": 1},
            bearer="viewer",
            expect_headers={"etag": '"1"'},
        ),
        Step(
            "change the item",
            "PATCH /items/{item}",
            200,
            {**item, "unit_price_minor": 1300, "version": 2},
            headers=(("If-Match", '"1"'),),
            body={"unit_price_minor": 1300},
            expect_headers={"etag": '"2"'},
            shown=True,
        ),
        Step(
            "change it as if nothing had happened",
            "PATCH /items/{item}",
            412,
            problem("precondition_failed"),
            headers=(("If-Match", '"1"'),),
            body={"unit_price_minor": 1},
            shown=True,
        ),
        Step(
            "change it without If-Match",
            "PATCH /items/{item}",
            428,
            problem("precondition_required"),
            body={"unit_price_minor": 1},
        ),
        Step(
            "a viewer changes it",
            "PATCH /items/{item}",
            403,
            problem("role_insufficient"),
            bearer="viewer",
            headers=(("If-Match", '"2"'),),
            body={"unit_price_minor": 1},
        ),
        Step(
            "fields that are wrong",
            "POST /items",
            422,
            problem(
                "validation_failed",
                fields=[
                    {"field": "sku", "message": ANY},
                    {"field": "name", "message": ANY},
                    {"field": "unit_price_minor", "message": ANY},
                    {"field": "tenant_id", "message": ANY},
                ],
            ),
            body={"sku": "", "name": 1, "unit_price_minor": 1.5, "tenant_id": "{other_id}"},
        ),
        Step("an item that nobody has", "GET /items/{nothing}", 404, problem("not_found")),
        Step(
            "an item to run short of",
            "POST /items",
            201,
            {"id": ANY},
            body={**item, "sku": "S-{run}"},
            keep=("scarce", "id"),
        ),
    ]


def _stock() -> list[Step]:
    adjust = {"item_id": "{item}", "location_id": "{hall}", "quantity": 10, "reason": "counted"}
    key = (("Idempotency-Key", "adjust-{run}"),)
    return [
        Step(
            "add a location",
            "POST /locations",
            201,
            {"id": ANY, "code": "H-{run}", "name": "Hall"},
            body={"code": "H-{run}", "name": "Hall"},
            keep=("hall", "id"),
            shown=True,
        ),
        Step(
            "add another",
            "POST /locations",
            201,
            {"id": ANY, "code": "D-{run}"},
            body={"code": "D-{run}", "name": "Dock"},
            keep=("dock", "id"),
            shown=True,
        ),
        Step(
            "count ten in",
            "POST /stock/adjust",
            201,
            {"id": ANY, "kind": "adjustment", "quantity": 10, "item_id": "{item}"},
            bearer="clerk",
            headers=key,
            body=adjust,
            keep=("movement", "id"),
        ),
        Step(
            "the same request again: counted once",
            "POST /stock/adjust",
            201,
            {"id": "{movement}"},
            bearer="clerk",
            headers=key,
            body=adjust,
        ),
        Step(
            "the level",
            "GET /stock?item_id={item}",
            200,
            {
                "data": [{"item_id": "{item}", "location_id": "{hall}", "quantity": 10}],
                "next_cursor": None,
            },
            bearer="viewer",
        ),
        Step(
            "a viewer adjusts",
            "POST /stock/adjust",
            403,
            problem("role_insufficient"),
            bearer="viewer",
            body=adjust,
        ),
        Step(
            "take out more than there is",
            "POST /stock/adjust",
            409,
            problem(
                "stock_short",
                lines=[
                    {"item_id": "{item}", "location_id": "{hall}", "wanted": 11, "available": 10}
                ],
            ),
            body={**adjust, "quantity": -11},
        ),
    ]


def _orders() -> list[Step]:
    bought = {"item_id": "{item}", "quantity": 20, "unit_cost_minor": 700}
    sold = {"item_id": "{item}", "quantity": 12, "unit_price_minor": 1300}
    sale = {"customer": "Customer", "location_id": "{hall}"}
    bought_path, sold_path = "/purchase_orders/{bought}", "/sales_orders/{sold}"
    return [
        Step(
            "draft a purchase order",
            "POST /purchase_orders",
            201,
            {
                "id": ANY,
                "status": "draft",
                "version": 1,
                "lines": [{**bought, "line": 1, "received": 0}],
            },
            headers=(("Idempotency-Key", "buy-{run}"),),
            body={
                "supplier": "Supplier",
                "location_id": "{hall}",
                "status": "draft",
                "lines": [bought],
            },
            keep=("bought", "id"),
            shown=True,
        ),
        Step(
            "receive a draft", f"POST {bought_path}/receive", 409, problem("order_closed"), body={}
        ),
        Step(
            "open it",
            f"PATCH {bought_path}",
            200,
            {"status": "open", "version": 2},
            headers=(("If-Match", '"1"'),),
            body={"status": "open"},
            shown=True,
        ),
        Step(
            "open it as if nothing had happened",
            f"PATCH {bought_path}",
            412,
            problem("precondition_failed"),
            headers=(("If-Match", '"1"'),),
            body={"status": "cancelled"},
        ),
        Step(
            "receive five",
            f"POST {bought_path}/receive",
            200,
            {"status": "partially_received", "version": 3, "lines": [{"received": 5}]},
            body={"lines": [{"line": 1, "quantity": 5}]},
            shown=True,
        ),
        Step(
            "receive more than was ordered",
            f"POST {bought_path}/receive",
            409,
            problem("quantity_exceeded"),
            body={"lines": [{"line": 1, "quantity": 16}]},
        ),
        Step(
            "receive the rest",
            f"POST {bought_path}/receive",
            200,
            {"status": "received", "lines": [{"received": 20}]},
            bearer="clerk",
            body={},
            shown=True,
        ),
        Step(
            "sell twelve",
            "POST /sales_orders",
            201,
            {
                "id": ANY,
                "status": "open",
                "version": 1,
                "lines": [{**sold, "line": 1, "returned": 0}],
            },
            headers=(("Idempotency-Key", "sell-{run}"),),
            body={**sale, "lines": [sold]},
            keep=("sold", "id"),
            shown=True,
        ),
        Step(
            "ship them",
            f"POST {sold_path}/ship",
            200,
            {"status": "shipped", "version": 2},
            bearer="clerk",
            headers=(("Idempotency-Key", "ship-{run}"),),
            shown=True,
        ),
        Step(
            "the same request again: shipped once",
            f"POST {sold_path}/ship",
            200,
            {"status": "shipped", "version": 2},
            bearer="clerk",
            headers=(("Idempotency-Key", "ship-{run}"),),
        ),
        Step("ship them once more", f"POST {sold_path}/ship", 409, problem("order_closed")),
        Step(
            "sell more than there is",
            "POST /sales_orders",
            201,
            {"status": "open"},
            body={**sale, "lines": [{**sold, "quantity": 19}]},
            keep=("oversold", "id"),
            shown=True,
        ),
        Step(
            "ship more than there is",
            "POST /sales_orders/{oversold}/ship",
            409,
            problem("stock_short", lines=[{"item_id": "{item}", "wanted": 19, "available": 18}]),
            shown=True,
        ),
        Step(
            "cancel it",
            "PATCH /sales_orders/{oversold}",
            200,
            {"status": "cancelled", "version": 2},
            headers=(("If-Match", '"1"'),),
            body={"status": "cancelled"},
        ),
    ]


def _moves() -> list[Step]:
    transfer = {
        "from_location_id": "{hall}",
        "to_location_id": "{dock}",
        "lines": [{"item_id": "{item}", "quantity": 8}],
    }
    returned = {
        "sales_order_id": "{sold}",
        "location_id": "{dock}",
        "lines": [{"line": 1, "quantity": 2}],
    }
    return [
        Step(
            "send eight to the dock",
            "POST /transfers",
            201,
            {"id": ANY, "status": "in_transit", "lines": [{"quantity": 8}]},
            body=transfer,
            keep=("transfer", "id"),
            shown=True,
        ),
        Step(
            "they are in transit",
            "GET /stock?item_id={item}",
            200,
            {"data": [{"location_id": "{hall}", "quantity": 10}]},
        ),
        Step(
            "receive them",
            "POST /transfers/{transfer}/receive",
            200,
            {"status": "received"},
            bearer="clerk",
            shown=True,
        ),
        Step(
            "receive them twice",
            "POST /transfers/{transfer}/receive",
            409,
            problem("order_closed"),
        ),
        Step(
            "to where they are",
            "POST /transfers",
            422,
            problem("validation_failed"),
            body={**transfer, "to_location_id": "{hall}"},
        ),
        Step(
            "two come back",
            "POST /returns",
            201,
            {"id": ANY, "lines": [{"line": 1, "item_id": "{item}", "quantity": 2}]},
            body=returned,
            keep=("return", "id"),
            shown=True,
        ),
        Step(
            "more come back than were sold",
            "POST /returns",
            409,
            problem("quantity_exceeded"),
            body={**returned, "lines": [{"line": 1, "quantity": 11}]},
        ),
        Step(
            "the ledger tells it all",
            "GET /stock/movements?item_id={item}",
            200,
            {
                "data": [
                    {"kind": "adjustment", "quantity": 10},
                    {"kind": "receipt", "quantity": 5},
                    {"kind": "receipt", "quantity": 15, "reference": "purchase_order:{bought}"},
                    {"kind": "shipment", "quantity": -12, "reference": "sales_order:{sold}"},
                    {"kind": "transfer_out", "quantity": -8, "location_id": "{hall}"},
                    {"kind": "transfer_in", "quantity": 8, "location_id": "{dock}"},
                    {"kind": "return", "quantity": 2, "reference": "return:{return}"},
                ]
            },
            shown=True,
        ),
        Step(
            "and the levels are its sums",
            "GET /stock?item_id={item}",
            200,
            {
                "data": [
                    {"location_id": "{hall}", "quantity": 10},
                    {"location_id": "{dock}", "quantity": 10},
                ]
            },
            shown=True,
        ),
        Step(
            "what has to be ordered",
            "GET /reports/low_stock?limit=100",
            200,
            {"data": Contains({"id": "{scarce}", "quantity": 0, "reorder_point": 5})},
            shown=True,
        ),
        Step(
            "and what has not",
            "GET /reports/low_stock?limit=100",
            200,
            {"data": Lacks({"id": "{item}"})},
        ),
    ]


def _pages() -> list[Step]:
    return [
        Step(
            "a page of one",
            "GET /items?limit=1",
            200,
            {"data": [{"id": ANY}], "next_cursor": ANY},
            keep=("first", "data.0.id"),
        ),
        Step(
            "its cursor",
            "GET /items?limit=1",
            200,
            {"data": [{"id": "{first}"}]},
            keep=("cursor", "next_cursor"),
            shown=True,
        ),
        Step(
            "the next page",
            "GET /items?limit=1&cursor={cursor}",
            200,
            {"data": Lacks({"id": "{first}"})},
            shown=True,
        ),
        Step("a cursor that is none", "GET /items?cursor=WzFd", 400, problem("cursor_invalid")),
        Step(
            "a page of none",
            "GET /items?limit=0",
            422,
            problem("validation_failed", fields=[{"field": "limit"}]),
        ),
        Step(
            "a parameter that is unknown",
            "GET /items?tenant=globex",
            422,
            problem("validation_failed", fields=[{"field": "tenant"}]),
        ),
        Step("a path that is none", "GET /nowhere", 404, problem("not_found")),
        Step("a method that is none", "DELETE /items/{item}", 405, problem("method_not_allowed")),
        Step("a body that is no JSON", "POST /items", 400, problem("body_malformed"), body="{"),
        Step(
            "a body that is too large",
            "POST /items",
            413,
            problem("body_too_large"),
            body=" " * 70_000,
        ),
    ]
