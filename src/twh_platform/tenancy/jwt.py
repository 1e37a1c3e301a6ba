"""
Bearer tokens: the tenant that a signed JWT names (extra: `jwt`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .._asgi import Scope
from ..errors import CredentialsError, TenantUnresolvedError
from ._claim import TenantClaim
from ._jwks import JWKS
from ._jwt_keys import JWTKey
from ._jwt_verifier import BearerVerifier

__all__ = ["JWKS", "BearerVerifier", "JWTKey", "JWTResolver"]

_MAX_USER_ID = 255


class JWTResolver:
    """
    The tenant that a bearer token names, in the Authorization header.

        >>> resolver = JWTResolver(
        ...     keys=b"a secret of thirty-two bytes, or more",
        ...     algorithms=["HS256"],
        ...     audience="warehouse",
        ...     issuer="https://id.example.com",
        ... )

    Args:
        keys: As for `BearerVerifier`, like all that is not explained here.

        tenant_claim: The claim that names the tenant.

        user_claim: The claim that names the user.

        source: The stable name of this source.

    Raises:
        twh_platform.errors.ConfigurationError: If these do not fit together.
    """

    def __init__(
        self,
        *,
        keys: JWTKey | Sequence[JWTKey] | Mapping[str, JWTKey] | JWKS,
        algorithms: Iterable[str],
        audience: str | Iterable[str],
        issuer: str | Iterable[str],
        tenant_claim: str = "tenant_id",
        user_claim: str = "sub",
        leeway: float = 0.0,
        max_token_bytes: int = 8192,
        cache_capacity: int = 4096,
        source: str = "jwt",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._verifier = BearerVerifier(
            keys=keys,
            algorithms=algorithms,
            audience=audience,
            issuer=issuer,
            leeway=leeway,
            max_token_bytes=max_token_bytes,
            cache_capacity=cache_capacity,
            clock=clock,
        )
        self._tenant_claim, self._user_claim = tenant_claim, user_claim
        self._source = source

    async def resolve(self, scope: Scope) -> TenantClaim | None:
        """
        The claim of the token, or None if there is no bearer token.

        Raises:
            twh_platform.errors.CredentialsError: As `BearerVerifier.verify`,
                and with code ``token_claims`` if the token names no tenant, or
                a tenant or user that cannot be one.

            twh_platform.errors.BackendUnavailableError: With code
                ``jwks_unavailable``, if the keys cannot be had.
        """
        verified = await self._verifier._verified(scope)  # noqa: SLF001 -- it is ours
        if verified is None:
            return None
        if verified.claim is None:
            verified.claim = self._claim(verified.claims)
        return verified.claim

    def _claim(self, claims: Mapping[str, Any]) -> TenantClaim:
        user_id = claims.get(self._user_claim)
        if user_id is not None and not _is_user_id(user_id):
            message = f"the token's {self._user_claim} is not a user id"
            raise CredentialsError(message, code="token_claims")
        try:
            return TenantClaim(
                tenant_id=claims.get(self._tenant_claim),  # type: ignore[arg-type] # it is checked
                source=self._source,
                decides=True,
                user_id=user_id,
                claims=claims,
            )
        except TenantUnresolvedError as error:
            message = f"the token's {self._tenant_claim} is not a tenant id"
            raise CredentialsError(message, code="token_claims") from error


def _is_user_id(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_USER_ID
