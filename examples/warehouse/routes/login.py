"""
Login: a password for a token.
"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import Field, StringConstraints
from sqlalchemy import Row, select

from twh_platform import Tenant, bind_tenant
from twh_platform.errors import TenantError

from ..auth import Role
from ..models import Password, User
from ..passwords import password_matches
from ..problems import Refusal
from ..services import Services
from ..shapes import Body, Email, View
from ..web import Call, operation

__all__ = ["login"]


class Credentials(Body):
    """
    Who logs in; without a tenant, the administrator.
    """

    tenant: Annotated[str, Field(max_length=100)] | None = None
    email: Email
    password: Annotated[str, StringConstraints(min_length=1, max_length=200)]


class TokenView(View):
    """
    A token for the `Authorization` header.
    """

    access_token: str
    token_type: str = "Bearer"  # noqa: S105 -- RFC 6750's word
    expires_in: int


@operation(
    "POST",
    "/auth/login",
    access="public",
    business="auth.login",
    problems=(
        "credentials_invalid",
        "backend_unavailable",
        "quota_exceeded",  # of the client's address: so many tries and no more
        "quota_store_unavailable",
    ),
)
async def login(call: Call, body: Credentials) -> TokenView:
    """
    Exchange a password for a token.

    Whatever is wrong, the answer is the same, and so is the work it takes.
    """
    await call.services.tokens.ready()
    if body.tenant is None:
        token = await _administrator(call.services, body)
    else:
        token = await _user(call, body, body.tenant)
    return TokenView(access_token=token, expires_in=int(call.services.settings.token_seconds))


async def _administrator(services: Services, body: Credentials) -> str:
    known = body.email == services.settings.administrator_email
    stored = services.settings.administrator_password_hash if known else None
    if not await password_matches(body.password, stored):
        raise Refusal("credentials_invalid")
    return services.tokens.for_administrator()


async def _user(call: Call, body: Credentials, tenant_id: str) -> str:
    services = call.services
    found = await call.in_time(_read_user(services, tenant_id, body.email))
    matches = await password_matches(body.password, found.hash if found else None)
    if found is None or not (matches and await _served(services, tenant_id)):
        raise Refusal("credentials_invalid")
    return services.tokens.for_user(tenant_id=tenant_id, user_id=found.id, role=Role(found.role))


async def _read_user(services: Services, tenant_id: str, email: str) -> Row[UUID, str, str] | None:
    query = select(User.id, User.role, Password.hash).where(User.email == email)
    query = query.join(Password, Password.user_id == User.id)
    try:
        # Bound to the name alone: a tenant that does not exist has no users.
        tenant = Tenant(id=tenant_id)
    except TenantError:
        return None
    with bind_tenant(tenant):
        async with services.login.begin() as db:
            return (await db.execute(query)).one_or_none()


async def _served(services: Services, tenant_id: str) -> bool:
    tenant = await services.directory.get(tenant_id)
    try:
        if tenant is not None:
            tenant.ensure_served(services.settings.now())
    except TenantError:
        return False
    return tenant is not None
