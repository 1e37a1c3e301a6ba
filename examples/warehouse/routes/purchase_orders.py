"""
Purchase orders: goods that come in.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field
from sqlalchemy import select

from .. import ledger
from ..auth import Role
from ..models import PurchaseOrder, PurchaseOrderLine
from ..orders import Part, ensure_status, numbered, take_parts, touch
from ..paging import Page, PageQuery, read_page
from ..shapes import Body, Minor, Name, Quantity, View
from ..web import Call, operation

__all__ = [
    "change_purchase_order",
    "create_purchase_order",
    "get_purchase_order",
    "list_purchase_orders",
    "receive_purchase_order",
]


class NewPurchaseLine(Body):
    """
    One item to order.
    """

    item_id: UUID
    quantity: Quantity
    unit_cost_minor: Minor


class NewPurchaseOrder(Body):
    """
    Goods to order; a draft can be changed to open later.
    """

    supplier: Name
    location_id: UUID
    status: Literal["draft", "open"] = "open"
    lines: Annotated[list[NewPurchaseLine], Field(min_length=1, max_length=100)]


class PurchaseOrderChange(Body):
    """
    Fields to change; those left out or null stay.
    """

    supplier: Name | None = None
    status: Literal["open", "cancelled"] | None = None


class PurchaseLineView(View):
    """
    What was ordered of one item, and how much of it has come.
    """

    line: int
    item_id: UUID
    quantity: int
    received: int
    unit_cost_minor: int


class PurchaseOrderView(View):
    """
    A purchase order.
    """

    id: UUID
    supplier: str
    location_id: UUID
    status: str
    lines: list[PurchaseLineView]
    version: int
    created_at: datetime
    updated_at: datetime


class Receipt(Body):
    """
    What has come; nothing listed means all that is still missing.
    """

    lines: Annotated[tuple[Part, ...], Field(max_length=100)] = ()


@operation("GET", "/purchase_orders", access=Role.VIEWER)
async def list_purchase_orders(call: Call, query: PageQuery) -> Page[PurchaseOrderView]:
    """
    List the purchase orders.
    """
    rows = select(PurchaseOrder)
    return await read_page(call.db, rows, query, view=PurchaseOrderView, keys=(PurchaseOrder.id,))


@operation(
    "POST",
    "/purchase_orders",
    access=Role.MANAGER,
    status=201,
    idempotent=True,
    business="purchase_order.create",
    problems=("reference_unknown",),
)
async def create_purchase_order(call: Call, body: NewPurchaseOrder) -> PurchaseOrderView:
    """
    Order goods from a supplier.
    """
    order = PurchaseOrder(
        supplier=body.supplier,
        location_id=body.location_id,
        status=body.status,
        actor_id=call.caller.id,
        lines=numbered(PurchaseOrderLine, body.lines),
    )
    call.db.add(order)
    await call.db.flush()
    call.count(call.services.telemetry.orders.labels("purchase", "created"))
    return PurchaseOrderView.model_validate(order)


@operation("GET", "/purchase_orders/{id:uuid}", access=Role.VIEWER)
async def get_purchase_order(call: Call) -> PurchaseOrderView:
    """
    Show a purchase order.
    """
    return PurchaseOrderView.model_validate(await call.find(PurchaseOrder))


@operation(
    "PATCH",
    "/purchase_orders/{id:uuid}",
    access=Role.MANAGER,
    business="purchase_order.change",
    problems=("order_closed",),
)
async def change_purchase_order(call: Call, body: PurchaseOrderChange) -> PurchaseOrderView:
    """
    Change, open or cancel an order of which nothing has come yet.
    """
    order = await call.find(PurchaseOrder, lock=True)
    ensure_status(order, "draft", "open")
    await call.change(order, body)
    return PurchaseOrderView.model_validate(order)


@operation(
    "POST",
    "/purchase_orders/{id:uuid}/receive",
    access=Role.CLERK,
    idempotent=True,
    business="purchase_order.receive",
    problems=("order_closed", "quantity_exceeded", "reference_unknown"),
)
async def receive_purchase_order(call: Call, body: Receipt) -> PurchaseOrderView:
    """
    Take goods in, all of the order or a part of it.
    """
    order = await call.find(PurchaseOrder, lock=True)
    ensure_status(order, "open", "partially_received")
    left = {line.line: line.quantity - line.received for line in order.lines}
    taken = take_parts(left, body.lines)
    for line in order.lines:
        line.received += taken.get(line.line, 0)
    movements = ledger.movements(
        "receipt",
        [(line.item_id, taken[line.line]) for line in order.lines if line.line in taken],
        location_id=order.location_id,
        reference=f"purchase_order:{order.id}",
    )
    await call.move(movements)
    complete = all(line.received == line.quantity for line in order.lines)
    order.status = "received" if complete else "partially_received"
    await touch(call.db, order)
    call.count(call.services.telemetry.orders.labels("purchase", order.status))
    return PurchaseOrderView.model_validate(order)
