"""
The way of spans to a collector: one that works, is slow, refuses, is dead, and forks.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest

pytest.importorskip("opentelemetry.sdk")
pytest.importorskip("opentelemetry.proto")

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from tests.support.spans import answering, call
from twh_platform.telemetry import Registry
from twh_platform.telemetry._exchange import Exchange
from twh_platform.telemetry._middleware import TelemetryMiddleware
from twh_platform.telemetry.otel import configure_telemetry

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture
def configured():
    """Make telemetry, and end it."""
    made = []

    def configure(**options):
        given = {"set_global": False, "ratio": 1.0, "delay": 0.05, "environ": {}, **options}
        made.append(configure_telemetry(**given))
        return made[-1]

    yield configure
    for one in made:
        one.shutdown()


def _watched(telemetry, app=answering):
    return TelemetryMiddleware(app, tracing=telemetry.tracing, sampler=telemetry.sampler)


async def test_spans_arrive_compressed_with_headers_and_resource(otlp_receiver, configured):
    """What was configured is what the collector sees."""
    telemetry = configured(
        endpoint=otlp_receiver.url,
        service_name="warehouse",
        resource={"deployment.environment.name": "test"},
        headers={"x-key": "k"},
        compression="gzip",
    )

    await call(_watched(telemetry))

    assert telemetry.force_flush(20)
    (span,) = otlp_receiver.spans
    assert span.is_server
    assert span.resource["service.name"] == "warehouse"
    assert span.resource["deployment.environment.name"] == "test"
    assert span.resource["process.pid"] == os.getpid()
    assert otlp_receiver.headers[0]["x-key"] == "k"
    assert otlp_receiver.headers[0]["content-encoding"] == "gzip"


async def test_a_kept_span_arrives_whole(otlp_receiver, configured):
    """Made afterwards, it is encoded as any other."""
    telemetry = configured(endpoint=otlp_receiver.url, ratio=0.0)

    async def app(scope, receive, send):
        raise LookupError

    with pytest.raises(LookupError):
        await call(_watched(telemetry, app))

    assert telemetry.force_flush(20)
    (span,) = otlp_receiver.spans
    assert (span.is_server, span.status) == (True, 2)
    assert span.events == [("exception", {"exception.type": "LookupError"})]
    assert span.scope == "twh_platform.telemetry"


async def test_hostile_texts_cost_no_batch(otlp_receiver, configured):
    """A surrogate in one path does not lose the spans of others."""
    telemetry = configured(endpoint=otlp_receiver.url)
    app = _watched(telemetry)

    await call(app, "/\ud800")
    await call(app, "/good")

    assert telemetry.force_flush(20)
    assert sorted(span.attributes["url.path"] for span in otlp_receiver.spans) == ["/?", "/good"]


async def test_a_dead_collector_costs_spans_alone(otlp_receiver, configured, caplog):
    """Requests are answered; what was not taken is counted, in figures and metrics."""
    registry = Registry()
    otlp_receiver.die()
    telemetry = configured(endpoint=otlp_receiver.url, timeout=0.2, metrics=registry)
    app = _watched(telemetry)

    for _ in range(10):
        assert len(await call(app)) == 2

    assert telemetry.force_flush(20)
    stats = telemetry.stats()
    assert (stats.exported, stats.export_failed, stats.dropped) == (0, 10, 10)
    page = registry.page().decode()
    assert 'platform_telemetry_spans_dropped_total{reason="export_failed"} 10' in page


@pytest.mark.parametrize("status", [400, 503])
async def test_a_refusing_collector_costs_spans_alone(otlp_receiver, configured, status, caplog):
    """Whether it refuses for good or for now."""
    otlp_receiver.status = status
    telemetry = configured(endpoint=otlp_receiver.url, timeout=0.2)

    await call(_watched(telemetry))

    assert telemetry.force_flush(20)
    assert telemetry.stats().export_failed == 1
    assert otlp_receiver.posts >= 1


async def test_a_slow_collector_fills_the_queue_and_no_request_waits(otlp_receiver, configured):
    """What does not fit is dropped and counted; what fits arrives."""
    otlp_receiver.delay = 0.5
    telemetry = configured(endpoint=otlp_receiver.url, queue_size=20, batch_size=5)
    app = _watched(telemetry)

    started = time.monotonic()
    for _ in range(200):
        await call(app)
    seconds = time.monotonic() - started

    assert telemetry.force_flush(30)
    stats = telemetry.stats()
    assert stats.exported + stats.queue_full == 200
    assert stats.queue_full > 100
    assert len(otlp_receiver.spans) == stats.exported
    assert seconds < 15  # 40 batches would take 20


class _Blackhole(SpanExporter):
    def __init__(self):
        self.release = threading.Event()

    def export(self, spans):
        self.release.wait(60)
        return SpanExportResult.FAILURE

    def shutdown(self):
        self.release.set()


async def test_an_end_does_not_wait_for_a_black_hole(configured):
    """After its time the rest is dropped and counted; the SDK's own flush keeps no time."""
    hole = _Blackhole()
    telemetry = configured(exporter=lambda: hole, exit_timeout=0.2, batch_size=1)
    app = _watched(telemetry)
    for _ in range(3):
        await call(app)

    assert not telemetry.force_flush(0.1)
    telemetry.shutdown()

    assert telemetry.stats().shutdown == 2
    await call(app)
    assert telemetry.stats().shutdown == 3


def test_the_sdks_own_queue_keeps_no_time():
    """The control: told to flush within a tenth of a second, it waits for the collector."""
    hole = _Blackhole()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(hole, schedule_delay_millis=60_000))
    provider.get_tracer("x").start_span("x").end()
    flushing = threading.Thread(target=provider.force_flush, args=(100,), daemon=True)

    flushing.start()
    flushing.join(1.0)

    assert flushing.is_alive()
    hole.release.set()
    provider.shutdown()


def test_a_process_that_ends_flushes(otlp_receiver):
    """At exit, without being asked to."""
    program = """
        from twh_platform.telemetry.otel import configure_telemetry
        telemetry = configure_telemetry(delay=60.0)
        telemetry.provider.get_tracer("x").start_span("last").end()
    """
    environment = {
        **os.environ,
        "OTEL_EXPORTER_OTLP_ENDPOINT": otlp_receiver.url,
        "OTEL_SERVICE_NAME": "ending",
        "OTEL_TRACES_SAMPLER": "always_on",
    }

    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], env=environment, check=True, timeout=60
    )

    (span,) = otlp_receiver.wait(1)
    assert (span.name, span.resource["service.name"]) == ("last", "ending")


def test_a_forked_child_exports_its_own(otlp_receiver):
    """Preload: parent and child each export what is theirs, once, as themselves."""
    program = """
        import os
        from twh_platform.telemetry.otel import configure_telemetry
        telemetry = configure_telemetry(delay=60.0, set_global=False, ratio=1.0)
        tracer = telemetry.provider.get_tracer("x")
        tracer.start_span("before").end()
        child = os.fork()
        if not child:
            tracer.start_span("child").end()
            assert telemetry.force_flush(20)
            assert telemetry.stats().exported == 1
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        tracer.start_span("parent").end()
    """
    environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": otlp_receiver.url}

    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)],
        env=environment,
        check=True,
        timeout=60,
    )

    spans = otlp_receiver.wait(3)
    pids = {span.name: span.resource["process.pid"] for span in spans}
    assert sorted(span.name for span in spans) == ["before", "child", "parent"]
    assert pids["before"] == pids["parent"] != pids["child"]
    assert len({span.trace_id for span in spans}) == 3


async def test_the_lifespan_flushes(otlp_receiver, configured):
    """When the app stops, nothing waits any more."""
    telemetry = configured(endpoint=otlp_receiver.url, delay=60.0)

    async with telemetry.lifespan(None):
        await call(_watched(telemetry))
        assert otlp_receiver.spans == []

    assert len(otlp_receiver.spans) == 1


async def test_requests_leave_nothing_behind(otlp_receiver, configured):
    """After a thousand of them the queue is empty and no exchange is alive."""
    telemetry = configured(endpoint=otlp_receiver.url)
    app = _watched(telemetry)
    before = _exchanges()

    for _ in range(1000):
        await call(app)
    assert telemetry.force_flush(30)

    assert telemetry.stats().queued == 0
    assert _exchanges() <= before


def _exchanges() -> set[int]:
    """What other tests left alive, with a traceback of theirs, is not of this one."""
    gc.collect()
    return {id(one) for one in gc.get_objects() if issubclass(type(one), Exchange)}
