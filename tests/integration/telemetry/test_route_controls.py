"""
What public middleware makes of the same requests: controls for templates and methods.
"""

from __future__ import annotations

import pytest

pytest.importorskip("starlette")

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from tests.support.routes import scope_of, serve, told
from twh_platform.telemetry import RouteTemplates
from twh_platform.telemetry._methods import known_method

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def make_app():
    """
    Build one route, and one below a mounted tenant.
    """

    async def answer(_request):
        return PlainTextResponse("answer")

    inner = Starlette(routes=[Route("/in/{b}", answer)])
    return Starlette(routes=[Route("/items/{id}", answer), Mount("/t/{tenant}", inner)])


@pytest.fixture
def spans():
    """
    Finished spans, and the provider that finishes them.
    """
    trace = pytest.importorskip("opentelemetry.sdk.trace")
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    provider, exporter = trace.TracerProvider(), memory.InMemorySpanExporter()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    yield provider, exporter
    provider.shutdown()


def routes_of(exporter):
    """
    Name and route of each server span.
    """
    return [
        (span.name, span.attributes.get("http.route"))
        for span in exporter.get_finished_spans()
        if span.kind.name == "SERVER"
    ]


async def test_a_raw_path_is_in_no_template(spans):
    """Control: contrib's ASGI middleware names its span by the path; ours by the template."""
    asgi = pytest.importorskip("opentelemetry.instrumentation.asgi")
    provider, exporter = spans
    app = make_app()
    wrapped = asgi.OpenTelemetryMiddleware(app, tracer_provider=provider)

    await serve(wrapped, scope_of("/items/42"))

    assert routes_of(exporter) == [("GET /items/42", None)]
    assert await told(wrapped, "/items/42") == "/items/{id}"


async def test_the_route_of_a_mounted_app_is_whole(spans):
    """Control: contrib's Starlette wrapper stops at the mount; ours goes on to the route."""
    contrib = pytest.importorskip("opentelemetry.instrumentation.starlette")
    provider, exporter = spans
    app = make_app()
    contrib.StarletteInstrumentor.instrument_app(app, tracer_provider=provider)

    await serve(app, scope_of("/t/acme/in/1"))

    assert routes_of(exporter) == [("GET /t/{tenant}", "/t/{tenant}")]
    assert await told(app, "/t/acme/in/1") == "/t/{tenant}/in/{b}"


async def test_the_route_of_a_fastapi_sub_app_is_whole(spans):
    """Control: contrib's FastAPI wrapper loses the route of a sub-app; ours keeps it."""
    contrib = pytest.importorskip("opentelemetry.instrumentation.fastapi")
    fastapi = pytest.importorskip("fastapi")
    provider, exporter = spans
    sub, app = fastapi.FastAPI(), fastapi.FastAPI()
    sub.add_api_route("/in/{b}", lambda b: b)
    app.mount("/sub/{t}", sub)
    contrib.FastAPIInstrumentor.instrument_app(app, tracer_provider=provider)

    await serve(app, scope_of("/sub/a/in/1"))

    assert routes_of(exporter) == [("GET /sub/{t}", "/sub/{t}")]
    assert await told(app, "/sub/a/in/1") == "/sub/{t}/in/{b}"


async def test_odd_methods_make_no_labels():
    """Control: the instrumentator labels fifty odd methods fifty times; ours is one label."""
    package = pytest.importorskip("prometheus_fastapi_instrumentator")
    client = pytest.importorskip("prometheus_client")
    registry, app = client.CollectorRegistry(), make_app()
    package.Instrumentator(registry=registry).instrument(app)
    for n in range(50):
        await serve(app, scope_of(f"X{n} /items/1"))

    labels = {
        sample.labels["method"]
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == "http_requests_total"
    }

    assert len(labels) == 50
    assert {known_method(f"X{n}")[0] for n in range(50)} == {"_OTHER"}


async def test_paths_that_nobody_serves_are_seen_and_are_one_label():
    """Control: starlette_exporter hides a 404 and a 405; ours tells None, and the template."""
    package = pytest.importorskip("starlette_exporter")
    client = pytest.importorskip("prometheus_client")
    app = make_app()
    app.add_middleware(package.PrometheusMiddleware, prefix="control_of_routes")
    for request in ("/items/1", "/nowhere", "BREW /items/1"):
        await serve(app, scope_of(request))

    counted = [
        sample.labels["path"]
        for metric in client.REGISTRY.collect()
        for sample in metric.samples
        if sample.name == "control_of_routes_requests_total"
    ]

    assert counted == ["/items/{id}"]
    assert await told(app, "BREW /items/1") == "/items/{id}"
    templates = RouteTemplates(app)
    assert {await told(app, f"/n/{n}", templates=templates) for n in range(100)} == {None}
