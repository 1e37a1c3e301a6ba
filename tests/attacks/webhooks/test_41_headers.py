"""
Attacks 41 to 48: ids, and headers that come twice, in part or in another form.
"""

from __future__ import annotations

import pytest

from tests.attacks.webhooks._hooks import BODY, ID, NOW, SECRET, by_hand, code, foreign, holds
from tests.support.webhooks import App, deliver
from twh_platform import Tenant
from twh_platform.webhooks import (
    SVIX,
    MemoryReplayStore,
    Signer,
    StandardSecret,
    Verifier,
    WebhookEndpoint,
    WebhookMiddleware,
)


def test_41_brings_an_id_with_a_full_stop(standardwebhooks, twh_attack):
    """It is what separates the id from what follows, so it is no part of one."""
    attack = twh_attack(number=41, title="brings an id with a full stop in it")
    naive = standardwebhooks.Webhook(SECRET.reveal())
    attack.control(holds(naive.verify, BODY, by_hand(event="msg.1")))

    attack.ours(code(by_hand(event="msg.1", stamp=NOW), now=NOW) != "malformed_header")


def test_42_moves_the_boundary_of_what_is_signed(standardwebhooks, twh_attack):
    """One signature is of one id, one time and one body."""
    attack = twh_attack(number=42, title="moves the boundary between id, time and body")
    naive = standardwebhooks.Webhook(SECRET.reveal())
    stamp = by_hand()["webhook-timestamp"]

    def moved(stamp: str) -> tuple[dict[str, str], bytes]:
        # Signed for the id msg, at this time, a body that begins with a time.
        signed = by_hand(f"{stamp}.".encode() + BODY, event="msg", stamp=stamp)
        return {**signed, "webhook-id": f"msg.{stamp}"}, BODY

    attack.control(holds(naive.verify, moved(stamp)[1], moved(stamp)[0]))

    headers, body = moved(str(NOW))
    attack.ours(code(headers, body, now=NOW) != "malformed_header")


IDS = {
    "CR": "msg\r1",
    "LF": "msg\n2023-11-14 INFO paid",
    "NUL": "msg\0",
    "beyond ASCII": "m\u00e4g",
    "a space": "msg 1",
    "a megabyte": "m" * 1_000_000,
}


@pytest.mark.parametrize("event", IDS)
def test_43_brings_an_id_that_is_none(event, standardwebhooks, twh_attack):
    """Letters, digits, ``_`` and ``-``, at most 256: it can be logged and be a key."""
    attack = twh_attack(number=43, title="brings an id that nobody can log", form=event)
    naive = standardwebhooks.Webhook(SECRET.reveal())
    attack.control(holds(naive.verify, BODY, by_hand(event=IDS[event])))

    attack.ours(code(by_hand(event=IDS[event], stamp=NOW), now=NOW) != "malformed_header")


def test_43_brings_an_empty_id(twh_attack):
    """An id that is empty is missing."""
    attack = twh_attack(number=43, title="brings an empty id, which all deliveries share")
    handled = {
        one["webhook-id"]: body for body in (b"1", b"2") for one in [by_hand(body, event="")]
    }
    attack.control(2 - len(handled))

    attack.ours(code(by_hand(event="", stamp=NOW), now=NOW) != "missing_header")


TWICE = ["webhook-id", "webhook-timestamp", "webhook-signature"]


@pytest.mark.parametrize("name", TWICE)
def test_44_brings_a_header_twice(name, standardwebhooks, twh_attack):
    """Which of two is meant is not guessed, whatever reads the first or the last."""
    attack = twh_attack(number=44, title="brings a header twice", form=name)
    naive = standardwebhooks.Webhook(SECRET.reveal())
    headers = by_hand()
    attack.control(holds(naive.verify, BODY, {name.title(): "seen elsewhere", **headers}))

    pairs = [(one.encode(), value.encode()) for one, value in by_hand(stamp=NOW).items()]
    forms = [
        [(name.encode(), b"seen elsewhere"), *pairs],
        [*pairs, (name.title().encode(), b"seen elsewhere")],
        [*pairs, *pairs],
        {name.title(): "seen elsewhere", **by_hand(stamp=NOW)},
    ]
    attack.ours([one for one in forms if code(one, now=NOW) != "duplicate_header"])


@pytest.mark.parametrize("name", ["webhook-id", "webhook-signature"])
def test_45_comes_through_a_proxy_that_joins_headers(name, standardwebhooks, twh_attack):
    """A list where one value belongs is malformed, and no error of another kind."""
    attack = twh_attack(number=45, title="has two joined headers pass, or crash", form=name)
    own = standardwebhooks.WebhookVerificationError
    naive = standardwebhooks.Webhook(SECRET.reveal())

    def joined(stamp: object) -> dict[str, str]:
        separator = "," if name == "webhook-signature" else ", "
        headers = by_hand(stamp=stamp)
        if name == "webhook-id":
            return by_hand(stamp=stamp, event="msg_1, msg_1")
        return {**headers, name: separator.join([headers[name]] * 2)}

    check = (naive.verify, BODY, joined(None))
    attack.control(foreign(own, *check) + holds(*check))

    attack.ours(code(joined(NOW), now=NOW) == "")


@pytest.mark.parametrize("name", ["id", "timestamp", "signature"])
def test_46_mixes_two_sets_of_headers(name, svix, twh_attack):
    """A profile has one set, and it is there as a whole."""
    attack = twh_attack(number=46, title="mixes two sets of headers", form=f"webhook-{name}")
    naive = svix.Webhook(SECRET.reveal())

    def mixed(stamp: object) -> dict[str, str]:
        headers = by_hand(stamp=stamp)
        kept = f"webhook-{name}"
        return {
            one if one == kept else one.replace("webhook", "svix"): value
            for one, value in headers.items()
        }

    attack.control(holds(naive.verify, BODY, mixed(None)))

    attack.ours(code(mixed(NOW), now=NOW, profile=SVIX) != "missing_header")
    attack.ours(code(mixed(NOW), now=NOW) != "missing_header")


FORMS = {
    "pairs of bytes": lambda headers: [(k.encode(), v.encode()) for k, v in headers.items()],
    "pairs of texts": lambda headers: list(headers.items()),
    "names in bytes": lambda headers: {k.encode(): v.encode() for k, v in headers.items()},
    "lists of values": lambda headers: {k: [v] for k, v in headers.items()},
    "a value of None": lambda headers: {**headers, "webhook-id": None},
    "None": lambda _: None,
}


@pytest.mark.parametrize("form", FORMS)
def test_47_gives_headers_in_another_form(form, standardwebhooks, twh_attack):
    """What a server gives is taken as it comes; what is no headers is a mistake that is named."""
    attack = twh_attack(
        number=47, title="has honest headers refused, or end in another error", form=form
    )
    naive = standardwebhooks.Webhook(SECRET.reveal())
    attack.control(not holds(naive.verify, BODY, FORMS[form](by_hand())))

    told = code(FORMS[form](by_hand(stamp=NOW)), now=NOW)
    attack.ours(told not in ({""} if form.startswith("pairs") else {"", "headers_invalid"}))


async def test_48_uses_an_id_of_another_tenant(standardwebhooks, twh_attack):
    """What is remembered is remembered for one tenant and one endpoint."""
    attack = twh_attack(number=48, title="suppresses another tenant's delivery by its id")
    seen, naive = set(), standardwebhooks.Webhook(SECRET.reveal())
    for _ in ("acme", "globex"):
        headers = by_hand()
        naive.verify(BODY, headers)
        handled = headers["webhook-id"] not in seen
        seen.add(headers["webhook-id"])
    attack.control(not handled)

    app, store = App(), MemoryReplayStore()
    for tenant, endpoint in (("acme", "a"), ("acme", "b"), ("globex", "a"), ("globex", "b")):
        found = WebhookEndpoint(keys=SECRET, id=endpoint, tenant=Tenant(id=tenant))
        guarded = WebhookMiddleware(app, found, replay=store)
        assert (await deliver(guarded, headers=list(by_hand(app_body()).items()))).status == 200
    attack.ours(4 - len(app.bodies))


# What a resolver returns of the keys that it has found for a path.
FOUND = {
    "keys": lambda keys, path: keys,
    "a verifier": lambda keys, path: Verifier(keys),
    "no name": lambda keys, path: WebhookEndpoint(keys=keys),
    "a name": lambda keys, path: WebhookEndpoint(keys=keys, id=path),
}


@pytest.mark.parametrize("what", FOUND)
async def test_48_uses_an_id_of_another_endpoint(what, standardwebhooks, twh_attack):
    """Where claims are kept, nothing is taken in at an endpoint without a name."""
    attack = twh_attack(
        number=48,
        title="suppresses a delivery by its id, where a resolver names no endpoint",
        form=what,
    )
    mine = StandardSecret.generate()
    secrets = {"/hooks/mine": mine, "/hooks/orders": SECRET}
    first = dict(Signer(mine).sign(app_body(), event_id=ID).headers)
    deliveries = {"/hooks/mine": first, "/hooks/orders": by_hand(app_body())}
    seen = set()
    for path, headers in deliveries.items():
        standardwebhooks.Webhook(secrets[path].reveal()).verify(app_body(), headers)
        handled = headers["webhook-id"] not in seen
        seen.add(headers["webhook-id"])
    attack.control(not handled)

    async def resolver(scope):
        return FOUND[what](secrets[scope["path"]], scope["path"])

    app = App()
    guarded = WebhookMiddleware(app, resolver, replay=MemoryReplayStore())
    for path, headers in deliveries.items():
        answer = await deliver(guarded, app_body(), list(headers.items()), path=path)
    # 200 without the app, or 409, and the sender stops; at 503 it comes again.
    attack.ours(answer.status not in {200, 503} or (answer.status == 200 and len(app.bodies) < 2))
    assert len(app.bodies) == 2 * (what == "a name")


def app_body() -> bytes:
    """What `deliver` sends."""
    from tests.support.webhooks import BODY as DELIVERED

    return DELIVERED
