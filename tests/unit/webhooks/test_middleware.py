"""
Receiving: what reaches the app, what does not, and what the sender is told.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from types import SimpleNamespace

import pytest

from tests.support.tenancy import exchange, heard, http_scope, websocket_scope
from tests.support.webhooks import BODY, SECRET, App, BrokenStore, chunks, deliver, signed_headers
from twh_platform.errors import BackendUnavailableError, ConfigurationError, WebhookUsageError
from twh_platform.tenancy import Tenant, bind_tenant, current_tenant
from twh_platform.testing import ManualClock
from twh_platform.webhooks import (
    GITHUB,
    MESSAGE,
    STRIPE,
    BodyLimitMiddleware,
    MemoryReplayStore,
    RawSecret,
    Replay,
    ReplayStoreDown,
    Retention,
    StandardSecret,
    StoredKeys,
    Verifier,
    WebhookEndpoint,
    WebhookMiddleware,
    WebhookRefused,
    WebhookReplayed,
    WebhookVerified,
    _spool,
    delivery_of,
    sign,
    verified_webhook,
    webhook_delivery,
)

OTHER = StandardSecret.generate()
LENGTH = ("content-length", str(len(BODY)))


@pytest.fixture(autouse=True, params=[8, 65_536], ids=["in chunks", "at once"])
def size(request, monkeypatch):
    """Each test runs twice, as a body at hand as a whole is taken in in another way."""
    monkeypatch.setitem(deliver.__kwdefaults__, "size", request.param)
    return request.param


def webhooks(app, keys=SECRET, **options) -> WebhookMiddleware:
    """An app behind the middleware."""
    return WebhookMiddleware(app, keys, **options)


@pytest.mark.parametrize("spool", [0, 5, 8, 21, 22, 65_536])
async def test_the_app_gets_the_body_as_it_came(spool):
    """Whatever part of it was in a file, the bytes are those that were signed."""
    app = App()
    answer = await deliver(webhooks(app, spool=spool))

    assert (answer.status, app.bodies) == (200, [BODY])


@pytest.mark.parametrize("there", [True, False], ids=["not at hand", "not known"])
async def test_a_file_that_is_not_at_hand_is_read_in_a_thread(there, monkeypatch):
    """Where the system cannot say what is cached, or it is not."""
    if there:
        monkeypatch.setattr(os, "RWF_NOWAIT", 8, raising=False)
        monkeypatch.setattr(os, "preadv", not_at_hand, raising=False)
    else:
        monkeypatch.delattr(os, "RWF_NOWAIT", raising=False)
    app = App()
    await deliver(webhooks(app, spool=5))

    assert app.bodies == [BODY]


async def test_a_disk_that_is_behind_is_written_to_in_threads(monkeypatch):
    """One write that had to wait is enough, and after a while it is tried again."""
    disk, app, threads = _spool._Disk(), App(), []
    monkeypatch.setattr(_spool, "_disk", disk)
    in_thread = _spool.Spool._in_thread

    async def noted(self, step):
        threads.append(step.__name__)
        return await in_thread(self, step)

    monkeypatch.setattr(_spool.Spool, "_in_thread", noted)
    await deliver(webhooks(app, spool=0))
    before = threads.count("_spill")
    disk.wrote(time.monotonic() - 1)
    await deliver(webhooks(app, spool=0))

    assert app.bodies == [BODY, BODY]
    assert before == 0 < threads.count("_spill")


def not_at_hand(*_):
    """A stand-in for a file that was evicted from memory."""
    raise BlockingIOError


async def test_a_small_body_is_one_message():
    """What fits into memory is handed over at once."""
    app = App()
    await deliver(webhooks(app))

    assert app.pieces == [len(BODY)]


async def test_the_facts_are_in_the_scope():
    """The handler sees which event it is, and which key it was signed with."""
    app = App()
    await deliver(webhooks(app), headers=signed_headers(event_id="evt_1"))
    facts = verified_webhook(app.scopes[0])

    assert (facts.id, facts.key_id, facts.scheme) == ("evt_1", SECRET.fingerprint, "v1")


async def test_facts_of_an_outer_middleware_are_not_taken_over():
    """Facts in the scope before it are gone, and a bare handler finds none."""
    scope = http_scope("/")
    with pytest.raises(WebhookUsageError) as refused:
        verified_webhook(scope)
    with pytest.raises(WebhookUsageError):
        webhook_delivery(scope)
    scope["twh.webhook"] = "planted"
    await exchange(webhooks(App()), scope, *chunks(BODY))

    assert refused.value.code == "webhook_unverified"
    assert "twh.webhook" not in scope


# Made when they are needed: a signature is good for five minutes.
FAILURES = {
    "forged": (lambda: {"headers": signed_headers(secret=OTHER)}, "signature_mismatch"),
    "changed": (lambda: {"messages": chunks(BODY + b" ")}, "signature_mismatch"),
    "cut": (lambda: {"messages": chunks(BODY[:-1])}, "signature_mismatch"),
    "unsigned": (lambda: {"headers": []}, "missing_header"),
    "twice": (lambda: {"headers": signed_headers() * 2}, "duplicate_header"),
    "old": (lambda: {"headers": signed_headers(timestamp=1_600_000_000)}, "too_old"),
    "early": (lambda: {"headers": signed_headers(timestamp=99_999_999_999)}, "too_new"),
}


def declaring(*lengths: str) -> list[tuple[str, str]]:
    """Signed headers that say how long the body is."""
    return signed_headers() + [("content-length", one) for one in lengths]


@pytest.mark.parametrize("failure", FAILURES)
async def test_failures_of_authentication_have_one_answer(failure):
    """The status, the headers and the body are the same; the reason is announced."""
    delivery, code = FAILURES[failure]
    app = App()
    first = await deliver(webhooks(App()), headers=[])
    with heard(WebhookRefused) as refusals:
        answer = await deliver(webhooks(app), **delivery())

    told = {**first.json, "request_id": answer.json["request_id"]}
    assert answer.json == told == {**told, "status": 401, "code": "webhook_refused"}
    assert answer.headers == {**first.headers, "x-request-id": told["request_id"]}
    assert [one.code for one in refusals] == [code]
    assert app.bodies == []


@pytest.mark.parametrize("lengths", [["20"], ["22"], ["+21"], ["21", "21"]])
async def test_a_length_that_is_not_the_bodys_is_no_forgery(lengths):
    """It is 400, as from `BodyLimitMiddleware`, and nobody is called."""
    app = App()
    headers = declaring(*lengths)
    with heard(WebhookRefused) as refusals:
        answer = await deliver(webhooks(app), headers=headers)
    other = await deliver(BodyLimitMiddleware(App()), headers=headers)

    assert (answer.status, answer.json["code"]) == (400, "content_length_invalid")
    assert {**answer.json, "request_id": 0} == {**other.json, "request_id": 0}
    assert [one.code for one in refusals] == ["content_length_invalid"]
    assert app.bodies == []


async def test_an_endpoint_that_there_is_not_has_the_same_answer():
    """Nobody learns which endpoints there are, but we do."""
    read = []

    async def nobody(scope):
        return None

    async def receive():
        read.append(1)
        return {"type": "http.request", "body": BODY}

    with heard(WebhookRefused) as refusals:
        answer = await deliver(webhooks(App(), nobody))
        await webhooks(App(), nobody)(http_scope("/", *signed_headers()), receive, ignore)

    assert (answer.status, answer.json["code"]) == (401, "webhook_refused")
    assert {one.code for one in refusals} == {"endpoint_unknown"}
    assert read == [1]  # as for one that there is


async def ignore(message) -> None:
    """A client that does not listen."""


async def test_a_declared_length_beyond_the_limit_is_refused_unread():
    """Nothing of it is read."""
    headers = [*signed_headers(), ("content-length", "22")]
    scope = http_scope("/", *headers)
    sent = []

    async def send(message):
        sent.append(message)

    await webhooks(App(), limit=21)(scope, None, send)

    assert sent[0]["status"] == 413
    assert json.loads(sent[1]["body"])["limit_bytes"] == 21


@pytest.mark.parametrize("spool", [0, 65_536])
async def test_a_body_beyond_the_limit_is_refused_while_it_comes(spool):
    """What comes after the byte that is too many is not read."""
    app, messages = App(), chunks(BODY, 8)
    waiting = [*messages]

    async def receive():
        return waiting.pop(0)

    sent = []
    scope = http_scope("/", *signed_headers())

    async def send(message):
        sent.append(message)

    await webhooks(app, limit=9, spool=spool)(scope, receive, send)

    assert (sent[0]["status"], len(waiting), app.bodies) == (413, len(messages) - 2, [])


async def test_a_body_of_exactly_the_limit_is_taken():
    """The limit is the most that is taken."""
    answer = await deliver(webhooks(App(), limit=len(BODY)), headers=[*signed_headers(), LENGTH])

    assert answer.status == 200


async def test_a_disconnect_in_mid_body_calls_nobody():
    """Nothing is answered, nothing handled, and nothing claimed."""
    app, store = App(), MemoryReplayStore()
    messages = [*chunks(BODY)[:1], {"type": "http.disconnect"}]
    answer = await deliver(webhooks(app, replay=store), messages=messages)

    assert (answer.messages, app.scopes, len(store)) == ([], [], 0)


async def test_a_body_that_was_read_before_is_a_mistake_of_ours():
    """It is told from a forgery: the service is put together wrongly."""
    app, messages = App(), [{"type": "http.request", "body": b""}]
    with pytest.raises(WebhookUsageError) as raised:
        await deliver(webhooks(app), headers=[*signed_headers(), LENGTH], messages=messages)

    assert (raised.value.code, app.scopes) == ("body_consumed", [])


async def test_a_sender_that_leaves_at_once_raises_nothing(caplog):
    """Anybody can do that; the log says that it may have been read before."""
    caplog.set_level("INFO", "twh_platform.webhooks")
    app, messages = App(), [{"type": "http.disconnect"}]
    headers = [*signed_headers(), LENGTH]
    answer = await deliver(webhooks(app), headers=headers, messages=messages)

    assert (answer.messages, app.scopes) == ([], [])
    assert "read before" in caplog.text


async def test_a_length_beside_an_encoding_of_the_transfer_is_refused():
    """A server that goes by the encoding gives an empty body then: no mistake of ours."""
    app, messages = App(), [{"type": "http.request", "body": b""}]
    headers = [*signed_headers(), LENGTH, ("transfer-encoding", "chunked")]
    answer = await deliver(webhooks(app), headers=headers, messages=messages)

    assert (answer.status, answer.json["code"]) == (400, "content_length_invalid")


async def test_a_body_that_does_not_come_is_given_up():
    """It ends with 408, and the app is not called."""
    app, sent = App(), []

    async def never():
        await asyncio.sleep(3600)

    async def send(message):
        sent.append(message)

    await webhooks(app, timeout=0.01)(http_scope("/", *signed_headers()), never, send)

    assert (sent[0]["status"], app.scopes) == (408, [])


async def test_empty_chunks_and_a_missing_more_body():
    """Empty chunks change nothing, and the body ends where no more is announced."""
    app = App()
    messages = [
        {"type": "http.request", "more_body": True},
        {"type": "http.request", "body": BODY[:4], "more_body": True},
        {"type": "http.request", "body": b"", "more_body": True},
        {"type": "http.request", "body": BODY[4:]},
    ]
    answer = await deliver(webhooks(app), messages=messages)

    assert (answer.status, app.bodies) == (200, [BODY])


async def test_what_comes_after_the_body_is_not_released():
    """A server that lies about the end brings nothing unverified in."""
    seen = []

    class Greedy(App):
        async def answer(self, receive, send):
            seen.append(await receive())
            await super().answer(receive, send)

    more = {"type": "http.request", "body": b"unverified", "more_body": False}
    await deliver(webhooks(Greedy()), messages=[*chunks(BODY), more])

    assert seen == [{"type": "http.disconnect"}]


async def test_the_app_hears_of_a_disconnect_after_the_body():
    """What else the server says is passed on."""
    seen = []

    class Listening(App):
        async def answer(self, receive, send):
            seen.append(await receive())
            await super().answer(receive, send)

    await deliver(webhooks(Listening()), messages=[*chunks(BODY), {"type": "http.disconnect"}])

    assert seen == [{"type": "http.disconnect"}]


async def test_a_compressed_body_stays_as_it_is():
    """The signature is of the bytes on the wire, and those are handed on."""
    import gzip

    app, packed = App(), gzip.compress(BODY)
    headers = [*signed_headers(packed), ("content-encoding", "gzip")]
    await deliver(webhooks(app), packed, headers)

    assert app.bodies == [packed]


@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
async def test_other_scopes_pass(kind):
    """They are no webhooks."""
    seen = []

    async def app(scope, receive, send):
        seen.append((scope, receive, send))

    scope = {**websocket_scope("/hooks/orders"), "type": kind}
    await webhooks(app)(scope, "receive", "send")

    assert seen == [(scope, "receive", "send")]


COVERED = [
    "/hooks/orders",
    "/hooks/orders/",
    "/hooks//orders",
    "//hooks/orders",
    "/hooks/./orders",
    "/x/../hooks/orders",
    "/Hooks/Orders",
    "/hooks\\orders",
    "/hooks%2Forders",
    "/hooks/orders\n",
    "/hooks/%6frders",
    "/deep/any/thing",
    "/deep/../other",
]
PASSED = ["/", "/hooks", "/hooks/order", "/hooks/orders2", "/hooks/orders/x", "/deeper"]


@pytest.mark.parametrize(
    ("path", "status"), [(p, 401) for p in COVERED] + [(p, 200) for p in PASSED]
)
async def test_paths_that_could_be_read_as_ours_are_verified(path, status):
    """No spelling of a path leads around the verification."""
    app = webhooks(App(), paths=["/hooks/orders", "/deep/*"])
    answer = await deliver(app, headers=[], path=path)

    assert answer.status == status


async def test_a_mounted_app_routes_on_its_own_path():
    """Under a root path, the path inside is what is compared."""
    app = webhooks(App(), paths=["/hooks/orders"])
    answer = await deliver(app, headers=[], path="/v1/hooks/orders", root_path="/v1")

    assert answer.status == 401


@pytest.mark.parametrize("path", ["hooks", "/a/../b", "", "/a*"])
def test_a_path_that_is_none_is_refused(path):
    """It is noticed when the service starts."""
    with pytest.raises(ConfigurationError):
        webhooks(App(), paths=[path])


async def test_the_resolver_says_whose_endpoint_it_is():
    """The tenant of the endpoint is bound for the app, and nowhere else."""
    verifier = Verifier(SECRET)
    app = App()

    async def find(scope):
        return WebhookEndpoint(keys=verifier, id="orders", tenant=Tenant(id="acme"))

    with heard(WebhookVerified) as signals:
        await deliver(webhooks(app, find))

    assert app.tenants == ["acme"]
    assert current_tenant() is None
    assert [(one.endpoint, one.tenant_id) for one in signals] == [("orders", "acme")]


async def test_the_server_is_called_without_the_tenant():
    """What a server starts from inside a call is not the tenant's."""
    tenants = []

    async def find(scope):
        return WebhookEndpoint(keys=SECRET, tenant=Tenant(id="acme"))

    async def receive():
        tenants.append(current_tenant())
        return {"type": "http.request", "body": BODY}

    async def send(message):
        tenants.append(current_tenant())

    await webhooks(App(), find)(http_scope("/", *signed_headers()), receive, send)

    assert tenants == [None] * 3


async def test_the_endpoint_of_another_tenant_is_refused():
    """Who is known as one tenant cannot deliver to another."""
    app = App()

    async def find(scope):
        return WebhookEndpoint(keys=SECRET, tenant=Tenant(id="acme"))

    with bind_tenant(Tenant(id="globex")), heard(WebhookRefused) as refusals:
        answer = await deliver(webhooks(app, find))

    assert (answer.status, app.scopes) == (401, [])
    assert refusals[0].code == "endpoint_foreign"


@pytest.mark.parametrize("replay", [MemoryReplayStore(), "handler"], ids=["store", "handler"])
@pytest.mark.parametrize("found", [SECRET, Verifier(SECRET), WebhookEndpoint(keys=SECRET)])
async def test_a_resolver_has_to_name_the_endpoint(found, replay, caplog):
    """Else all of them would have one room for claims; without claims it does not matter."""
    app = App()

    async def find(scope):
        return found

    with heard(WebhookRefused) as refusals:
        answer = await deliver(webhooks(app, find, replay=replay))
    assert (answer.status, answer.json["code"]) == (503, "webhook_unavailable")
    assert [one.code for one in refusals] == ["endpoint_unnamed"]
    assert [one.levelname for one in caplog.records] == ["ERROR"]
    assert app.scopes == []

    assert (await deliver(webhooks(app, find))).status == 200


async def at_once_unnamed(scope, receive, send):
    """What is naive: a mistake that is answered as soon as it is seen."""
    if scope["path"] == "/hooks/there":
        await send({"type": "http.response.start", "status": 503, "headers": []})
    else:
        await receive()
        await send({"type": "http.response.start", "status": 401, "headers": []})


@pytest.mark.parametrize("headers", [[], signed_headers(secret=OTHER)], ids=["none", "forged"])
async def test_a_stranger_does_not_learn_of_an_endpoint_without_a_name(headers, caplog):
    """Who has no key is told what is told elsewhere; control: answered at once, he learns."""

    async def find(scope):
        return SECRET if scope["path"] == "/hooks/there" else None

    guarded = webhooks(App(), find, replay=MemoryReplayStore())
    for receiver, learns in ((at_once_unnamed, True), (guarded, False)):
        told = [await seen_at(path, receiver, headers) for path in ("/hooks/there", "/hooks/not")]
        assert (told[0] != told[1]) == learns
    assert told[0][0] == 401
    assert "ERROR" not in [one.levelname for one in caplog.records]


async def seen_at(path, app, headers) -> tuple[int, bytes, int]:
    """The status, the body but for its id, and how much was read before."""
    scope, left, sent = http_scope(path, *headers), chunks(BODY), []
    scope["twh.request_id"] = "the same"

    async def receive():
        return left.pop(0)

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], sent[-1].get("body", b""), len(left)


class OneVersion:
    """A labelled stand-in for a secret store: of each name one version, which is current."""

    def versions(self, name):
        """It is never over."""
        none = dict.fromkeys(("expires_at", "retires_at", "revoked_at"))
        return [SimpleNamespace(version=1, stage="current", current_since=1, **none)]

    def get(self, name, *, version):
        """All names have the same text."""
        return SimpleNamespace(secret=SimpleNamespace(text=SECRET.reveal))


async def test_keys_of_a_store_are_an_endpoint():
    """The same id at two endpoints is two deliveries, each under its owner."""
    app, keys = App(), StoredKeys(OneVersion())

    async def find(scope):
        return await keys.endpoint(scope["path"].rpartition("/")[2], tenant=Tenant(id="acme"))

    guarded = webhooks(app, find, replay=MemoryReplayStore())
    for name in ("orders", "invoices", "invoices"):
        headers = signed_headers(event_id="msg_1")
        await deliver(guarded, headers=headers, path=f"/hooks/{name}")

    assert app.tenants == ["acme", "acme"]


async def test_a_resolver_that_cannot_answer_is_unavailable():
    """The sender is asked to come again, and the app is not called."""
    app = App()

    async def down(scope):
        raise BackendUnavailableError("no secrets")

    answer = await deliver(webhooks(app, down))

    assert (answer.status, answer.headers["retry-after"], app.scopes) == (503, "1", [])


async def test_a_resolver_that_fails_calls_nobody():
    """Its error goes to the server, never past the verification."""
    app = App()

    async def broken(scope):
        raise LookupError

    with pytest.raises(LookupError):
        await deliver(webhooks(app, broken))

    assert app.scopes == []


async def test_errors_of_the_app_are_its_own():
    """An error of ours that the app raises is not answered as a refusal."""

    async def app(scope, receive, send):
        raise BackendUnavailableError("the app's")

    with pytest.raises(BackendUnavailableError, match="the app's"):
        await deliver(webhooks(app))


async def test_what_was_handled_is_not_handled_again():
    """The second time it is answered 200 without the app; control: without a store it runs."""
    headers, app, bare = signed_headers(), App(), App()
    guarded, naive = webhooks(app, replay=MemoryReplayStore()), webhooks(bare)
    with heard(WebhookReplayed) as signals:
        answers = [await deliver(guarded, headers=headers) for _ in range(3)]
    for _ in range(3):
        await deliver(naive, headers=headers)

    assert [one.status for one in answers] == [200, 200, 200]
    assert (len(app.bodies), len(bare.bodies), len(signals)) == (1, 3, 2)


async def test_a_later_attempt_with_the_same_id_is_a_replay():
    """Attempts are signed anew, and are one delivery."""
    app = App()
    guarded = webhooks(app, replay=MemoryReplayStore())
    for _ in range(2):
        await deliver(guarded, headers=signed_headers(event_id="evt_1"))

    assert len(app.bodies) == 1


async def test_the_same_id_with_another_body_is_a_conflict():
    """It is refused and not handled."""
    app = App()
    guarded = webhooks(app, replay=MemoryReplayStore())
    await deliver(guarded, headers=signed_headers(event_id="evt_1"))
    with heard(WebhookRefused) as refusals:
        answer = await deliver(guarded, b"other", signed_headers(b"other", event_id="evt_1"))

    assert (answer.status, answer.json["code"], len(app.bodies)) == (409, "id_conflict", 1)
    assert refusals[0].code == "id_conflict"


@pytest.mark.parametrize("status", [302, 400, 422, 500, 503])
async def test_what_was_not_handled_is_released(status):
    """Senders try again after anything but 2xx, and that attempt is handled."""
    app = App(status)
    guarded = webhooks(app, replay=MemoryReplayStore())
    headers = signed_headers()
    first = await deliver(guarded, headers=headers)
    app.status = 204
    second = await deliver(guarded, headers=headers)

    assert (first.status, second.status, len(app.bodies)) == (status, 204, 2)


@pytest.mark.parametrize("step", ["before", "started"])
async def test_an_exception_releases(step):
    """Also if the answer had begun."""
    store, headers = MemoryReplayStore(), signed_headers()

    async def app(scope, receive, send):
        if step == "started":
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise LookupError

    with pytest.raises(LookupError):
        await deliver(webhooks(app, replay=store), headers=headers)

    assert len(store) == 0


async def test_a_cancellation_releases():
    """A request that is cut off is handled at the next attempt."""
    store, started = MemoryReplayStore(), asyncio.Event()

    async def app(scope, receive, send):
        started.set()
        await asyncio.sleep(3600)

    task = asyncio.create_task(deliver(webhooks(app, replay=store)))
    await started.wait()
    held = len(store)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert (held, len(store)) == (1, 0)


async def test_a_claim_that_comes_after_a_cancellation_is_given_back():
    """Nobody is left holding it."""
    store, asked, go = MemoryReplayStore(), asyncio.Event(), asyncio.Event()

    class Slow(App):
        async def claim(self, key, fingerprint, **more):
            asked.set()
            await go.wait()
            return await store.claim(key, fingerprint, **more)

        commit, release = store.commit, store.release

    task = asyncio.create_task(deliver(webhooks(App(), replay=Slow())))
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    for _ in range(5):
        await asyncio.sleep(0)

    assert len(store) == 0


async def test_what_is_being_handled_is_not_handled_beside():
    """Of two attempts at a time one is handled, and the other comes again."""
    go, started = asyncio.Event(), asyncio.Event()

    class Slow(App):
        async def answer(self, receive, send):
            started.set()
            await go.wait()
            await super().answer(receive, send)

    app, headers = Slow(), signed_headers()
    guarded = webhooks(app, replay=MemoryReplayStore())
    first = asyncio.create_task(deliver(guarded, headers=headers))
    await started.wait()
    second = await deliver(guarded, headers=headers)
    go.set()

    assert (second.status, second.json["code"]) == (409, "webhook_busy")
    assert ((await first).status, len(app.bodies)) == (200, 1)


async def test_it_is_committed_before_the_last_byte():
    """Whoever has the whole answer can rely on it."""
    store, seen = MemoryReplayStore(), []
    scope = http_scope("/", *signed_headers())

    async def receive():
        return {"type": "http.request", "body": BODY}

    async def send(message):
        delivery = webhook_delivery(scope)
        claim = await store.claim(delivery.key, delivery.fingerprint, lease=1, ttl=1)
        seen.append(claim.state.value)

    await webhooks(App(), replay=store)(scope, receive, send)

    assert seen == ["busy", "done"]


@pytest.mark.parametrize(("policy", "status", "calls"), [("closed", 503, 0), ("open", 200, 1)])
async def test_a_store_that_is_down(policy, status, calls):
    """Closed unless open is asked for by name; and it is announced."""
    app = App()
    replay = Replay(store=BrokenStore(), store_down=policy)
    with heard(ReplayStoreDown) as signals:
        answer = await deliver(webhooks(app, replay=replay))

    assert (answer.status, len(app.bodies)) == (status, calls)
    assert [(one.step, one.store_down) for one in signals] == [("claim", policy)]


async def test_a_commit_that_fails_leaves_the_answer():
    """What was done is done: the claim stands until its lease ends."""
    memory, broken = MemoryReplayStore(), BrokenStore()

    class Half:
        claim, commit, release = memory.claim, broken.commit, memory.release

    with heard(ReplayStoreDown) as signals:
        answer = await deliver(webhooks(App(), replay=Half()))

    assert (answer.status, len(memory)) == (200, 1)
    assert [one.step for one in signals] == ["commit"]


async def test_a_handler_that_claims_itself_is_given_the_delivery():
    """The middleware claims nothing, and says what to claim."""
    app = App()
    for _ in range(2):
        await deliver(webhooks(app, replay="handler"), headers=signed_headers(event_id="evt_1"))
    delivery = webhook_delivery(app.scopes[0])

    assert len(app.bodies) == 2
    assert delivery == webhook_delivery(app.scopes[1])
    assert delivery == delivery_of(verified_webhook(app.scopes[0]), BODY)
    assert delivery.window == 600


async def test_forgetting_before_a_signature_ends_is_refused():
    """At the start for keys, and at the request for what a resolver brings."""
    replay = Replay(store=MemoryReplayStore())

    async def find(scope):
        return WebhookEndpoint(keys=Verifier(SECRET, past=3600), id="orders")

    with pytest.raises(ConfigurationError) as refused:
        webhooks(App(), past=3600, replay=replay)
    with pytest.raises(ConfigurationError):
        await deliver(webhooks(App(), find, replay=replay))

    assert refused.value.code == "retention_too_short"
    webhooks(App(), past=3600, replay=Replay(store=replay.store, retention=Retention(window=4000)))


@pytest.mark.parametrize(
    "options",
    [{"limit": -1}, {"spool": -1}, {"replay": "me"}, {"replay": object()}],
)
def test_options_that_make_no_sense_are_refused(options):
    """They are noticed when the service starts."""
    with pytest.raises(ConfigurationError):
        webhooks(App(), **options)


async def test_other_profiles():
    """Stripe's and GitHub's are received alike, also where an endpoint is unknown."""
    secret, app = RawSecret(b"0123456789abcdef0123456789abcdef"), App()

    async def nobody(scope):
        return None

    for profile in (STRIPE, GITHUB):
        headers = signed_headers(secret=secret, profile=profile)
        known = await deliver(webhooks(app, secret, profile=profile), headers=headers)
        unknown = await deliver(webhooks(app, nobody, profile=profile), headers=headers)
        assert (known.status, unknown.status) == (200, 401)


async def test_a_profile_that_signs_our_address():
    """What was sent elsewhere is refused here; and we have to know what we are called."""
    app, url = App(), "https://hooks.example.com/hooks/orders?a=%20b"
    request = sign(BODY, SECRET, profile=MESSAGE, method="POST", url=url)
    headers, more = list(request.headers.items()), {"query_string": b"a=%20b"}
    ours = webhooks(app, profile=MESSAGE, origin="https://hooks.example.com")
    theirs = webhooks(app, profile=MESSAGE, origin="https://hooks.example.org")
    statuses = [(await deliver(one, headers=headers, **more)).status for one in (ours, theirs)]
    statuses.append((await deliver(ours, headers=headers, path="/hooks/other", **more)).status)

    assert (statuses, app.bodies) == ([200, 401, 401], [BODY])
    with pytest.raises(ConfigurationError, match="origin"):
        webhooks(app, profile=MESSAGE)


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
async def test_endpoints_that_share_a_store_need_a_name(named):
    """Without one, an id that one sender has used is a replay at the other's endpoint."""
    store, app, statuses = MemoryReplayStore(), App(), []
    for name, secret in (("orders", SECRET), ("payments", OTHER)):
        keys = WebhookEndpoint(keys=secret, id=name) if named else secret
        headers = signed_headers(secret=secret, event_id="1001")
        answer = await deliver(webhooks(app, keys, replay=store), headers=headers)
        statuses.append(answer.status)

    assert (statuses, len(app.bodies)) == ([200, 200], 2 if named else 1)


@pytest.mark.parametrize("raw_path", [b"/hooks", b"", b"?a=1"])
async def test_a_target_is_the_address_behind_our_origin(raw_path):
    """As it came; an empty one is made of the path."""
    path = "/hooks" if raw_path == b"" else "/"
    url = f"https://hooks.example.com{raw_path.decode() or path}"
    headers = list(sign(BODY, SECRET, profile=MESSAGE, url=url).headers.items())
    ours = webhooks(App(), profile=MESSAGE, origin="https://hooks.example.com")
    answer = await deliver(ours, headers=headers, path=path, raw_path=raw_path)

    assert answer.status == (401 if raw_path.startswith(b"?") else 200)


async def test_the_clock_is_the_callers():
    """An old signature is refused by whatever clock it is told."""
    clock = ManualClock(1_800_000_000.0)
    app = webhooks(App(), clock=clock)
    headers = signed_headers(clock=clock)
    clock.advance(300)
    within = await deliver(app, headers=headers)
    clock.advance(1)
    beyond = await deliver(app, headers=headers)

    assert (within.status, beyond.status) == (200, 401)


async def test_many_at_a_time_do_not_mix():
    """One middleware serves any number of requests."""
    app = App()
    guarded = webhooks(app, spool=16, replay=MemoryReplayStore())
    bodies = [b"%d" % number * 50 for number in range(30)]
    await asyncio.gather(*(deliver(guarded, body) for body in bodies))

    assert sorted(app.bodies) == sorted(bodies)
