"""
A replica that handles one webhook and stops where it is told, to be killed there.

    python -m tests.support.webhook_payer DSN HOW STOP KEY FINGERPRINT

*HOW* is ``within`` (the claim is in the handler's own transaction), ``before`` (a
claim for good, then the effect), ``after`` (the effect, then the claim) or ``leased``
(`PostgresReplayStore`, with a lease of a second).  With *STOP* ``crash`` it waits
between its two steps for the signal that kills it; with ``run`` it goes on.  It writes
``between``, and in the end ``paid``, ``replayed`` or ``busy``.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import psycopg

from twh_platform import Tenant, bind_tenant
from twh_platform.errors import WebhookError
from twh_platform.tenancy.postgres.psycopg import AsyncTenantConnection, TenantConnection
from twh_platform.webhooks import ClaimState, Delivery
from twh_platform.webhooks.postgres.psycopg import claim_in
from twh_platform.webhooks.postgres.store import PostgresReplayStore

__all__ = ["HOW", "pay"]

Pause = Callable[[], None]


def pay(connection: psycopg.Connection, event: str) -> None:
    """The effect."""
    connection.execute("INSERT INTO twh.payments (event) VALUES (%s)", [event])


def within(dsn: str, delivery: Delivery, between: Pause) -> str:
    """Claim and effect in one transaction."""
    with TenantConnection.connect(dsn) as connection:
        claim_in(connection, delivery)
        pay(connection, delivery.key.hex())
        between()
    return "paid"


def before(dsn: str, delivery: Delivery, between: Pause) -> str:
    """The naive way: remember it, then handle it."""
    with TenantConnection.connect(dsn) as connection:
        claim_in(connection, delivery)
        connection.commit()
        between()
        pay(connection, delivery.key.hex())
    return "paid"


def after(dsn: str, delivery: Delivery, between: Pause) -> str:
    """The other naive way: handle it, then remember it."""
    with TenantConnection.connect(dsn) as connection:
        query = "SELECT FROM twh.webhook_claims WHERE delivery = %s"
        if connection.execute(query, [delivery.key]).fetchone() is not None:
            return "replayed"
        pay(connection, delivery.key.hex())
        connection.commit()
        between()
        claim_in(connection, delivery)
    return "paid"


def leased(dsn: str, delivery: Delivery, between: Pause) -> str:
    """What the middleware does with a store."""
    store = PostgresReplayStore(lambda: _Opening(dsn), timeout=10)
    claiming = store.claim(delivery.key, delivery.fingerprint, lease=1.0, ttl=3600)
    claim = asyncio.run(claiming)
    if claim.state is not ClaimState.NEW:
        return "busy" if claim.state is ClaimState.BUSY else "replayed"
    with TenantConnection.connect(dsn) as connection:
        pay(connection, delivery.key.hex())
    between()
    assert claim.token is not None
    asyncio.run(store.commit(claim.token))
    return "paid"


class _Opening:
    """A connection for one step."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    async def __aenter__(self) -> AsyncTenantConnection:
        self._connection = await AsyncTenantConnection.connect(self._dsn)
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()


HOW = {one.__name__: one for one in (within, before, after, leased)}


def main(dsn: str, how: str, stop: str, key: str, fingerprint: str) -> None:
    """Handle it, once."""
    delivery = Delivery(key=bytes.fromhex(key), fingerprint=bytes.fromhex(fingerprint))

    def between() -> None:
        print("between", flush=True)  # noqa: T201 -- it talks to the test
        if stop == "crash":
            sys.stdin.read()

    with bind_tenant(Tenant(id="acme")):
        try:
            told = HOW[how](dsn, delivery, between)
        except WebhookError as error:
            told = error.code
    print(told, flush=True)  # noqa: T201 -- it talks to the test


if __name__ == "__main__":
    main(*sys.argv[1:])
