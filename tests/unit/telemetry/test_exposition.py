"""
The page, read by others: prometheus_client's parsers and promtool.
"""

from __future__ import annotations

import math
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twh_platform.telemetry import Exemplar, Registry
from twh_platform.telemetry._exposition import number

pytest.importorskip("prometheus_client")

from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open
from prometheus_client.parser import text_string_to_metric_families as read_text

TRACE = Exemplar(trace_id="a1" * 16, span_id="b2" * 8)
# Whole code points, lone surrogates among them.
ANY_TEXT = st.text(st.characters(codec=None), max_size=200)
ANY_NUMBER = st.one_of(st.floats(), st.integers(), st.text(max_size=3), st.none())


def a_registry():
    """
    A registry with one metric of each kind, and everything that needs care.
    """
    registry = Registry()
    orders = registry.counter("orders_total", 'Say "orders" \\ twice.\nOr not.', labels=("a", "b"))
    orders.labels("x", 'quote " backslash \\ n \\n').inc(3)
    registry.gauge("depth_ratio", "Depth.").set(-0.25)
    took = registry.histogram("took_seconds", "Time.", labels=("route",))
    took.labels("/a/{b}").observe(0.3, TRACE)
    took.labels("").observe(100, TRACE)
    return registry


def samples(families):
    """
    Every sample by its name and labels.
    """
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample
        for family in families
        for sample in family.samples
    }


@pytest.mark.parametrize(("read", "openmetrics"), [(read_text, False), (read_open, True)])
def test_others_read_the_page(read, openmetrics):
    """Both formats give back what was counted, label values as they were."""
    families = list(read(a_registry().page(openmetrics=openmetrics).decode()))
    found = samples(families)
    labels = (("a", "x"), ("b", 'quote " backslash \\ n \\n'))

    assert found["orders_total", labels].value == 3.0
    assert found["depth_ratio", ()].value == -0.25
    assert found["took_seconds_bucket", (("le", "0.5"), ("route", "/a/{b}"))].value == 1.0
    assert found["took_seconds_bucket", (("le", "+Inf"), ("route", ""))].value == 1.0
    assert found["took_seconds_sum", (("route", ""),)].value == 100.0
    assert {"orders": "counter", "took_seconds": "histogram"}.items() <= {
        family.name: family.type for family in families
    }.items()


def test_openmetrics_has_exemplars_and_units():
    """They come back as they were given."""
    families = {
        family.name: family for family in read_open(a_registry().page(openmetrics=True).decode())
    }
    bucket = samples(families.values())["took_seconds_bucket", (("le", "0.5"), ("route", "/a/{b}"))]

    assert bucket.exemplar.labels == {"trace_id": TRACE.trace_id, "span_id": TRACE.span_id}
    assert bucket.exemplar.value == 0.3
    assert float(bucket.exemplar.timestamp) > 1e9
    assert families["took_seconds"].unit == "seconds"
    assert families["depth_ratio"].unit == "ratio"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool: apt-get install prometheus")
def test_promtool_finds_nothing():
    """Prometheus's own parser and linter accept the page."""
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=a_registry().page(),
        capture_output=True,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@settings(max_examples=150, deadline=None)
@given(values=st.lists(st.tuples(ANY_TEXT, ANY_NUMBER), max_size=5), text=ANY_TEXT)
def test_nothing_breaks_the_page(values, text):
    """Whatever the label values, help text and numbers: both parsers read all of the page."""
    registry = Registry()
    gauge = registry.gauge("size", text, labels=("who",))
    took = registry.histogram("took_seconds", text, labels=("who",))
    hits = registry.counter("hits_total", text, labels=("who",))
    for value, amount in values:
        gauge.labels(value).set(amount)
        took.labels(value).observe(amount, (value, value))
        took.labels(value).observe(0.5, TRACE)
        hits.labels(value).inc(amount)

    shown = {
        sample for sample in samples(read_text(registry.page().decode())) if sample[0] == "size"
    }
    assert len(shown) == len(gauge)
    assert len(shown) == len(
        [
            key
            for key in samples(read_open(registry.page(openmetrics=True).decode()))
            if key[0] == "size"
        ]
    )


@given(value=st.floats())
def test_numbers_are_written_exactly(value):
    """The shortest digits that give the same float64."""
    read = float(number(value))

    assert read == value or (math.isnan(read) and math.isnan(value))


def test_an_empty_registry_is_a_page():
    """A page ends with the end mark in OpenMetrics, and both formats can be read."""
    registry = Registry()

    assert list(read_text(registry.page().decode()))
    assert registry.page(openmetrics=True).endswith(b"\n# EOF\n")


def test_slices_are_small_however_many_series_there_are():
    """No slice of a page with 3,000 histograms is larger than 128 KiB."""
    registry = Registry()
    took = registry.histogram("took_seconds", "Time.", labels=("t",))
    for value in range(3000):
        took.labels(f"{value:0128}").observe(value)
    sizes = [len(piece) for piece in registry.slices()]

    assert max(sizes) < 128 * 1024
    assert sum(sizes) > 5_000_000
