"""
The queue of spans: one bad span costs no other, and nothing ends its thread.
"""

from __future__ import annotations

import pytest

pytest.importorskip("opentelemetry.sdk")
pytest.importorskip("opentelemetry.exporter.otlp.proto.common.trace_encoder")

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import StatusCode

from twh_platform.telemetry.otel import SpanQueue


class Encoding(SpanExporter):
    """Writes spans down as an exporter of OTLP does, and keeps them."""

    def __init__(self):
        self.spans = []

    def export(self, spans):
        """See `SpanExporter`."""
        encode_spans(spans).SerializeToString()
        self.spans += spans
        return SpanExportResult.SUCCESS


def _raises(tracer):
    with pytest.raises(ValueError, match="bad"), tracer.start_as_current_span("bad"):
        raise ValueError("bad \ud800")


def _is_named(tracer):
    tracer.start_span("bad \ud800").end()


def _tells(tracer):
    span = tracer.start_span("bad")
    span.add_event("an event \ud800", {"words": "\ud800"})
    span.end()


def _has_failed(tracer):
    span = tracer.start_span("bad")
    span.set_status(StatusCode.ERROR, "\ud800")
    span.end()


def _is_old(tracer):
    tracer.start_span("bad", start_time=-5).end(2**70)


@pytest.mark.parametrize("write", [_raises, _is_named, _tells, _has_failed, _is_old])
def test_a_bad_span_of_others_does_not_cost_the_batch(write):
    """It is exported as far as it can be told; the encoder alone is the control."""
    exporter, provider = Encoding(), TracerProvider(shutdown_on_exit=False)
    queue = SpanQueue(lambda: exporter)
    provider.add_span_processor(queue)
    tracer = provider.get_tracer("app")

    tracer.start_span("good").end()
    write(tracer)
    naive = list(queue._queue)
    assert queue.force_flush(20_000)

    with pytest.raises(ValueError, match=r"surrogates|out of range"):
        encode_spans(naive).SerializeToString()
    assert [span.name[:4].strip() for span in exporter.spans] == ["good", "bad"]
    assert queue.stats().exported == 2


def test_what_is_repaired_says_the_rest_as_it_was():
    """Words of any length and language, its place, and its kind."""
    exporter, provider = Encoding(), TracerProvider(shutdown_on_exit=False)
    queue = SpanQueue(lambda: exporter)
    provider.add_span_processor(queue)

    span = provider.get_tracer("app").start_span("préparer", attributes={"a": "é" * 5000})
    span.add_event("an event \ud800", {"n": 7, "words": "\ud800"})
    span.end()
    assert queue.force_flush(20_000)

    (found,) = exporter.spans
    assert (found.name, dict(found.attributes)) == ("préparer", {"a": "é" * 5000})
    assert (found.context, found.start_time) == (span.context, span.start_time)
    (event,) = found.events
    assert (event.name, dict(event.attributes)) == ("an event ?", {"n": 7, "words": "?"})


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit, OSError])
def test_no_exporter_ends_the_thread(error, caplog):
    """A library that wants the process to end costs one batch, and is told of."""
    seen = []

    class Leaving(SpanExporter):
        def export(self, spans):
            seen.append(len(spans))
            if len(seen) == 1:
                raise error
            return SpanExportResult.SUCCESS

    queue, provider = SpanQueue(Leaving), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(queue)
    for _ in range(3):
        provider.get_tracer("app").start_span("one").end()
        assert queue.force_flush(20_000)

    stats = queue.stats()
    assert (stats.exported, stats.export_failed, stats.queued) == (2, 1, 0)
    assert "spans could not be exported" in caplog.text
