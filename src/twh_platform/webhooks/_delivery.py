"""
What names a delivery: what its signature covers, and whose endpoint it came to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from ..errors import ConfigurationError
from ..tenancy._context import current_tenant
from ._verify import Body, Verified

__all__ = ["KEY_BYTES", "Delivery", "checked_key", "delivery_of"]

KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """
    What a verified webhook is remembered by; made by `delivery_of`.

    Attributes:
        key: 32 bytes, the same for every attempt: a hash of the tenant, the endpoint,
            the profile and the signed id.  Where no id is signed, of the signed time
            and body instead, so that only the very same message is the same.

        fingerprint: SHA-256 of the body.

        window: Seconds for which its signature is good, before and after its time;
            whoever claims it remembers it for longer.  0 if that is not known.
    """

    key: bytes
    fingerprint: bytes
    window: float = field(default=0.0, compare=False)


def delivery_of(
    verified: Verified,
    body: Body | None = None,
    *,
    endpoint: str = "",
    tenant_id: str | None = None,
    fingerprint: bytes | None = None,
    window: float = 0.0,
) -> Delivery:
    """
    Name a delivery, by nothing but what its signature covers and who we are.

    Args:
        verified: What `verify` has returned.

        body: The bytes that were verified.

        endpoint: The endpoint's id: what was sent to one is not known to another.

        tenant_id: Whose endpoint it is; the current tenant's if None.

        fingerprint: SHA-256 of the body, instead of the body.

        window: Seconds for which its signature is good, before and after its time.
    """
    if tenant_id is None:
        tenant = current_tenant()
        tenant_id = "" if tenant is None else tenant.id
    if fingerprint is None:
        fingerprint = sha256(b"" if body is None else body).digest()
    said = [tenant_id.encode(), endpoint.encode(), verified.profile.encode()]
    if verified.id:
        said += [b"id", verified.id.encode()]
    else:
        said += [b"content", b"%d" % verified.timestamp, fingerprint]
    # Each with its length before it, so that no two lists have one spelling.
    spelled = b"".join(len(one).to_bytes(4, "big") + one for one in said)
    return Delivery(key=sha256(spelled).digest(), fingerprint=fingerprint, window=window)


def checked_key(key: object, fingerprint: object) -> None:
    """
    Return if these are a delivery's.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``delivery_invalid``.
    """
    for one in (key, fingerprint):
        if not isinstance(one, bytes) or len(one) != KEY_BYTES:
            message = f"a delivery's key and fingerprint are {KEY_BYTES} bytes: see delivery_of()"
            raise ConfigurationError(message, code="delivery_invalid")
