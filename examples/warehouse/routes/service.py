"""
The service about itself.
"""

from __future__ import annotations

from typing import Any

from pydantic import RootModel
from sqlalchemy import text

from ..services import Services
from ..shapes import View
from ..web import Call, operation

__all__ = ["health", "openapi"]


class HealthView(View):
    """
    The service can do its work.
    """

    status: str = "ok"


class Document(RootModel[dict[str, Any]]):
    """
    An OpenAPI document.
    """


@operation("GET", "/healthz", access="public", problems=("backend_unavailable",))
async def health(call: Call) -> HealthView:
    """
    Ask the database, through every login that requests need.
    """
    await call.in_time(_ask(call.services))
    return HealthView()


async def _ask(services: Services) -> None:
    for sessions in (services.app, services.login):
        async with sessions.begin() as db:
            await db.execute(text("SELECT 1"))


@operation("GET", "/openapi.json", access="public")
async def openapi(call: Call) -> Document:
    """
    Describe every operation.
    """
    return Document(call.request.app.state.openapi)
