"""
How a request ends, and what is then told: every outcome, by every way that servers have.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from contextlib import suppress

import pytest

from tests.support.telemetry import Client, Watched, answer, http
from twh_platform.telemetry import (
    Registry,
    RouteTemplates,
    TelemetryMiddleware,
    current_exchange,
)

DURATION = "http_server_request_duration_seconds"
START = {"type": "http.response.start", "status": 200, "headers": []}
LEFT = {"type": "http.disconnect"}


@pytest.mark.parametrize(
    ("status", "outcome", "error_type"),
    [
        (200, "success", ""),
        (204, "success", ""),
        (307, "success", ""),
        (404, "client_error", ""),
        (499, "client_error", ""),
        (500, "server_error", "500"),
        (503, "server_error", "503"),
    ],
)
async def test_a_whole_answer_is_judged_by_its_status(status, outcome, error_type):
    """Statuses of 500 and more are errors, and have their status as the type."""
    watched = Watched(answer(status))
    await watched.get()

    assert watched.seen == [(outcome, status, error_type)]
    labels = {"http_response_status_code": str(status), "error_type": error_type}
    assert watched.value(f"{DURATION}_count", **labels) == 1
    assert watched.active == 0


def raising(error: BaseException | type[BaseException], *messages: dict):
    """An app that sends these, and then raises."""

    async def app(scope, receive, send):
        for message in messages:
            await send(message)
        raise error

    return app


class TroubleError(Exception):
    """What goes wrong in a service."""


TROUBLE = f"{__name__}.TroubleError"
PART = {"type": "http.response.body", "body": b"part", "more_body": True}
FAILED = [{**START, "status": 500}, {"type": "http.response.body", "body": b"sorry"}]


@pytest.mark.parametrize(
    ("messages", "status"),
    [([], 500), ([START], 200), ([START, PART], 200), (FAILED, 500)],
    ids=["before the start", "after the start", "in the body", "after an answer of 500"],
)
async def test_an_exception_is_the_error_type(messages, status):
    """Wherever it comes out, it is raised further, and told with its class."""
    watched = Watched(raising(TroubleError("secret"), *messages))
    with pytest.raises(TroubleError):
        await watched.get()

    assert watched.seen == [("server_error", status, TROUBLE)]
    assert watched.labels(f"{DURATION}_count", "error_type") == {TROUBLE}
    assert watched.active == 0


@pytest.mark.parametrize("messages", [[], [START], [START, PART]], ids=len)
async def test_an_app_that_stops_halfway_is_an_error(messages):
    """No last part of a body is no answer."""

    async def app(scope, receive, send):
        for message in messages:
            await send(message)

    watched = Watched(app)
    await watched.get()

    assert watched.seen == [("server_error", 200 if messages else 500, "incomplete_response")]
    assert watched.active == 0


@pytest.mark.parametrize("error", [ConnectionRefusedError(), TimeoutError(), FileNotFoundError()])
@pytest.mark.parametrize("messages", [[], [START, PART]], ids=["at once", "in the body"])
async def test_a_dependency_that_is_down_is_no_client_that_left(error, messages):
    """They are of `OSError` too, but did not come from sending."""
    watched = Watched(raising(error, *messages))
    with pytest.raises(type(error)):
        await watched.get()

    assert watched.seen[0][0] == "server_error"
    assert watched.seen[0][2] == type(error).__name__


async def test_an_exception_after_a_whole_answer_is_the_background_tasks():
    """The client has its answer."""
    last = {"type": "http.response.body", "body": b"all"}
    watched = Watched(raising(TroubleError(), START, last))
    with pytest.raises(TroubleError):
        await watched.get()

    assert watched.seen == [("success", 200, "")]


async def listens(scope, receive, send):
    """Answer in parts until the client leaves, as Starlette does by default."""
    await send(START)
    await send(PART)
    while (await receive())["type"] != "http.disconnect":
        pass


async def gives_up(scope, receive, send):
    """Raise for a client that leaves in its upload, and answer 500 for that, as Starlette does."""
    while (await receive())["type"] != "http.disconnect":
        pass
    for message in FAILED:
        await send(message)
    raise TroubleError


async def goes_on(scope, receive, send):
    """Answer all the same."""
    await gives_up_reading(receive)
    await answer()(scope, receive, send)


async def gives_up_reading(receive):
    """Read until there is no more."""
    while (await receive())["type"] != "http.disconnect":
        pass


@pytest.mark.parametrize("app", [listens, goes_on])
async def test_a_client_that_leaves_by_a_message_is_no_error(app):
    """What the app does about it makes no difference."""
    watched = Watched(app)
    await watched.get(client=Client(LEFT))

    assert [one[0] for one in watched.seen] == ["client_disconnect"]
    assert watched.value(f"{DURATION}_count", error_type="") == 1
    assert watched.active == 0


async def test_an_answer_of_500_that_nobody_gets_is_no_error():
    """Its status was never sent, so it is on no page."""
    watched = Watched(gives_up)
    with pytest.raises(TroubleError):
        await watched.get(client=Client(LEFT))

    assert watched.seen == [("client_disconnect", 0, "")]
    assert watched.labels(f"{DURATION}_count", "http_response_status_code") == {""}


async def test_a_client_that_leaves_by_cancellation_is_no_error():
    """Some servers cancel the app when the connection is lost."""
    reached = asyncio.Event()

    async def app(scope, receive, send):
        reached.set()
        await asyncio.Event().wait()

    watched = Watched(app)
    task = asyncio.create_task(watched.get())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert watched.seen == [("client_disconnect", 0, "")]
    assert watched.active == 0


@pytest.mark.parametrize("messages", [[], [START, PART]], ids=["at once", "in the body"])
async def test_a_cancellation_of_what_was_awaited_is_an_error(messages):
    """Nobody has stopped the request, and its client waits."""

    async def app(scope, receive, send):
        for message in messages:
            await send(message)
        shared = asyncio.get_running_loop().create_future()
        shared.cancel()
        await shared

    watched = Watched(app)
    with pytest.raises(asyncio.CancelledError):
        await watched.get()

    status = 200 if messages else 500
    assert watched.seen == [("server_error", status, "asyncio.exceptions.CancelledError")]
    assert watched.active == 0


@pytest.mark.parametrize("error", [OSError, BrokenPipeError, ConnectionResetError])
@pytest.mark.parametrize("wraps", [False, True])
async def test_a_client_that_leaves_by_an_error_of_send_is_no_error(error, wraps):
    """Whatever the app makes of the error."""

    async def app(scope, receive, send):
        await send(START)
        try:
            await send(PART)
        except OSError:
            if wraps:
                raise TroubleError from None
            raise

    watched = Watched(app)
    with pytest.raises(TroubleError if wraps else error):
        await watched.get(client=Client(refuses=error))

    assert watched.seen == [("client_disconnect", 200, "")]
    assert watched.active == 0


async def test_a_listener_that_hears_of_the_end_is_no_client_that_left():
    """Servers tell the end of the response by the same message."""

    async def app(scope, receive, send):
        listener = asyncio.create_task(receive())
        await send(START)
        await send({"type": "http.response.body", "body": b"all"})
        await listener

    client = Client()
    plain = client.send

    async def send(message):
        if message["type"] == "http.response.body":
            client.say(LEFT)
            await asyncio.sleep(0)
        await plain(message)

    client.send = send
    watched = Watched(app)
    await watched.get(client=client)

    assert watched.seen == [("success", 200, "")]


async def test_an_abandoned_coroutine_ends_its_request():
    """As when a loop is closed: nobody counts as active for ever."""
    watched = Watched(listens)
    client = Client()
    serving = watched.app(http(), client.receive, client.send)
    serving.send(None)
    serving.close()

    assert watched.seen[0][0] == "client_disconnect"
    assert watched.active == 0


@pytest.mark.parametrize("status", [200, 404, 500])
async def test_work_in_the_background_does_not_stretch_a_request(status):
    """It has ended, in duration and gauge, with the last part of the body."""
    done, go_on = asyncio.Event(), asyncio.Event()

    async def app(scope, receive, send):
        await answer(status)(scope, receive, send)
        done.set()
        await go_on.wait()

    watched = Watched(app)
    task = asyncio.create_task(watched.get())
    await done.wait()
    await asyncio.sleep(0.05)
    assert watched.active == 0
    go_on.set()
    await task

    assert watched.ended[0].duration < 0.05
    assert watched.value(f"{DURATION}_count", http_response_status_code=str(status)) == 1


async def test_the_metric_is_the_exchanges_duration():
    """One clock, read once at either end."""
    watched = Watched(answer())
    for _ in range(3):
        await watched.get()

    total = watched.value(f"{DURATION}_sum")
    assert total == pytest.approx(sum(one.duration for one in watched.ended), abs=0)


async def test_a_request_inside_of_itself_is_counted_once():
    """Two middlewares, or one put in twice, watch it once."""
    inner = Watched(answer())
    outer = Watched(inner.app)
    await outer.get()

    assert (len(outer.ended), len(inner.ended)) == (1, 0)
    assert inner.value(f"{DURATION}_count") == 0


async def test_excluded_paths_are_not_watched():
    """They are served, and counted nowhere."""
    watched = Watched(answer(), excluded=["/healthz"])
    client = await watched.get(http("/healthz"))
    await watched.get(http("/healthz/more"))

    assert client.sent[0]["status"] == 200
    assert len(watched.ended) == 1


async def test_a_lifespan_passes_untouched():
    """The app has the server's own channels."""
    seen = []

    async def app(scope, receive, send):
        seen.append((receive, send))

    client = Client()
    receive, send = client.receive, client.send
    await TelemetryMiddleware(app, metrics=Registry())({"type": "lifespan"}, receive, send)

    assert seen == [(receive, send)]


async def test_odd_methods_share_a_label():
    """A thousand of them are one series."""
    watched = Watched(answer(405))
    for number in range(1000):
        await watched.get(http(method=f"ODD{number}"))

    assert watched.labels(f"{DURATION}_count", "http_request_method") == {"_OTHER"}
    assert watched.value(f"{DURATION}_count") == 1000
    assert watched.labels("http_server_active_requests", "http_request_method") == {"_OTHER"}


async def test_methods_that_a_route_has_not_share_a_label():
    """Else a stranger multiplies the routes by all known methods."""
    refused, answered = Watched(answer(405)), Watched(answer(200))
    for watched in (refused, answered):
        for method in ("GET", "PUT", "DELETE", "TRACE"):
            await watched.get(http(method=method))

    assert refused.labels(f"{DURATION}_count", "http_request_method") == {"_OTHER"}
    assert refused.value(f"{DURATION}_count") == 4
    assert len(answered.labels(f"{DURATION}_count", "http_request_method")) == 4


async def test_odd_schemes_and_versions_share_a_label():
    """A server may take them from the client."""
    watched = Watched(answer())
    for number in range(50):
        await watched.get(http(scheme=f"s{number}", http_version=f"{number}.7"))

    assert watched.labels(f"{DURATION}_count", "url_scheme") == {""}
    assert watched.labels(f"{DURATION}_count", "network_protocol_version") == {""}
    assert watched.active == 0


@pytest.mark.parametrize(
    "scope",
    [
        http("/\ud800"),
        http("/" + "x" * 100_000),
        http(scheme="\ud800"),
        http(scheme=None, http_version=None),
        http(method="G\nET"),
        http(headers=[(b"traceparent", b"\xff" * 70_000)]),
        http(client=None, server=None),
        http(client=("not an address", None)),
        {"type": "http", "path": "/", "method": "GET", "headers": ()},
        {"type": "http", "path": "/"},
        {"type": "http", "path": "/", "method": ["GET"]},
    ],
    ids=range(11),
)
async def test_no_scope_makes_a_request_fail(scope, caplog):
    """The app answers, and the page renders."""
    watched = Watched(answer())
    client = await watched.get(scope)

    assert [message["type"][14:] for message in client.sent] == ["start", "body"]
    assert watched.registry.page(openmetrics=True).endswith(b"# EOF\n")
    assert watched.active == 0


def broken(*_args, **_more):
    """Whatever is called, it fails."""
    raise TroubleError


async def test_no_fault_of_ours_makes_a_request_fail(caplog, monkeypatch):
    """What could not be told is logged."""
    watched = Watched(answer(), access=broken)
    monkeypatch.setattr(RouteTemplates, "template", broken)
    monkeypatch.setattr(watched.app._http, "ended", broken)
    client = await watched.get()

    assert len(client.sent) == 2
    assert watched.active == 0
    assert {record.levelno for record in caplog.records} == {logging.ERROR}
    assert len(caplog.records) == 3


class BrokenTracing:
    """Tracing that fails at one place."""

    def __init__(self, *places: str) -> None:
        self.places = places
        self.left = 0

    def enter(self, exchange):
        """Begin."""
        return broken() if "enter" in self.places else 7

    def finish(self, exchange, entered):
        """End."""
        assert entered == 7
        if "finish" in self.places:
            broken()

    def leave(self, entered):
        """Return."""
        self.left += 1


@pytest.mark.parametrize("place", ["enter", "finish"])
async def test_broken_tracing_does_not_make_a_request_fail(place, caplog):
    """Nor does it keep the request from being counted, once it is watched."""
    watched = Watched(answer(), tracing=BrokenTracing(place))
    client = await watched.get()

    assert len(client.sent) == 2
    assert watched.active == 0
    assert watched.value(f"{DURATION}_count") == (place == "finish")


class Thing:
    """Something in a scope."""


@pytest.mark.parametrize("app", [answer(), raising(TroubleError), answer(500)])
async def test_a_request_leaves_nothing_behind(app):
    """No circle of objects waits for the garbage collector, not even after an exception."""
    thing = Thing()
    kept = weakref.ref(thing)
    watching = TelemetryMiddleware(app, metrics=Registry())
    gc.disable()
    try:
        with suppress(TroubleError):
            await watching({**http(), "thing": thing}, Client().receive, Client().send)
        del thing
        assert kept() is None
    finally:
        gc.enable()


async def test_the_current_exchange_is_the_requests_own():
    """A hundred requests at once each see theirs, also in tasks that they begin."""

    async def seen():
        await asyncio.sleep(0)
        return current_exchange()

    async def app(scope, receive, send):
        mine = current_exchange()
        assert await asyncio.create_task(seen()) is mine
        await answer(body=b"x" * scope["number"])(scope, receive, send)

    watched = Watched(app)
    await asyncio.gather(*(watched.get({**http(), "number": number}) for number in range(100)))

    assert sorted(one.response_bytes for one in watched.ended) == list(range(100))
    assert len({one.trace_id for one in watched.ended}) == 100
    assert watched.active == 0
    assert current_exchange() is None


async def test_a_response_tells_its_trace_where_it_shall():
    """The header has the ids that logs and exemplars have."""
    watched = Watched(answer(), trace_header="Traceresponse")
    client = await watched.get()
    headers = dict(client.sent[0]["headers"])
    one = watched.ended[0]

    assert headers[b"traceresponse"].decode() == f"00-{one.trace_id}-{one.span_id}-00"
    assert headers[b"content-type"] == b"text/plain"


async def test_headers_that_can_be_read_once_reach_the_server():
    """ASGI has any iterable."""

    async def app(scope, receive, send):
        headers = iter([(b"x-one", b"1"), (b"content-type", b"text/plain")])
        await send({**START, "headers": headers})
        await send({"type": "http.response.body"})

    client = await Watched(app).get()

    assert list(client.sent[0]["headers"]) == [(b"x-one", b"1"), (b"content-type", b"text/plain")]
