"""
Attacks 2, 9 to 11, 20, 25, 29 and 30: what a request makes of spans and of their collector.
"""

from __future__ import annotations

import contextvars
import logging
import re
import threading

import pytest

pytest.importorskip("starlette")
pytest.importorskip("opentelemetry.sdk")

from opentelemetry import baggage
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from tests.attacks.telemetry._peers import Contrib, contrib, drive
from tests.support.spans import Watch, answering, call
from tests.support.telemetry import answer, http
from twh_platform.errors import ConfigurationError
from twh_platform.telemetry import AccessLog, Registry, TelemetryMiddleware, TrustBoundary
from twh_platform.telemetry.otel import configure_telemetry

SECRET = "hunter2"


async def item(request):
    """Answer."""
    return PlainTextResponse("x")


async def test_02_names_spans_by_what_it_writes(twh_attack):
    """A span has the template as its name, or the method alone."""
    attack = twh_attack(number=2, title="names spans by what it writes")
    routes = [Mount("/t/{tenant}", routes=[Route("/items/{item}", item)])]
    peer, watch = Contrib(Starlette(routes=routes)), Watch()
    paths = ["/t/acme/items/7", "/t/evil/items/8", "/wp-login.php"]
    for path in paths:
        await drive(peer.app, http(path))
        await call(watch.around(Starlette(routes=routes)), path)
    names = {one.name for one in peer.spans.get_finished_spans()}
    attack.control([name for name in names if name.endswith(tuple(paths))])

    found = {span.name for span in watch.server_spans}
    attack.ours(found - {"GET /t/{tenant}/items/{item}", "GET"})


async def test_09_has_all_of_its_requests_recorded(twh_attack):
    """The flag of a stranger decides nothing."""
    memory = InMemorySpanExporter()
    attack = twh_attack(number=9, title="has all of its requests recorded")
    naive = TracerProvider(sampler=ParentBased(TraceIdRatioBased(0.0)))
    naive.add_span_processor(SimpleSpanProcessor(memory))
    watch = Watch(ratio=0.0)
    for number in range(1, 51):
        sent = [(b"traceparent", f"00-{number:032x}-b7ad6b7169203331-01".encode())]
        options = {"exclude_spans": ["send", "receive"], "tracer_provider": naive}
        await call(contrib()(answering, **options), headers=sent)
        await call(watch.around(answering), headers=sent)
    attack.control(len(memory.get_finished_spans()))

    attack.ours(len(watch.spans))
    trusting = watch.around(answering, trust=TrustBoundary(networks=["203.0.113.0/24"]))
    await call(trusting, headers=sent)
    assert len(watch.spans) == 1


async def test_10_brings_the_tenant_in_its_baggage(twh_attack):
    """Baggage of a stranger is in no context."""
    attack = twh_attack(number=10, title="says in its baggage whose request it is")
    seen = []

    async def app(scope, receive, send):
        seen.append(baggage.get_all().get("tenant.id"))
        await answering(scope, receive, send)

    sent = [(b"baggage", b"tenant.id=victim")]
    await call(Contrib(app).app, headers=sent)
    attack.control(seen.count("victim"))

    seen.clear()
    watch = Watch()
    await call(watch.around(app), headers=sent)
    await call(Contrib(watch.around(app)).app, headers=sent)
    assert len(seen) == 2
    attack.ours(seen.count("victim"))


async def test_11_is_counted_twice(twh_attack):
    """Of two, one inside the other, one counts; they cannot share a registry."""
    peer = Contrib(answer(), times=2)
    attack = twh_attack(number=11, title="is counted twice where it is wrapped twice")
    await drive(peer.app, http())
    attack.control(sum(point.count for point in peer.points("http.server.duration")) - 1)

    inside, outside, watch = Registry(), Registry(), Watch()
    await call(watch.around(watch.around(answer(), metrics=inside), metrics=outside))
    pages = (inside.page() + outside.page()).decode()
    counts = re.findall(r"request_duration_seconds_count{.*} (.*)", pages)
    attack.ours(int(sum(map(float, counts))) - 1 + len(watch.spans) - 1)
    with pytest.raises(ConfigurationError, match="another metric"):  # in one registry
        watch.around(answer(), metrics=inside)


class _Never:
    """Something that is not there yet."""

    def __await__(self):
        yield


async def test_20_is_closed_in_another_context(twh_attack, caplog):
    """Nothing is detached where it was not attached, and nothing is logged."""
    attack = twh_attack(number=20, title="fills the log by leaving a stream")

    async def app(scope, receive, send):
        await _Never()

    def leave(wrapped) -> None:
        running = call(wrapped)
        contextvars.copy_context().run(running.send, None)
        running.close()

    leave(Contrib(app).app)
    attack.control([one for one in caplog.messages if "Failed to detach context" in one])

    caplog.clear()
    watch = Watch()
    leave(watch.around(app))
    assert watch.span.attributes["platform.outcome"] == "client_disconnect"
    attack.ours(caplog.messages)


@pytest.mark.parametrize("outside", [True, False])
async def test_25_has_two_server_spans(outside, twh_attack):
    """FastAPI's own telemetry and ours make one, whichever stands outside."""
    pytest.importorskip("fastapi.telemetry")
    from fastapi import FastAPI

    form = "FastAPI outside" if outside else "FastAPI inside"
    attack = twh_attack(number=25, title="has two SERVER spans of one request", form=form)
    control, watch, registry = Watch(), Watch(), Registry()

    def fast(provider):
        app = FastAPI(telemetry={"tracer_provider": provider})
        app.add_api_route("/items/{item}", lambda item: item)
        return app

    naive = fast(control.telemetry.provider)

    async def hidden(scope, receive, send):
        await naive(scope, receive, send)

    await call(contrib()(hidden, tracer_provider=control.telemetry.provider), "/items/7")
    attack.control(len(control.server_spans) - 1)

    app = fast(watch.telemetry.provider)
    if outside:
        app.add_middleware(lambda inner: watch.around(inner, metrics=registry))
    await call(app if outside else watch.around(app, metrics=registry), "/items/7")
    (count,) = re.findall(rb"request_duration_seconds_count{.*} (.*)", registry.page())
    attack.ours(len(watch.server_spans) - 1 + int(float(count)) - 1)


class _Down(SpanExporter):
    """A collector that takes nothing, and on which threads it was tried."""

    def __init__(self):
        self.tried = []

    def export(self, spans):
        self.tried.append(threading.get_ident())
        return SpanExportResult.FAILURE


async def test_29_waits_for_a_collector_that_is_down(twh_attack):
    """No request exports: a bounded queue does, and what is lost is counted."""
    attack = twh_attack(number=29, title="waits for a collector that is down")
    naive, down = _Down(), _Down()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(naive))
    registry = Registry()
    telemetry = configure_telemetry(
        exporter=lambda: down, ratio=1.0, set_global=False, environ={}, metrics=registry
    )
    ours = TelemetryMiddleware(answering, tracing=telemetry.tracing, sampler=telemetry.sampler)
    peer = contrib()(answering, tracer_provider=provider)
    for _ in range(10):
        await call(peer)
        assert len(await call(ours)) == 2
    attack.control(naive.tried.count(threading.get_ident()))

    assert telemetry.force_flush(20)
    attack.ours(down.tried.count(threading.get_ident()))
    lost = b'platform_telemetry_spans_dropped_total{reason="export_failed"} 10'
    assert lost in registry.page()
    telemetry.shutdown()


async def test_30_finds_its_secrets_in_telemetry(twh_attack, caplog):
    """Query, cookie, authorization, the text of an exception: neither span, metric nor line."""
    attack = twh_attack(number=30, title="has secrets written into spans, metrics and logs")

    async def app(scope, receive, send):
        message = scope["query_string"].decode()
        raise LookupError(message)

    given = {
        "query": b"password=" + SECRET.encode(),
        "headers": [(b"authorization", b"Bearer hunter2"), (b"cookie", b"s=hunter2")],
    }
    peer = Contrib(app)
    with pytest.raises(LookupError):
        await call(peer.app, **given)
    told = [span.to_json() for span in peer.spans.get_finished_spans()]
    attack.control([one for one in told if SECRET in one])

    caplog.clear()
    caplog.set_level(logging.DEBUG)
    watch, registry = Watch(tracing={"traces": True}), Registry()
    log = AccessLog(logging.getLogger("test.attacks"))
    watched = watch.around(app, metrics=registry, access=log)
    with pytest.raises(LookupError):
        await call(watched, **given)
    page = registry.page(openmetrics=True).decode()
    lines = [str(vars(record)) for record in caplog.records]
    assert lines
    told = [*(span.to_json() for span in watch.spans), page, *lines]
    attack.ours([one for one in told if SECRET in one])
