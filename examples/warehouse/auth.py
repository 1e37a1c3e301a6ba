"""
Tokens: who is given one, and what it lets its bearer do.

A user belongs to a tenant.  The token names the tenant and the role, and is
meant for the audience `warehouse`.  The administrator looks after the tenants
and belongs to none.  That token is meant for another audience, so neither is
taken for the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

import jwt
from starlette.requests import Request
from starlette.types import Scope

from twh_platform.errors import CredentialsError
from twh_platform.tenancy import Agreement, HeaderResolver, resolution_of
from twh_platform.tenancy.jwt import BearerVerifier, JWTResolver

from .problems import Refusal
from .settings import Settings

__all__ = ["Caller", "Role", "Tokens"]

_ALGORITHM = "HS256"
_ISSUER = "warehouse"
_USERS = "warehouse"
_ADMINISTRATOR = "warehouse-administrator"


class Role(StrEnum):
    """
    What a user may do; each role may do what those above it in this list may.
    """

    VIEWER = "viewer"
    CLERK = "clerk"
    MANAGER = "manager"
    ADMIN = "admin"

    def covers(self, role: Role) -> bool:
        """
        Whether this role may do what *role* may.
        """
        ranks = list(Role)
        return ranks.index(self) >= ranks.index(role)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """
    The user of a request, as the token says.
    """

    id: UUID
    role: Role

    @classmethod
    def of(cls, request: Request) -> Caller:
        """
        The caller of a request that `TenantMiddleware` has let in.
        """
        claim = resolution_of(request.scope).claim
        try:
            return cls(id=UUID(claim.user_id), role=Role(claim.claims["role"]))
        except (KeyError, AttributeError, TypeError, ValueError):
            raise Refusal("credentials_invalid") from None

    def ensure(self, role: Role) -> None:
        """
        Refuse a caller whose role is below *role*.
        """
        if not self.role.covers(role):
            raise Refusal("role_insufficient", f"This takes the role {role}.")


class Tokens:
    """
    Issues tokens and says how they are read.

    Args:
        settings: The secret, the clock and how long a token lasts.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._read: dict[str, Any] = {
            "keys": settings.secret,
            "algorithms": [_ALGORITHM],
            "issuer": _ISSUER,
            "clock": lambda: settings.now().timestamp(),
        }
        self._administrators = BearerVerifier(audience=_ADMINISTRATOR, **self._read)

    def resolver(self) -> Agreement:
        """
        How the tenant of a request is found.

        The token decides.  `X-Tenant-ID` may be sent too, and must then agree.
        """
        return Agreement(JWTResolver(audience=_USERS, **self._read), HeaderResolver())

    def for_user(self, *, tenant_id: str, user_id: UUID, role: Role) -> str:
        """
        A token for a user of a tenant.
        """
        return self._issue(_USERS, sub=str(user_id), tenant_id=tenant_id, role=role)

    def for_administrator(self) -> str:
        """
        A token for the administrator.
        """
        return self._issue(_ADMINISTRATOR, sub=self._settings.administrator_email)

    async def administrator_of(self, scope: Scope) -> str:
        """
        The address of the administrator who asks; a request of anybody else is refused.

        Raises:
            CredentialsError: If it is anybody else's.
        """
        claims = await self._administrators.verify(scope)
        if claims is None:
            raise CredentialsError("the administrator's token is missing")
        return str(claims["sub"])

    def _issue(self, audience: str, **claims: Any) -> str:
        now = self._settings.now()
        expiry = now + timedelta(seconds=self._settings.token_seconds)
        payload = {"iss": _ISSUER, "aud": audience, "iat": now, "exp": expiry, **claims}
        return jwt.encode(payload, self._settings.secret, algorithm=_ALGORITHM)
