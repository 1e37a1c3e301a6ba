"""
Attacks 12 to 15, 18 and 22: connections, values and contexts.
"""

from __future__ import annotations

import contextvars

import pytest

from tests.attacks.telemetry._peers import Contrib, anchor, drive
from tests.support.telemetry import Client, Watched, answer, http, websocket
from twh_platform.telemetry import Registry, set_route

DURATION = "http_server_request_duration_seconds"


async def echoes(scope, receive, send):
    """Send back what comes."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


def talk() -> Client:
    """A websocket's client with twenty messages."""
    texts = [{"type": "websocket.receive", "text": str(at)} for at in range(20)]
    gone = {"type": "websocket.disconnect", "code": 1000}
    return Client({"type": "websocket.connect"}, *texts, gone)


async def test_12_makes_a_span_of_each_message(twh_attack):
    """A websocket is one connection, with its messages counted."""
    peer, watched = Contrib(echoes), Watched(echoes)
    attack = twh_attack(number=12, title="makes a span of each message of a websocket")
    await drive(peer.app, websocket(), talk())
    await watched.get(websocket(), talk())
    attack.control(len(peer.spans.get_finished_spans()) - 1)

    attack.ours(len(watched.ended) - 1)
    assert watched.value("websocket_messages_total") == 40
    assert watched.value("websocket_connection_duration_seconds_count") == 1


LONG = {"trace_id": "a" * 100, "span_id": "b" * 100}


async def test_13_breaks_a_request_by_an_exemplar(twh_attack):
    """What is no exemplar is dropped and counted; the value stays."""
    client = anchor("prometheus_client")
    attack = twh_attack(number=13, title="breaks a request by an exemplar that is too long")
    naive = client.Histogram("took", "Time.", registry=client.CollectorRegistry())
    with pytest.raises(ValueError, match="128"):
        naive.observe(1.0, exemplar=LONG)
    attack.control(1)

    registry = Registry()
    took = registry.histogram("took_seconds", "Time.")
    took.observe(1.0, (LONG["trace_id"], LONG["span_id"]))
    attack.ours(b"aaaa" in registry.page(openmetrics=True))
    assert b"took_seconds_count 1.0" in registry.page()
    assert b"telemetry_values_dropped_total 1.0" in registry.page()


async def test_14_breaks_the_page_by_a_lone_surrogate(twh_attack):
    """Values are cleaned on their way in."""
    client = anchor("prometheus_client")
    attack = twh_attack(number=14, title="breaks the page for good by a lone surrogate")
    naive = client.CollectorRegistry()
    client.Counter("hits", "Hits.", ["route"], registry=naive).labels("/\ud800").inc()
    with pytest.raises(UnicodeEncodeError):
        client.generate_latest(naive)
    attack.control(1)

    async def app(scope, receive, send):
        set_route(scope["path"])
        await answer()(scope, receive, send)

    watched = Watched(app)
    await watched.get(http("/\ud800"))
    attack.ours(1 - int(watched.value(f"{DURATION}_count")))


async def test_15_fills_the_memory_with_series(twh_attack):
    """A registry has a budget, and says what it has refused."""
    pytest.importorskip("opentelemetry.sdk")
    attack = twh_attack(number=15, title="fills the memory with series")
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    reader = InMemoryMetricReader()
    naive = MeterProvider([reader]).get_meter("test").create_counter("hits")
    registry = Registry(max_series=2000)
    ours = registry.counter("hits_total", "Hits.", labels=("who",))
    for number in range(2500):
        naive.add(1, {"who": str(number)})
        ours.labels(str(number)).inc()
    scopes = reader.get_metrics_data().resource_metrics[0].scope_metrics
    points = len(scopes[0].metrics[0].data.data_points)
    if points > 2000:  # later versions of the SDK have a cap of their own
        attack.control(points - 2000)
    else:
        attack.kind = "fact"

    attack.ours(max(0, len(ours) - 2000))
    assert b'telemetry_series_refused_total{metric="hits_total"} 500.0' in registry.page()


async def test_18_makes_a_listener_spin(twh_attack):
    """Nothing here answers for the server: receive() waits as long as that one does."""
    responses = pytest.importorskip("starlette.responses")
    attack = twh_attack(number=18, title="makes a listener for the client's leaving spin")

    async def parts():
        for _ in range(3):
            yield b"part"

    def calls(receive) -> tuple[list[int], object]:
        made = [0]

        async def counted():
            made[0] += 1
            return await receive(made[0])

        return made, counted

    async def never_waits(made):
        # Without this end it would never return.
        return {"type": "http.request" if made < 1000 else "http.disconnect"}

    scope = {**http(), "asgi": {"version": "3.0", "spec_version": "2.3"}}
    made, receive = calls(never_waits)
    await responses.StreamingResponse(parts())(scope, receive, Client().send)
    attack.control(made[0] - 1)

    client = Client()
    made, receive = calls(lambda _: client.receive())
    watched = Watched(responses.StreamingResponse(parts()))
    await watched.app(dict(scope), receive, client.send)
    attack.ours(made[0] - 1)
    assert watched.seen == [("success", 200, "")]


async def test_22_loses_what_is_set_in_the_context(twh_attack):
    """What the app sets is there for the layers around it."""
    base = pytest.importorskip("starlette.middleware.base")
    attack = twh_attack(number=22, title="loses what the app has set in its context")
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="")

    async def app(scope, receive, send):
        who.set("acme")
        await answer()(scope, receive, send)

    async def nothing(request, call_next):
        return await call_next(request)

    await drive(base.BaseHTTPMiddleware(app, dispatch=nothing), http())
    attack.control(who.get() != "acme")

    await Watched(app).get()
    attack.ours(who.get() != "acme")
