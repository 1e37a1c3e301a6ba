"""
Recalls: for the administrator, across all tenants.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints
from sqlalchemy import and_, func, select

from twh_platform.tenancy import administrator

from ..models import Item, StockLevel
from ..shapes import Body, Name, View
from ..web import Call, operation

__all__ = ["recall"]


class RecallOrder(Body):
    """
    What is called back, and why; the reason is told to those who watch over administrators.
    """

    sku: Name
    reason: Annotated[str, StringConstraints(max_length=1000)]


class HoldingView(View):
    """
    How much of the item a tenant has, at all its locations.
    """

    tenant_id: str
    name: str
    quantity: int


class RecallView(View):
    """
    Who has it; `access_id` is what the record of this access is found by.
    """

    access_id: str
    data: list[HoldingView]


@operation(
    "POST",
    "/admin/recalls",
    access="administrator",
    business="recall.find",
    problems=("reason_invalid",),
)
async def recall(call: Call, body: RecallOrder) -> RecallView:
    """
    Say which tenants have an item, and how much of it.

    It reads across tenants, so it asks for a reason.
    """
    level_of_item = and_(
        StockLevel.tenant_id == Item.tenant_id,  # no policy sees to it here
        StockLevel.item_id == Item.id,
    )
    holdings = (
        select(
            Item.tenant_id,
            Item.name,
            func.coalesce(func.sum(StockLevel.quantity), 0).label("quantity"),
        )
        .outerjoin(StockLevel, level_of_item)
        .where(Item.sku == body.sku)
        .group_by(Item.tenant_id, Item.name)
        .order_by(Item.tenant_id)
    )
    with administrator(actor=call.administrator, reason=body.reason) as entered:
        async with call.services.support.begin() as db:
            found = (await db.execute(holdings)).all()
    data = [HoldingView.model_validate(one) for one in found]
    return RecallView(access_id=entered.access_id, data=data)
