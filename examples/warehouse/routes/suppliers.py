"""
Suppliers: where their money goes is sealed, and found without being opened.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import Field, StringConstraints
from sqlalchemy import select

from ..auth import Role
from ..bank_accounts import bank_account
from ..models import Supplier
from ..paging import Page, PageQuery, read_page
from ..shapes import Body, Name, View
from ..web import Call, operation

__all__ = ["change_supplier", "create_supplier", "get_supplier", "list_suppliers"]

Account = Annotated[str, StringConstraints(min_length=1, max_length=100)]


class NewSupplier(Body):
    """
    A supplier to add.
    """

    name: Name
    bank_account: Account


class SupplierChange(Body):
    """
    Fields to change; those left out or null stay.
    """

    name: Name | None = None
    bank_account: Account | None = None


class SupplierQuery(PageQuery):
    """
    Which page, and of which suppliers.
    """

    bank_account: Account | None = Field(None, description="Only those with this account.")


class SupplierView(View):
    """
    A supplier, with the end of the account.
    """

    id: UUID
    name: str
    bank_account_last4: str
    version: int
    created_at: datetime
    updated_at: datetime


class OpenSupplierView(SupplierView):
    """
    A supplier; managers see the whole account.
    """

    bank_account: str | None = Field(None, exclude_if=lambda account: account is None)


@operation("GET", "/suppliers", access=Role.VIEWER, sealed=True, problems=("bank_account_invalid",))
async def list_suppliers(call: Call, query: SupplierQuery) -> Page[SupplierView]:
    """
    List the suppliers, or those with an account.

    The account is looked for by its blind index.
    """
    rows = select(Supplier)
    if query.bank_account is not None:
        rows = rows.where(Supplier.bank_account_index == bank_account(query.bank_account))
    return await read_page(call.db, rows, query, view=SupplierView, keys=(Supplier.id,))


# It takes no idempotency key: the digest of the body, which is kept with that,
# would let anybody who reads the table try accounts.
@operation(
    "POST",
    "/suppliers",
    access=Role.MANAGER,
    status=201,
    sealed=True,
    business="supplier.create",
    problems=("bank_account_invalid",),
)
async def create_supplier(call: Call, body: NewSupplier) -> SupplierView:
    """
    Add a supplier.
    """
    supplier = Supplier(name=body.name, bank_account=bank_account(body.bank_account))
    call.db.add(supplier)
    await call.db.flush()
    return SupplierView.model_validate(supplier)


@operation("GET", "/suppliers/{id:uuid}", access=Role.VIEWER, sealed=True, business="supplier.open")
async def get_supplier(call: Call) -> OpenSupplierView:
    """
    Show a supplier; the whole account to managers only.
    """
    view = OpenSupplierView.model_validate(await call.find(Supplier))
    return view if call.caller.role.covers(Role.MANAGER) else _closed(view)


@operation(
    "PATCH",
    "/suppliers/{id:uuid}",
    access=Role.MANAGER,
    sealed=True,
    business="supplier.change",
    problems=("bank_account_invalid",),
)
async def change_supplier(call: Call, body: SupplierChange) -> OpenSupplierView:
    """
    Change a supplier.
    """
    supplier = await call.find(Supplier, lock=True)
    if body.bank_account is not None:
        body = body.model_copy(update={"bank_account": bank_account(body.bank_account)})
    await call.change(supplier, body)
    return OpenSupplierView.model_validate(supplier)


def _closed(view: OpenSupplierView) -> OpenSupplierView:
    return view.model_copy(update={"bank_account": None})
