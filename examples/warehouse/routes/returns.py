"""
Returns: goods that customers send back.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import Field
from sqlalchemy import select

from .. import ledger
from ..auth import Role
from ..models import Return, ReturnLine, SalesOrder
from ..orders import Part, ensure_status, take_parts, touch
from ..paging import Page, PageQuery, read_page
from ..problems import Refusal
from ..shapes import Body, View
from ..web import Call, operation

__all__ = ["create_return", "get_return", "list_returns"]


class NewReturn(Body):
    """
    What came back of a sales order, and where it was put.
    """

    sales_order_id: UUID
    location_id: UUID
    lines: Annotated[list[Part], Field(min_length=1, max_length=100)]


class ReturnLineView(View):
    """
    How much of one item came back; `line` is the line of the sales order.
    """

    line: int
    item_id: UUID
    quantity: int


class ReturnView(View):
    """
    A return.
    """

    id: UUID
    sales_order_id: UUID
    location_id: UUID
    lines: list[ReturnLineView]
    created_at: datetime


@operation("GET", "/returns", access=Role.VIEWER)
async def list_returns(call: Call, query: PageQuery) -> Page[ReturnView]:
    """
    List the returns.
    """
    return await read_page(call.db, select(Return), query, view=ReturnView, keys=(Return.id,))


@operation("GET", "/returns/{id:uuid}", access=Role.VIEWER)
async def get_return(call: Call) -> ReturnView:
    """
    Show a return.
    """
    return ReturnView.model_validate(await call.find(Return))


@operation(
    "POST",
    "/returns",
    access=Role.CLERK,
    status=201,
    idempotent=True,
    business="return.create",
    problems=("order_closed", "quantity_exceeded", "reference_unknown"),
)
async def create_return(call: Call, body: NewReturn) -> ReturnView:
    """
    Take back goods of an order that was shipped.
    """
    order = await _sales_order(call, body.sales_order_id)
    left = {line.line: line.quantity - line.returned for line in order.lines}
    taken = take_parts(left, body.lines)
    lines = [line for line in order.lines if line.line in taken]
    for line in lines:
        line.returned += taken[line.line]
    returned = Return(
        sales_order_id=order.id,
        location_id=body.location_id,
        actor_id=call.caller.id,
        lines=[
            ReturnLine(line=line.line, item_id=line.item_id, quantity=taken[line.line])
            for line in lines
        ],
    )
    call.db.add(returned)
    await touch(call.db, order)
    movements = ledger.movements(
        "return",
        [(line.item_id, line.quantity) for line in returned.lines],
        location_id=returned.location_id,
        reference=f"return:{returned.id}",
    )
    await call.move(movements)
    return ReturnView.model_validate(returned)


async def _sales_order(call: Call, order_id: UUID) -> SalesOrder:
    query = select(SalesOrder).where(SalesOrder.id == order_id).with_for_update(key_share=True)
    order = await call.db.scalar(query)
    if order is None:
        raise Refusal("reference_unknown")
    ensure_status(order, "shipped")
    return order
