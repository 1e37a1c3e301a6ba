"""
Trace context: what is read, what is written, and what is no trace context at all.

The tables follow the cases of the W3C test harness for Trace Context.
"""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from twh_platform.errors import ConfigurationError
from twh_platform.telemetry import TraceContext, new_trace_id
from twh_platform.telemetry._trace_context import (
    clean_tracestate,
    new_span_id,
    parse_traceparent,
    parse_tracestate,
    read_trace_context,
)

TRACE = "12345678901234567890123456789012"
SPAN = "1234567890123456"
GOOD = f"00-{TRACE}-{SPAN}-01"

READ = [
    GOOD,
    f" \t{GOOD}\t ",
    f"cc-{TRACE}-{SPAN}-01",
    f"cc-{TRACE}-{SPAN}-01-",
    f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like",
    f"01-{TRACE}-{SPAN}-ff",
]

REFUSED = [
    "",
    "00",
    f"00-{TRACE}-{SPAN}-01.",
    f"00-{TRACE}-{SPAN}-01-",
    f"00-{TRACE}-{SPAN}-01-what-the-future-will-be-like",
    f"cc-{TRACE}-{SPAN}-01.what-the-future-will-be-like",
    f"cc-{TRACE}-{SPAN}-01" + "-x" * 300,
    f"ff-{TRACE}-{SPAN}-01",
    f".0-{TRACE}-{SPAN}-01",
    f"0.-{TRACE}-{SPAN}-01",
    f"CC-{TRACE}-{SPAN}-01",
    f"000-{TRACE}-{SPAN}-01",
    f"0000-{TRACE}-{SPAN}-01",
    f"0-{TRACE}-{SPAN}-01",
    f"00-{'0' * 32}-{SPAN}-01",
    f"cc-{'0' * 32}-{SPAN}-01",
    f"00-.{TRACE[1:]}-{SPAN}-01",
    f"00-{TRACE[:-1]}.-{SPAN}-01",
    f"00-{TRACE[:-1]}A-{SPAN}-01",
    f"00-{TRACE}3-{SPAN}-01",
    f"00-{TRACE[:-1]}-{SPAN}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"00-{TRACE}-.{SPAN[1:]}-01",
    f"00-{TRACE}-{SPAN[:-1]}.-01",
    f"00-{TRACE}-{SPAN}7-01",
    f"00-{TRACE}-{SPAN[:-1]}-01",
    f"00-{TRACE}-{SPAN}-.0",
    f"00-{TRACE}-{SPAN}-0.",
    f"00-{TRACE}-{SPAN}-001",
    f"00-{TRACE}-{SPAN}-1",
    f"00-{TRACE}-{SPAN}-0A",
    f"00_{TRACE}_{SPAN}_01",
    f"00-{TRACE}-{SPAN}-01\n",
    f"00-{TRACE}-{SPAN}-0\N{ARABIC-INDIC DIGIT ONE}",
    f"{GOOD},{GOOD}",
]

STATES = [
    ([b"foo=1,bar=2"], "foo=1,bar=2"),
    ([b"foo=1", b""], "foo=1"),
    ([b"", b"foo=1"], "foo=1"),
    ([b"foo=1,bar=2", b"rojo=1,congo=2", b"baz=3"], "foo=1,bar=2,rojo=1,congo=2,baz=3"),
    ([b"foo=1 \t , \t bar=2, \t baz=3"], "foo=1,bar=2,baz=3"),
    ([b"foo=1\t \t,\t \tbar=2,\t \tbaz=3"], "foo=1,bar=2,baz=3"),
    ([b"\t foo=1 \t"], "foo=1"),
    ([b"foo=1,,bar=2,"], "foo=1,bar=2"),
    ([b"foo=1,foo=1"], "foo=1"),
    ([b"foo=1", b"foo=2"], "foo=1"),
    ([b"foo=a b"], "foo=a b"),
    ([b"abcdefghijklmnopqrstuvwxyz0123456789_-*/=1"], "abcdefghijklmnopqrstuvwxyz0123456789_-*/=1"),
    ([b"0a_-*/@a0_-*/=1"], "0a_-*/@a0_-*/=1"),
    ([b"foo=" + bytes({*range(0x21, 0x7F)} - set(b",="))], None),
    ([b"z" * 256 + b"=1"], None),
    ([b"t" * 241 + b"@" + b"v" * 14 + b"=1"], None),
    ([b"foo=" + b"v" * 256], None),
    ([",".join(f"bar{number:02}=1" for number in range(32)).encode()], None),
]

BAD_STATES = [
    [b"foo=1,"] * 90,
    [",".join(f"bar{number:02}=1" for number in range(33)).encode()],
    [b"a=" + b"1" * 200, b"b=" + b"1" * 200, b"c=" + b"1" * 200],
    [b"foo"],
    [b"=1"],
    [b"foo="],
    [b"foo=bar=baz"],
    [b"foo=,bar=3"],
    [b"foo =1"],
    [b"FOO=1"],
    [b"foo.bar=1"],
    [b"1foo=1"],
    [b"foo@=1,bar=2"],
    [b"@foo=1,bar=2"],
    [b"foo@@bar=1,bar=2"],
    [b"foo@bar@baz=1,bar=2"],
    [b"z" * 257 + b"=1"],
    [b"t" * 242 + b"@v=1"],
    [b"t@" + b"v" * 15 + b"=1"],
    [b"foo=" + b"v" * 257],
    ["foo=\N{LATIN SMALL LETTER E WITH ACUTE}".encode()],
    [b"foo=1\r\nset-cookie: a=b"],
    [b"foo=\x00"],
]


@pytest.mark.parametrize("value", READ)
def test_a_good_traceparent_is_read(value):
    """Of this version and of later ones, whose additions are left alone."""
    found = parse_traceparent(value.encode())

    assert (found.trace_id, found.span_id, found.sampled) == (TRACE, SPAN, True)


@pytest.mark.parametrize("value", REFUSED)
def test_a_bad_traceparent_is_none(value):
    """It is as if there were none, as bytes and as text."""
    assert parse_traceparent(value.encode()) is None
    assert parse_traceparent(value) is None


@pytest.mark.parametrize(
    ("flags", "sampled", "chance"),
    [("00", False, False), ("01", True, False), ("02", False, True), ("03", True, True)],
)
def test_two_flags_have_a_meaning(flags, sampled, chance):
    """They are read, kept for the next service, and the other bits are not."""
    found = parse_traceparent(f"00-{TRACE}-{SPAN}-{flags}")
    more = parse_traceparent(f"00-{TRACE}-{SPAN}-{int(flags, 16) | 0xFC:02x}")

    assert (found.sampled, found.random) == (sampled, chance)
    assert more == found
    assert found.traceparent == f"00-{TRACE}-{SPAN}-{flags}"


def test_the_flags_may_be_left_unread():
    """What comes back is what a link of it would be."""
    assert parse_traceparent(GOOD, ids_only=True) == parse_traceparent(GOOD).link()
    assert parse_traceparent(REFUSED[-1], ids_only=True) is None


@pytest.mark.parametrize(("values", "expected"), STATES)
def test_a_good_tracestate_has_one_form(values, expected):
    """Its members in their order, without what is around them."""
    wanted = values[0].decode() if expected is None else expected

    assert parse_tracestate(values) == wanted
    assert clean_tracestate(wanted) == wanted


@pytest.mark.parametrize("values", BAD_STATES)
def test_a_bad_tracestate_is_dropped_alone(values):
    """The traceparent beside it is kept."""
    sent = [(b"traceparent", GOOD.encode()), *((b"tracestate", one) for one in values)]

    assert parse_tracestate(values) == ""
    assert read_trace_context(sent).traceparent == GOOD


def test_headers_are_read_as_one_place():
    """Wherever they stand among the others."""
    sent = [(b"tracestate", b"a=1"), (b"host", b"x"), (b"traceparent", GOOD.encode())]

    found = read_trace_context([*sent, (b"tracestate", b"b=2")])

    assert (found.traceparent, found.state) == (GOOD, "a=1,b=2")
    assert read_trace_context(sent, state=False).state == ""


@pytest.mark.parametrize(
    "names",
    [(), (b"trace-parent",), (b"trace.parent",), (b"tracestate",), (b"traceparent",) * 2],
)
def test_without_one_traceparent_there_is_no_place(names):
    """Two of them come from two senders, of whom none is known to be right."""
    assert read_trace_context([(name, GOOD.encode()) for name in names]) is None


def test_a_child_stays_in_its_trace():
    """It has another span id, and all else unless told."""
    root = TraceContext.root(sampled=True)
    child = root.child()

    assert (child.trace_id, child.sampled, child.random) == (root.trace_id, True, True)
    assert child.span_id != root.span_id
    assert not root.child(sampled=False).sampled


def test_a_link_is_nothing_but_ids():
    """What it points at decides nothing here."""
    place = TraceContext(
        trace_id=TRACE, span_id=SPAN, sampled=True, random=True, state="a=1", debug=True
    )

    assert place.link() == TraceContext(trace_id=TRACE, span_id=SPAN)
    assert place.link().link() == place.link()


@pytest.mark.parametrize(
    "fault",
    [
        {"trace_id": "0" * 32},
        {"trace_id": TRACE.replace("1", "A")},
        {"trace_id": f"{TRACE}\n"},
        {"span_id": "0" * 16},
        {"span_id": "1"},
        {"state": "a=1\r\nx: y"},
        {"state": "a=1, b=2"},
    ],
)
def test_a_place_that_is_none_is_refused(fault):
    """What a service puts together itself is checked as strictly."""
    with pytest.raises(ConfigurationError):
        TraceContext(**{"trace_id": TRACE, "span_id": SPAN, **fault})


def test_ids_differ_whatever_is_seeded():
    """Control: the generator that everybody shares repeats itself."""
    random.seed(7)
    control, first = random.getrandbits(128), (new_trace_id(), new_span_id())
    random.seed(7)

    assert random.getrandbits(128) == control
    assert (new_trace_id(), new_span_id()) != first


def test_ids_are_of_the_right_form():
    """Also those that begin with zeros, and from several threads at once."""
    with ThreadPoolExecutor(4) as pool:
        ids = list(pool.map(lambda _: (new_trace_id(), new_span_id()), range(2000)))

    for trace_id, span_id in ids:
        TraceContext(trace_id=trace_id, span_id=span_id)
    assert len(set(ids)) == len(ids)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_forked_child_makes_other_ids():
    """Control: a generator that nobody seeds again makes the same."""
    reading, writing = os.pipe()
    careless = random.Random(1)
    if os.fork() == 0:
        os.write(writing, f"{new_trace_id()} {careless.getrandbits(64)}".encode())
        os._exit(0)
    os.wait()
    theirs, control = os.read(reading, 200).decode().split()
    os.close(reading)
    os.close(writing)

    assert theirs != new_trace_id()
    assert int(control) == careless.getrandbits(64)
