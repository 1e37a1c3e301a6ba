"""
Stock: what is where, and why.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, Field
from sqlalchemy import select

from .. import ledger
from ..auth import Role
from ..models import StockLevel, StockMovement
from ..paging import Page, PageQuery, read_page
from ..shapes import Body, Name, View
from ..web import Call, operation

__all__ = ["adjust_stock", "list_movements", "list_stock"]

_LIMIT = 10**9


def _something(quantity: int) -> int:
    if quantity == 0:
        message = "an adjustment by nothing"
        raise ValueError(message)
    return quantity


class StockQuery(PageQuery):
    """
    Which part of the stock.
    """

    item_id: UUID | None = None
    location_id: UUID | None = None


class LevelView(View):
    """
    How much of an item is at a location.
    """

    item_id: UUID
    location_id: UUID
    quantity: int


class MovementView(View):
    """
    A line of the ledger.
    """

    id: UUID
    kind: str
    item_id: UUID
    location_id: UUID
    quantity: int
    reference: str
    actor_id: UUID
    created_at: datetime


class Adjustment(Body):
    """
    A correction after counting: above zero for more, below for less.
    """

    item_id: UUID
    location_id: UUID
    quantity: Annotated[
        int,
        Field(ge=-_LIMIT, le=_LIMIT, json_schema_extra={"not": {"const": 0}}),
        AfterValidator(_something),
    ]
    reason: Name


@operation("GET", "/stock", access=Role.VIEWER)
async def list_stock(call: Call, query: StockQuery) -> Page[LevelView]:
    """
    List the levels, of one item or location if asked.
    """
    chosen = query.model_dump(include={"item_id", "location_id"}, exclude_none=True)
    return await read_page(
        call.db,
        select(StockLevel).filter_by(**chosen),
        query,
        view=LevelView,
        keys=(StockLevel.item_id, StockLevel.location_id),
    )


@operation("GET", "/stock/movements", access=Role.VIEWER)
async def list_movements(call: Call, query: StockQuery) -> Page[MovementView]:
    """
    List the ledger, of one item or location if asked.
    """
    chosen = query.model_dump(include={"item_id", "location_id"}, exclude_none=True)
    rows = select(StockMovement).filter_by(**chosen)
    return await read_page(call.db, rows, query, view=MovementView, keys=(StockMovement.id,))


@operation(
    "POST",
    "/stock/adjust",
    access=Role.CLERK,
    status=201,
    idempotent=True,
    business="stock.adjust",
    problems=("stock_short", "reference_unknown"),
)
async def adjust_stock(call: Call, body: Adjustment) -> MovementView:
    """
    Correct the level of an item at a location.
    """
    movement = ledger.Movement(
        kind="adjustment",
        item_id=body.item_id,
        location_id=body.location_id,
        quantity=body.quantity,
        reference=body.reason,
    )
    [line] = await call.move([movement])
    return MovementView.model_validate(line)
