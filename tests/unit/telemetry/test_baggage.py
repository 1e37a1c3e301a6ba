"""
Baggage: read strictly, written within its limits.
"""

from __future__ import annotations

import pytest

from twh_platform.telemetry import Baggage
from twh_platform.telemetry._baggage import parse_baggage


@pytest.mark.parametrize(
    ("header", "values"),
    [
        ("a=1", {"a": "1"}),
        ("a = 1 , b=2", {"a": "1", "b": "2"}),
        ("a=1;ttl=5;flag, b=2", {"a": "1", "b": "2"}),
        ("a=1 ; ttl = 5 ; flag", {"a": "1"}),
        ("a=", {"a": ""}),
        ("a=%C3%A9%20x", {"a": "\N{LATIN SMALL LETTER E WITH ACUTE} x"}),
        ("a=%ff", {"a": "\N{REPLACEMENT CHARACTER}"}),
        ("a=100%", {"a": "100%"}),
        ("a=b=c", {"a": "b=c"}),
        ("a=1,a=2", {"a": "2"}),
        ("a=1,,b=2,", {"a": "1", "b": "2"}),
        ("!#$%&'*+.^_`|~-=1", {"!#$%&'*+.^_`|~-": "1"}),
    ],
)
def test_good_baggage_is_read(header, values):
    """Decoded, without white space around it."""
    assert dict(parse_baggage([header.encode()]).values) == values


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b",",
        b"a",
        b"=1",
        b"a b=1",
        b'a="1"',
        b"a=1 2",
        b"a=\\",
        b"a=1;",
        b"a=1;;b",
        b"a=1;b c",
        b"a=\xc3\xa9",
        b"a=1\r\nx: y",
        b"\xff=1",
        b"(a)=1",
        b"a=" + b"1" * 8192,
        b",".join(b"k%d=1" % number for number in range(65)),
    ],
)
def test_bad_baggage_is_none(header):
    """One malformed member, or too many, and nothing is believed of the rest."""
    assert parse_baggage([header]) is None
    assert parse_baggage([b"good=1", header]) is None or header in {b"", b","}


def test_the_limits_are_within_reach():
    """64 members and 8192 bytes, over all headers together."""
    members = [b"k%02d=%s" % (number, b"v" * 123) for number in range(64)]
    whole = b",".join(members)

    assert len(whole) == 8191
    assert len(parse_baggage([whole]).values) == 64
    assert parse_baggage(members) == parse_baggage([whole])
    assert parse_baggage([whole, b"a"]) is None


def test_what_is_written_is_read():
    """With the properties that came along."""
    values = {"a": "1, 2; \N{SNOWMAN}\r\n%", "b": "x"}
    sent = Baggage(values=values, properties={"b": "ttl=5;flag"})

    assert sent.header == "a=1%2C%202%3B%20%E2%98%83%0D%0A%25,b=x;ttl=5;flag"
    assert parse_baggage([sent.header.encode()]) == sent


@pytest.mark.parametrize(
    "baggage",
    [
        Baggage(values={"a b": "1", "kept": "1"}),
        Baggage(values={"": "1", "kept": "1"}),
        Baggage(values={"x\r\ny": "1", "kept": "1"}),
        Baggage(values={"a": "1" * 9000, "kept": "1"}),
        Baggage(values={"a": "1", "kept": "1"}, properties={"a": "x\r\ny: z"}),
    ],
)
def test_what_has_no_form_is_not_written(baggage):
    """The other members are."""
    assert baggage.header == "kept=1"


def test_no_more_is_written_than_is_read():
    """Neither members nor bytes."""
    many = Baggage(values={f"k{number}": "v" for number in range(100)})
    long = Baggage(values={f"k{number}": "v" * 500 for number in range(60)})

    assert len(parse_baggage([many.header.encode()]).values) == 64
    assert len(long.header) <= 8192
    assert parse_baggage([long.header.encode()]) is not None


def test_members_can_be_taken_out():
    """In whatever case their name is written."""
    baggage = Baggage(values={"Tenant.Id": "victim", "a": "1"})

    assert dict(baggage.without(["tenant.id"]).values) == {"a": "1"}
    assert baggage.without(["b"]) is baggage
