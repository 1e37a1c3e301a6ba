"""
What one source says about who is asking, and what a source is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

from .._asgi import Scope
from ._tenant import valid_tenant_id

__all__ = ["TenantClaim", "TenantResolver"]

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantClaim:
    """
    One source's word on which tenant a request belongs to.

        >>> TenantClaim(tenant_id="acme", source="gateway", decides=True).tenant_id
        'acme'

    Args:
        tenant_id: See `valid_tenant_id`.

        source: The stable name of the source: ``jwt``, ``header``, ``host``,
            ``path`` or your own.

        decides: Whether this word suffices.  A word that anyone can say, such
            as a bare header, only ever confirms.

        user_id: The user, where the source has proved one.

        claims: What else the source has proved, such as verified token claims.

        root_path:
            Where the tenant was named by the path: the part of the path up to
            and including the tenant, which the middleware mounts the app at.

    Raises:
        twh_platform.errors.TenantUnresolvedError: If the id is not valid.
    """

    tenant_id: str
    source: str
    decides: bool = False
    user_id: str | None = None
    claims: Mapping[str, Any] = field(default_factory=lambda: _NOTHING, hash=False)
    root_path: str | None = None

    def __post_init__(self) -> None:
        valid_tenant_id(self.tenant_id)


class TenantResolver(Protocol):
    """
    One source of the answer to "which tenant?".
    """

    async def resolve(self, scope: Scope) -> TenantClaim | None:
        """
        Read the source in this connection scope; never change the scope.

        Returns:
            The claim, or None if this source says nothing about this request.

        Raises:
            twh_platform.errors.TenantError: If the source speaks, but wrongly.
                The request is refused, whatever other sources say.

            twh_platform.errors.BackendUnavailableError: If it cannot be read.
        """
        ...
