"""
One SERVER span, whoever else instruments the app: FastAPI itself, or OpenTelemetry's contrib.
"""

from __future__ import annotations

import contextvars
import re

import pytest

pytest.importorskip("opentelemetry.sdk")
pytest.importorskip("fastapi.telemetry")
pytest.importorskip("opentelemetry.instrumentation.asgi")
pytest.importorskip("opentelemetry.instrumentation.fastapi")
pytest.importorskip("opentelemetry.instrumentation.starlette")

from fastapi import BackgroundTasks, FastAPI
from opentelemetry import baggage, trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware as Contrib
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.instrumentation.starlette import StarletteInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from tests.support.spans import Watch, answering, call
from twh_platform._asgi import RESOLUTION
from twh_platform.telemetry import HeadSampler, Registry
from twh_platform.telemetry._exchange import current_exchange
from twh_platform.telemetry._middleware import TelemetryMiddleware
from twh_platform.telemetry.otel import OtelTracing


class Resolution:
    """What tenancy leaves."""

    class tenant:  # noqa: D106, N801 -- an attribute
        id = "acme"

    user_id = None


def _fastapi(provider=None):
    options = {} if provider is None else {"telemetry": {"tracer_provider": provider}}
    app = FastAPI(**options)

    @app.get("/items/{item}")
    async def item(item: str):
        trace.get_current_span().set_attribute("order.id", 7)
        return item

    return app


def _binding(app):
    async def bound(scope, receive, send):
        scope[RESOLUTION] = Resolution
        await app(scope, receive, send)

    return bound


async def test_fastapi_inside_of_us_is_switched_off():
    """Own mode: our span with the route; FastAPI's is the control."""
    watch = Watch()
    app = _fastapi(watch.telemetry.provider)

    await call(app, "/items/7")
    (control,) = watch.server_spans
    watch.memory.clear()
    await call(watch.around(app), "/items/7")

    assert control.instrumentation_scope.name == "fastapi"
    assert [span.name for span in watch.spans] == ["GET /items/{item}"]
    assert watch.span.instrumentation_scope.name == "twh_platform.telemetry"
    assert watch.span.attributes["order.id"] == 7


async def test_two_server_spans_are_what_an_outer_layer_gets_without_care():
    """The control: a middleware of contrib around FastAPI's own, which it does not see."""
    watch = Watch()

    async def hidden(scope, receive, send):
        await app(scope, receive, send)

    app = _fastapi(watch.telemetry.provider)
    await call(Contrib(hidden, tracer_provider=watch.telemetry.provider), "/items/7")

    assert len(watch.server_spans) == 2


@pytest.mark.parametrize("ratio", [1.0, 0.0])
async def test_fastapi_outside_of_us_keeps_its_span(ratio):
    """Enrich mode: added by add_middleware(), we take its ids and add whose request it was."""
    watch, ended = Watch(), []
    app = _fastapi(watch.telemetry.provider)
    options = {"sampler": HeadSampler(ratio=ratio), "access": ended.append}
    app.add_middleware(
        lambda inner: watch.around(_binding(inner), **options),
    )

    await call(app, "/items/7")

    (span,) = watch.server_spans
    assert span.instrumentation_scope.name == "fastapi"
    assert (span.name, span.attributes["tenant.id"]) == ("GET /items/{item}", "acme")
    assert ended[0].span_id == f"{span.context.span_id:016x}"
    assert ended[0].sampled


async def test_fastapi_outside_that_does_not_record_is_followed():
    """Its decision is ours too: no span at all, and the ids are its."""
    watch, ended = Watch(ratio=0.0), []
    app = _fastapi(watch.telemetry.provider)
    app.add_middleware(
        lambda inner: watch.around(inner, sampler=HeadSampler(ratio=1.0), access=ended.append)
    )

    await call(app, "/items/7")

    assert watch.spans == ()
    assert not ended[0].sampled


@pytest.mark.parametrize("outside", [True, False])
async def test_both_modes_count_a_request_once(outside):
    """One span and one observation of ours, wherever FastAPI's own stands."""
    watch, registry = Watch(), Registry()
    app = _fastapi(watch.telemetry.provider)
    if outside:
        app.add_middleware(lambda inner: watch.around(inner, metrics=registry))

    await call(app if outside else watch.around(app, metrics=registry), "/items/7")

    (count,) = re.findall(rb"request_duration_seconds_count{.*} (.*)", registry.page())
    assert len(watch.server_spans) == 1
    assert float(count) == 1


async def test_contrib_inside_of_us_is_silent():
    """No nested INTERNAL span and none for each message; attributes of the app arrive."""
    watch = Watch()

    async def app(scope, receive, send):
        trace.get_current_span().set_attribute("order.id", 7)
        await answering(scope, receive, send)

    inner = Contrib(app, tracer_provider=watch.telemetry.provider)
    await call(inner)
    control = len(watch.spans)
    watch.memory.clear()
    await call(watch.around(inner))

    assert control == 3
    assert watch.span.instrumentation_scope.name == "twh_platform.telemetry"
    assert watch.span.attributes["order.id"] == 7
    assert "http.target" not in watch.span.attributes


@pytest.mark.parametrize("ratio", [1.0, 0.0])
async def test_contrib_outside_of_us_keeps_its_span(ratio):
    """Ours adds to it, whatever our own sampler would have said."""
    watch, ended = Watch(), []
    ours = watch.around(_binding(answering), sampler=HeadSampler(ratio=ratio), access=ended.append)
    outer = Contrib(
        ours, tracer_provider=watch.telemetry.provider, exclude_spans=["send", "receive"]
    )

    await call(outer)

    assert watch.span.instrumentation_scope.name == "opentelemetry.instrumentation.asgi"
    assert watch.span.attributes["tenant.id"] == "acme"
    assert ended[0].trace_id == f"{watch.span.context.trace_id:032x}"


async def test_contrib_outside_does_not_make_us_believe_baggage():
    """It reads baggage from anybody; inside of us a stranger's is gone."""
    watch, seen = Watch(), []

    async def app(scope, receive, send):
        seen.append(dict(baggage.get_all()))
        await answering(scope, receive, send)

    sent = [(b"baggage", b"tenant.id=victim")]
    provider = watch.telemetry.provider
    await call(Contrib(app, tracer_provider=provider), headers=sent)
    await call(Contrib(watch.around(app), tracer_provider=provider), headers=sent)

    assert seen[0] == {"tenant.id": "victim"}
    assert seen[1] == {}


@pytest.mark.parametrize("outside", [True, False])
async def test_contribs_instrumentor_of_fastapi_is_not_doubled(outside):
    """Inside it is silent, outside it is the one; either way there is one SERVER span."""
    watch = Watch()
    app = _fastapi()
    if outside:
        app.add_middleware(lambda inner: watch.around(_binding(inner)))
    FastAPIInstrumentor.instrument_app(
        app, tracer_provider=watch.telemetry.provider, exclude_spans=["send", "receive"]
    )

    await call(app if outside else watch.around(_binding(app)), "/items/7")

    assert len(watch.spans) == 1
    assert watch.span.name == "GET /items/{item}"
    assert watch.span.attributes["tenant.id"] == "acme"


async def test_contribs_instrumentor_of_starlette_is_silent_inside():
    """As that of FastAPI."""
    watch = Watch()

    async def item(request):
        return PlainTextResponse("x")

    app = Starlette(routes=[Route("/items/{item}", item)])
    StarletteInstrumentor.instrument_app(app, tracer_provider=watch.telemetry.provider)

    await call(watch.around(app), "/items/7")

    assert [span.name for span in watch.spans] == ["GET /items/{item}"]


async def test_contrib_with_a_foreign_provider_is_found_in_the_stack():
    """Where the provider is not ours, the app is looked through at the first request."""
    memory, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    inner = Contrib(answering, tracer_provider=provider)
    tracing = OtelTracing(provider, apps=[inner])

    await call(TelemetryMiddleware(inner, tracing=tracing, sampler=HeadSampler(ratio=1.0)))

    (span,) = memory.get_finished_spans()
    assert span.instrumentation_scope.name == "twh_platform.telemetry"


async def test_outside_of_requests_contribs_tracer_works():
    """It is quiet in exchanges alone."""
    watch = Watch()
    tracer = watch.telemetry.provider.get_tracer("opentelemetry.instrumentation.asgi")

    with tracer.start_as_current_span("one"):
        tracer.start_span("two").end()

    assert [span.name for span in watch.spans] == ["two", "one"]


@pytest.mark.parametrize("ratio", [1.0, 0.0])
async def test_no_context_fails_to_be_detached(ratio, caplog):
    """Streams, background tasks, sync routes and a client that leaves log nothing."""
    watch = Watch(ratio=ratio)
    app = FastAPI()
    tracer = watch.telemetry.provider.get_tracer("inside")

    async def numbers():
        with tracer.start_as_current_span("stream"):
            for number in range(3):
                yield str(number)

    @app.get("/stream")
    async def stream(tasks: BackgroundTasks):
        tasks.add_task(current_exchange)
        return StreamingResponse(numbers(), background=tasks)

    @app.get("/sync")
    def sync():
        return trace.get_current_span().get_span_context().trace_id

    for path in ("/stream", "/sync"):
        await call(watch.around(app), path)

    assert not caplog.records


async def test_a_generator_closed_elsewhere_logs_nothing(caplog):
    """The app's coroutine is closed in another context than began it."""
    watch = Watch()

    class Never:
        def __await__(self):
            yield

    async def app(scope, receive, send):
        await Never()

    running = call(watch.around(app))
    contextvars.copy_context().run(running.send, None)
    running.close()

    assert not caplog.records
    assert watch.span.attributes["platform.outcome"] == "client_disconnect"
