"""
Log lines inside spans: each carries the innermost one that is recorded.
"""

from __future__ import annotations

import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import trace

from tests.support.spans import Watch, answering, call
from twh_platform.telemetry import Operations, add_ids
from twh_platform.telemetry import _logging as logs
from twh_platform.telemetry._exchange import current_exchange


def line():
    """The ids of a line that is written here."""
    ids = add_ids(None, "info", {})
    return ids["trace_id"], ids["span_id"]


def ids_of(span):
    """The same of a span that has ended."""
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"


async def test_a_line_has_the_span_that_it_was_written_in():
    """That of the operation, of what is traced by others inside it, and before and after."""
    watch, lines = Watch(), []
    operation = Operations(spans=watch.telemetry.tracing)
    tracer = watch.telemetry.provider.get_tracer("shop")

    async def app(scope, receive, send):
        lines.append(line())
        with operation("order.place"):
            lines.append(line())
            with tracer.start_as_current_span("pack"):
                lines.append(line())
        lines.append(line())
        await answering(scope, receive, send)

    await call(watch.around(app))

    pack, place, server = watch.spans
    assert lines == [ids_of(server), ids_of(place), ids_of(pack), ids_of(server)]


async def test_without_a_finder_it_has_the_requests(monkeypatch):
    """Control: what lines had before anybody told where spans are."""
    monkeypatch.setattr(logs, "_find_span", None)
    watch, lines = Watch(), []
    operation = Operations(spans=watch.telemetry.tracing)

    async def app(scope, receive, send):
        with operation("order.place"):
            lines.append(line())
        await answering(scope, receive, send)

    await call(watch.around(app))

    assert lines == [ids_of(watch.server_spans[0])]


async def test_what_is_not_recorded_has_the_requests():
    """There is no other span to be found."""
    watch, lines = Watch(ratio=0.0), []
    tracer = watch.telemetry.provider.get_tracer("shop")

    async def app(scope, receive, send):
        exchange = current_exchange()
        with tracer.start_as_current_span("pack"):
            lines.append((line(), (exchange.trace_id, exchange.span_id)))
        await answering(scope, receive, send)

    await call(watch.around(app))

    ((found, expected),) = lines
    assert found == expected


async def test_a_span_of_another_trace_is_not_taken():
    """A line can be found from the trace of its request."""
    watch, lines = Watch(), []
    tracer = watch.telemetry.provider.get_tracer("shop")

    async def app(scope, receive, send):
        nowhere = trace.set_span_in_context(trace.INVALID_SPAN)
        with tracer.start_as_current_span("sweep", context=nowhere):
            lines.append(line())
        await answering(scope, receive, send)

    await call(watch.around(app))

    assert lines == [ids_of(watch.server_spans[0])]


async def test_a_line_does_not_settle_the_sampling():
    """Whoever writes one before the tenant is known has not asked for a place."""
    watch, settled = Watch(), []

    async def app(scope, receive, send):
        exchange = current_exchange()
        line()
        settled.append(watch.telemetry.tracing.is_settled(exchange, exchange.entered))
        trace.get_current_span().get_span_context()
        settled.append(watch.telemetry.tracing.is_settled(exchange, exchange.entered))
        await answering(scope, receive, send)

    await call(watch.around(app))

    assert settled == [False, True]
