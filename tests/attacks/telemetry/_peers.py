"""
Public middleware around an app, and what it has told; each with its own registry.
"""

from __future__ import annotations

import importlib
import itertools
from typing import Any

from tests.support.telemetry import Client
from twh_platform.testing import require_part

__all__ = ["Contrib", "Exporter", "Instrumentator", "anchor", "contrib", "drive"]


async def drive(app: Any, scope: Any, client: Client | None = None) -> Client:
    """Serve one scope to its end."""
    client = client or Client({"type": "http.request", "body": b""})
    await app(scope, client.receive, client.send)
    return client


def anchor(name: str) -> Any:
    """A public library, whose absence `TWH_REQUIRE=anchors` makes an error."""
    try:
        found = importlib.import_module(name)
    except ModuleNotFoundError:
        found = None
    return require_part("anchors", found, hint=f"{name}, of the group `anchors` in pyproject.toml")


def contrib() -> Any:
    """OpenTelemetry's ASGI middleware."""
    return anchor("opentelemetry.instrumentation.asgi").OpenTelemetryMiddleware


class Contrib:
    """OpenTelemetry's ASGI middleware as it comes, with what it exports kept in memory."""

    def __init__(self, app: Any, *, times: int = 1) -> None:
        layer = contrib()
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self.reader, self.spans = InMemoryMetricReader(), InMemorySpanExporter()
        tracers, meters = TracerProvider(), MeterProvider([self.reader])
        tracers.add_span_processor(SimpleSpanProcessor(self.spans))
        for _ in range(times):
            app = layer(app, tracer_provider=tracers, meter_provider=meters)
        self.app = app

    def points(self, name: str) -> list[Any]:
        """The data points of a metric."""
        data = self.reader.get_metrics_data()
        scopes = [one for resource in data.resource_metrics for one in resource.scope_metrics]
        metrics = [one for scope in scopes for one in scope.metrics if one.name == name]
        return [point for metric in metrics for point in metric.data.data_points]


class _Prometheus:
    """What a registry of prometheus_client holds."""

    def __init__(self) -> None:
        client = anchor("prometheus_client")
        self.registry = client.CollectorRegistry()

    def samples(self, name: str) -> list[tuple[dict[str, str], float]]:
        """The samples with this name."""
        families = self.registry.collect()
        found = [one for family in families for one in family.samples if one.name == name]
        return [(one.labels, one.value) for one in found]


class Instrumentator(_Prometheus):
    """prometheus-fastapi-instrumentator as it comes, around a Starlette app."""

    def __init__(self, app: Any) -> None:
        super().__init__()
        module = anchor("prometheus_fastapi_instrumentator")
        module.Instrumentator(registry=self.registry).instrument(app)
        self.app = app


class Exporter(_Prometheus):
    """starlette_exporter as it comes, around a Starlette app."""

    _made = itertools.count()

    def __init__(self, app: Any, **options: Any) -> None:
        super().__init__()
        module = anchor("starlette_exporter")
        from prometheus_client import REGISTRY

        # It has one registry for the whole process, so names have to differ.
        self.registry, self.prefix = REGISTRY, f"exporter{next(self._made)}"
        app.add_middleware(module.PrometheusMiddleware, prefix=self.prefix, **options)
        self.app = app

    def samples(self, name: str) -> list[tuple[dict[str, str], float]]:
        """The samples with this name, which begins as it does by default."""
        return super().samples(name.replace("starlette", self.prefix, 1))
