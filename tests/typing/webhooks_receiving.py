"""
Receiving webhooks as a service writes it; checked, never run.
"""

from __future__ import annotations

from typing import Any, assert_type

import psycopg
from psycopg_pool import AsyncConnectionPool
from redis.asyncio import Redis
from sqlalchemy.orm import Session

from twh_platform import Tenant
from twh_platform._asgi import ASGIApp, Scope
from twh_platform.webhooks import (
    STRIPE,
    Claim,
    Delivery,
    MemoryReplayStore,
    RawSecret,
    Replay,
    ReplayStore,
    Retention,
    StandardSecret,
    Verified,
    Verifier,
    WebhookEndpoint,
    WebhookMiddleware,
    delivery_of,
    verified_webhook,
    webhook_delivery,
)
from twh_platform.webhooks.postgres import sqlalchemy as in_session
from twh_platform.webhooks.postgres.psycopg import claim_in, purge_in
from twh_platform.webhooks.postgres.store import PostgresReplayStore
from twh_platform.webhooks.redis import RedisReplayStore


def stores(pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]]) -> list[ReplayStore]:
    """All of them are stores."""
    return [
        MemoryReplayStore(most=10),
        RedisReplayStore(lambda: Redis.from_url("redis://localhost")),
        PostgresReplayStore(pool.connection, timeout=1.0),
    ]


def guarded(app: ASGIApp, secret: StandardSecret, store: ReplayStore) -> list[WebhookMiddleware]:
    """Keys, a verifier, an endpoint, or what finds them."""
    verifier = Verifier(RawSecret("whsec_as_stripe_writes_them"), profile=STRIPE)

    async def find(scope: Scope) -> WebhookEndpoint | None:
        if scope["path"] != "/hooks/orders":
            return None
        return WebhookEndpoint(keys=verifier, id="orders", tenant=Tenant(id="acme"))

    replay = Replay(store=store, retention=Retention(ttl=400_000), store_down="open")
    return [
        WebhookMiddleware(app, secret, paths=["/hooks/*"], limit=65_536, replay=store),
        WebhookMiddleware(app, [secret, secret], replay="handler"),
        WebhookMiddleware(app, verifier, replay=replay),
        WebhookMiddleware(app, find, spool=0, timeout=None),
    ]


def handle(scope: Scope, connection: psycopg.Connection[Any], session: Session) -> None:
    """The facts, and a claim in the handler's own transaction."""
    assert_type(verified_webhook(scope), Verified)
    delivery = assert_type(webhook_delivery(scope), Delivery)
    claim_in(connection, delivery, retention=Retention())
    in_session.claim_in(session, delivery_of(verified_webhook(scope), b"{}", endpoint="orders"))
    assert_type(purge_in(connection), int)


async def by_hand(store: ReplayStore, delivery: Delivery) -> bool:
    """A store without the middleware."""
    claim = await store.claim(delivery.key, delivery.fingerprint, lease=60, ttl=400_000)
    assert_type(claim, Claim)
    return claim.token is not None and await store.commit(claim.token)
