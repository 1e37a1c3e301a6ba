"""
The body on its way in: at hand as a whole, or chunk by chunk, it is the same body.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.support.tenancy import heard, http_scope
from tests.support.webhooks import BODY, SECRET, App, deliver, signed_headers
from twh_platform.tenancy import Tenant, bind_tenant
from twh_platform.webhooks import (
    StandardSecret,
    WebhookEndpoint,
    WebhookMiddleware,
    WebhookRefused,
    _spool,
)

OTHER = StandardSecret.generate()
FOREIGN = WebhookEndpoint(keys=SECRET, tenant=Tenant(id="globex"))


def declaring(*lengths: str, body: bytes = BODY) -> tuple[bytes, list[tuple[str, str]]]:
    """A webhook that says how long its body is."""
    return body, signed_headers(body) + [("content-length", one) for one in lengths]


async def resolved(found):
    """What a resolver that finds it gives."""
    return found


# Made when they are needed: a signature is good for five minutes.
WEBHOOKS = {
    "good": lambda: (BODY, signed_headers()),
    "good, of that length": lambda: declaring("21"),
    "empty": lambda: declaring("0", body=b""),
    "leave asked for": lambda: (BODY, [*signed_headers(), ("expect", "100-continue")]),
    "forged": lambda: (BODY, signed_headers(secret=OTHER)),
    "changed": lambda: (BODY + b" ", signed_headers()),
    "unsigned": lambda: (BODY, []),
    "twice": lambda: (BODY, signed_headers() * 2),
    "old": lambda: (BODY, signed_headers(timestamp=1_600_000_000)),
    "longer": lambda: declaring("20"),
    "shorter": lambda: declaring("22"),
    "shorter, unsigned": lambda: (BODY, [("content-length", "22")]),
    "two lengths": lambda: declaring("21", "21"),
    "too long": lambda: (b"x" * 65, signed_headers(b"x" * 65)),
    "too long, unsigned": lambda: (b"x" * 65, []),
    "said to be too long": lambda: declaring("65"),
}
RECEIVERS = {
    "keys": {"keys": SECRET},
    "several keys": {"keys": [OTHER, SECRET]},
    "spooled": {"keys": SECRET, "spool": 4},
    "remembered": {"keys": SECRET, "replay": "handler"},
    "nobody": {"keys": lambda scope: resolved(None)},
    "found": {"keys": lambda scope: resolved(WebhookEndpoint(keys=SECRET, id="a"))},
    "foreign": {"keys": lambda scope: resolved(FOREIGN)},
    "unnamed": {"keys": lambda scope: resolved(SECRET), "replay": "handler"},
}


@pytest.mark.parametrize("receiver", RECEIVERS)
@pytest.mark.parametrize("name", WEBHOOKS)
async def test_how_the_body_comes_changes_nothing(name, receiver):
    """At hand or late, whole or not: the answer, the reason and what the app got."""
    (body, headers), now = WEBHOOKS[name](), time.time()
    options = {"limit": 64, "clock": lambda: now, **RECEIVERS[receiver]}
    outcomes = []
    for way, size in ((late, 8), (late, 1000), (at_hand, 8), (at_hand, 1000)):
        app = App()
        with bind_tenant(Tenant(id="acme")), heard(WebhookRefused) as refusals:
            answer = await deliver(way(WebhookMiddleware(app, **options)), body, headers, size=size)
        facts = [(one["twh.webhook"], one.get("twh.webhook.delivery")) for one in app.scopes]
        told = b"" if app.scopes else {**answer.json, "request_id": ""}
        outcomes.append((answer.status, told, refusals, app.bodies, facts))

    assert outcomes == [outcomes[0]] * 4
    assert (answer.status == 200) == (len(app.bodies) == 1)


def at_hand(app):
    """A server that has the messages at hand."""
    return app


def late(app):
    """A server that has to wait for each message."""

    async def called(scope, receive, send):
        async def slowly():
            await asyncio.sleep(0)
            return await receive()

        await app(scope, slowly, send)

    return called


@pytest.mark.parametrize("size", [8, 21])
async def test_a_body_at_hand_is_neither_timed_nor_copied(size, monkeypatch):
    """Control: one that comes in chunks is."""
    timeout, write, app = asyncio.timeout, _spool.Spool.write, App()
    timed, kept = [], []
    monkeypatch.setattr(asyncio, "timeout", lambda most: timed.append(most) or timeout(most))
    monkeypatch.setattr(
        _spool.Spool, "write", lambda self, piece: kept.append(piece) or write(self, piece)
    )
    await deliver(WebhookMiddleware(app, SECRET), size=size)

    assert app.bodies == [BODY]
    assert (timed, b"".join(kept)) == (([30.0], BODY) if size == 8 else ([], b""))


@pytest.mark.parametrize("size", [8, 21])
async def test_a_body_beyond_the_spool_is_kept_in_a_file(size, monkeypatch):
    """However it comes, no more is kept in memory."""
    files, app = [], App()
    spill = _spool.Spool._spill
    monkeypatch.setattr(_spool.Spool, "_spill", lambda self: files.append(self) or spill(self))
    await deliver(WebhookMiddleware(app, SECRET, spool=len(BODY)), size=size)
    within = len(files)
    await deliver(WebhookMiddleware(app, SECRET, spool=len(BODY) - 1), size=size)

    assert (within, app.bodies) == (0, [BODY, BODY])
    assert files


@pytest.mark.parametrize("more", [[], [("expect", "100-continue")]], ids=["", "asks for leave"])
async def test_headers_that_are_wrong_are_refused_without_waiting(more):
    """With keys that are given; who asked for leave to send the body is not given it."""
    asked, sent = [], []

    async def never():
        asked.append(True)
        await asyncio.sleep(3600)

    async def send(message):
        sent.append(message)

    await WebhookMiddleware(App(), SECRET)(http_scope("/", *more), never, send)

    assert sent[0]["status"] == 401
    assert asked == [] if more else [True]
