"""
Pages: a bounded number of rows, and a cursor for those that follow.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any, Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Select, literal, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from .problems import Refusal

__all__ = ["Page", "PageQuery", "read_page"]

V = TypeVar("V", bound=BaseModel)


class PageQuery(BaseModel):
    """
    Which page of a list.
    """

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(50, ge=1, le=100, description="How many rows at most.")
    cursor: str | None = Field(
        None, max_length=200, description="The `next_cursor` of the page before."
    )


class Page(BaseModel, Generic[V]):
    """
    A page of a list, oldest first.
    """

    data: list[V]
    next_cursor: str | None = Field(description="Null on the last page.")


async def read_page(
    db: AsyncSession,
    rows: Select[*tuple[Any, ...]],
    query: PageQuery,
    *,
    view: type[V],
    keys: tuple[InstrumentedAttribute[UUID], ...],
) -> Page[V]:
    """
    Read the page of *rows* that *query* asks for.

    Args:
        db: The session.

        rows: The whole list.

        query: Which page.

        view: What a row becomes.

        keys: The columns that order the list; together unique within a tenant.

    Raises:
        Refusal: With `cursor_invalid` for a cursor that is none.
    """
    if query.cursor is not None:
        after = _position(query.cursor, len(keys))
        rows = rows.where(tuple_(*keys) > tuple_(*map(literal, after)))
    # One row more than asked for tells whether there is another page.
    found = (await db.execute(rows.order_by(*keys).limit(query.limit + 1))).all()
    shown = [row[0] if len(row) == 1 else row for row in found[: query.limit]]
    data = [view.model_validate(row, from_attributes=True) for row in shown]
    names = [key.key for key in keys]
    last = [str(getattr(shown[-1], str(name))) for name in names] if shown else []
    return Page(data=data, next_cursor=_cursor(last) if len(found) > len(shown) else None)


def _cursor(position: list[str]) -> str:
    return urlsafe_b64encode(json.dumps(position).encode()).decode()


def _position(cursor: str, length: int) -> list[UUID]:
    try:
        position = [UUID(one) for one in json.loads(urlsafe_b64decode(cursor.encode("ascii")))]
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise Refusal("cursor_invalid") from None
    if len(position) != length:
        raise Refusal("cursor_invalid")
    return position
