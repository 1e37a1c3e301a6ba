"""
Webhooks: where a tenant's events are sent, and the secrets they are signed with.

A secret is answered once, when it is made.  Afterwards there is its fingerprint,
which the receiver can compute too.
"""

from __future__ import annotations

import json
from datetime import datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import Field, StringConstraints
from sqlalchemy import func, select
from sqlalchemy.orm import selectinload, undefer

from twh_platform.errors import WebhookError
from twh_platform.webhooks import KeyState, SignedRequest, StandardSecret

from ..auth import Role
from ..models import Webhook, WebhookProfile, WebhookSecret, WebhookState
from ..paging import Page, PageQuery, read_page
from ..problems import Refusal
from ..shapes import Body, View
from ..web import Call, operation
from ..webhook_urls import webhook_url
from ..webhooks import new_secret, revoke, rotate

__all__ = [
    "change_webhook",
    "create_webhook",
    "delete_webhook",
    "get_webhook",
    "list_webhooks",
    "revoke_webhook_secret",
    "rotate_webhook_secret",
    "try_webhook",
]

_DAY = 86_400
_OPENED = selectinload(Webhook.secrets).options(undefer(WebhookSecret.secret))


class EventType(StrEnum):
    """
    What can be subscribed to.
    """

    ITEM_CHANGED = "item.changed"
    PURCHASE_ORDER_RECEIVED = "purchase_order.received"
    RETURN_CREATED = "return.created"
    SALES_ORDER_SHIPPED = "sales_order.shipped"
    STOCK_LOW = "stock.low"
    TRANSFER_RECEIVED = "transfer.received"


Url = Annotated[str, StringConstraints(min_length=1, max_length=2000)]
Events = Annotated[list[EventType], Field(min_length=1, max_length=20)]


class NewWebhook(Body):
    """
    A subscription to add.
    """

    url: Url
    events: Events
    profile: WebhookProfile = WebhookProfile.STANDARD


class WebhookChange(Body):
    """
    Fields to change; those left out or null stay.
    """

    url: Url | None = None
    events: Events | None = None
    state: WebhookState | None = None


class SecretRotation(Body):
    """
    For how many seconds the secret of before is signed with as well.
    """

    overlap_seconds: Annotated[int, Field(ge=0, le=30 * _DAY)] = _DAY


class SecretRevocation(Body):
    """
    Which secret is not to be signed with any more.
    """

    fingerprint: Annotated[str, StringConstraints(min_length=1, max_length=64)]


class SecretView(View):
    """
    A secret, by its fingerprint; from `not_after` on it is not signed with.
    """

    fingerprint: str
    state: str
    not_after: datetime | None
    created_at: datetime


class WebhookView(View):
    """
    A subscription; the newest secret is first.
    """

    id: UUID
    url: str
    events: list[str]
    profile: str
    state: str
    secrets: list[SecretView]
    version: int
    created_at: datetime
    updated_at: datetime


class SecretWebhookView(WebhookView):
    """
    A subscription with its new secret, which is answered this once.
    """

    secret: str


class HeaderView(View):
    """
    A header.
    """

    name: str
    value: str


class SentView(View):
    """
    What was sent, as it was; a receiver can be tried with it.
    """

    url: str
    headers: list[HeaderView]
    body: str


class TrialView(View):
    """
    What became of it; `status` is null if there was no answer in time.
    """

    event_id: str
    outcome: str
    status: int | None
    seconds: float
    sent: SentView


@operation("GET", "/webhooks", access=Role.MANAGER)
async def list_webhooks(call: Call, query: PageQuery) -> Page[WebhookView]:
    """
    List the subscriptions.
    """
    return await read_page(call.db, select(Webhook), query, view=WebhookView, keys=(Webhook.id,))


# It takes no idempotency key: the answer, which is kept with that, has the secret.
@operation(
    "POST",
    "/webhooks",
    access=Role.MANAGER,
    status=201,
    sealed=True,
    business="webhook.create",
    problems=("url_refused",),
)
async def create_webhook(call: Call, body: NewWebhook) -> SecretWebhookView:
    """
    Add a subscription; its secret is answered this once.
    """
    await call.take("webhooks")
    secret = StandardSecret.generate()
    webhook = Webhook(
        url=_url(call, body.url),
        events=sorted(set(body.events)),
        profile=body.profile,
        secrets=[new_secret(secret)],
    )
    call.db.add(webhook)
    await call.db.flush()
    return _shown(webhook, secret)


@operation("GET", "/webhooks/{id:uuid}", access=Role.MANAGER)
async def get_webhook(call: Call) -> WebhookView:
    """
    Show a subscription.
    """
    return WebhookView.model_validate(await call.find(Webhook))


@operation(
    "PATCH",
    "/webhooks/{id:uuid}",
    access=Role.MANAGER,
    business="webhook.change",
    problems=("url_refused",),
)
async def change_webhook(call: Call, body: WebhookChange) -> WebhookView:
    """
    Change a subscription.
    """
    webhook = await call.find(Webhook, lock=True)
    if body.url is not None:
        body = body.model_copy(update={"url": _url(call, body.url)})
    if body.events is not None:
        body = body.model_copy(update={"events": sorted(set(body.events))})
    await call.change(webhook, body)
    return WebhookView.model_validate(webhook)


@operation("DELETE", "/webhooks/{id:uuid}", access=Role.MANAGER, business="webhook.delete")
async def delete_webhook(call: Call) -> WebhookView:
    """
    Give a subscription up, with its secrets; the answer is what it was.
    """
    webhook = await call.find(Webhook, lock=True)
    view = WebhookView.model_validate(webhook)
    await call.db.delete(webhook)
    await call.db.flush()
    await call.give_back("webhooks")
    return view


@operation(
    "POST",
    "/webhooks/{id:uuid}/rotate",
    access=Role.MANAGER,
    sealed=True,
    business="webhook.rotate",
    problems=("secrets_too_many",),
)
async def rotate_webhook_secret(call: Call, body: SecretRotation) -> SecretWebhookView:
    """
    Sign with a new secret; its text is answered this once.

    Until the overlap ends each webhook is signed with the secret of before, too,
    so a receiver has that long to change.
    """
    webhook = await call.find(Webhook, _OPENED, lock=True)
    secret, now = StandardSecret.generate(), call.services.settings.now()
    try:
        rotate(webhook, secret, now=now, overlap=body.overlap_seconds)
    except WebhookError:
        raise Refusal("secrets_too_many") from None
    await _touch(call, webhook)
    return _shown(webhook, secret)


@operation(
    "POST",
    "/webhooks/{id:uuid}/revoke",
    access=Role.MANAGER,
    business="webhook.revoke",
    problems=("secret_in_use",),
)
async def revoke_webhook_secret(call: Call, body: SecretRevocation) -> WebhookView:
    """
    Sign with a secret no more, before its overlap has ended, and forget it.
    """
    webhook = await call.find(Webhook, lock=True)
    found = [one for one in webhook.secrets if one.fingerprint == body.fingerprint]
    if not found:
        raise Refusal("not_found")
    if found[0].state == KeyState.ACTIVE.value:
        raise Refusal("secret_in_use")
    revoke(found[0])
    await _touch(call, webhook)
    return WebhookView.model_validate(webhook)


@operation(
    "POST",
    "/webhooks/{id:uuid}/test",
    access=Role.MANAGER,
    sealed=True,
    waits=True,
    business="webhook.test",
    problems=("url_refused",),
)
async def try_webhook(call: Call) -> TrialView:
    """
    Sign an event of the type `webhook.test` and send it once.
    """
    url, signed = await call.in_time(_signed_test(call))
    # No transaction waits for a receiver.
    attempt = await call.services.webhooks.send(url, signed)
    call.count(call.services.telemetry.webhook_tests.labels(attempt.outcome))
    return TrialView(
        event_id=signed.id,
        outcome=attempt.outcome,
        status=attempt.status,
        seconds=round(attempt.seconds, 3),
        sent=_sent(url, signed),
    )


async def _signed_test(call: Call) -> tuple[str, SignedRequest]:
    async with call.transaction(sealed=True) as within:
        webhook = await within.find(Webhook, _OPENED)
        now = call.services.settings.now()
        event = {
            "type": "webhook.test",
            "timestamp": now.isoformat(),
            "data": {"webhook_id": str(webhook.id)},
        }
        body = json.dumps(event, separators=(",", ":")).encode()
        # What was taken under other settings is not sent to under these.
        return _url(call, webhook.url), call.services.webhooks.sign(webhook, body)


def _sent(url: str, signed: SignedRequest) -> SentView:
    headers = [HeaderView(name=name, value=value) for name, value in signed.headers.items()]
    return SentView(url=url, headers=headers, body=signed.body.decode())


def _url(call: Call, text: str) -> str:
    return webhook_url(text, loopback=call.services.settings.webhook_loopback)


async def _touch(call: Call, webhook: Webhook) -> None:
    # What is shown of it has changed, and so has its entity tag.
    webhook.updated_at = func.now()
    await call.db.flush()
    await call.db.refresh(webhook, ["updated_at", "version"])


def _shown(webhook: Webhook, secret: StandardSecret) -> SecretWebhookView:
    view = WebhookView.model_validate(webhook)
    return SecretWebhookView(**view.model_dump(), secret=secret.reveal())
