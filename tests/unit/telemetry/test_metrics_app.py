"""
The endpoint: who may see it, in which format, and how often it is rendered.
"""

from __future__ import annotations

import asyncio
import gzip
import json

import pytest

from twh_platform.errors import ConfigurationError
from twh_platform.telemetry import MetricsApp, Registry

TOKEN = "t" * 20
NEAR = ("127.0.0.1", 50000)
FAR = ("203.0.113.9", 50000)


@pytest.fixture
def registry():
    """A registry with one counter."""
    registry = Registry()
    registry.counter("hits_total", "Hits.").inc()
    return registry


async def ask(app, *, client=NEAR, method="GET", kind="http", **headers):
    """
    Ask, and return status, headers and body.
    """
    sent = []
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": kind, "method": method, "path": "/metrics", "headers": pairs, "client": client}

    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    start, body = sent
    return start["status"], dict(start["headers"]), body["body"]


async def test_the_machine_itself_sees_the_page(registry):
    """Without a token, whoever asks from this machine gets text."""
    status, headers, body = await ask(MetricsApp(registry))

    assert status == 200
    assert headers[b"content-type"] == b"text/plain; version=0.0.4; charset=utf-8"
    assert int(headers[b"content-length"]) == len(body)
    assert b"hits_total 1.0\n" in body


@pytest.mark.parametrize(
    ("client", "headers"),
    [
        (FAR, {}),
        (None, {}),
        (("", 0), {}),
        (("unix:", None), {}),
        (NEAR, {"x_forwarded_for": "203.0.113.9"}),
        (NEAR, {"forwarded": "for=203.0.113.9"}),
        (NEAR, {"x_forwarded_host": "shop.example"}),
        (NEAR, {"x_forwarded_proto": "https"}),
        (NEAR, {"via": "1.1 proxy"}),
        (NEAR, {"cf_connecting_ip": "203.0.113.9"}),
        (NEAR, {"true_client_ip": "203.0.113.9"}),
        (FAR, {"authorization": f"Bearer {TOKEN}"}),
    ],
)
async def test_others_are_refused(registry, client, headers):
    """Another address is refused, and so is one whose proxy is on this machine."""
    status, _, body = await ask(MetricsApp(registry), client=client, **headers)

    assert status == 403
    assert json.loads(body)["code"] == "metrics_refused"
    assert b"hits" not in body


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LocalHost:8000", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("attacker.example:8000", 403),
        ("127.0.0.1.attacker.example", 403),
        ("localhost@attacker.example", 403),
        ("", 403),
    ],
)
async def test_this_machine_is_asked_by_its_own_name(registry, host, status):
    """A page of a stranger, in a browser here, asks under the stranger's name."""
    assert (await ask(MetricsApp(registry), host=host))[0] == status


async def test_others_in_a_network_may_ask_by_any_name(registry):
    """What names a service has there is not known."""
    app = MetricsApp(registry, networks=["203.0.113.0/24"])

    assert (await ask(app, client=FAR, host="shop.internal"))[0] == 200


async def test_two_authorizations_are_none(registry):
    """Who reads the first and who reads the last would not agree."""
    app, sent = MetricsApp(registry, token=TOKEN), []
    good, bad = (b"authorization", f"Bearer {TOKEN}".encode()), (b"authorization", b"Bearer x")

    async def send(message):
        sent.append(message.get("status"))

    for headers in ([good, bad], [bad, good], [good, good]):
        await app({"type": "http", "method": "GET", "headers": headers}, None, send)

    assert [one for one in sent if one] == [401, 401, 401]


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
@pytest.mark.parametrize("token", [TOKEN, "u" * 20])
async def test_any_of_the_tokens_opens(registry, scheme, token):
    """During a rotation two tokens are good, from any address."""
    app = MetricsApp(registry, token=TOKEN, tokens=["u" * 20])
    status, _, _ = await ask(app, client=FAR, authorization=f"{scheme} {token}")

    assert status == 200


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({}, "credentials_missing"),
        ({"authorization": "Bearer "}, "credentials_invalid"),
        ({"authorization": f"Bearer {TOKEN}x"}, "credentials_invalid"),
        ({"authorization": f"Basic {TOKEN}"}, "credentials_invalid"),
        ({"authorization": TOKEN}, "credentials_invalid"),
    ],
)
async def test_a_wrong_token_is_answered_401(registry, given, code):
    """Where there is a token, this machine needs it too."""
    status, headers, body = await ask(MetricsApp(registry, token=TOKEN), **given)

    assert status == 401
    assert headers[b"www-authenticate"].startswith(b"Bearer")
    assert json.loads(body)["code"] == code


async def test_a_token_of_sixteen_characters_is_long_enough(registry):
    """The shortest that is taken."""
    app = MetricsApp(registry, token="t" * 16)

    assert (await ask(app, authorization=f"Bearer {'t' * 16}"))[0] == 200


async def test_a_network_and_a_token_are_two_ways(registry):
    """An address in a network needs no token, also one that is written as IPv6."""
    app = MetricsApp(registry, token=TOKEN, networks=["203.0.113.0/24"])

    assert (await ask(app, client=FAR))[0] == 200
    assert (await ask(app, client=("::ffff:203.0.113.9", 1)))[0] == 200
    assert (await ask(app, client=NEAR))[0] == 401


async def test_a_service_without_secrets_may_open_its_page(registry):
    """To everybody who comes by themselves; not to whom a header speaks for."""
    app = MetricsApp(registry, networks=["0.0.0.0/0", "unix"])

    assert (await ask(app, client=FAR))[0] == 200
    assert (await ask(app, client=None))[0] == 200
    assert (await ask(app, client=("203.0.113.9", 0)))[0] == 403
    assert (await ask(app, client=FAR, x_real_ip="192.0.2.1"))[0] == 403


async def test_head_has_no_body_and_post_is_not_allowed(registry):
    """HEAD says how long the page is."""
    app = MetricsApp(registry)
    status, headers, body = await ask(app, method="HEAD")
    refused, allowed, _ = await ask(app, method="POST")

    assert (status, body) == (200, b"")
    assert int(headers[b"content-length"]) > 0
    assert (refused, allowed[b"allow"]) == (405, b"GET, HEAD")


async def test_the_page_is_compressed_when_asked(registry):
    """It is the same page, in the format that was asked for."""
    status, headers, body = await ask(
        MetricsApp(registry),
        accept="application/openmetrics-text",
        accept_encoding="gzip, deflate",
    )

    assert (status, headers[b"content-encoding"]) == (200, b"gzip")
    assert headers[b"content-type"].startswith(b"application/openmetrics-text")
    assert gzip.decompress(body).endswith(b"# EOF\n")


async def test_a_page_is_rendered_once_for_all_who_ask(registry):
    """Twenty who ask together, and one who asks soon after, get one rendering."""
    renderings = []
    registry.on_render(lambda: renderings.append(1))
    now = [0.0]
    app = MetricsApp(registry, clock=lambda: now[0])
    await asyncio.gather(*(ask(app) for _ in range(20)))
    now[0] = 0.9
    await ask(app)
    before = len(renderings)
    now[0] = 1.0
    await ask(app)

    assert (before, len(renderings)) == (1, 2)


@pytest.mark.parametrize(("max_age", "expected"), [(0.0, 3), (60.0, 1)])
async def test_how_old_a_page_may_be_is_chosen(registry, max_age, expected):
    """None at all is a rendering for each."""
    renderings = []
    registry.on_render(lambda: renderings.append(1))
    app = MetricsApp(registry, max_age=max_age)
    for _ in range(3):
        await ask(app)

    assert len(renderings) == expected


async def test_who_goes_away_does_not_take_the_page_from_others(registry):
    """The first who asked is cancelled; the second gets the page."""
    app = MetricsApp(registry)
    first = asyncio.create_task(ask(app))
    second = asyncio.create_task(ask(app))
    await asyncio.sleep(0)
    first.cancel()
    status, _, _ = await second

    assert status == 200
    assert first.cancelled()


async def test_others_run_while_a_large_page_is_rendered(registry):
    """How often they run grows with the page, so that their wait does not."""
    took = registry.histogram("took_seconds", "Time.", labels=("t",))
    for number in range(2000):
        took.labels(number).observe(1)
    task = asyncio.create_task(ask(MetricsApp(registry)))
    turns = 0
    while not task.done():
        await asyncio.sleep(0)
        turns += 1

    assert turns > 60
    assert (await task)[2].count(b"\n") > 34_000


async def test_a_websocket_is_refused(registry):
    """There is nothing to talk about."""
    sent = []

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        sent.append(message)

    await MetricsApp(registry)({"type": "websocket", "headers": []}, receive, send)

    assert sent[0]["type"] == "websocket.close"


@pytest.mark.parametrize(
    "options",
    [
        {"token": "t" * 15},
        {"token": ""},
        {"tokens": ["é" * 20]},
        {"tokens": ["a b" * 20]},
        {"tokens": [b"x" * 20]},
        {"networks": ["nowhere"]},
        {"networks": "10.0.0.0/8"},
        {"max_age": -1},
    ],
)
def test_options_are_checked(registry, options):
    """An empty token from a missing setting does not open the page to everybody."""
    with pytest.raises(ConfigurationError):
        MetricsApp(registry, **options)
