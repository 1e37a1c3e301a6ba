"""
The span that the app can write into: whatever it writes, it can be exported.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

pytest.importorskip("opentelemetry.sdk")
pytest.importorskip("opentelemetry.exporter.otlp.proto.common.trace_encoder")

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import Status, StatusCode

from tests.support.spans import Watch, answering, call


async def _written(write, **options):
    watch = Watch(**options)

    async def app(scope, receive, send):
        write(trace.get_current_span())
        await answering(scope, receive, send)

    await call(watch.around(app))
    return watch.span


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("text", "text"),
        ("\ud800", "?"),
        ("x" * 9000, "x" * 1024),
        (True, True),
        (7, 7),
        (2**64, str(2**64)),
        (0.5, 0.5),
        (b"\xff", "\ufffd"),
        (["a", "\ud800", 2**70], ("a", "?", str(2**70))),
        pytest.param(10**5000, "a number of 16610 bits", id="5000 digits"),
        ([1, [2], (3,), 4], (1, 4)),
    ],
)
async def test_what_is_written_can_be_exported(value, found):
    """One value that cannot be would cost all spans of its batch."""
    span = await _written(lambda current: current.set_attribute("a", value))

    assert span.attributes["a"] == found
    assert encode_spans([span]).SerializePartialToString()


async def test_what_is_no_value_is_left_out():
    """As by the SDK."""
    span = await _written(lambda one: one.set_attributes({"a": object(), "": 1, "b": None}))

    assert not {"a", "b", ""} & set(span.attributes)


class _Raising(Sequence):
    """A sequence that has three values and gives none."""

    def __len__(self):
        return 3

    def __getitem__(self, at):
        raise KeyError(at)


_ROUND = []
_ROUND.append(_ROUND)


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("set_attribute", ("k", _ROUND)),
        ("set_attribute", ("k", 10**5000)),
        ("set_attribute", ("k", _Raising())),
        ("set_attribute", (7, "x")),
        ("set_attribute", ({}, "x")),
        ("set_attributes", (None,)),
        ("set_attributes", ({5: "x"},)),
        ("add_event", (None,)),
        ("add_event", ("e", {"k": 10**5000, 5: "x"}, "noon")),
        ("add_link", (None,)),
        ("update_name", (None,)),
        ("set_status", (None,)),
        ("record_exception", (ValueError("x"), {5: "x"})),
    ],
)
async def test_no_writing_fails_a_request(method, given):
    """What cannot be told is left out; the answer is sent, and the span exported."""
    span = await _written(lambda current: getattr(current, method)(*given))

    assert span.attributes["http.response.status_code"] == 200
    assert encode_spans([span]).SerializeToString()


async def test_what_could_not_be_written_is_counted(caplog):
    """And logged, the 1st, 2nd, 4th and 8th time."""
    watch = Watch()

    async def app(scope, receive, send):
        for _ in range(3):
            trace.get_current_span().update_name(None)
        await answering(scope, receive, send)

    await call(watch.around(app))

    assert watch.telemetry.tracing.failures == 3
    assert [record.getMessage() for record in caplog.records] == [
        "a span could not be written to (1 so far)",
        "a span could not be written to (2 so far)",
    ]


async def test_an_exception_with_odd_attributes_is_recorded():
    """Its type, and the attributes that can be told."""

    def write(span):
        span.record_exception(ValueError("x"), {5: "x", "k": "v", "no": _Raising()})

    (event,) = (await _written(write)).events
    assert dict(event.attributes) == {"exception.type": "ValueError", "k": "v"}


async def test_the_words_of_a_status_can_be_exported():
    """One lone surrogate in them would cost all spans of a batch."""
    seen = []

    def write(span):
        span.set_status(StatusCode.ERROR, "no \ud800")
        seen.append(span.status.description)

    span = await _written(write)

    assert seen == [span.status.description] == ["no ?"]
    assert encode_spans([span]).SerializeToString()


async def test_attributes_events_and_links_are_bounded():
    """Each at the SDK's limit."""

    def write(span):
        place = trace.SpanContext(1, 1, is_remote=True)
        for number in range(500):
            span.set_attribute(f"a{number}", number)
            span.add_event("e", {"n": number})
            span.add_link(place)

    span = await _written(write)

    assert len(span.attributes) < 150
    assert (len(span.events), len(span.links)) == (128, 128)
    assert span.attributes["http.response.status_code"] == 200


async def test_the_app_cannot_end_or_hide_it():
    """An end is for the exchange; what is known of the request counts more than what is said."""

    def write(span):
        span.set_attribute("http.response.status_code", 999)
        span.update_name("mine")
        span.end()
        span.set_attribute("after", 1)

    span = await _written(write)

    assert span.name == "GET"
    assert span.attributes["http.response.status_code"] == 200
    assert span.attributes["after"] == 1


async def test_after_the_end_writing_does_nothing(caplog):
    """Background work may still hold it; nothing is logged, which the SDK would do."""
    held = []

    span = await _written(held.append)
    held[0].set_attribute("late", 1)
    held[0].add_event("late")
    held[0].set_status(StatusCode.ERROR)

    assert "late" not in span.attributes
    assert (span.events, span.status.status_code) == ((), StatusCode.UNSET)
    assert not caplog.records


async def test_a_status_of_the_app_stays():
    """Its error, with its words; OK is final, as in the API."""

    def write(span):
        span.set_status(Status(StatusCode.OK))
        span.set_status(StatusCode.ERROR, "no")

    assert (await _written(write)).status.status_code is StatusCode.OK
    span = await _written(lambda one: one.set_status(StatusCode.ERROR, "sold out"))
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "sold out")


async def test_an_exception_that_the_app_records_keeps_its_text():
    """To itself."""
    span = await _written(lambda one: one.record_exception(LookupError("hunter2")))

    assert [dict(event.attributes) for event in span.events] == [{"exception.type": "LookupError"}]


async def test_processors_of_others_see_it_begin_and_end():
    """As a span of the SDK that can be read, and written into at its start."""
    seen, watch = [], Watch()

    class Processor(SpanProcessor):
        def on_start(self, span, parent_context=None):
            seen.append((isinstance(span, ReadableSpan), span.attributes["url.path"]))
            span.set_attribute("mine", 1)

        def on_end(self, span):
            seen.append(span.attributes["http.response.status_code"])

    watch.telemetry.provider.add_span_processor(Processor())
    await call(watch.around(answering))

    assert seen == [(True, "/"), 200]
    assert watch.span.attributes["mine"] == 1
