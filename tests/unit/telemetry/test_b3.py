"""
B3: the single header, the headers of their own, and what is neither.
"""

from __future__ import annotations

import pytest

from twh_platform.telemetry import TraceContext
from twh_platform.telemetry._b3 import (
    b3_headers,
    b3_multi_headers,
    parse_b3,
    parse_b3_multi,
    read_b3,
)

LONG = "80f198ee56343ba864fe8b2a57d3eff7"
SHORT = "64fe8b2a57d3eff7"
SPAN = "e457b5a2e4d86bd1"
PARENT = "05e3ac9a4f6e3b90"


def _multi(**given: str) -> list[tuple[bytes, bytes]]:
    return [(f"x-b3-{name}".encode(), value.encode()) for name, value in given.items()]


@pytest.mark.parametrize(
    ("value", "sampled", "debug"),
    [
        (f"{LONG}-{SPAN}-1-{PARENT}", True, False),
        (f"{LONG}-{SPAN}-1", True, False),
        (f"{LONG}-{SPAN}-0", False, False),
        (f"{LONG}-{SPAN}-d", True, True),
        (f" {LONG}-{SPAN}\t", None, False),
    ],
)
def test_the_single_header_is_read(value, sampled, debug):
    """With its sampling state, which may be left open."""
    found = parse_b3(value)

    assert (found.context.trace_id, found.context.span_id) == (LONG, SPAN)
    assert (found.sampled, found.context.sampled) == (sampled, sampled)
    assert found.context.debug is debug


@pytest.mark.parametrize(
    "value",
    [
        "",
        "1",
        "d",
        "00",
        f"{LONG}",
        f"{LONG}-",
        f"{LONG}-{SPAN}-",
        f"{LONG}-{SPAN}-2",
        f"{LONG}-{SPAN}-true",
        f"{LONG}-{SPAN}-1-",
        f"{LONG}-{SPAN}-1-{PARENT}-",
        f"{LONG}-{SPAN}-1-{PARENT[:-1]}",
        f"{LONG.upper()}-{SPAN}-1",
        f"{LONG[:24]}-{SPAN}-1",
        f"{'0' * 32}-{SPAN}-1",
        f"{'0' * 16}-{SPAN}-1",
        f"{LONG}-{'0' * 16}-1",
        f"{LONG}-{SPAN}-1\n",
        "1" * 100_000,
    ],
)
def test_a_malformed_header_is_none(value):
    """It is as if there were none."""
    assert parse_b3(value) is None


def test_a_short_id_is_the_lower_half():
    """In both forms it becomes 32 digits."""
    single = parse_b3(f"{SHORT}-{SPAN}-1").context
    multi = parse_b3_multi(_multi(traceid=SHORT, spanid=SPAN, sampled="1")).context

    assert single == multi
    assert single.trace_id == f"{'0' * 16}{SHORT}"


@pytest.mark.parametrize(
    ("more", "sampled", "debug"),
    [
        ({"sampled": "1"}, True, False),
        ({"sampled": "true"}, True, False),
        ({"sampled": "0", "parentspanid": PARENT}, False, False),
        ({"sampled": "False"}, False, False),
        ({"flags": "1"}, True, True),
        ({"flags": "0"}, None, False),
        ({}, None, False),
    ],
)
def test_the_headers_of_their_own_are_read(more, sampled, debug):
    """With the words of older senders."""
    found = parse_b3_multi(_multi(traceid=LONG, spanid=SPAN, **more))

    assert (found.context.trace_id, found.context.span_id) == (LONG, SPAN)
    assert (found.sampled, found.context.debug) == (sampled, debug)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        _multi(traceid=LONG),
        _multi(spanid=SPAN),
        _multi(sampled="1"),
        _multi(flags="1"),
        _multi(traceid=LONG, spanid=SPAN, sampled="yes"),
        _multi(traceid=LONG, spanid="x"),
        _multi(traceid="0" * 32, spanid=SPAN),
        _multi(traceid=LONG, spanid=SPAN) + _multi(traceid=LONG),
    ],
)
def test_malformed_headers_of_their_own_are_none(headers):
    """Halves, words nobody knows, and two of a kind."""
    assert parse_b3_multi(headers) is None


def test_a_denial_needs_no_ids():
    """It says that nothing is to be recorded, and nothing else."""
    denied = parse_b3("0")

    assert (denied.context, denied.sampled) == (None, False)
    assert parse_b3_multi(_multi(sampled="0")) == denied


def test_the_single_header_comes_first():
    """Where it is bad or doubled, the others are not asked."""
    others = _multi(traceid=LONG, spanid=SPAN)
    single = (b"b3", f"{SHORT}-{SPAN}".encode())

    assert read_b3([*others, single]).context.trace_id.endswith(SHORT)
    assert read_b3(others).context.trace_id == LONG
    assert read_b3([*others, (b"b3", b"x")]) is None
    assert read_b3([single, single]) is None


@pytest.mark.parametrize(
    ("sampled", "debug"), [(True, False), (False, False), (None, False), (True, True)]
)
def test_what_is_written_is_read(sampled, debug):
    """In both forms the state stays what it was."""
    place = TraceContext(trace_id=LONG, span_id=SPAN, sampled=sampled, debug=debug)

    for written in (b3_headers(place), b3_multi_headers(place)):
        sent = [(name.encode(), value.encode()) for name, value in written.items()]
        assert read_b3(sent).context == place
