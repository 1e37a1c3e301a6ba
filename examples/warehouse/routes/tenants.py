"""
Tenants: for the administrator.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import StringConstraints
from sqlalchemy import select

from twh_platform.tenancy import TenantKind, TenantStatus

from ..models import TenantRecord, Tier
from ..problems import Refusal
from ..provisioning import NewUser, provision
from ..shapes import Body, View
from ..web import Call, operation

__all__ = ["change_tenant", "create_sandbox", "list_tenants"]

_SANDBOX_DAYS = 30

TenantId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


class NewSandbox(Body):
    """
    A tenant for trying things out; it ends after 30 days.
    """

    id: TenantId
    tier: Tier = Tier.FREE
    user: NewUser


class TenantChange(Body):
    """
    What becomes of a tenant.
    """

    status: Literal[TenantStatus.ACTIVE, TenantStatus.SUSPENDED, TenantStatus.DELETING]


class TenantView(View):
    """
    A tenant.
    """

    id: str
    tier: str
    status: str
    kind: str
    expires_at: datetime | None


class Tenants(View):
    """
    All tenants.
    """

    data: list[TenantView]


@operation("GET", "/tenants", access="administrator")
async def list_tenants(call: Call) -> Tenants:
    """
    List the tenants.
    """
    found = (await call.db.scalars(select(TenantRecord).order_by(TenantRecord.id))).all()
    return Tenants(data=[TenantView.model_validate(one) for one in found])


@operation(
    "POST",
    "/tenants",
    access="administrator",
    status=201,
    business="tenant.create",
    problems=("already_exists",),
)
async def create_sandbox(call: Call, body: NewSandbox) -> TenantView:
    """
    Make a sandbox and its first user.

    It is refused to everyone until the user is there.
    """
    record = TenantRecord(
        id=body.id,
        tier=body.tier,
        kind=TenantKind.SANDBOX,
        expires_at=call.services.settings.now() + timedelta(days=_SANDBOX_DAYS),
    )
    await provision(call.services, record, [body.user])
    return TenantView.model_validate(record)


@operation("PATCH", "/tenants/{id}", access="administrator", business="tenant.change")
async def change_tenant(call: Call, body: TenantChange) -> TenantView:
    """
    Suspend a tenant, serve it again, or begin to delete it.
    """
    record = await call.db.get(TenantRecord, call.request.path_params["id"], with_for_update=True)
    if record is None:
        raise Refusal("not_found")
    record.status = body.status
    await call.db.flush()
    return TenantView.model_validate(record)
