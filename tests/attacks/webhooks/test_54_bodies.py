"""
Attacks 54 to 68: bodies of all kinds, whole, in chunks, and in errors.
"""

from __future__ import annotations

import gc
import gzip
import json
import time
import tracemalloc
from hashlib import sha256

import pytest

from tests.attacks.webhooks._hooks import (
    BODY,
    NOW,
    SECRET,
    STRIPE_TEXT,
    by_hand,
    code,
    foreign,
    holds,
    stripe_code,
    stripe_hand,
)
from tests.support.tenancy import exchange, http_scope, websocket_scope
from tests.support.webhooks import App, deliver
from twh_platform.errors import WebhookError, WebhookUsageError
from twh_platform.webhooks import (
    Cause,
    MemoryReplayStore,
    StandardSecret,
    WebhookMiddleware,
    diagnose,
    parse_json,
)

OTHER = StandardSecret.generate()


def pairs(body: bytes = BODY, *more: tuple[str, str]) -> list[tuple[str, str]]:
    """Signed headers, and others."""
    return [*by_hand(body).items(), *more]


@pytest.mark.parametrize("library", ["standardwebhooks", "stripe"])
def test_54_sends_what_is_no_text(library, request, twh_attack):
    """A signature is of bytes, whatever they are."""
    attack = twh_attack(number=54, title="has honest bytes that are no text refused", form=library)
    module, body = request.getfixturevalue(library), b"\xff\x00\xfe"
    if library == "stripe":
        own, check = module.SignatureVerificationError, module.WebhookSignature.verify_header
        attack.control(foreign(own, check, body, stripe_hand(body), STRIPE_TEXT, 300))
    else:
        naive = module.Webhook(SECRET.reveal())
        own = module.WebhookVerificationError
        attack.control(foreign(own, naive.verify, body, by_hand(body), json_parse=False))

    attack.ours(code(by_hand(body, stamp=NOW), body, now=NOW) != "")
    attack.ours(stripe_code(stripe_hand(body, stamp=NOW), body, now=NOW) != "")


NO_JSON = {"empty": b"", "a form": b"payload=%7B%7D&a=1", "BOM": b"\xef\xbb\xbf{}", "text": b"paid"}


@pytest.mark.parametrize("body", NO_JSON)
def test_55_sends_what_is_no_json(body, standardwebhooks, twh_attack):
    """That the signature holds, and that it is no JSON, are told apart."""
    attack = twh_attack(number=55, title="has a payload taken for a forgery", form=body)
    raw = NO_JSON[body]
    naive = standardwebhooks.Webhook(SECRET.reveal())
    attack.control(not holds(naive.verify, raw, by_hand(raw)))

    attack.ours(code(by_hand(raw, stamp=NOW), raw, now=NOW) != "")
    assert payload_code(raw) == "payload_invalid"


def payload_code(body: bytes) -> str:
    """What the parser says of it."""
    try:
        parse_json(body)
    except WebhookError as error:
        return error.code
    return ""


TWO_READINGS = {
    "NaN": b'{"amount":NaN}',
    "Infinity": b'{"amount":-Infinity}',
    "a name twice": b'{"amount":1,"amount":1000}',
}


@pytest.mark.parametrize("body", TWO_READINGS)
def test_56_sends_json_that_is_read_in_two_ways(body, standardwebhooks, twh_attack):
    """One reading, or none."""
    attack = twh_attack(number=56, title="sends JSON that others read in another way", form=body)
    raw = TWO_READINGS[body]
    naive = standardwebhooks.Webhook(SECRET.reveal())
    attack.control(holds(naive.verify, raw, by_hand(raw)))

    attack.ours(payload_code(raw) != "payload_invalid")


@pytest.mark.parametrize("start", [b"[", b'{"a":', b'[{"":'], ids=bytes.decode)
def test_57_nests_without_end(start, standardwebhooks, twh_attack):
    """The depth is known before anything calls itself."""
    attack = twh_attack(number=57, title="nests without end", form=start.decode())
    raw = start * 200_000
    naive = standardwebhooks.Webhook(SECRET.reveal())
    own = (standardwebhooks.WebhookVerificationError, ValueError)
    attack.control(foreign(own, naive.verify, raw, by_hand(raw)))

    attack.ours(payload_code(raw) != "payload_invalid")


BODIES = {"memoryview": memoryview(BODY), "None": None, "dict": {}, "a surrogate": "\ud800"}


@pytest.mark.parametrize("body", BODIES)
def test_58_gives_a_body_that_is_none(body, standardwebhooks, twh_attack):
    """Bytes in each of their types are verified; all else is a mistake that is named."""
    attack = twh_attack(number=58, title="has a body end in another error", form=body)
    own = standardwebhooks.WebhookVerificationError
    naive = standardwebhooks.Webhook(SECRET.reveal())
    attack.control(foreign(own, naive.verify, BODIES[body], by_hand()))

    told = code(by_hand(stamp=NOW), BODIES[body], now=NOW)
    attack.ours(told != ("" if body == "memoryview" else "body_not_bytes"))


def received(*parts: tuple[bytes, bool | None]) -> list[dict[str, object]]:
    """Messages of a server; without *more_body* for None."""
    made = [{"type": "http.request", "body": body} for body, _ in parts]
    for message, (_, more) in zip(made, parts, strict=True):
        message.update({} if more is None else {"more_body": more})
    return made


class Naive:
    """The middleware that one writes in ten minutes; each flaw has a name."""

    def __init__(self, app, check, **flaws: bool) -> None:
        self.app = app
        self.check = check
        self.flaws = flaws

    async def __call__(self, scope, receive, send) -> None:
        """Read, verify, hand over."""
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if self.flaws.get("empty_ends") and not message.get("body"):
                break
        self.check(body, scope)
        rest = [{"type": "http.request", "body": body, "more_body": more}]

        async def replayed():
            return rest.pop(0) if rest else await receive()

        await self.app(scope, replayed, send)


def checking(module):
    """Verify with the library."""
    naive = module.Webhook(SECRET.reveal())

    def check(body, scope) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        naive.verify(body, headers, json_parse=False)

    return check


async def test_59_ends_a_body_before_its_end(standardwebhooks, twh_attack):
    """An empty chunk is no end, and what was not verified is not released."""
    attack = twh_attack(number=59, title="has bytes released behind those that were signed")
    evil = b'{"type":"refund.all"}'
    messages = received((BODY, True), (b"", True), (evil, False))
    naive, app = App(), App()
    outer = Naive(naive, checking(standardwebhooks), empty_ends=True)
    await deliver(outer, headers=pairs(), messages=[*messages])
    attack.control(b"".join(naive.bodies).count(evil))

    answer = await deliver(WebhookMiddleware(app, SECRET), headers=pairs(), messages=[*messages])
    attack.ours(len(app.bodies) + (answer.status != 401))
    taken = []

    async def greedy(scope, receive, send):
        taken.extend([(await receive()).get("body") for _ in range(2)])
        await app.answer(receive, send)

    honest = received((b"", True), (BODY, None), (evil, True))
    await deliver(WebhookMiddleware(greedy, SECRET), headers=pairs(), messages=honest)
    attack.ours(taken.count(evil))
    assert taken[0] == BODY


async def test_60_leaves_in_mid_body(standardwebhooks, twh_attack):
    """Nothing is verified in part, and no claim is left of it."""
    attack = twh_attack(number=60, title="has a part handled by leaving in mid-body")
    messages = [*received((BODY, True)), {"type": "http.disconnect"}]
    naive, app, store = App(), App(), MemoryReplayStore()
    headers = pairs(BODY, ("content-length", "1000"))
    await deliver(Naive(naive, checking(standardwebhooks)), headers=headers, messages=[*messages])
    attack.control(len(naive.bodies))

    guarded = WebhookMiddleware(app, SECRET, replay=store)
    sent = await deliver(guarded, headers=headers, messages=[*messages])
    attack.ours(len(app.bodies) + len(store) + len(sent.messages))


@pytest.mark.parametrize("length", ["1", "36", "1000", "+35", "35, 35"])
async def test_61_lies_about_the_length(length, standardwebhooks, twh_attack):
    """A body that is not as long as it was said to be is not handed over."""
    attack = twh_attack(
        number=61, title="has a body handled that is not as long as said", form=length
    )
    naive, app = App(), App()
    headers = pairs(BODY, ("content-length", length))
    await deliver(Naive(naive, checking(standardwebhooks)), BODY, headers)
    attack.control(len(naive.bodies))

    answer = await deliver(WebhookMiddleware(app, SECRET), BODY, headers)
    attack.ours(len(app.bodies) + (answer.status != 400))


async def test_62_sends_more_than_the_limit_in_chunks(twh_attack):
    """What comes is counted, whatever was declared."""
    attack = twh_attack(number=62, title="sends more than the limit in chunks")
    limit, chunk = 1_000, bytes(100)
    messages = received(*[(chunk, True)] * 50, (b"", False))
    taken = []

    def declared_is_small(body, scope) -> None:
        declared = dict(scope["headers"]).get(b"content-length", b"0")  # chunks have none
        assert int(declared) <= limit
        taken.append(len(body))

    await deliver(Naive(App(), declared_is_small), headers=pairs(), messages=[*messages])
    attack.control(taken[0] - limit)

    app, waiting = App(), [*messages]
    answer = await exchange_of(WebhookMiddleware(app, SECRET, limit=limit), waiting)
    read = (len(messages) - len(waiting)) * len(chunk)
    attack.ours(len(app.bodies) + max(0, read - limit - len(chunk)))
    assert answer[0]["status"] == 413


async def exchange_of(app, waiting, headers=None) -> list[dict[str, object]]:
    """What is sent, with messages that are taken away as they are read."""
    sent = []

    async def receive():
        return waiting.pop(0)

    async def send(message):
        sent.append(message)

    await app(http_scope("/hooks", *(headers or pairs()), method="POST"), receive, send)
    return sent


async def test_63_sends_what_becomes_large(standardwebhooks, twh_attack):
    """What came over the wire is verified; nothing is decoded before, nor after."""
    attack = twh_attack(number=63, title="has a bomb expanded before it is verified")
    bomb = gzip.compress(bytes(10_000_000))
    forged = [*by_hand(bomb, key=bytes(32)).items(), ("content-encoding", "gzip")]
    expanded = []

    def decoding(body, scope) -> None:  # as a framework does, or a proxy
        expanded.append(gzip.decompress(body))
        checking(standardwebhooks)(expanded[0].decode(), scope)

    with pytest.raises(standardwebhooks.WebhookVerificationError):
        await deliver(Naive(App(), decoding), bomb, forged, size=4_096)
    attack.control(len(expanded[0]))

    app = App()
    answer = await deliver(WebhookMiddleware(app, SECRET), bomb, forged, size=4_096)
    attack.ours(len(app.bodies) + (answer.status != 401))
    honest = pairs(bomb, ("content-encoding", "gzip"))
    await deliver(WebhookMiddleware(app, SECRET), bomb, honest, size=4_096)
    assert app.bodies == [bomb]


@pytest.mark.parametrize("way", ["empty", "disconnect"])
async def test_64_is_read_by_something_outside(way, standardwebhooks, twh_attack):
    """It is a mistake of ours, raised where it is told from a sender that leaves: no forgery."""
    attack = twh_attack(number=64, title="has what was read before called a forgery", form=way)
    headers = pairs(BODY, ("content-length", str(len(BODY))))
    left = received((b"", False)) if way == "empty" else [{"type": "http.disconnect"}]
    own = standardwebhooks.WebhookVerificationError
    with pytest.raises(own) as refused:
        await deliver(Naive(App(), checking(standardwebhooks)), headers=headers, messages=[*left])
    attack.control(str(refused.value).count("No matching signature"))

    guarded = WebhookMiddleware(App(), SECRET)
    if way == "disconnect":
        answer = await deliver(guarded, headers=headers, messages=[*left])
        attack.ours(answer.messages)
        return
    with pytest.raises(WebhookUsageError) as mistake:
        await deliver(guarded, headers=headers, messages=[*left])
    attack.ours(mistake.value.code != "body_consumed")


@pytest.mark.parametrize("way", ["leaves", "two lengths"])
async def test_64_has_a_mistake_of_ours_raised(way, twh_attack):
    """A stranger who sends no body raises nothing: neither by leaving nor by two lengths."""
    attack = twh_attack(
        number=64, title="has a mistake of ours raised by sending nothing", form=way
    )
    more = [("transfer-encoding", "chunked")] if way == "two lengths" else []
    headers = pairs(BODY, ("content-length", str(len(BODY))), *more)
    nothing = received((b"", False)) if more else [{"type": "http.disconnect"}]

    def checking(body, _scope) -> None:  # as ours did, and raised it out of the app
        assert body, "it was read before"

    with pytest.raises(AssertionError) as raised:
        await deliver(Naive(App(), checking), headers=headers, messages=[*nothing])
    attack.control(str(raised.value).count("read before"))

    app = App()
    answer = await deliver(WebhookMiddleware(app, SECRET), headers=headers, messages=[*nothing])
    attack.ours(len(app.bodies) + bool(answer.messages and answer.status != 400))


@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
async def test_65_opens_what_is_no_request(kind, standardwebhooks, twh_attack):
    """Other scopes pass untouched, with all their messages."""
    attack = twh_attack(number=65, title="has the first message of another scope taken", form=kind)
    scope = websocket_scope("/ws") if kind == "websocket" else {"type": "lifespan", "headers": []}
    first = {"type": "websocket.connect" if kind == "websocket" else "lifespan.startup"}
    heard = []

    async def app(scope, receive, send):
        heard.append(await receive())

    async def run(outer) -> int:
        heard.clear()
        try:
            await exchange(outer, scope, first)
        except Exception:  # noqa: BLE001 -- whatever a naive one makes of it
            return 1
        return heard != [first]

    attack.control(await run(Naive(app, checking(standardwebhooks))))

    attack.ours(await run(WebhookMiddleware(app, SECRET)))


LARGE = 16 * 1_048_576
ROOM = 65_536


async def test_66_streams_without_end(standardwebhooks, twh_attack):
    """What is kept is the spool and one chunk, however much there comes."""
    attack = twh_attack(number=66, title="fills the memory by a large body")
    body = b"x" * LARGE
    naive = standardwebhooks.Webhook(SECRET.reveal())
    headers = by_hand(body)
    attack.control(max(0, peak_of(naive.verify, body, headers, json_parse=False) - ROOM))
    digest, pieces = sha256(body).digest(), App()
    del body
    gc.collect()

    async def hashing(scope, receive, send):
        made, more = sha256(), True
        while more:
            message = await receive()
            made.update(message["body"])
            more = message["more_body"]
        pieces.bodies.append(made.digest())

    # The right headers, so that the app gets all of it.
    guarded = WebhookMiddleware(hashing, SECRET, limit=LARGE, spool=ROOM)
    for _ in range(2):  # what is made once is made by the first
        peak = await peak_while(guarded, list(headers.items()), LARGE // ROOM)
    assert pieces.bodies == [digest, digest]
    # The spool, a chunk of the server's, a piece of the app's, and 64 KiB.
    attack.ours(max(0, peak - 4 * ROOM))


def peak_of(call, *args, **kwargs) -> int:
    """The most bytes that were held at a time."""
    tracemalloc.start()
    try:
        call(*args, **kwargs)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


async def peak_while(app, headers, count) -> int:
    """The same, of an app that is given so many chunks."""
    left = count

    async def receive():
        nonlocal left
        left -= 1
        return {"type": "http.request", "body": b"x" * ROOM, "more_body": left > 0}

    async def send(message) -> None:
        """Nobody listens."""

    scope = http_scope("/hooks", *headers, method="POST")
    tracemalloc.start()
    try:
        await app(scope, receive, send)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


REWRITTEN = {
    "a line break behind": (BODY + b"\n", Cause.LINE_BREAK_ADDED),
    "BOM before": (b"\xef\xbb\xbf" + BODY, Cause.BOM_ADDED),
    "JSON with spaces": (json.dumps(json.loads(BODY)).encode(), Cause.JSON_REWRITTEN),
    "one string of JSON": (json.dumps(BODY.decode()).encode(), Cause.TEXT_QUOTED),
}


@pytest.mark.parametrize("way", REWRITTEN)
def test_67_is_rewritten_on_its_way(way, standardwebhooks, twh_attack):
    """Outside it is a forgery like any other; inside the doctor names what was done."""
    attack = twh_attack(number=67, title="is not told from a forgery after a rewriting", form=way)
    body, cause = REWRITTEN[way]
    naive = standardwebhooks.Webhook(SECRET.reveal())
    errors = []
    for given in (body, b"forged"):
        with pytest.raises(standardwebhooks.WebhookVerificationError) as refused:
            naive.verify(given, by_hand())
        errors.append(str(refused.value))
    attack.control(errors[0] == errors[1])

    headers = by_hand(stamp=NOW)
    found = [diagnose(one, headers, SECRET, clock=lambda: NOW) for one in (body, b"forged")]
    attack.ours([one for one in found if one.code != "signature_mismatch"])
    attack.ours(found[0].cause is not cause or found[1].cause is not Cause.UNKNOWN)


PRIVATE = b'{"iban":"DE02120300000000202051"}'
WRONG = ["changed", "old", "junk", "no header", "other key"]


@pytest.mark.parametrize("way", WRONG)
def test_68_reads_a_body_out_of_an_error(way, stripe, twh_attack):
    """No error has a part of a body, of a secret or of a signature, nor what led to it."""
    attack = twh_attack(number=68, title="reads a body out of an error", form=way)
    stamp = int(time.time()) - (1_000 if way == "old" else 0)
    header = stripe_hand(
        PRIVATE, stamp=stamp, secret="whsec_other" if way == "other key" else STRIPE_TEXT
    )
    header = {"junk": "\u00e4", "no header": ""}.get(way, header)
    body = PRIVATE + (b" " if way == "changed" else b"")
    with pytest.raises(stripe.SignatureVerificationError) as told:
        stripe.WebhookSignature.verify_header(body, header, STRIPE_TEXT, tolerance=300)
    attack.control(repr(vars(told.value)).count("DE02"))

    made = by_hand(PRIVATE, stamp=stamp)
    made = {"junk": {**made, "webhook-signature": "\u00e4"}, "no header": {}}.get(way, made)
    keys = OTHER if way == "other key" else SECRET
    errors = list(chain(raised(body, made, keys)))
    shown = repr([(one, str(one), one.args, vars(one)) for one in errors])
    parts = ("DE02", SECRET.reveal()[6:], by_hand(PRIVATE, stamp=stamp)["webhook-signature"][3:])
    attack.ours([one for one in parts if one in shown])


def raised(body, headers, keys) -> BaseException:
    """What ours raises."""
    from twh_platform.webhooks import verify

    with pytest.raises(WebhookError) as told:
        verify(body, headers, keys)
    return told.value


def chain(error):
    """An error, and all that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def test_68_reads_a_body_out_of_an_error_of_the_parser(standardwebhooks, twh_attack):
    """The decoder's error has the whole document; ours has nothing, and hides that one."""
    attack = twh_attack(number=68, title="reads a body out of an error of the parser")
    body = PRIVATE[:-1]
    naive = standardwebhooks.Webhook(SECRET.reveal())
    with pytest.raises(json.JSONDecodeError) as told:
        naive.verify(body, by_hand(body))
    attack.control(repr(vars(told.value)).count("DE02"))

    with pytest.raises(WebhookError) as refused:
        parse_json(body)
    shown = repr([(one, one.args, vars(one)) for one in chain(refused.value)])
    attack.ours(shown.count("DE02"))
