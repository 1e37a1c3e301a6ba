"""
On whose behalf a span is: what those below a SERVER span say about it.
"""

from __future__ import annotations

from typing import Any

from ..tenancy._context import binding_here, known_id
from ._exchange import Exchange
from ._labels import clean_label

__all__ = ["add_who"]


def add_who(exchange: Exchange | None, told: dict[str, Any]) -> None:
    """
    Add the tenant that is bound here, the user, and the operation.

    The user is the request's, and is told only beside the request's own tenant:
    work that is done for another one is not that user's.

    Args:
        exchange: The request, if there is one.

        told: The attributes of a span; what it has already stays.
    """
    tenant = known_id(binding_here())
    if tenant is not None:
        told.setdefault("tenant.id", clean_label(tenant))
    if exchange is None:
        return
    if tenant is not None and tenant == exchange.tenant_id and exchange.user_id is not None:
        told.setdefault("enduser.id", clean_label(exchange.user_id))
    if exchange.operation:
        told.setdefault("platform.operation", exchange.operation)
