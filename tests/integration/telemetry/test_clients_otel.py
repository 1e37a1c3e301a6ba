"""
Calls as spans of OpenTelemetry: where they stand, and when they began.
"""

# ruff: noqa: E402 -- after the look for the extra
from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("opentelemetry.sdk")
asyncpg = pytest.importorskip("asyncpg")
pytest.importorskip("psycopg")
pytest.importorskip("httpx")

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tests.integration.telemetry._databases import *  # noqa: F403 -- fixtures
from tests.integration.telemetry._databases import CANARY
from tests.support.spans import answering, call
from twh_platform.telemetry import ClientCalls, HeadSampler, Registry
from twh_platform.telemetry._middleware import TelemetryMiddleware
from twh_platform.telemetry.asyncpg import watch_connection
from twh_platform.telemetry.otel import OtelTracing


@pytest.fixture
def exporter():
    """What was finished."""
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter):
    """Spans of OpenTelemetry, with the texts of errors and where they come from."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return OtelTracing(provider, messages=True, traces=True)


def serve(inner, tracing, ratio=1.0):
    """The app in the middleware."""

    async def app(scope, receive, send):
        await inner()
        await answering(scope, receive, send)

    return TelemetryMiddleware(app, tracing=tracing, sampler=HeadSampler(ratio=ratio))


async def test_a_query_stands_below_its_request(dsn, tracing, exporter):
    """Told afterwards, it began when it began; its error has no text, even if asked for."""
    calls = ClientCalls(Registry(), spans=tracing)
    connection = watch_connection(await asyncpg.connect(dsn), calls)

    async def queries():
        await connection.execute("SELECT pg_sleep(0.05)")
        with pytest.raises(asyncpg.DataError):
            await connection.execute(f"SELECT CAST('{CANARY}' AS int)")
        await asyncio.sleep(0)

    await call(serve(queries, tracing))
    await connection.close()

    slow, broken, server = exporter.get_finished_spans()
    assert slow.kind is SpanKind.CLIENT
    assert slow.parent.span_id == broken.parent.span_id == server.context.span_id
    assert server.start_time <= slow.start_time <= slow.end_time <= server.end_time
    assert slow.end_time - slow.start_time >= 50_000_000
    assert broken.status.status_code is StatusCode.ERROR
    assert CANARY not in "".join(span.to_json() for span in exporter.get_finished_spans())


async def test_a_request_that_is_not_sampled_has_no_spans_below(tracing, exporter):
    """Not even one that would be a root."""
    calls = ClientCalls(spans=tracing)

    async def work():
        calls.database("redis", "GET").end()

    await call(serve(work, tracing, ratio=0.0))

    assert exporter.get_finished_spans() == ()


async def test_a_job_has_spans_of_its_own(tracing, exporter):
    """Outside of requests the provider's sampler decides."""
    open_call = ClientCalls(spans=tracing).request("POST", "stock", 443, "https")
    place = open_call.span.place
    open_call.end(502)

    (span,) = exporter.get_finished_spans()
    assert f"{span.context.span_id:016x}" == place.span_id
    assert place.sampled
    assert dict(span.attributes) == {
        "http.request.method": "POST",
        "server.address": "stock",
        "server.port": 443,
        "url.scheme": "https",
        "http.response.status_code": 502,
        "error.type": "502",
    }
