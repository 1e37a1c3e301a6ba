"""
Two tenants for a test: one that has something, and one that must not see it.
"""

from __future__ import annotations

import secrets
import uuid
from typing import NamedTuple

from ..tenancy import Tenant

__all__ = ["TenantPair", "tenant_pair"]


class TenantPair(NamedTuple):
    """
    Two tenants: ``first, other = tenant_pair()``.

    Attributes:
        first: The one whose data must not be seen.

        other: The one that looks.
    """

    first: Tenant
    other: Tenant


def tenant_pair(*, uuids: bool = False) -> TenantPair:
    """
    Make two active tenants whose ids nothing else contains.

        >>> tenant_pair().first.id
        'first-...'

    Args:
        uuids:
            Make UUIDs, for tenant columns of that type: the first one begins
            with ``11111111``, the other with ``22222222``.
    """
    chance = secrets.token_hex(6)
    if not uuids:
        return TenantPair(Tenant(id=f"first-{chance}"), Tenant(id=f"other-{chance}"))
    ends = str(uuid.uuid4())[8:]
    return TenantPair(Tenant(id=f"{'1' * 8}{ends}"), Tenant(id=f"{'2' * 8}{ends}"))
