"""
Every attempt to reach another tenant's data, and the proof that nothing came of it.
"""

from __future__ import annotations

from typing import Any

from .step import ANY, Lacks, Step, problem

__all__ = ["isolation"]


def isolation() -> list[Step]:
    """
    The steps; they come after `work`, whose records and tokens they use.
    """
    return [
        *_theirs(),
        *_reading_across(),
        *_writing_across(),
        *_pointing_across(),
        *_posing(),
        *_unchanged(),
    ]


def _theirs() -> list[Step]:
    """
    Let the other tenant have one of everything.
    """

    def made(title: str, path: str, keep: str, **body: Any) -> Step:
        return Step(
            f"the other tenant: {title}",
            f"POST {path}",
            201,
            {"id": ANY},
            bearer="other",
            body=body,
            keep=(keep, "id"),
        )

    line = {"item_id": "{their_item}", "quantity": 3}
    return [
        made(
            "an item",
            "/items",
            "their_item",
            sku="O-{run}",
            name="Theirs",
            unit_price_minor=100,
            reorder_point=50,
        ),
        made("a location", "/locations", "their_hall", code="O-{run}", name="Theirs"),
        made("another location", "/locations", "their_dock", code="P-{run}", name="Theirs"),
        made(
            "stock",
            "/stock/adjust",
            "their_movement",
            item_id="{their_item}",
            location_id="{their_hall}",
            quantity=9,
            reason="counted",
        ),
        made(
            "a purchase order",
            "/purchase_orders",
            "their_purchase",
            supplier="Theirs",
            location_id="{their_hall}",
            lines=[{**line, "unit_cost_minor": 1}],
        ),
        made(
            "a sales order",
            "/sales_orders",
            "their_sale",
            customer="Theirs",
            location_id="{their_hall}",
            lines=[{**line, "unit_price_minor": 1}],
        ),
        made(
            "a sale to return",
            "/sales_orders",
            "their_shipped",
            customer="Theirs",
            location_id="{their_hall}",
            lines=[{**line, "unit_price_minor": 1}],
        ),
        Step(
            "the other tenant: ship it",
            "POST /sales_orders/{their_shipped}/ship",
            200,
            {"status": "shipped"},
            bearer="other",
        ),
        made(
            "a transfer",
            "/transfers",
            "their_transfer",
            from_location_id="{their_hall}",
            to_location_id="{their_dock}",
            lines=[line],
        ),
        made(
            "a return",
            "/returns",
            "their_return",
            sales_order_id="{their_shipped}",
            location_id="{their_hall}",
            lines=[{"line": 1, "quantity": 1}],
        ),
        made(
            "a subscription",
            "/webhooks",
            "their_webhook",
            url="https://hooks.example.com/{run}",
            events=["stock.low"],
        ),
        made("a supplier", "/suppliers", "their_supplier", name="Theirs", bank_account="{account}"),
    ]


def _unchanged() -> list[Step]:
    """
    Ask the other tenant whether anything of its own has changed.
    """

    def same(title: str, path: str, **expect: Any) -> Step:
        return Step(f"unchanged: {title}", f"GET {path}", 200, expect, bearer="other")

    return [
        same("their item", "/items/{their_item}", name="Theirs", version=1),
        same(
            "their purchase order",
            "/purchase_orders/{their_purchase}",
            status="open",
            version=1,
            lines=[{"received": 0}],
        ),
        same("their sales order", "/sales_orders/{their_sale}", status="open", version=1),
        same("their transfer", "/transfers/{their_transfer}", status="in_transit", version=1),
        same("their stock", "/stock?item_id={their_item}", data=[{"quantity": 4}]),
        same(
            "their ledger",
            "/stock/movements?item_id={their_item}",
            data=[{"quantity": 9}, {"quantity": -3}, {"quantity": -3}, {"quantity": 1}],
        ),
        same(
            "their supplier",
            "/suppliers/{their_supplier}",
            name="Theirs",
            bank_account="{account}",
        ),
        same(
            "their subscription",
            "/webhooks/{their_webhook}",
            url="https://hooks.example.com/{run}",
            secrets=[{"state": "active"}],
            version=1,
        ),
    ]


_RECORDS = (
    ("/items/{their_item}", "their_item"),
    ("/locations/{their_hall}", "their_hall"),
    ("/purchase_orders/{their_purchase}", "their_purchase"),
    ("/sales_orders/{their_sale}", "their_sale"),
    ("/transfers/{their_transfer}", "their_transfer"),
    ("/returns/{their_return}", "their_return"),
    ("/suppliers/{their_supplier}", "their_supplier"),
    ("/webhooks/{their_webhook}", "their_webhook"),
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
    ("/suppliers?limit=100", {"id": "{their_supplier}"}),
    ("/suppliers?bank_account={account}", {"id": "{their_supplier}"}),
    ("/webhooks?limit=100", {"id": "{their_webhook}"}),
)


def _reading_across() -> list[Step]:
    by_id = [
        Step(
            f"read across: {path}",
            f"GET {path}",
            404,
            problem("not_found"),
            twin=twin,
            shown=path.startswith("/items"),
        )
        for path, twin in _RECORDS
    ]
    listed = [
        Step(f"read across: {path}", f"GET {path}", 200, {"data": Lacks(theirs)})
        for path, theirs in _LISTS
    ]
    chosen = [
        Step(
            f"read across: {path}", f"GET {path}", 200, {"data": [], "next_cursor": None}, twin=twin
        )
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
        return Step(
            f"write across: {method} {path}",
            f"{method} {path}",
            404,
            problem("not_found"),
            headers=headers,
            body=body,
            twin=twin,
            shown=path.endswith("/ship"),
        )

    return [
        act("PATCH", "/items/{their_item}", "their_item", {"name": "Mine"}),
        act(
            "PATCH", "/purchase_orders/{their_purchase}", "their_purchase", {"status": "cancelled"}
        ),
        act("POST", "/purchase_orders/{their_purchase}/receive", "their_purchase", {}),
        act("PATCH", "/sales_orders/{their_sale}", "their_sale", {"status": "cancelled"}),
        act("POST", "/sales_orders/{their_sale}/ship", "their_sale"),
        act("POST", "/transfers/{their_transfer}/receive", "their_transfer"),
        act("PATCH", "/suppliers/{their_supplier}", "their_supplier", {"name": "Mine"}),
        act(
            "PATCH",
            "/webhooks/{their_webhook}",
            "their_webhook",
            {"url": "https://mine.example.com/"},
        ),
        act("POST", "/webhooks/{their_webhook}/rotate", "their_webhook", {"overlap_seconds": 0}),
        act("POST", "/webhooks/{their_webhook}/revoke", "their_webhook", {"fingerprint": "0" * 16}),
        act("POST", "/webhooks/{their_webhook}/test", "their_webhook"),
        act("DELETE", "/webhooks/{their_webhook}", "their_webhook"),
    ]


def _pointing_across() -> list[Step]:
    """
    Mention what is theirs in a body of ours.
    """

    def point(title: str, path: str, twin: str, **body: Any) -> Step:
        return Step(
            f"point across: {title}",
            f"POST {path}",
            422,
            problem("reference_unknown"),
            body=body,
            twin=twin,
        )

    theirs, ours = {"item_id": "{their_item}"}, {"item_id": "{item}"}
    moved = {"quantity": 1}
    buy, sell = {**moved, "unit_cost_minor": 1}, {**moved, "unit_price_minor": 1}
    return [
        point(
            "adjust their item",
            "/stock/adjust",
            "their_item",
            **theirs,
            location_id="{hall}",
            quantity=1,
            reason="mine",
        ),
        point(
            "take out their item",
            "/stock/adjust",
            "their_item",
            **theirs,
            location_id="{hall}",
            quantity=-1,
            reason="mine",
        ),
        point(
            "adjust at their location",
            "/stock/adjust",
            "their_hall",
            **ours,
            location_id="{their_hall}",
            quantity=1,
            reason="mine",
        ),
        point(
            "buy their item",
            "/purchase_orders",
            "their_item",
            supplier="S",
            location_id="{hall}",
            lines=[{**theirs, **buy}],
        ),
        point(
            "buy for their location",
            "/purchase_orders",
            "their_hall",
            supplier="S",
            location_id="{their_hall}",
            lines=[{**ours, **buy}],
        ),
        point(
            "sell their item",
            "/sales_orders",
            "their_item",
            customer="C",
            location_id="{hall}",
            lines=[{**theirs, **sell}],
        ),
        point(
            "sell from their location",
            "/sales_orders",
            "their_hall",
            customer="C",
            location_id="{their_hall}",
            lines=[{**ours, **sell}],
        ),
        point(
            "move their item",
            "/transfers",
            "their_item",
            from_location_id="{hall}",
            to_location_id="{dock}",
            lines=[{**theirs, **moved}],
        ),
        point(
            "move to their location",
            "/transfers",
            "their_hall",
            from_location_id="{hall}",
            to_location_id="{their_hall}",
            lines=[{**ours, **moved}],
        ),
        point(
            "move from their location",
            "/transfers",
            "their_hall",
            from_location_id="{their_hall}",
            to_location_id="{dock}",
            lines=[{**ours, **moved}],
        ),
        point(
            "return their sale",
            "/returns",
            "their_shipped",
            sales_order_id="{their_shipped}",
            location_id="{hall}",
            lines=[{"line": 1, "quantity": 1}],
        ),
        point(
            "return to their location",
            "/returns",
            "their_hall",
            sales_order_id="{sold}",
            location_id="{their_hall}",
            lines=[{"line": 1, "quantity": 1}],
        ),
    ]


_SPAN = "from={first_day}&to={last_day}"


def _posing() -> list[Step]:
    """
    Claim to be somebody else.
    """
    refused, invalid = problem("tenant_refused"), problem("credentials_invalid")

    def ask(
        title: str,
        bearer: str,
        status: int,
        expect: Any,
        *header: tuple[str, str],
        path: str = "/items",
        shown: bool = False,
    ) -> Step:
        return Step(
            title, f"GET {path}", status, expect, bearer=bearer, headers=header, shown=shown
        )

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
        ask("the administrator's token", "administrator", 401, invalid),
        ask("a user's token at the administrator's routes", "token", 401, invalid, path="/tenants"),
        ask("at their quotas", "token", 401, invalid, path="/admin/quotas/{other_id}"),
        ask("at what all have used", "token", 401, invalid, path=f"/admin/usage?{_SPAN}"),
        ask("at their keys", "token", 401, invalid, path="/admin/keys/{other_id}"),
        ask("at the platform's secrets", "token", 401, invalid, path="/admin/secrets"),
        ask("our token and our quotas", "token", 200, {"tenant": "{tenant_id}"}, path="/quotas"),
    ]
