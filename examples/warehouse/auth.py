"""
Tokens: who is given one, and what it lets its bearer do.

A user belongs to a tenant.  The token names the tenant and the role, and is
meant for the audience `warehouse`.  The administrator looks after the tenants
and belongs to none.  That token is meant for another audience, so neither is
taken for the other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from time import monotonic
from typing import Any, TypeVar
from uuid import UUID

import jwt
from starlette.requests import Request
from starlette.types import Scope

from twh_platform.errors import BackendUnavailableError, CredentialsError, SecretError
from twh_platform.kms import platform_owner
from twh_platform.kms.secrets import SecretValue
from twh_platform.tenancy import Agreement, HeaderResolver, TenantClaim, resolution_of
from twh_platform.tenancy.jwt import BearerVerifier, JWTResolver

from .problems import Refusal
from .settings import Settings
from .vault import TOKENS, Vault

__all__ = ["Caller", "Role", "Tokens"]

_ALGORITHM = "HS256"
_ISSUER = "warehouse"
_USERS = "warehouse"
_ADMINISTRATOR = "warehouse-administrator"
_LOOK_EVERY = 1.0  # second, so that forged tokens do not keep the vault busy

T = TypeVar("T")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Readers:
    """
    What reads the tokens of all secrets that are accepted now.
    """

    versions: tuple[int, ...]
    users: JWTResolver
    administrators: BearerVerifier


class Tokens:
    """
    Issues tokens and says how they are read.

    Tokens are signed with the current version of a secret, and read with every
    version that is accepted: after a rotation also the one before, until its
    overlap ends or it is revoked.

    Args:
        settings: The clock and how long a token lasts.

        vault: Where the secret is; opened here if it is left out.
    """

    def __init__(self, settings: Settings, vault: Vault | None = None) -> None:
        self._settings = settings
        self._vault = vault or Vault.of(settings)
        self._readers: _Readers | None = None
        self._newest: SecretValue | None = None
        self._until: datetime | None = None
        self._look_at = 0.0

    def resolver(self) -> Agreement:
        """
        How the tenant of a request is found.

        The token decides.  `X-Tenant-ID` may be sent too, and must then agree.
        """
        return Agreement(self, HeaderResolver())

    async def resolve(self, scope: Scope) -> TenantClaim | None:
        """
        What the token of a request says, if it has one.
        """
        return await self._asked(lambda readers: readers.users.resolve(scope))

    def for_user(self, *, tenant_id: str, user_id: UUID, role: Role) -> str:
        """
        A token for a user of a tenant; in an event loop, `ready` comes before.
        """
        return self._issue(_USERS, sub=str(user_id), tenant_id=tenant_id, role=role)

    def for_administrator(self) -> str:
        """
        A token for the administrator; in an event loop, `ready` comes before.
        """
        return self._issue(_ADMINISTRATOR, sub=self._settings.administrator_email)

    async def administrator_of(self, scope: Scope) -> str:
        """
        The address of the administrator who asks; a request of anybody else is refused.

        Raises:
            CredentialsError: If it is anybody else's.
        """
        claims = await self._asked(lambda readers: readers.administrators.verify(scope))
        if claims is None:
            raise CredentialsError("the administrator's token is missing")
        return str(claims["sub"])

    async def ready(self) -> _Readers:
        """
        Have the secret at hand that tokens are signed and read with.

        Raises:
            BackendUnavailableError: If it cannot be had.
        """
        with platform_owner():
            newest = self._vault.secrets.warm(TOKENS)
            if self._readers is None or newest is None or newest is not self._newest:
                return await self._read()
        if self._until is not None and self._settings.now() >= self._until:
            return await self._read()
        return self._readers

    async def _asked(self, ask: Callable[[_Readers], Awaitable[T]]) -> T:
        readers = await self.ready()
        try:
            return await ask(readers)
        except CredentialsError as error:
            # Another instance may have rotated the secret a moment ago.
            if error.code != "token_signature" or monotonic() < self._look_at:
                raise
            self._look_at = monotonic() + _LOOK_EVERY
            with platform_owner():
                self._vault.secrets.forget(TOKENS)
        return await ask(await self._read())

    async def _read(self) -> _Readers:
        try:
            with platform_owner():
                newest = await self._vault.reader.get(TOKENS)
                accepted = await self._vault.reader.accepted(TOKENS)
        except SecretError as error:
            raise BackendUnavailableError("there is no secret to read tokens with") from error
        versions = tuple(one.version.version for one in accepted)
        readers = self._readers
        if readers is None or readers.versions != versions:
            readers = self._reading(accepted)
        ends = [one.version.retires_at for one in accepted if one.version.retires_at is not None]
        self._readers, self._until = readers, min(ends, default=None)
        # What was read before another version was put is read again.
        self._newest = newest if newest.version.version in versions else None
        return readers

    def _reading(self, accepted: tuple[SecretValue, ...]) -> _Readers:
        read: dict[str, Any] = {
            "keys": [one.secret.reveal() for one in accepted],
            "algorithms": [_ALGORITHM],
            "issuer": _ISSUER,
            "clock": lambda: self._settings.now().timestamp(),
        }
        return _Readers(
            versions=tuple(one.version.version for one in accepted),
            users=JWTResolver(audience=_USERS, **read),
            administrators=BearerVerifier(audience=_ADMINISTRATOR, **read),
        )

    def _issue(self, audience: str, **claims: Any) -> str:
        now = self._settings.now()
        expiry = now + timedelta(seconds=self._settings.token_seconds)
        payload = {"iss": _ISSUER, "aud": audience, "iat": now, "exp": expiry, **claims}
        with platform_owner():
            secret = self._vault.secrets.get(TOKENS).secret
        return jwt.encode(payload, secret.reveal(), algorithm=_ALGORITHM)
