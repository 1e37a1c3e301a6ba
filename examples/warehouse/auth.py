"""
Tokens: who is given one, and what it lets its bearer do.

A user's token names the tenant and the role, and is meant for the audience
`warehouse`.  An administrator's names no tenant, and is meant for another
audience, so neither is taken for the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import Any
from uuid import UUID

import jwt
from starlette.requests import Request

from twh_platform.tenancy import Agreement, HeaderResolver, resolution_of
from twh_platform.tenancy.jwt import JWTResolver

from .problems import Refusal
from .settings import Settings

__all__ = ["Caller", "Role", "Tokens"]

_ALGORITHM = "HS256"
_ISSUER = "warehouse"
_USERS = "warehouse"
_PLATFORM = "warehouse-platform"


class Role(IntEnum):
    """
    What a user may do; each role may do what those below it may.
    """

    VIEWER = 1
    CLERK = 2
    MANAGER = 3
    ADMIN = 4


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
            return cls(id=UUID(claim.user_id), role=Role[claim.claims["role"].upper()])
        except (KeyError, AttributeError, TypeError, ValueError):
            raise Refusal("credentials_invalid") from None

    def ensure(self, role: Role) -> None:
        """
        Refuse a caller whose role is below *role*.
        """
        if self.role < role:
            raise Refusal("role_insufficient", f"This takes the role {role.name.lower()}.")


class Tokens:
    """
    Issues tokens and says how they are read.

    Args:
        settings: The secret, the clock and how long a token lasts.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def resolver(self) -> Agreement:
        """
        How the tenant of a request is found.

        The token decides.  `X-Tenant-ID` may be sent too, and must then agree.
        """
        token = JWTResolver(
            keys=self._settings.secret,
            algorithms=[_ALGORITHM],
            audience=_USERS,
            issuer=_ISSUER,
            clock=lambda: self._settings.now().timestamp(),
        )
        return Agreement(token, HeaderResolver())

    def for_user(self, *, tenant_id: str, user_id: UUID, role: str) -> str:
        """
        A token for a user of a tenant.
        """
        return self._issue(_USERS, sub=str(user_id), tenant_id=tenant_id, role=role)

    def for_administrator(self) -> str:
        """
        A token for the platform's administrator.
        """
        return self._issue(_PLATFORM, sub=self._settings.administrator)

    def ensure_administrator(self, request: Request) -> None:
        """
        Refuse a request that has no administrator's token.
        """
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        try:
            claims = jwt.decode(
                token,
                self._settings.secret,
                algorithms=[_ALGORITHM],
                audience=_PLATFORM,
                issuer=_ISSUER,
                options={"require": ["exp", "aud", "iss", "sub"], "verify_exp": False},
            )
        except jwt.PyJWTError:
            claims = {"exp": 0}
        if scheme.lower() != "bearer" or claims["exp"] <= self._settings.now().timestamp():
            raise Refusal("credentials_invalid", headers={"www-authenticate": "Bearer"})

    def _issue(self, audience: str, **claims: Any) -> str:
        now = self._settings.now()
        expiry = now + timedelta(seconds=self._settings.token_seconds)
        payload = {"iss": _ISSUER, "aud": audience, "iat": now, "exp": expiry, **claims}
        return jwt.encode(payload, self._settings.secret, algorithm=_ALGORITHM)
