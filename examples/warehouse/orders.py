"""
What all orders have in common: numbered lines, a status, parts of lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm.attributes import flag_modified

from .models import PurchaseOrder, SalesOrder, TenantRow, Transfer
from .problems import Refusal
from .shapes import Body, Line, Quantity

__all__ = ["Part", "ensure_status", "numbered", "take_parts", "touch"]

L = TypeVar("L", bound=TenantRow)
Order = PurchaseOrder | SalesOrder | Transfer


class Part(Body):
    """
    A quantity of one line of an order.
    """

    line: Line
    quantity: Quantity


def numbered(kind: type[L], lines: Sequence[BaseModel]) -> list[L]:
    """
    Make the lines of a new order, numbered from 1.
    """
    return [kind(line=number, **line.model_dump()) for number, line in enumerate(lines, start=1)]


def ensure_status(order: Order, *allowed: str) -> None:
    """
    Refuse unless the order is in one of these states.
    """
    if order.status not in allowed:
        raise Refusal("order_closed", f"The order is {order.status.replace('_', ' ')}.")


def take_parts(left: Mapping[int, int], parts: Sequence[Part]) -> dict[int, int]:
    """
    How much is taken of each line.

    Args:
        left: What each line has left.

        parts: What is asked for; nothing asked for means all that is left.

    Raises:
        Refusal: If a line has less, or does not exist.
    """
    if not parts:
        return {line: quantity for line, quantity in left.items() if quantity}
    taken: dict[int, int] = {}
    for part in parts:
        taken[part.line] = taken.get(part.line, 0) + part.quantity
    if any(quantity > left.get(line, 0) for line, quantity in taken.items()):
        raise Refusal("quantity_exceeded")
    return taken


async def touch(db: AsyncSession, order: Order) -> None:
    """
    Write the order, and count its version up although perhaps only lines changed.
    """
    flag_modified(order, "status")
    await db.flush()
