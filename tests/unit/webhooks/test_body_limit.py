"""
The limit of bodies, message by message.
"""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.support.tenancy import http_scope, websocket_scope
from twh_platform.errors import ConfigurationError, WebhookError
from twh_platform.webhooks import BodyLimitMiddleware


class Exchange:
    """One request by hand: the chunks that come, what the app saw, what went out."""

    def __init__(self, *chunks, length=None, path="/", http_version="1.1", asks=None, answers=True):
        lengths = [] if length is None else [("content-length", length)]
        self.scope = http_scope(path, *lengths, http_version=http_version)
        self.coming = [
            {"type": "http.request", "body": one, "more_body": i + 1 < len(chunks)}
            for i, one in enumerate(chunks)
        ]
        self.asked = 0
        self.seen, self.sent = [], []
        self.answers = answers

    async def receive(self):
        """The next message, then disconnects."""
        self.asked += 1
        return self.coming.pop(0) if self.coming else {"type": "http.disconnect"}

    async def send(self, message):
        """Keep what goes out."""
        self.sent.append(message)

    async def app(self, scope, receive, send):
        """Reads the body to its end, then answers 204."""
        try:
            while True:
                self.seen.append(await receive())
                if not self.seen[-1].get("more_body"):
                    break
        except WebhookError as error:
            self.seen.append(error.code)
            if not self.answers:
                raise
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def run(self, **options):
        """Have it served."""
        options.setdefault("linger", 0)
        await BodyLimitMiddleware(self.app, **options)(self.scope, self.receive, self.send)
        return self

    @property
    def status(self):
        """Of the answer."""
        return self.sent[0]["status"]

    @property
    def problem(self):
        """Its body."""
        return json.loads(self.sent[1]["body"])


@pytest.mark.parametrize("length", [None, "10"])
async def test_a_body_of_the_limit_is_taken(length):
    """The limit itself is within it, and each chunk is passed on as it came."""
    one = await Exchange(b"12345", b"", b"67890", length=length).run(limit=10)

    assert one.status == 204
    assert [message["body"] for message in one.seen] == [b"12345", b"", b"67890"]


@pytest.mark.parametrize("length", ["11", "0" * 30 + "11", "9" * 5_000])
async def test_a_declared_body_beyond_it_is_refused_unread(length):
    """Neither the app nor the body is touched."""
    one = await Exchange(b"x" * 11, length=length).run(limit=10)

    assert (one.status, one.problem["code"]) == (413, "body_too_large")
    assert one.problem["limit_bytes"] == 10
    assert (one.asked, one.seen) == (0, [])


@pytest.mark.parametrize("answers", [True, False])
async def test_an_undeclared_body_beyond_it_is_refused_while_reading(answers):
    """The app gets an error, and whatever it makes of it, the client gets one 413."""
    one = await Exchange(b"x" * 6, b"x" * 5, b"x", answers=answers).run(limit=10)

    assert [message["type"] for message in one.sent] == [
        "http.response.start",
        "http.response.body",
        "http.response.body",
    ]
    assert [message.get("more_body") for message in one.sent] == [None, True, None]
    assert (one.status, one.problem["code"]) == (413, "body_too_large")
    assert (one.asked, one.seen[-1]) == (2, "body_too_large")


@pytest.mark.parametrize(
    ("length", "chunks"),
    [("3", [b"1234"]), ("3", [b"12", b"34"]), ("5", [b"1234"]), ("5", [b"12", b"34"])],
)
async def test_a_length_that_lies_is_refused(length, chunks):
    """Within the limit, longer or shorter than was said."""
    one = await Exchange(*chunks, length=length).run(limit=10)

    assert (one.status, one.problem["code"]) == (400, "content_length_invalid")
    assert one.seen[-1] == "content_length_invalid"


async def test_a_length_beside_an_encoding_of_the_transfer_is_refused():
    """Two lengths of one body, of which servers take either."""
    alone = await Exchange(b"12345", length="5").run(limit=10)
    both = Exchange(b"12345", length="5")
    both.scope["headers"].append((b"transfer-encoding", b"chunked"))
    await both.run(limit=10)

    assert (alone.status, both.status, both.asked) == (204, 400, 0)
    assert both.problem["code"] == "content_length_invalid"


@pytest.mark.parametrize("length", ["-1", "+5", "0x5", "5.0", "5,5", "", b"\xd9\xa5"])
async def test_a_length_that_is_no_number_is_refused(length):
    """Of servers that have not done so themselves."""
    one = await Exchange(b"12345", length=length).run(limit=10)

    assert (one.status, one.problem["code"], one.asked) == (400, "content_length_invalid", 0)


async def test_two_lengths_are_refused():
    """Which of them counts is what a smuggler would like to choose."""
    one = Exchange(b"12345", length="5")
    one.scope["headers"] = one.scope["headers"] * 2

    assert (await one.run(limit=10)).status == 400


async def test_a_client_that_hangs_up_is_the_apps_affair():
    """It sees the disconnect, and its answer is passed on."""
    one = Exchange(b"12", b"34", length="10")
    one.coming.pop()

    await one.run(limit=10)

    assert one.seen[-1] == {"type": "http.disconnect"}
    assert one.status == 204


async def test_what_comes_behind_the_body_is_not_counted():
    """An app that waits for the disconnect gets it, as often as it asks."""
    one = Exchange(b"1234", length="4")

    async def app(scope, receive, send):
        one.seen.extend([(await receive())["type"] for _ in range(3)])

    await BodyLimitMiddleware(app, limit=4)(one.scope, one.receive, one.send)

    assert one.seen == ["http.request", "http.disconnect", "http.disconnect"]


async def test_an_answer_that_has_begun_breaks_off():
    """There is no second answer; the error goes on to the server."""
    one = Exchange(b"x" * 6, b"x" * 6)

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await receive()
        await receive()

    with pytest.raises(WebhookError) as caught:
        await BodyLimitMiddleware(app, limit=10)(one.scope, one.receive, one.send)

    assert caught.value.code == "body_too_large"
    assert [message["status"] for message in one.sent] == [200]


async def test_who_asks_again_gets_the_error_again():
    """Nothing beyond the limit is read."""
    one, codes = Exchange(b"x" * 11, b"x", b"x"), []

    async def app(scope, receive, send):
        for _ in range(3):
            with pytest.raises(WebhookError) as caught:
                await receive()
            codes.append(caught.value.code)

    await BodyLimitMiddleware(app, limit=10, linger=0)(one.scope, one.receive, one.send)

    assert (codes, one.asked) == (["body_too_large"] * 3, 1)


async def test_the_rest_of_a_refused_body_is_thrown_away():
    """Before the end of the answer, and only as far as there is any."""
    one = await Exchange(b"x" * 6, b"x" * 6, b"x", b"x", b"x").run(limit=10, linger=30)
    whole = await Exchange(b"x" * 6, b"x" * 6).run(limit=10, linger=30)

    assert (one.asked, one.coming) == (5, [])
    assert whole.asked == 2


async def test_an_endless_rest_is_not_waited_for():
    """The answer ends, and with it the connection."""
    one = Exchange(length="11")

    async def silent():
        await asyncio.Event().wait()

    await BodyLimitMiddleware(one.app, limit=10, linger=0.01)(one.scope, silent, one.send)

    assert (one.status, len(one.sent)) == (413, 3)


async def test_nothing_is_awaited_from_who_waits_for_leave():
    """It sends no body, because it was refused."""
    one = Exchange(length="11")
    one.scope["headers"].append((b"expect", b"100-continue"))

    await one.run(limit=10, linger=30)

    assert (one.status, one.asked) == (413, 0)


async def test_errors_of_the_app_pass():
    """Those of a request that is not refused, and a cancellation in any case."""
    one = Exchange(b"x" * 11)

    async def failing(scope, receive, send):
        raise ZeroDivisionError

    async def cancelled(scope, receive, send):
        with pytest.raises(WebhookError):
            await receive()
        raise asyncio.CancelledError

    with pytest.raises(ZeroDivisionError):
        await BodyLimitMiddleware(failing, limit=10)(one.scope, one.receive, one.send)
    with pytest.raises(asyncio.CancelledError):
        await BodyLimitMiddleware(cancelled, limit=10)(one.scope, one.receive, one.send)


@pytest.mark.parametrize(
    ("path", "status"),
    [("/", 413), ("/big/x", 204), ("/big/../", 413), ("/small", 413), ("/small/", 413)],
)
async def test_paths_have_their_own(path, status):
    """One that can be read in two ways has the lowest of all."""
    paths = {"/big/*": 100, "/small": 2}
    one = await Exchange(b"x" * 11, path=path).run(limit=10, paths=paths)

    assert one.status == status


@pytest.mark.parametrize(("version", "closes"), [("1.1", True), ("1.0", True), ("2", False)])
async def test_the_connection_is_closed_where_that_is_said_so(version, closes):
    """HTTP/2 has no such header; the rest of a body is not read in either."""
    one = await Exchange(length="11", http_version=version).run(limit=10)

    assert ((b"connection", b"close") in one.sent[0]["headers"]) is closes


@pytest.mark.parametrize("scope", [websocket_scope(), {"type": "lifespan"}])
async def test_other_scopes_pass_through(scope):
    """With the very receive and send that came."""
    seen = []

    async def app(*given):
        seen.extend(given)

    await BodyLimitMiddleware(app)(scope, "receive", "send")

    assert seen == [scope, "receive", "send"]


@pytest.mark.parametrize("limit", [-1, 1.5, True, None, "1"])
def test_limits_are_whole_numbers(limit):
    """Also those of paths, and the time is not below zero."""
    with pytest.raises(ConfigurationError, match="limit="):
        BodyLimitMiddleware(None, limit=limit)
    with pytest.raises(ConfigurationError, match="/x="):
        BodyLimitMiddleware(None, paths={"/x": limit})
    with pytest.raises(ConfigurationError, match="linger="):
        BodyLimitMiddleware(None, linger=-0.1)
