"""
Attacks 87 to 89: what can be learnt from answers, from work and from logs.
"""

from __future__ import annotations

import json
import logging
import time

import pytest

from tests.attacks.webhooks._hooks import BODY, KEY, SECRET, by_hand, holds
from tests.support.tenancy import http_scope
from tests.support.webhooks import App, chunks, deliver
from twh_platform import Tenant, bind_tenant
from twh_platform.webhooks import (
    GITHUB,
    RawSecret,
    Signer,
    StandardSecret,
    Verifier,
    WebhookEndpoint,
    WebhookMiddleware,
    _candidates,
    diagnose,
)
from twh_platform.webhooks.ed25519 import PrivateKey

KEYS = [StandardSecret.generate() for _ in range(5)]


def failures() -> dict[str, tuple[bytes, dict[str, str]]]:
    """Every way to fail that is seen before a signature holds, and after."""
    right = by_hand()
    old, early = by_hand(stamp=1_600_000_000), by_hand(stamp=99_999_999_999)
    return {
        "nothing": (BODY, {}),
        "no id": (BODY, {k: v for k, v in right.items() if k != "webhook-id"}),
        "no signature": (BODY, {k: v for k, v in right.items() if k != "webhook-signature"}),
        "bad id": (BODY, by_hand(event="msg.1")),
        "bad time": (BODY, {**right, "webhook-timestamp": "x"}),
        "old": (BODY, old),
        "early": (BODY, early),
        "another scheme": (BODY, {**right, "webhook-signature": "v9,AAAA"}),
        "junk": (BODY, {**right, "webhook-signature": "junk"}),
        "many": (BODY, {**right, "webhook-signature": "v1,A " * 40}),
        "changed": (BODY + b" ", right),
        "another key": (BODY, by_hand(key=bytes(32))),
    }


async def test_87_compares_the_answers(standardwebhooks, twh_attack):
    """One status, one body, the same headers, whatever was wrong; also where nobody lives."""
    attack = twh_attack(number=87, title="compares the answers to what is refused")
    naive = standardwebhooks.Webhook(SECRET.reveal())
    attack.control(len({answer(naive, *one) for one in failures().values()}) - 1)

    async def nowhere(scope):
        return None

    app, seen = App(), set()
    for guarded in (WebhookMiddleware(app, SECRET), WebhookMiddleware(app, nowhere)):
        for body, headers in failures().values():
            told = await deliver(guarded, body, list(headers.items()))
            plain = told.json
            ours = {plain.pop("request_id"), told.headers.pop("x-request-id", "")}
            kept = {k: v for k, v in told.headers.items() if k != "x-request-id"}
            seen.add(json.dumps([told.status, kept, plain], sort_keys=True))
            assert len(ours) == 1
    attack.ours(len(seen) - 1)
    assert app.bodies == []


# What an endpoint has that an unknown one has not, and whether headers fit it.
THERE = {
    "another kind of key": (
        lambda: PrivateKey.generate().public,
        lambda headers: b"v1a," in headers[b"webhook-signature"],
    ),
    "another profile": (
        lambda: Verifier(RawSecret(KEY), profile=GITHUB),
        lambda headers: b"x-hub-signature-256" in headers,
    ),
    "other times": (
        lambda: Verifier(SECRET, past=0),
        lambda headers: int(headers[b"webhook-timestamp"]) >= time.time(),
    ),
    "another tenant": (
        lambda: WebhookEndpoint(keys=SECRET, tenant=Tenant(id="acme")),
        lambda headers: False,  # of the tenant that is bound
    ),
}


@pytest.mark.parametrize("what", THERE)
async def test_87_waits_for_the_answer(what, twh_attack):
    """With a resolver each refusal comes after the body, whatever the endpoint has."""
    attack = twh_attack(number=87, title="learns from an early answer what there is", form=what)
    found, fits = THERE[what][0](), THERE[what][1]

    async def resolver(scope):
        return found if scope["path"] == "/hooks/there" else None

    async def naive(scope, receive, send):
        if await resolver(scope) is None or fits(dict(scope["headers"])):
            while (await receive())["more_body"]:
                pass
        await send({"type": "http.response.start", "status": 401, "headers": []})

    guarded = WebhookMiddleware(App(), resolver)
    stale = by_hand(stamp=int(time.time()) - 60)
    with bind_tenant(Tenant(id="globex")):
        for receiver, noted in ((naive, attack.control), (guarded, attack.ours)):
            for headers in (stale, {}) if receiver is guarded else (stale,):
                there = await read_of(receiver, "/hooks/there", headers)
                noted(there != await read_of(receiver, "/hooks/nowhere", headers))


async def read_of(app, path: str, headers) -> int:
    """How much of a body is asked for before the answer, which is 401."""
    waiting = chunks(BODY)
    count = len(waiting)
    sent = []

    async def receive():
        return waiting.pop(0)

    async def send(message):
        sent.append(message)

    await app(http_scope(path, *headers.items(), method="POST"), receive, send)
    assert sent[0]["status"] == 401
    return count - len(waiting)


def answer(naive, body, headers) -> tuple[int, str]:
    """As a receiver answers that follows the examples."""
    try:
        naive.verify(body, headers)
    except ValueError:
        return 500, "Internal Server Error"
    except Exception as error:  # noqa: BLE001 -- the library's own
        return 400, str(error)
    return 204, ""


class Counted:
    """A MAC each time."""

    def __init__(self, monkeypatch) -> None:
        self.count = 0
        true = _candidates.MacCandidate.signature

        def signature(candidate, running):
            self.count += 1
            return true(candidate, running)

        monkeypatch.setattr(_candidates.MacCandidate, "signature", signature)

    def during(self, call, *args) -> int:
        """How many it takes."""
        before = self.count
        holds(call, *args)
        return self.count - before


@pytest.mark.parametrize("way", ["whole", "in chunks"])
def test_88_learns_which_key_it_was(way, monkeypatch, standardwebhooks, twh_attack):
    """Each key is tried, also after one that matched, and if none does."""
    attack = twh_attack(number=88, title="learns from the work which key it was", form=way)
    naive = [standardwebhooks.Webhook(one.reveal()) for one in KEYS]
    signed = [dict(Signer(one).sign(BODY).headers) for one in (*KEYS, SECRET)]
    attack.control(len({tried(naive, headers) for headers in signed}) - 1)

    verifier, counted = Verifier(KEYS), Counted(monkeypatch)

    def streamed(body, headers) -> None:
        verification = verifier.begin(headers)
        verification.update(body)
        verification.finish()

    verify = verifier.verify if way == "whole" else streamed
    spent = {counted.during(verify, BODY, headers) for headers in signed}
    attack.ours(len(spent) - 1)
    assert spent == {len(KEYS)}


def tried(naive, headers) -> int:
    """How many secrets are tried, as the usual loop does it."""
    for count, one in enumerate(naive, 1):
        if holds(one.verify, BODY, headers):
            return count
    return len(naive)


async def test_89_reads_the_logs(caplog, twh_attack):
    """What is logged has the code, and nothing to forge or to read a body with."""
    attack = twh_attack(number=89, title="reads secrets and right signatures in the logs")
    caplog.set_level(logging.DEBUG)
    right = by_hand()["webhook-signature"][3:]
    parts = (SECRET.reveal()[6:], repr(KEY), KEY.hex(), right, right[:20], "order.paid")
    logging.getLogger("naive").warning("%s: expected %s, got %s", BODY, right, "v1,AAAA")
    attack.control([one for one in parts if one in caplog.text])
    caplog.clear()

    guarded = WebhookMiddleware(App(), SECRET)
    shown = []
    for body, headers in failures().values():
        await deliver(guarded, body, list(headers.items()))
        shown.append(repr(diagnose(body, headers, SECRET)))
    attack.ours([one for one in parts if one in caplog.text + "".join(shown)])
    assert caplog.text.count("webhook refused with 401") == len(failures())
