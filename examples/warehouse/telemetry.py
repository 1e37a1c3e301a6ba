"""
What is seen of the service from outside: its metrics, its spans, its log.

The business has counters of its own here, beside all that the platform counts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from twh_platform import subscribe
from twh_platform.kms import KeyUsed
from twh_platform.platform import observe
from twh_platform.telemetry import (
    AccessLog,
    ClientCalls,
    Counter,
    JsonFormatter,
    MetricsApp,
    Operations,
    Registry,
    RouteTemplates,
    TelemetryFilter,
    TelemetryMiddleware,
    TenantLabels,
    watch_process,
)

from .problems import Refusal
from .settings import Settings

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.types import ASGIApp, Receive, Scope, Send

    from twh_platform.telemetry.otel import ConfiguredTelemetry

__all__ = ["METRICS_PATH", "REQUEST_LOGS", "Telemetry", "json_logs"]

METRICS_PATH = "/metrics"

REQUEST_LOGS = ("warehouse.operations", "twh_platform.telemetry.access")
"""The loggers of what the business has done, and of each request."""

_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"

# What is sealed in the database is not told to a collector.
_SEALED_IN_QUERIES = ("bank_account",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """
    One set per running app.

    Attributes:
        registry: All numbers.

        labels: Which tenants have a label on the page.

        operation: Times what the business does.

        calls: Is told of each call of the database, of Redis, of receivers and of keys.

        page: Answers the path of the metrics.

        spans: Makes them leave the process; None without an endpoint.

        orders: Orders by kind and by what became of them.

        movements: Lines of the ledger, by kind.

        webhook_tests: Test events, by outcome.
    """

    registry: Registry
    labels: TenantLabels
    operation: Operations
    calls: ClientCalls
    page: MetricsApp
    spans: ConfiguredTelemetry | None
    orders: Counter
    movements: Counter
    webhook_tests: Counter

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """
        Put it together.
        """
        registry = Registry()
        watch_process(registry)
        spans = _spans(settings, registry)
        tracing = None if spans is None else spans.tracing
        return cls(
            registry=registry,
            labels=TenantLabels(),
            operation=Operations(registry, spans=tracing, refusals=[Refusal]),
            # No host is told our ids: webhooks go to strangers.
            calls=ClientCalls(registry, spans=tracing),
            page=MetricsApp(registry, token=settings.metrics_token),
            spans=spans,
            orders=registry.counter("warehouse_orders_total", "Orders.", labels=("kind", "state")),
            movements=registry.counter(
                "warehouse_stock_movements_total", "Lines of the ledger.", labels=("kind",)
            ),
            webhook_tests=registry.counter(
                "warehouse_webhook_tests_total", "Test events sent.", labels=("outcome",)
            ),
        )

    def around(self, app: ASGIApp, *, routes: Starlette) -> ASGIApp:
        """
        The whole app, watched; the page stands beside it, with no tenant and no quota.

        Args:
            app: All other middleware.

            routes: Whose templates the routes are.
        """
        spans = self.spans
        watched = TelemetryMiddleware(
            app,
            metrics=self.registry,
            tenants=self.labels,
            tracing=None if spans is None else spans.tracing,
            sampler=None if spans is None else spans.sampler,
            trust=None if spans is None else spans.trust,
            routes=RouteTemplates(routes),
            trace_header="traceresponse",
            access=AccessLog(),
        )

        async def front(scope: Scope, receive: Receive, send: Send) -> None:
            is_page = scope["type"] == "http" and scope["path"] == METRICS_PATH
            await (self.page if is_page else watched)(scope, receive, send)

        return front

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """
        Hear what is announced; at the end, send the spans that still wait.
        """
        ends = [
            observe(self.registry, tenants=self.labels, events=self._events()),
            subscribe(KeyUsed, self.calls.key_used),
        ]
        try:
            yield
        finally:
            for end in ends:
                end()
            if self.spans is not None:
                await asyncio.to_thread(self.spans.shutdown)

    def _events(self) -> Callable[[str, Any], None] | None:
        if self.spans is None:
            return None
        from twh_platform.telemetry.otel import span_event

        return span_event


def _spans(settings: Settings, registry: Registry) -> ConfiguredTelemetry | None:
    endpoint = settings.otel.get(_ENDPOINT)
    if not endpoint:
        return None
    # Here, so that a service without a collector does not load the SDK.
    from twh_platform.telemetry.otel import configure_telemetry

    return configure_telemetry(
        service_name=settings.otel.get("OTEL_SERVICE_NAME", "warehouse"),
        endpoint=endpoint,
        metrics=registry,
        set_global=False,  # more than one app may run in a process
        tracing={"secret_names": _SEALED_IN_QUERIES},
        environ=settings.otel,
    )


@contextmanager
def json_logs(handler: logging.Handler, *names: str) -> Iterator[None]:
    """
    Write JSON with the ids of requests within a `with`, and close the handler.

    Args:
        handler: Where to write.

        names: The loggers, from INFO on; an empty one is the root.
    """
    handler.addFilter(TelemetryFilter())
    handler.setFormatter(JsonFormatter())
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
        handler.close()
