"""
What verifying is compared with: the public libraries of the formats.

Each contender is a set of functions that need no more arguments.  Those that are
not installed are left out.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from twh_platform.webhooks import STRIPE, RawSecret, Signer, StandardSecret

__all__ = ["EVENT", "Peer", "peers"]

EVENT = "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W"

Call = Callable[[], object]


class Peer(NamedTuple):
    """
    Verify what is right, verify what is wrong, and sign: one body each.
    """

    verify: Call
    reject: Call
    sign: Call


def peers(body: bytes, secret: StandardSecret) -> dict[str, Peer]:
    """
    The public libraries that are installed, each with a webhook in its own format.
    """
    found = {}
    if importlib.util.find_spec("standardwebhooks"):
        found["standardwebhooks"] = _standardwebhooks(body, secret)
    if importlib.util.find_spec("svix"):
        found["svix"] = _svix(body, secret)
    if importlib.util.find_spec("stripe"):
        found["stripe"] = _stripe(body)
    return found


def refusing(verify: Call, error: type[Exception]) -> Call:
    """
    Call it, and take the refusal; that there is none is an error.
    """

    def refuse() -> None:
        try:
            verify()
        except error:
            return
        raise AssertionError

    return refuse


def _standardwebhooks(body: bytes, secret: StandardSecret) -> Peer:
    from standardwebhooks import Webhook, WebhookVerificationError

    webhook, text, now = Webhook(secret.reveal()), body.decode(), datetime.now(UTC)
    good = dict(Signer(secret).sign(body, event_id=EVENT).headers)
    bad = {**good, "webhook-signature": "v1," + "A" * 43 + "="}
    return Peer(
        lambda: webhook.verify(body, good, json_parse=False),
        refusing(lambda: webhook.verify(body, bad, json_parse=False), WebhookVerificationError),
        lambda: webhook.sign(EVENT, now, text),
    )


def _svix(body: bytes, secret: StandardSecret) -> Peer:
    from svix.webhooks import Webhook, WebhookVerificationError

    webhook, text, now = Webhook(secret.reveal()), body.decode(), datetime.now(UTC)
    headers = Signer(secret).sign(body, event_id=EVENT).headers
    good = {name.replace("webhook-", "svix-"): value for name, value in headers.items()}
    bad = {**good, "svix-signature": "v1," + "A" * 43 + "="}
    return Peer(
        lambda: webhook.verify(body, good),
        refusing(lambda: webhook.verify(body, bad), WebhookVerificationError),
        lambda: webhook.sign(EVENT, now, text),
    )


def _stripe(body: bytes) -> Peer:
    from stripe import SignatureVerificationError, WebhookSignature

    secret, text = "whsec_of_an_endpoint", body.decode()
    request = Signer(RawSecret(secret), profile=STRIPE).sign(body)
    good = request.headers["stripe-signature"]
    bad = f"t={request.timestamp},v1={'0' * 64}"
    # It takes a string, and signs one: to make it of the bytes is the caller's part.
    return Peer(
        lambda: WebhookSignature.verify_header(body.decode(), good, secret, 300),
        refusing(
            lambda: WebhookSignature.verify_header(body.decode(), bad, secret, 300),
            SignatureVerificationError,
        ),
        lambda: WebhookSignature._compute_signature(f"{request.timestamp}.{text}", secret),
    )
