"""
From ``OTEL_*`` variables and arguments to spans that leave the process.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import platform
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from opentelemetry import propagate, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter

from ...errors import ConfigurationError
from .._registry import Registry
from .._sampling import HeadSampler
from .._trust import TrustBoundary
from ._export import ExportStats, SpanQueue
from ._exporters import exporter_of
from ._otlp_settings import read_otlp
from ._propagator import TrustPropagator
from ._provider import PlatformProvider, of_process
from ._spans import OtelTracing
from ._unread import refuse_file, tell_unread

__all__ = ["ConfiguredTelemetry", "configure_telemetry"]

_EXPORTERS: Final = ("otlp", "console", "none")
_RATIOS: Final = {"always_on": 1.0, "always_off": 0.0}
_DEFAULT_RATIO = 0.01


class ConfiguredTelemetry:
    """
    What `configure_telemetry` has put together.

    Attributes:
        tracing: For `TelemetryMiddleware`; None where the environment has
            switched tracing off.

        sampler: For `TelemetryMiddleware`: the ratio of the environment.

        trust: For `TelemetryMiddleware`: whose context counts.

        provider: The SDK's provider; None as *tracing*.
    """

    def __init__(
        self,
        *,
        tracing: OtelTracing | None,
        sampler: HeadSampler,
        trust: TrustBoundary,
        provider: TracerProvider | None,
        queue: SpanQueue | None,
        exit_timeout: float,
    ) -> None:
        self._exit_timeout = exit_timeout
        self.tracing, self.sampler, self.trust = tracing, sampler, trust
        self.provider = provider
        self._queue = queue
        if queue is not None:
            atexit.register(queue.shutdown)

    def stats(self) -> ExportStats:
        """
        What has become of the spans of this process so far.
        """
        return ExportStats() if self._queue is None else self._queue.stats()

    def force_flush(self, timeout: float = 30.0) -> bool:
        """
        Export everything that waits, and wait for that.

        It blocks: in a coroutine, call it in a thread, or use `lifespan`.

        Args:
            timeout: Seconds.

        Returns:
            Whether it was done in time.
        """
        return self.provider is None or self.provider.force_flush(int(timeout * 1000))

    def shutdown(self) -> None:
        """
        Export what waits, for a few seconds, and end; the end of the process does it too.
        """
        if self.provider is not None and self._queue is not None:
            atexit.unregister(self._queue.shutdown)
            self.provider.shutdown()

    @asynccontextmanager
    async def lifespan(self, _app: object = None) -> AsyncIterator[None]:
        """
        A lifespan for Starlette and FastAPI that flushes when the app stops.

            app = Starlette(routes=routes, lifespan=telemetry.lifespan)

        The stop waits for it as long as the end of the process would.
        """
        try:
            yield
        finally:
            await asyncio.to_thread(self.force_flush, self._exit_timeout)


def configure_telemetry(
    *,
    service_name: str | None = None,
    resource: Mapping[str, str] | None = None,
    endpoint: str | None = None,
    protocol: str | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float | None = None,
    compression: str | None = None,
    queue_size: int | None = None,
    batch_size: int | None = None,
    delay: float | None = None,
    exit_timeout: float = 5.0,
    ratio: float | None = None,
    exporter: Callable[[], SpanExporter] | None = None,
    metrics: Registry | None = None,
    trust: TrustBoundary | None = None,
    messages: bool = False,
    set_global: bool = True,
    tracing: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> ConfiguredTelemetry:
    """
    Make spans leave the process by OTLP, as the environment says.

    What it returns is for the middleware::

        telemetry = configure_telemetry(service_name="warehouse", metrics=registry)
        app = TelemetryMiddleware(
            app,
            metrics=registry,
            tracing=telemetry.tracing,
            sampler=telemetry.sampler,
            trust=telemetry.trust,
        )

    An argument counts more than its variable.  No request ever waits for a
    collector: spans wait in a bounded queue, and those that find it full, or
    that the collector does not take, are dropped and counted.  It may be called
    before a fork; each worker then has a queue and a connection of its own.

    Args:
        service_name: ``OTEL_SERVICE_NAME``.

        resource: Added to ``OTEL_RESOURCE_ATTRIBUTES``, host and process.

        endpoint: ``OTEL_EXPORTER_OTLP_ENDPOINT``: without the path of the signal;
            for gRPC a host and a port, with ``https://`` for TLS.

        protocol: ``OTEL_EXPORTER_OTLP_PROTOCOL``: ``http/protobuf``, or ``grpc``
            with the package opentelemetry-exporter-otlp-proto-grpc.

        headers: Added to ``OTEL_EXPORTER_OTLP_HEADERS``.

        timeout: Seconds for one export with its retries,
            ``OTEL_EXPORTER_OTLP_TIMEOUT``.

        compression: ``OTEL_EXPORTER_OTLP_COMPRESSION``: ``gzip`` or ``none``.

        queue_size: Spans that may wait, ``OTEL_BSP_MAX_QUEUE_SIZE``.

        batch_size: Spans in one export, ``OTEL_BSP_MAX_EXPORT_BATCH_SIZE``.

        delay: Seconds between exports, ``OTEL_BSP_SCHEDULE_DELAY`` (which is in
            milliseconds).

        exit_timeout: Seconds that the end of the process waits.

        ratio: The part of requests that is recorded, ``OTEL_TRACES_SAMPLER``
            and ``OTEL_TRACES_SAMPLER_ARG``; one in a hundred without.

        exporter: Makes an exporter, instead of OTLP.

        metrics: Where it is counted what became of spans.

        trust: Whose trace context counts, and who is told ours.

        messages: See `TrustPropagator`.

        set_global: Make provider and propagator OpenTelemetry's global ones,
            which can be done once in a process.

        tracing: Further options of `OtelTracing`.

        environ: The variables.  Headers and certificates of the process's own
            are used besides where these have none.

    Raises:
        twh_platform.errors.ConfigurationError: For a variable or an argument
            that has no meaning here.
    """
    sampler = HeadSampler(ratio=_ratio(ratio, environ))
    trust = trust or TrustBoundary()
    refuse_file(environ)
    make = exporter or _exporter(
        environ,
        endpoint=endpoint,
        protocol=protocol,
        headers=headers,
        timeout=timeout,
        compression=compression,
    )
    if make is None:
        return ConfiguredTelemetry(
            tracing=None,
            sampler=sampler,
            trust=trust,
            provider=None,
            queue=None,
            exit_timeout=exit_timeout,
        )
    queue = SpanQueue(
        make,
        queue_size=_number("OTEL_BSP_MAX_QUEUE_SIZE", queue_size, 2048, environ),
        batch_size=_number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", batch_size, 512, environ),
        delay=_number("OTEL_BSP_SCHEDULE_DELAY", _milliseconds(delay), 5000, environ) / 1000,
        exit_timeout=exit_timeout,
        metrics=metrics,
    )
    provider = PlatformProvider(
        ratio=_ratio(ratio, environ), resource=_resource(service_name, resource or {}, environ)
    )
    provider.add_span_processor(queue)
    if set_global:
        trace.set_tracer_provider(provider)
        propagate.set_global_textmap(TrustPropagator(trust, messages=messages))
    return ConfiguredTelemetry(
        tracing=OtelTracing(provider, **dict(tracing or {})),
        sampler=sampler,
        trust=trust,
        provider=provider,
        queue=queue,
        exit_timeout=exit_timeout,
    )


def _exporter(environ: Mapping[str, str], **options: Any) -> Callable[[], SpanExporter] | None:
    kind = environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    if kind not in _EXPORTERS:
        message = f"OTEL_TRACES_EXPORTER={kind!r} is none of {_EXPORTERS!r}"
        raise ConfigurationError(message)
    if kind == "none" or environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    tell_unread(environ)
    return ConsoleSpanExporter if kind == "console" else exporter_of(read_otlp(environ, **options))


def _ratio(given: float | None, environ: Mapping[str, str]) -> float:
    if given is not None:
        return given
    name = environ.get("OTEL_TRACES_SAMPLER", "").strip().removeprefix("parentbased_")
    if name in _RATIOS:
        return _RATIOS[name]
    if name not in {"", "traceidratio"}:
        message = f"OTEL_TRACES_SAMPLER={name!r} is none of always_on, always_off, traceidratio"
        raise ConfigurationError(message)
    share = environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip()
    try:
        return float(share) if share else (1.0 if name else _DEFAULT_RATIO)
    except ValueError as error:
        message = f"OTEL_TRACES_SAMPLER_ARG={share!r} is no number"
        raise ConfigurationError(message) from error


def _number(name: str, given: float | None, default: int, environ: Mapping[str, str]) -> int:
    text = environ.get(name, "").strip() if given is None else f"{given:.0f}"
    try:
        found = int(text or default)
    except ValueError:
        found = 0
    if found < 1:
        message = f"{name}={text!r} is not a number above 0"
        raise ConfigurationError(message)
    return found


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else max(1.0, seconds * 1000)


def _resource(
    service_name: str | None, given: Mapping[str, str], environ: Mapping[str, str]
) -> Resource:
    # Read by ourselves, so that *environ* holds: the SDK asks os.environ alone.
    named: dict[str, Any] = {
        "host.name": socket.gethostname(),
        "host.arch": platform.machine(),
        "process.runtime.name": platform.python_implementation().lower(),
        "process.runtime.version": platform.python_version(),
        **of_process(),
        **dict(given),
    }
    if environ is not os.environ:
        named = {**_attributes(environ.get("OTEL_RESOURCE_ATTRIBUTES", "")), **named}
        service_name = service_name or environ.get("OTEL_SERVICE_NAME")
    if service_name:
        named["service.name"] = service_name
    return Resource.create(named)


def _attributes(text: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in text.split(",") if "=" in part)
    return {name.strip(): value.strip() for name, _, value in pairs}
