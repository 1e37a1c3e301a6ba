"""
What is compared in process: apps behind our middleware, behind others, and bare.

The apps of Starlette answer with a text, those of FastAPI with an object.  Spans
go to an exporter that does nothing, by way of the SDK's batches; the time that
this takes is the contender's, so each has a `flush` that is measured with it.
What is not installed is left out.

"tenants" are as tenancy leaves them: a layer inside of ours binds one, and what
that layer takes counts as ours.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
from collections.abc import AsyncIterator, Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from twh_platform._asgi import RESOLUTION
from twh_platform.telemetry import HeadSampler, Registry, TelemetryMiddleware, TenantLabels
from twh_platform.telemetry.otel import OtelTracing, configure_telemetry

__all__ = [
    "Contender",
    "Makers",
    "behind_ours",
    "event_streams",
    "fastapi_apps",
    "routed",
    "starlette_apps",
]

CHUNKS = 20
_AHEAD = 60
_PATIENCE = 20
# Theirs by the conventions that ours are by; the default is those before 1.23.
os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")

App = Callable[..., Any]
Makers = dict[str, Callable[[], "Contender"]]
_prefixes = itertools.count()


class Contender(NamedTuple):
    """
    An app, and what finishes the work that it has put off.
    """

    app: App
    flush: Callable[[], object] = int


class _Null(SpanExporter):
    def export(self, spans: Any) -> SpanExportResult:
        del spans
        return SpanExportResult.SUCCESS


# --- ours


def behind_ours(
    app: App, *, ratio: float | None = None, tenants: bool = False, **options: Any
) -> Contender:
    """
    An app behind our middleware, with metrics.

    Args:
        app: What is inside.

        ratio: The part of requests that has a span; None for no tracing.

        tenants: Whether there is a tenant, and metrics for it.

        options: More of `TelemetryMiddleware`.
    """
    if tenants:
        app, options = _bound(app), {"tenants": TenantLabels(), **options}
    if ratio is None:
        return Contender(TelemetryMiddleware(app, metrics=Registry(), **options))
    telemetry = configure_telemetry(exporter=_Null, ratio=ratio, set_global=False, environ={})
    watched = TelemetryMiddleware(
        app,
        metrics=Registry(),
        tracing=telemetry.tracing,
        sampler=telemetry.sampler,
        trust=telemetry.trust,
        **options,
    )
    return Contender(watched, lambda: telemetry.force_flush(_PATIENCE))


def _sdk_decides(app: App) -> Contender:
    # Our sampler wants all, and the SDK's none: its span is made to be thrown away.
    tracing = OtelTracing(TracerProvider(sampler=ALWAYS_OFF))
    everything = HeadSampler(ratio=1.0)
    return Contender(
        TelemetryMiddleware(app, metrics=Registry(), tracing=tracing, sampler=everything)
    )


def _bound(app: App) -> App:
    resolution = SimpleNamespace(tenant=SimpleNamespace(id="acme"), user_id="user-1")

    async def bound(scope: Any, receive: Any, send: Any) -> None:
        scope[RESOLUTION] = resolution
        await app(scope, receive, send)

    return bound


def _ours(make: Callable[[], App]) -> Makers:
    return {
        "ours, metrics": lambda: behind_ours(make()),
        "ours, metrics, unsampled": lambda: behind_ours(make(), ratio=0.0),
        "ours, metrics, tenants, unsampled": lambda: behind_ours(make(), ratio=0.0, tenants=True),
        "ours, metrics, sampled": lambda: behind_ours(make(), ratio=1.0),
        "ours, metrics, unsampled by the SDK": lambda: _sdk_decides(make()),
    }


# --- others


def _tracers(*, sampled: bool) -> TracerProvider:
    provider = TracerProvider(sampler=ALWAYS_ON if sampled else ALWAYS_OFF)
    provider.add_span_processor(BatchSpanProcessor(_Null()))
    return provider


def _providers(*, sampled: bool, metrics: bool) -> tuple[TracerProvider, Any]:
    meters = MeterProvider([InMemoryMetricReader()]) if metrics else NoOpMeterProvider()
    return _tracers(sampled=sampled), meters


_WAYS = {
    "unsampled": {"sampled": False, "metrics": False},
    "metrics, unsampled": {"sampled": False, "metrics": True},
    "sampled": {"sampled": True, "metrics": False},
    "metrics, sampled": {"sampled": True, "metrics": True},
}


def _contrib(make: Callable[[], App]) -> Makers:
    if not importlib.util.find_spec("opentelemetry.instrumentation.asgi"):
        return {}
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

    def behind(way: str) -> Contender:
        tracers, meters = _providers(**_WAYS[way])
        app = OpenTelemetryMiddleware(make(), tracer_provider=tracers, meter_provider=meters)
        return Contender(app, tracers.force_flush)

    return {f"OpenTelemetry, {way}": partial(behind, way) for way in _WAYS}


def _prometheus(make: Callable[[], Any]) -> Makers:
    found: Makers = {}
    if importlib.util.find_spec("prometheus_fastapi_instrumentator"):
        found["instrumentator, metrics"] = lambda: _instrumentator(make())
    if importlib.util.find_spec("starlette_exporter"):
        found["starlette_exporter, metrics"] = lambda: _exporter(make())
    return found


def _instrumentator(app: Any) -> Contender:
    from prometheus_client import CollectorRegistry
    from prometheus_fastapi_instrumentator import Instrumentator

    Instrumentator(registry=CollectorRegistry()).instrument(app)
    return Contender(app)


def _exporter(app: Any) -> Contender:
    from starlette_exporter import PrometheusMiddleware

    # It has one registry for the whole process, so names have to differ.
    app.add_middleware(PrometheusMiddleware, prefix=f"bench{next(_prefixes)}")
    return Contender(app)


# --- Starlette


async def _text(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")


async def _events(_request: Request) -> StreamingResponse:
    return StreamingResponse(_chunks(), media_type="text/event-stream")


async def _chunks() -> AsyncIterator[bytes]:
    for _ in range(CHUNKS):
        yield b"data: a line of what has happened\n\n"


def _starlette(ahead: int = 0) -> Starlette:
    before = [Route(f"/part{number}/{{id}}", _text) for number in range(ahead)]
    return Starlette(routes=[*before, Route("/items/{id}", _text), Route("/events", _events)])


def starlette_apps() -> Makers:
    """
    An app of one route, bare and behind everything.
    """
    return {
        "bare": lambda: Contender(_starlette()),
        **_ours(_starlette),
        **_contrib(_starlette),
        **_prometheus(_starlette),
    }


def routed(*, far: bool) -> Makers:
    """
    The route that is asked for, first or behind sixty others; with metrics alone.
    """

    def make() -> Starlette:
        return _starlette(_AHEAD if far else 0)

    return {
        "bare": lambda: Contender(make()),
        "ours, metrics": lambda: behind_ours(make()),
        **_prometheus(make),
    }


def event_streams() -> Makers:
    """
    The app again, for its event stream.
    """
    known = starlette_apps()
    others = [name for name in known if name.startswith("OpenTelemetry, metrics")]
    ours = ["ours, metrics", "ours, metrics, unsampled", "ours, metrics, sampled"]
    return {name: known[name] for name in ["bare", *ours, *others, *_prometheus(_starlette)]}


# --- FastAPI


def _fastapi(**options: Any) -> Any:
    from fastapi import FastAPI

    app = FastAPI(**options)

    @app.get("/items/{item}")
    async def item(item: str) -> dict[str, str]:
        return {"item": item}

    return app


def fastapi_apps() -> Makers:
    """
    An app of one route, bare, behind ours, with its own instrumentation and behind others.
    """
    native = importlib.util.find_spec("fastapi.telemetry") is not None
    off = {"telemetry": {"tracing": False, "metrics": False, "logs": False}} if native else {}
    return {
        "bare": lambda: Contender(_fastapi(**off)),
        **_ours(_fastapi),
        **({f"FastAPI's own, {way}": partial(_native, way) for way in _WAYS} if native else {}),
        **_instrumented(),
        **_prometheus(lambda: _fastapi(**off)),
    }


def _native(way: str) -> Contender:
    tracers, meters = _providers(**_WAYS[way])
    app = _fastapi(telemetry={"tracer_provider": tracers, "meter_provider": meters})
    return Contender(app, tracers.force_flush)


def _instrumented() -> Makers:
    if not importlib.util.find_spec("opentelemetry.instrumentation.fastapi"):
        return {}
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    def behind(way: str) -> Contender:
        tracers, meters = _providers(**_WAYS[way])
        app = _fastapi()
        FastAPIInstrumentor.instrument_app(app, tracer_provider=tracers, meter_provider=meters)
        return Contender(app, tracers.force_flush)

    return {f"OpenTelemetry, {way}": partial(behind, way) for way in _WAYS if "metrics" in way}
