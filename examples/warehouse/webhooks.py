"""
What receivers of webhooks are told: signed with their secrets, and sent once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx

from twh_platform.telemetry import ClientCalls
from twh_platform.telemetry.httpx import AsyncTelemetryTransport
from twh_platform.webhooks import (
    PROFILES,
    Key,
    Keyring,
    KeyState,
    SignedRequest,
    Signer,
    StandardSecret,
)

from .models import Webhook, WebhookSecret
from .settings import Settings

__all__ = ["Attempt", "Webhooks", "new_secret", "revoke", "rotate"]

_HEADERS = {"content-type": "application/json", "user-agent": "warehouse"}
_KEPT = 20  # secrets that are shown; at most 10 of them are signed with


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """
    What became of a webhook that was sent.

    Attributes:
        outcome: `answered`, `timeout` or `unreachable`.

        status: Of the answer, if there was one.

        seconds: How long it took.
    """

    outcome: str
    status: int | None
    seconds: float


class Webhooks:
    """
    Signs and sends; one per running app.

    Args:
        settings: The clock, and how long a receiver may take.

        calls: Is told of each request to one.
    """

    def __init__(self, settings: Settings, calls: ClientCalls) -> None:
        self._settings, self._calls = settings, calls
        self._transport: httpx.AsyncBaseTransport | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """
        Keep the connections of what is sent.
        """
        # No client: it would keep one receiver's cookies for another's, and read where
        # a redirect leads.  No proxy and no passwords from the environment.
        plain = httpx.AsyncHTTPTransport(trust_env=False)
        async with AsyncTelemetryTransport(plain, self._calls) as self._transport:
            yield

    def sign(self, webhook: Webhook, body: bytes) -> SignedRequest:
        """
        Sign for a subscription whose secrets are open: with the active one and those retiring.
        """
        signer = Signer(
            _keyring(webhook.secrets),
            profile=PROFILES[webhook.profile],
            clock=lambda: self._settings.now().timestamp(),
        )
        return signer.sign(body)

    async def send(self, url: str, request: SignedRequest) -> Attempt:
        """
        Send it once; whatever comes of it is an outcome.

        Nothing of the answer is read but its status.
        """
        assert self._transport is not None  # noqa: S101 -- a mistake of ours
        headers, status = {**_HEADERS, **request.headers}, None
        began = time.monotonic()
        try:
            asked = httpx.Request("POST", url, headers=headers, content=request.body)
            # Timeouts of a transport begin anew with each byte.
            async with asyncio.timeout(self._settings.webhook_seconds):
                answer = await self._transport.handle_async_request(asked)
                status = answer.status_code
                await answer.aclose()
            outcome = "answered"
        except (TimeoutError, httpx.TimeoutException):
            outcome = "timeout"
        except (httpx.HTTPError, httpx.InvalidURL, OSError):
            outcome = "unreachable"
        return Attempt(outcome=outcome, status=status, seconds=time.monotonic() - began)


def new_secret(secret: StandardSecret) -> WebhookSecret:
    """
    A row for a secret that was made just now, and is active.
    """
    return WebhookSecret(
        fingerprint=secret.fingerprint, state=KeyState.ACTIVE.value, secret=secret.reveal()
    )


def revoke(row: WebhookSecret) -> None:
    """
    Sign with a secret no more, and forget it: its fingerprint stays.
    """
    row.state, row.secret = KeyState.REVOKED.value, None


def rotate(webhook: Webhook, secret: StandardSecret, *, now: datetime, overlap: float) -> None:
    """
    Sign with *secret* from now on, and for *overlap* seconds with the one before as well.

    What is over by now is revoked.  Of what is revoked the oldest are removed.

    Args:
        webhook: The subscription, with its secrets open.

        secret: The next one.

        now: The time.

        overlap: 0 for none.

    Raises:
        twh_platform.errors.WebhookError: With code `keyring_full`, if too many
            are signed with at a time.
    """
    at = now.timestamp()
    keys = Keyring(_keyring(webhook.secrets).accepted(at))
    keys = keys.add(Key(secret=secret, state=KeyState.PENDING))
    keys = keys.activate(secret.fingerprint, until=at + overlap)
    states = {key.id: key for key in keys}
    rows = [new_secret(secret), *webhook.secrets]
    for row in rows:
        if key := states.get(row.fingerprint):
            row.state, row.not_after = key.state.value, _moment(key.not_after)
        else:
            revoke(row)
    rows.sort(key=lambda row: row.state == KeyState.REVOKED.value)
    webhook.secrets = rows[:_KEPT]


def _keyring(secrets: Iterable[WebhookSecret]) -> Keyring:
    return Keyring(
        Key(
            secret=StandardSecret(one.secret),
            state=KeyState(one.state),
            not_after=one.not_after.timestamp() if one.not_after else None,
        )
        for one in secrets
        if one.secret is not None
    )


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
