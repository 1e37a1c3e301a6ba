"""
Reports.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import BigInteger, cast, func, select

from ..auth import Role
from ..models import Item, StockLevel
from ..paging import Page, PageQuery, read_page
from ..shapes import View
from ..web import Call, operation

__all__ = ["low_stock"]


class LowStockView(View):
    """
    An item of which there is no more than its reorder point.
    """

    id: UUID
    sku: str
    name: str
    reorder_point: int
    quantity: int


@operation("GET", "/reports/low_stock", access=Role.VIEWER, business="report.low_stock")
async def low_stock(call: Call, query: PageQuery) -> Page[LowStockView]:
    """
    List the items to reorder, with what all locations have of them together.
    """
    quantity = func.coalesce(
        select(cast(func.sum(StockLevel.quantity), BigInteger))
        .where(StockLevel.item_id == Item.id)
        .scalar_subquery(),
        0,
    )
    rows = select(
        Item.id, Item.sku, Item.name, Item.reorder_point, quantity.label("quantity")
    ).where(quantity <= Item.reorder_point)
    return await read_page(call.db, rows, query, view=LowStockView, keys=(Item.id,))
