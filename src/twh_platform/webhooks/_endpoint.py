"""
Where a webhook comes in.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..tenancy._tenant import Tenant
from ._keyring import Keys
from ._verify import Verifier

__all__ = ["WebhookEndpoint"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookEndpoint:
    """
    Where a webhook comes in: what it is verified with, and whose it is.

    Attributes:
        keys: Its keys, or a `Verifier` that is kept for it, which is faster.

        id: Its name among the endpoints of its owner.  What was sent to one is not
            taken for a replay at another.

        tenant: Whose it is.  It is bound while the app handles the webhook, whose
            signature is what proves that it is for that tenant.
    """

    keys: Keys | Verifier
    id: str = ""
    tenant: Tenant | None = None
