"""
Laws of what comes with a request: everything is read or refused, and in linear time.
"""

from __future__ import annotations

import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twh_platform.telemetry import (
    Baggage,
    HeadSampler,
    TraceContext,
    TrustBoundary,
    clean_label,
)
from twh_platform.telemetry._b3 import b3_headers, b3_multi_headers, parse_b3, read_b3
from twh_platform.telemetry._baggage import parse_baggage
from twh_platform.telemetry._trace_context import (
    clean_tracestate,
    parse_traceparent,
    parse_tracestate,
    read_trace_context,
)

PIECES = [
    b"00-", b"ff-", b"0", b"a", b"-", b"=", b",", b";", b" ", b"\t", b"%41", b"@", b"\xff", b"\n",
    b"0af7651916cd43dd8448eb211c80319c", b"b7ad6b7169203331", b"-01", b"a=1", b"d",
]  # fmt: skip
NAMES = [b"traceparent", b"tracestate", b"baggage", b"b3", b"x-b3-traceid", b"x-b3-spanid"]
NAMES += [b"x-b3-sampled", b"x-b3-flags", b"host"]

values = st.binary(max_size=200) | st.lists(st.sampled_from(PIECES)).map(b"".join)
headers = st.lists(st.tuples(st.sampled_from(NAMES), values), max_size=8)
hexadecimal = st.characters(whitelist_categories=(), whitelist_characters="0123456789abcdef")
trace_ids = st.text(hexadecimal, min_size=32, max_size=32).filter(lambda one: one.strip("0"))
span_ids = st.text(hexadecimal, min_size=16, max_size=16).filter(lambda one: one.strip("0"))
keys = st.from_regex(r"[a-z][a-z0-9_*/-]{0,20}", fullmatch=True)
members = st.dictionaries(keys, st.from_regex(r"[!-+\--<>-~]{1,20}", fullmatch=True), max_size=10)
states = members.map(lambda found: ",".join(f"{key}={one}" for key, one in found.items()))
places = st.builds(
    TraceContext,
    trace_id=trace_ids,
    span_id=span_ids,
    sampled=st.booleans(),
    random=st.booleans(),
    state=states,
)
everybody = TrustBoundary(
    authenticated=lambda scope: scope["trusted"], formats=("w3c", "b3"), hosts=["ours.example"]
)


@given(headers, st.booleans())
def test_any_headers_are_read_or_refused(sent, trusted):
    """Never an exception; from a stranger never more than ids."""
    found = everybody.accept({"headers": sent, "client": None, "trusted": trusted})

    if not trusted:
        assert (found.parent, found.sampled, found.baggage) == (None, None, None)
        assert found.link is None or found.link == found.link.link()
    for place in (found.parent, found.link):
        if place is not None:
            assert parse_traceparent(place.traceparent).trace_id == place.trace_id
            everybody.outbound_headers(place, "ours.example", baggage=found.baggage)


@given(values)
def test_any_bytes_are_read_or_refused(value):
    """By each of the parsers."""
    parse_traceparent(value)
    parse_b3(value)
    baggage = parse_baggage([value])

    assert baggage is None or parse_baggage([baggage.header.encode()]) is not None
    assert clean_tracestate(parse_tracestate([value])) == parse_tracestate([value])


@given(places)
def test_what_is_written_is_read(place):
    """As it was, in W3C; in B3 but for state and chance."""
    sent = everybody.outbound_headers(place, "ours.example")
    plain = TraceContext(trace_id=place.trace_id, span_id=place.span_id, sampled=place.sampled)

    assert read_trace_context([(one.encode(), sent[one].encode()) for one in sent]) == place
    for written in (b3_headers(place), b3_multi_headers(place)):
        assert read_b3([(one.encode(), written[one].encode()) for one in written]).context == plain


@given(st.dictionaries(st.text(), st.text()))
def test_any_baggage_is_written_or_left_out(given_values):
    """What is written is ASCII on one line, and is read as what it was."""
    header = Baggage(values=given_values).header
    read = parse_baggage([header.encode("ascii")])

    assert header.isprintable()
    for name, value in (read.values if read else {}).items():
        assert value == given_values[name].encode(errors="replace").decode()


@given(st.text(max_size=300) | st.binary() | st.integers() | st.none())
def test_any_value_becomes_a_label(value):
    """Printable, of at most 128 bytes, and clean from then on."""
    label = clean_label(value)

    assert label.isprintable()
    assert len(label.encode()) <= 128
    assert clean_label(label) == label


@given(st.text(), trace_ids, st.none() | st.booleans())
def test_any_path_is_decided(path, trace_id, parent):
    """Whatever is sent as one."""
    sampler = HeadSampler(ratio=0.5, paths={"/a/{b}": 1.0, "/a/*": 0.0, "/": 0.2})

    assert sampler.decide(trace_id, path, parent=parent).sampled in {True, False}


def _lines(work):
    # Counted work instead of time: the lines of our code that run.
    count = 0

    def trace(frame, event, _):
        nonlocal count
        count += event == "line"
        return trace if "telemetry" in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize(
    ("read", "piece"),
    [
        (lambda raw: parse_tracestate([raw]), b"a=1,"),
        (lambda raw: parse_tracestate([raw]), b", "),
        (lambda raw: parse_baggage([raw]), b"a=1,"),
        (lambda raw: parse_baggage([raw]), b"a;"),
        (lambda raw: parse_baggage([raw]), b", "),
        (parse_traceparent, b"00-"),
        (parse_b3, b"0-"),
        (clean_label, b"\n"),
        (lambda raw: HeadSampler(paths={"/a/{b}/*": 1.0}).decide("0" * 32, raw.decode()), b"/a"),
        (lambda raw: everybody.accept({"headers": [(b"x", raw)] * len(raw)}), b"x"),
    ],
)
def test_ten_times_the_input_is_ten_times_the_work(read, piece):
    """At most: what is too long is not read at all."""
    work = [_lines(lambda size=size: read(piece * size)) for size in (10, 100, 1000, 10_000)]

    assert all(more <= 12 * less + 50 for less, more in pairwise(work))


@pytest.mark.parametrize(
    "attack",
    [
        b"a" * 512,
        b"a@" * 256,
        b"a=" + b" " * 510,
        b"a=1 " * 128,
        b"a=1;" + b" " * 8000 + b"x y",
        b"a=1;" + b"b;" * 4000 + b"\\",
        b"a " + b" " * 8000,
        b"a=1" + b" ; " * 2700 + b"\\",
    ],
)
def test_no_pattern_reads_twice(attack):
    """Hostile values are answered; a pattern that backtracks would not come back in time."""
    for _ in range(20):
        parse_baggage([attack])
        parse_tracestate([attack])
        parse_traceparent(attack)
        parse_b3(attack)

    assert parse_traceparent(attack) is None
