"""
Locations: where stock is.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import select

from ..auth import Role
from ..models import Location
from ..paging import Page, PageQuery, read_page
from ..shapes import Body, Name, View
from ..web import Call, operation

__all__ = ["create_location", "get_location", "list_locations"]


class NewLocation(Body):
    """
    A location to add.
    """

    code: Name
    name: Name


class LocationView(View):
    """
    A location.
    """

    id: UUID
    code: str
    name: str
    created_at: datetime


@operation("GET", "/locations", access=Role.VIEWER)
async def list_locations(call: Call, query: PageQuery) -> Page[LocationView]:
    """
    List the locations.
    """
    return await read_page(call.db, select(Location), query, view=LocationView, keys=(Location.id,))


@operation(
    "POST",
    "/locations",
    access=Role.MANAGER,
    status=201,
    idempotent=True,
    business="location.create",
    problems=("already_exists",),
)
async def create_location(call: Call, body: NewLocation) -> LocationView:
    """
    Add a location; its `code` is unique.
    """
    await call.take("locations")
    location = Location(**body.model_dump())
    call.db.add(location)
    await call.db.flush()
    return LocationView.model_validate(location)


@operation("GET", "/locations/{id:uuid}", access=Role.VIEWER)
async def get_location(call: Call) -> LocationView:
    """
    Show a location.
    """
    return LocationView.model_validate(await call.find(Location))
