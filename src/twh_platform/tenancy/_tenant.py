"""
The tenant: who is asking, as an immutable value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from ..errors import ConfigurationError, TenantSuspendedError, TenantUnresolvedError

__all__ = ["Tenant", "TenantKind", "TenantStatus", "valid_tenant_id"]

_TENANT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
# The same expression as in the table of tenants, so that every row can be read.
_TIME_ZONE = re.compile(r"UTC|[A-Z][A-Za-z_]*(/[A-Z][A-Za-z0-9_+-]*)+")


def valid_tenant_id(value: object) -> str:
    """
    Return *value* if it may be a tenant id: 1 to 64 of ``A-Z a-z 0-9 _ -``.

    UUIDs in their usual form are such ids.  The alphabet has no character
    that SQL, a URL, a host name or a log line would read as more than itself,
    and none that looks like another in a different script.

    Raises:
        twh_platform.errors.TenantUnresolvedError: With code
            ``tenant_id_invalid``, for everything else.
    """
    if isinstance(value, str) and _TENANT_ID.fullmatch(value):
        return value
    raise TenantUnresolvedError(
        f"a tenant id is 1 to 64 characters of A-Z, a-z, 0-9, _ and -, not {str(value)[:80]!r}",
        code="tenant_id_invalid",
    )


class TenantStatus(StrEnum):
    """
    Where a tenant is in its life; only an active one is served.
    """

    PROVISIONING = "provisioning"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    DELETING = "deleting"


class TenantKind(StrEnum):
    """
    What a tenant is for: real work, or trying things out.
    """

    PRODUCTION = "production"
    SANDBOX = "sandbox"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """
    Who is asking: an immutable value, safe to share between tasks and threads.

        >>> Tenant(id="acme", tier="growth").status
        <TenantStatus.ACTIVE: 'active'>

    Args:
        id: See `valid_tenant_id`.

        tier: The price tier or plan, by name.

        status: Where the tenant is in its life.

        kind: Production or sandbox.

        expires_at: From this moment (with time zone) on it is not served.

        time_zone: The IANA name of the zone its calendar periods follow: ``UTC``
            or ``Area/Location``.  Only the form is checked: a host need not
            have the zone database to serve a tenant.

        attributes: Whatever else the service knows of it; copied.

    Raises:
        twh_platform.errors.TenantUnresolvedError: If the id is not valid.

        twh_platform.errors.ConfigurationError: If another field is not.
    """

    id: str
    tier: str = ""
    status: TenantStatus = TenantStatus.ACTIVE
    kind: TenantKind = TenantKind.PRODUCTION
    expires_at: datetime | None = None
    time_zone: str = "UTC"
    attributes: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        valid_tenant_id(self.id)
        put = object.__setattr__
        try:
            put(self, "status", TenantStatus(self.status))
            put(self, "kind", TenantKind(self.kind))
        except ValueError as error:
            message = f"tenant {self.id!r}: {error}"
            raise ConfigurationError(message) from error
        if not _TIME_ZONE.fullmatch(self.time_zone):
            message = (
                f"tenant {self.id!r}: time_zone={self.time_zone!r} is not like 'Europe/Lisbon'"
            )
            raise ConfigurationError(message)
        if self.expires_at is not None and self.expires_at.tzinfo is None:
            message = f"tenant {self.id!r}: expires_at has no time zone"
            raise ConfigurationError(message)
        put(self, "attributes", MappingProxyType(dict(self.attributes)))

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapping proxy cannot be pickled; process pools pickle tenants.
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return _rebuild, ({**values, "attributes": dict(self.attributes)},)

    def ensure_served(self, now: datetime) -> None:
        """
        Return if the tenant may be served at *now*.

        Raises:
            twh_platform.errors.TenantSuspendedError: With code
                ``tenant_provisioning``, ``tenant_suspended``,
                ``tenant_deleting`` or ``tenant_expired``.
        """
        if self.status is not TenantStatus.ACTIVE:
            raise TenantSuspendedError(
                f"tenant {self.id!r} is {self.status}", code=f"tenant_{self.status}"
            )
        if self.expires_at is not None and now >= self.expires_at:
            raise TenantSuspendedError(
                f"tenant {self.id!r} expired at {self.expires_at.isoformat()}",
                code="tenant_expired",
            )


def _rebuild(values: dict[str, Any]) -> Tenant:
    return Tenant(**values)
