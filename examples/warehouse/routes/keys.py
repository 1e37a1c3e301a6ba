"""
Keys of tenants: for the administrator, who sees none of them.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

from twh_platform.tenancy import administrator

from ..models import TenantRecord
from ..problems import Refusal
from ..shapes import Body, View
from ..web import Call, operation

__all__ = ["rotate_keys", "show_keys", "shred_keys"]


class KeyVersionView(View):
    """
    A version of the master key, and how many data keys it wraps.
    """

    version: int
    data_keys: int


class KeysView(View):
    """
    Which keys of a tenant are in use.
    """

    tenant: str
    provider: str
    versions: list[KeyVersionView]
    shredded: bool


class RotationView(View):
    """
    The newest version, and what became of the data keys.

    `remaining` are wrapped by an older one still: ask again.
    """

    tenant: str
    version: int
    rewrapped: int
    failed: int
    remaining: int


class ShredOrder(Body):
    """
    Why, and the tenant's id once more; there is no way back.
    """

    reason: Annotated[str, StringConstraints(max_length=1000)]
    confirm: Annotated[str, StringConstraints(max_length=100)]


class ShredView(View):
    """
    What was destroyed; `receipt` is a text that `twh-platform kms receipt` verifies.
    """

    tenant: str
    access_id: str
    state: str
    data_keys: int
    seconds: float
    receipt: str


@operation("GET", "/admin/keys/{tenant_id}", access="administrator")
async def show_keys(call: Call) -> KeysView:
    """
    Show which versions of a tenant's master key are in use.
    """
    tenant_id = await _tenant(call)
    uses, shredded = await call.services.keys.uses(tenant_id)
    versions = [KeyVersionView(version=one.key_version, data_keys=one.data_keys) for one in uses]
    return KeysView(
        tenant=tenant_id,
        provider=call.services.keys.service.name,
        versions=versions,
        shredded=shredded,
    )


@operation(
    "POST",
    "/admin/keys/{tenant_id}/rotate",
    access="administrator",
    business="keys.rotate",
    problems=("keys_missing", "tenant_shredded"),
)
async def rotate_keys(call: Call) -> RotationView:
    """
    Give a tenant's master key a new version, and wrap its data keys by it.

    No sealed value is touched, and requests go on meanwhile.
    """
    tenant_id = await _tenant(call)
    version, report, remaining = await call.services.keys.rotate(tenant_id)
    return RotationView(
        tenant=tenant_id,
        version=version,
        rewrapped=report.rewrapped,
        failed=sum(report.failed.values()),
        remaining=remaining,
    )


@operation(
    "POST",
    "/admin/keys/{tenant_id}/shred",
    access="administrator",
    business="keys.shred",
    problems=("confirmation_wrong", "keys_missing", "reason_invalid"),
)
async def shred_keys(call: Call, body: ShredOrder) -> ShredView:
    """
    Destroy a tenant's keys for good: nothing that they sealed opens again.

    Sent again, it proves the same once more.
    """
    tenant_id = await _tenant(call)
    if body.confirm != tenant_id:
        raise Refusal("confirmation_wrong")
    with administrator(actor=call.administrator, reason=body.reason) as entered:
        receipt, text = await call.services.keys.shred(tenant_id)
    return ShredView(
        tenant=tenant_id,
        access_id=entered.access_id,
        state=receipt.state,
        data_keys=receipt.data_keys,
        seconds=receipt.seconds,
        receipt=text,
    )


async def _tenant(call: Call) -> str:
    record = await call.db.get(TenantRecord, call.request.path_params["tenant_id"])
    if record is None:
        raise Refusal("not_found")
    return record.id
