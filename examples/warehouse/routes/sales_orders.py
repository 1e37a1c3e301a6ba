"""
Sales orders: goods that go out.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field
from sqlalchemy import select

from .. import ledger
from ..auth import Role
from ..models import SalesOrder, SalesOrderLine
from ..orders import ensure_status, numbered, touch
from ..paging import Page, PageQuery, read_page
from ..shapes import Body, Minor, Name, Quantity, View
from ..web import Call, operation

__all__ = [
    "change_sales_order",
    "create_sales_order",
    "get_sales_order",
    "list_sales_orders",
    "ship_sales_order",
]


class NewSalesLine(Body):
    """
    One item to sell.
    """

    item_id: UUID
    quantity: Quantity
    unit_price_minor: Minor


class NewSalesOrder(Body):
    """
    Goods to sell, and the location that they will leave from.
    """

    customer: Name
    location_id: UUID
    lines: Annotated[list[NewSalesLine], Field(min_length=1, max_length=100)]


class SalesOrderChange(Body):
    """
    Fields to change; those left out or null stay.
    """

    customer: Name | None = None
    status: Literal["cancelled"] | None = None


class SalesLineView(View):
    """
    What was sold of one item, and how much of it has come back.
    """

    line: int
    item_id: UUID
    quantity: int
    returned: int
    unit_price_minor: int


class SalesOrderView(View):
    """
    A sales order.
    """

    id: UUID
    customer: str
    location_id: UUID
    status: str
    lines: list[SalesLineView]
    version: int
    created_at: datetime
    updated_at: datetime


@operation("GET", "/sales_orders", access=Role.VIEWER)
async def list_sales_orders(call: Call, query: PageQuery) -> Page[SalesOrderView]:
    """
    List the sales orders.
    """
    rows = select(SalesOrder)
    return await read_page(call.db, rows, query, view=SalesOrderView, keys=(SalesOrder.id,))


@operation(
    "POST",
    "/sales_orders",
    access=Role.CLERK,
    status=201,
    idempotent=True,
    business="sales_order.create",
    problems=("reference_unknown",),
)
async def create_sales_order(call: Call, body: NewSalesOrder) -> SalesOrderView:
    """
    Sell goods to a customer; stock moves when they are shipped.
    """
    order = SalesOrder(
        customer=body.customer,
        location_id=body.location_id,
        status="open",
        actor_id=call.caller.id,
        lines=numbered(SalesOrderLine, body.lines),
    )
    call.db.add(order)
    await call.db.flush()
    call.count(call.services.telemetry.orders.labels("sales", "created"))
    return SalesOrderView.model_validate(order)


@operation("GET", "/sales_orders/{id:uuid}", access=Role.VIEWER)
async def get_sales_order(call: Call) -> SalesOrderView:
    """
    Show a sales order.
    """
    return SalesOrderView.model_validate(await call.find(SalesOrder))


@operation(
    "PATCH",
    "/sales_orders/{id:uuid}",
    access=Role.MANAGER,
    business="sales_order.change",
    problems=("order_closed",),
)
async def change_sales_order(call: Call, body: SalesOrderChange) -> SalesOrderView:
    """
    Change or cancel an order that is not shipped yet.
    """
    order = await call.find(SalesOrder, lock=True)
    ensure_status(order, "open")
    await call.change(order, body)
    return SalesOrderView.model_validate(order)


@operation(
    "POST",
    "/sales_orders/{id:uuid}/ship",
    access=Role.CLERK,
    idempotent=True,
    business="sales_order.ship",
    problems=("order_closed", "stock_short"),
)
async def ship_sales_order(call: Call) -> SalesOrderView:
    """
    Ship the whole order, or nothing if the stock does not reach.
    """
    order = await call.find(SalesOrder, lock=True)
    ensure_status(order, "open")
    movements = ledger.movements(
        "shipment",
        [(line.item_id, -line.quantity) for line in order.lines],
        location_id=order.location_id,
        reference=f"sales_order:{order.id}",
    )
    await call.move(movements)
    order.status = "shipped"
    await touch(call.db, order)
    call.count(call.services.telemetry.orders.labels("sales", order.status))
    return SalesOrderView.model_validate(order)
