"""
Items: what is stocked.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import select

from ..auth import Role
from ..models import Item
from ..paging import Page, PageQuery, read_page
from ..shapes import Body, Minor, Name, View
from ..web import Call, operation

__all__ = ["change_item", "create_item", "get_item", "list_items"]


class NewItem(Body):
    """
    An item to add.
    """

    sku: Name
    name: Name
    unit_price_minor: Minor
    reorder_point: Minor = 0


class ItemChange(Body):
    """
    Fields to change; those left out or null stay.
    """

    name: Name | None = None
    unit_price_minor: Minor | None = None
    reorder_point: Minor | None = None


class ItemView(View):
    """
    An item.
    """

    id: UUID
    sku: str
    name: str
    unit_price_minor: int
    reorder_point: int
    version: int
    created_at: datetime
    updated_at: datetime


@operation("GET", "/items", access=Role.VIEWER)
async def list_items(call: Call, query: PageQuery) -> Page[ItemView]:
    """
    List the items.
    """
    return await read_page(call.db, select(Item), query, view=ItemView, keys=(Item.id,))


@operation(
    "POST",
    "/items",
    access=Role.MANAGER,
    status=201,
    idempotent=True,
    business="item.create",
    problems=("already_exists",),
)
async def create_item(call: Call, body: NewItem) -> ItemView:
    """
    Add an item; its `sku` is unique.
    """
    await call.take("items")
    item = Item(**body.model_dump())
    call.db.add(item)
    await call.db.flush()
    return ItemView.model_validate(item)


@operation("GET", "/items/{id:uuid}", access=Role.VIEWER)
async def get_item(call: Call) -> ItemView:
    """
    Show an item.
    """
    return ItemView.model_validate(await call.find(Item))


@operation("PATCH", "/items/{id:uuid}", access=Role.MANAGER, business="item.change")
async def change_item(call: Call, body: ItemChange) -> ItemView:
    """
    Change an item.
    """
    item = await call.find(Item, lock=True)
    await call.change(item, body)
    return ItemView.model_validate(item)
