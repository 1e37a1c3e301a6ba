"""
Which format a client gets.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twh_platform.telemetry._accept import accepts_gzip, choose_format
from twh_platform.telemetry._exposition import OPENMETRICS_TYPE, TEXT_TYPE

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROTOBUF_FIRST = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,"
    + PROMETHEUS_2
)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", TEXT_TYPE),
        ("*/*", TEXT_TYPE),
        (PROMETHEUS_2, OPENMETRICS_TYPE),
        (PROMETHEUS_3, OPENMETRICS_TYPE),
        (PROTOBUF_FIRST, OPENMETRICS_TYPE),
        ("Application/OpenMetrics-Text", OPENMETRICS_TYPE),
        ("application/openmetrics-text;q=0.5,text/plain;q=0.5", TEXT_TYPE),
        ("application/openmetrics-text;q=0.4,text/*;q=0.5", TEXT_TYPE),
        ("application/openmetrics-text;q=0", TEXT_TYPE),
        ("application/openmetrics-text;version=2.0.0", TEXT_TYPE),
        ("application/openmetrics-text,*/*", OPENMETRICS_TYPE),
        ("application/openmetrics-text;q=nan,*/*;q=0.1", TEXT_TYPE),
        ("text/html,application/xhtml+xml,*/*;q=0.8", TEXT_TYPE),
        ("application/openmetrics-text," * 1000, TEXT_TYPE),
    ],
)
def test_the_format_follows_accept(accept, expected):
    """Weights decide, then how closely a range fits, then text."""
    assert choose_format(accept) == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", False),
        ("gzip", True),
        ("br, GZIP;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip;q=0.0, *", False),
        ("*", True),
        ("identity", False),
        ("*;q=0", False),
    ],
)
def test_gzip_is_used_where_it_is_accepted(header, expected):
    """A weight of zero refuses it."""
    assert accepts_gzip(header) is expected


@given(header=st.text())
def test_any_header_has_an_answer(header):
    """Neither function raises."""
    assert choose_format(header) in {TEXT_TYPE, OPENMETRICS_TYPE}
    assert accepts_gzip(header) in {True, False}
