"""
New tenants and their users.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

from pydantic import StringConstraints
from sqlalchemy import insert

from twh_platform import Tenant, bind_tenant
from twh_platform.tenancy import TenantStatus

from .auth import Role
from .models import Password, TenantRecord, User
from .passwords import hash_password
from .services import Services
from .shapes import Body, Email, Name

__all__ = ["NewUser", "provision"]


class NewUser(Body):
    """
    A user to add, by default one who may do everything in the tenant.
    """

    email: Email
    name: Name
    password: Annotated[str, StringConstraints(min_length=12, max_length=200)]
    role: Role = Role.ADMIN


async def provision(
    services: Services,
    record: TenantRecord,
    users: Sequence[NewUser],
    *,
    status: TenantStatus = TenantStatus.ACTIVE,
) -> None:
    """
    Make a tenant and its users.

    The administrator adds the tenant as `provisioning`, so it is refused to
    all.  That login sees no users, so they are added as the application, bound to
    the new tenant.  If that fails, the tenant stays `provisioning`.

    Args:
        services: What it stands on.

        record: The tenant; its status is set here.

        users: Its first users.

        status: What becomes of it in the end.
    """
    hashes = await asyncio.gather(*(hash_password(user.password) for user in users))
    async with services.administrator.begin() as db:
        record.status = TenantStatus.PROVISIONING
        db.add(record)
    rows = [User(email=user.email, name=user.name, role=user.role) for user in users]
    with bind_tenant(Tenant(id=record.id)):
        async with services.app.begin() as db:
            db.add_all(rows)
            await db.flush()
            # Inline, so that nothing is read back: this login may only write here.
            passwords = [
                {"user_id": row.id, "hash": one} for row, one in zip(rows, hashes, strict=True)
            ]
            await db.execute(insert(Password).inline(), passwords)
    async with services.administrator.begin() as db:
        db.add(record)
        record.status = status
