"""
What the attacks on webhooks share: a clock that stands, signatures by hand, and counting.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from typing import Any

from twh_platform.errors import WebhookError
from twh_platform.webhooks import STANDARD, STRIPE, RawSecret, StandardSecret, Verifier

__all__ = [
    "BODY",
    "ID",
    "KEY",
    "NOW",
    "SECRET",
    "STRIPE_TEXT",
    "TEXT",
    "by_hand",
    "code",
    "foreign",
    "holds",
    "mac",
    "stripe_code",
    "stripe_hand",
    "utc",
]

BODY = b'{"type":"order.paid","amount":1200}'
ID = "msg_1"
NOW = 1_700_000_000
"""What our clock says; the libraries have no other clock than the machine's."""

KEY = bytes(range(32))
TEXT = "whsec_" + base64.b64encode(KEY).decode()
SECRET = StandardSecret(TEXT)
STRIPE_TEXT = "whsec_a_secret_of_stripe"


def mac(*parts: bytes, key: bytes = KEY) -> bytes:
    """HMAC-SHA256 of the parts, with full stops between them."""
    return hmac.new(key, b".".join(parts), hashlib.sha256).digest()


def by_hand(
    body: bytes = BODY, *, event: str = ID, stamp: object = None, key: bytes = KEY
) -> dict[str, str]:
    """The headers of Standard Webhooks, of whatever they are; now if no time is given."""
    text = str(int(time.time()) if stamp is None else stamp)
    signature = base64.b64encode(mac(event.encode(), text.encode(), body, key=key)).decode()
    return {
        "webhook-id": event,
        "webhook-timestamp": text,
        "webhook-signature": f"v1,{signature}",
    }


def stripe_hand(body: bytes = BODY, *, stamp: object = None, secret: str = STRIPE_TEXT) -> str:
    """The header of Stripe, of whatever it is."""
    text = str(int(time.time()) if stamp is None else stamp)
    return f"t={text},v1={mac(text.encode(), body, key=secret.encode()).hex()}"


def code(
    headers: Any, body: Any = BODY, keys: Any = SECRET, *, now: float | None = None, **options: Any
) -> str:
    """What ours says: the code of its error, "" if it holds; other errors get out."""
    clock = time.time if now is None else lambda: now
    options.setdefault("profile", STANDARD)
    try:
        Verifier(keys, clock=clock, **options).verify(body, headers)
    except WebhookError as error:
        whole = error.code
    else:
        whole = ""
    return whole


def stripe_code(header: str, body: bytes = BODY, **options: Any) -> str:
    """What ours says of a header of Stripe's."""
    secret = RawSecret(options.pop("secret", STRIPE_TEXT))
    return code({"stripe-signature": header}, body, secret, profile=STRIPE, **options)


def holds(call: Callable[..., object], *args: Any, **kwargs: Any) -> bool:
    """Whether it returns, and raises nothing."""
    try:
        call(*args, **kwargs)
    except Exception:  # noqa: BLE001 -- whatever a library may raise
        return False
    return True


def foreign(own: Any, call: Callable[..., object], *args: Any, **kwargs: Any) -> bool:
    """Whether it raises something else than errors of its own."""
    try:
        call(*args, **kwargs)
    except own:
        return False
    except Exception:  # noqa: BLE001 -- that is what is asked
        return True
    return False


def utc(seconds: float) -> dt.datetime:
    """A moment as the libraries want it."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


Headers = Mapping[str, str]
