"""
What receiving announces: a webhook was verified, refused or came again, or its store is down.

Subscribe with `twh_platform.subscribe`, as telemetry and audit do.  None of them has
a part of a body, of a secret or of a signature.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "ReplayStoreDown",
    "WebhookRefused",
    "WebhookReplayed",
    "WebhookVerified",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookVerified:
    """
    A webhook's signature holds.

    Which key it was made with says when an old one can go: see `Keyring`.

    Attributes:
        profile: The name of the profile.

        scheme: Which of its schemes.

        key_id: Which key.

        endpoint: The endpoint's id, "" if it has none.

        tenant_id: Whose endpoint it is; None if nobody's.

        age: Seconds since it was signed, by our clock.
    """

    profile: str
    scheme: str
    key_id: str
    endpoint: str
    tenant_id: str | None
    age: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookRefused:
    """
    A webhook was refused, and the app was not called.

    Attributes:
        code: Why: the code of the error.

        status: What was answered.

        profile: The name of the profile, "" before it was known.

        endpoint: The endpoint's id, "" if it has none or before it was known.

        tenant_id: Whose endpoint it is; None if nobody's, or before it was known.
    """

    code: str
    status: int
    profile: str
    endpoint: str
    tenant_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookReplayed:
    """
    A webhook came again after it was handled; it was answered 200 without the app.

    Attributes:
        profile: The name of the profile.

        endpoint: The endpoint's id, "" if it has none.

        tenant_id: Whose endpoint it is; None if nobody's.
    """

    profile: str
    endpoint: str
    tenant_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayStoreDown:
    """
    The store of claims did not answer.

    Attributes:
        step: ``claim``, ``commit`` or ``release``.

        code: The code of the error.

        store_down: What was done about a claim: ``closed`` or ``open``.  After
            ``commit`` and ``release`` the claim stands until its lease ends.
    """

    step: str
    code: str
    store_down: str
