"""
The ledger and the levels: the only file that changes stock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from .models import StockLevel, StockMovement
from .problems import Refusal

__all__ = ["Movement", "movements", "record"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """
    One line for the ledger: into a location if *quantity* is above zero, else out of it.
    """

    kind: str
    item_id: UUID
    location_id: UUID
    quantity: int
    reference: str


def movements(
    kind: str, quantities: Iterable[tuple[UUID, int]], *, location_id: UUID, reference: str
) -> list[Movement]:
    """
    One movement at the same location for each item and its quantity.
    """
    return [
        Movement(
            kind=kind,
            item_id=item_id,
            location_id=location_id,
            quantity=quantity,
            reference=reference,
        )
        for item_id, quantity in quantities
    ]


async def record(
    db: AsyncSession, actor_id: UUID, movements: Iterable[Movement]
) -> list[StockMovement]:
    """
    Write movements to the ledger and change the levels, in the caller's transaction.

    Each level is changed by a statement that locks its row, so what others do
    at the same moment waits and then counts.  All or nothing is moved.

    Args:
        db: The session.

        actor_id: The user who does it.

        movements: What moves.

    Raises:
        Refusal: With `stock_short` and what is missing, if a level would fall
            below zero.
    """
    # The same order everywhere, so that two transactions cannot wait for each other.
    ordered = sorted(movements, key=lambda one: (one.item_id, one.location_id))
    lines = [
        StockMovement(
            kind=one.kind,
            item_id=one.item_id,
            location_id=one.location_id,
            quantity=one.quantity,
            reference=one.reference,
            actor_id=actor_id,
        )
        for one in ordered
    ]
    db.add_all(lines)
    await db.flush()
    short = [one for one in ordered if not await _change_level(db, one)]
    if short:
        raise Refusal("stock_short", lines=[await _shortage(db, one) for one in short])
    return lines


async def _change_level(db: AsyncSession, movement: Movement) -> bool:
    """
    Change one level, unless it would fall below zero.
    """
    if movement.quantity > 0:
        await _add(db, movement)
        return True
    taken = await db.scalar(
        update(StockLevel)
        .where(
            StockLevel.item_id == movement.item_id,
            StockLevel.location_id == movement.location_id,
            StockLevel.quantity >= -movement.quantity,
        )
        .values(quantity=StockLevel.quantity + movement.quantity)
        .returning(StockLevel.quantity)
        .execution_options(synchronize_session=False)
    )
    return taken is not None


async def _add(db: AsyncSession, movement: Movement) -> None:
    row = insert(StockLevel).values(
        item_id=movement.item_id,
        location_id=movement.location_id,
        quantity=movement.quantity,
    )
    await db.execute(
        row.on_conflict_do_update(
            index_elements=["tenant_id", "item_id", "location_id"],
            set_={"quantity": StockLevel.quantity + row.excluded.quantity},
        )
    )


async def _shortage(db: AsyncSession, movement: Movement) -> dict[str, str | int]:
    level = select(StockLevel.quantity).filter_by(
        item_id=movement.item_id, location_id=movement.location_id
    )
    return {
        "item_id": str(movement.item_id),
        "location_id": str(movement.location_id),
        "wanted": -movement.quantity,
        "available": await db.scalar(level) or 0,
    }
