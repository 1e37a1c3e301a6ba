"""
Webhooks: sign, verify and receive them; the standard library is all it needs.

`sign` and `verify` are the one-line way; `Signer` and `Verifier` are kept by who
signs or verifies much.  A `Profile` says how a sender writes its signatures.  Keys
for Ed25519 are in `twh_platform.webhooks.ed25519`.
"""

from ._announcements import ReplayStoreDown, WebhookRefused, WebhookReplayed, WebhookVerified
from ._body_limit import BodyLimitMiddleware
from ._causes import Cause
from ._delivery import Delivery, delivery_of
from ._doctor import Diagnosis, diagnose
from ._endpoint import WebhookEndpoint
from ._keyring import Key, Keyring, KeyState
from ._memory_replay import MemoryReplayStore
from ._middleware import WebhookMiddleware, verified_webhook, webhook_delivery
from ._payload import parse_json
from ._profiles import (
    CONVOY,
    GITHUB,
    MESSAGE,
    OUTPOST,
    PROFILES,
    SHOPIFY,
    SLACK,
    STANDARD,
    STRIPE,
    SVIX,
    TWH,
    Form,
    Profile,
    Scheme,
)
from ._replay import (
    Claim,
    ClaimState,
    ClaimToken,
    Replay,
    ReplayStore,
    Retention,
)
from ._secrets import RawSecret, StandardSecret
from ._security_headers import SecurityHeaders, SecurityHeadersMiddleware
from ._sign import SignedRequest, Signer, new_event_id, sign
from ._stored_keyring import stored_keyring
from ._stored_keys import StoredKeys
from ._verify import Verification, Verified, Verifier, verify

__all__ = [
    "CONVOY",
    "GITHUB",
    "MESSAGE",
    "OUTPOST",
    "PROFILES",
    "SHOPIFY",
    "SLACK",
    "STANDARD",
    "STRIPE",
    "SVIX",
    "TWH",
    "BodyLimitMiddleware",
    "Cause",
    "Claim",
    "ClaimState",
    "ClaimToken",
    "Delivery",
    "Diagnosis",
    "Form",
    "Key",
    "KeyState",
    "Keyring",
    "MemoryReplayStore",
    "Profile",
    "RawSecret",
    "Replay",
    "ReplayStore",
    "ReplayStoreDown",
    "Retention",
    "Scheme",
    "SecurityHeaders",
    "SecurityHeadersMiddleware",
    "SignedRequest",
    "Signer",
    "StandardSecret",
    "StoredKeys",
    "Verification",
    "Verified",
    "Verifier",
    "WebhookEndpoint",
    "WebhookMiddleware",
    "WebhookRefused",
    "WebhookReplayed",
    "WebhookVerified",
    "delivery_of",
    "diagnose",
    "new_event_id",
    "parse_json",
    "sign",
    "stored_keyring",
    "verified_webhook",
    "verify",
    "webhook_delivery",
]
