"""
Transfers: goods that change their location, and are in transit in between.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from pydantic import Field, model_validator
from sqlalchemy import select

from .. import ledger
from ..auth import Role
from ..models import Transfer, TransferLine
from ..orders import ensure_status, numbered, touch
from ..paging import Page, PageQuery, read_page
from ..shapes import Body, Quantity, View
from ..web import Call, operation

__all__ = ["create_transfer", "get_transfer", "list_transfers", "receive_transfer"]


class NewTransferLine(Body):
    """
    One item to move.
    """

    item_id: UUID
    quantity: Quantity


class NewTransfer(Body):
    """
    Goods to send from one location to another.
    """

    from_location_id: UUID
    to_location_id: UUID
    lines: Annotated[list[NewTransferLine], Field(min_length=1, max_length=100)]

    @model_validator(mode="after")
    def ensure_it_moves(self) -> Self:
        """
        Refuse a transfer to where the goods are.
        """
        if self.from_location_id == self.to_location_id:
            message = "the two locations are the same"
            raise ValueError(message)
        return self


class TransferLineView(View):
    """
    How much of one item is moved.
    """

    line: int
    item_id: UUID
    quantity: int


class TransferView(View):
    """
    A transfer.
    """

    id: UUID
    from_location_id: UUID
    to_location_id: UUID
    status: str
    lines: list[TransferLineView]
    version: int
    created_at: datetime
    updated_at: datetime


@operation("GET", "/transfers", access=Role.VIEWER)
async def list_transfers(call: Call, query: PageQuery) -> Page[TransferView]:
    """
    List the transfers.
    """
    rows = select(Transfer)
    return await read_page(call.db, rows, query, view=TransferView, keys=(Transfer.id,))


@operation(
    "POST",
    "/transfers",
    access=Role.CLERK,
    status=201,
    idempotent=True,
    business="transfer.create",
    problems=("stock_short", "reference_unknown"),
)
async def create_transfer(call: Call, body: NewTransfer) -> TransferView:
    """
    Send goods off; they leave the first location now.
    """
    transfer = Transfer(
        from_location_id=body.from_location_id,
        to_location_id=body.to_location_id,
        status="in_transit",
        actor_id=call.caller.id,
        lines=numbered(TransferLine, body.lines),
    )
    call.db.add(transfer)
    await call.db.flush()
    await _move(call, transfer, "transfer_out", transfer.from_location_id, -1)
    call.count(call.services.telemetry.orders.labels("transfer", "created"))
    return TransferView.model_validate(transfer)


@operation("GET", "/transfers/{id:uuid}", access=Role.VIEWER)
async def get_transfer(call: Call) -> TransferView:
    """
    Show a transfer.
    """
    return TransferView.model_validate(await call.find(Transfer))


@operation(
    "POST",
    "/transfers/{id:uuid}/receive",
    access=Role.CLERK,
    idempotent=True,
    business="transfer.receive",
    problems=("order_closed",),
)
async def receive_transfer(call: Call) -> TransferView:
    """
    Take the goods in at the second location.
    """
    transfer = await call.find(Transfer, lock=True)
    ensure_status(transfer, "in_transit")
    await _move(call, transfer, "transfer_in", transfer.to_location_id, 1)
    transfer.status = "received"
    await touch(call.db, transfer)
    call.count(call.services.telemetry.orders.labels("transfer", transfer.status))
    return TransferView.model_validate(transfer)


async def _move(
    call: Call, transfer: Transfer, kind: str, location_id: UUID, direction: int
) -> None:
    movements = ledger.movements(
        kind,
        [(line.item_id, direction * line.quantity) for line in transfer.lines],
        location_id=location_id,
        reference=f"transfer:{transfer.id}",
    )
    await call.move(movements)
