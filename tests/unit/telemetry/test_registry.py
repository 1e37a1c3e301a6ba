"""
The registry: definitions raise, counting never does.
"""

from __future__ import annotations

import gc
import math
from decimal import Decimal

import pytest

from twh_platform.errors import ConfigurationError
from twh_platform.telemetry import Exemplar, Registry

TRACE = Exemplar(trace_id="a1" * 16, span_id="b2" * 8)


class Broken:
    """
    An object whose text cannot be had.
    """

    def __str__(self):
        raise RuntimeError


def lines(registry, start, **options):
    """
    The lines of the page that begin with *start*.
    """
    page = registry.page(**options).decode()
    return [line for line in page.splitlines() if line.startswith(start)]


def test_a_counter_counts():
    """Each child counts for itself, and is the same one each time."""
    registry = Registry()
    orders = registry.counter("orders_total", "Orders.", labels=("outcome",))
    orders.labels("placed").inc()
    orders.labels("placed").inc(2)
    orders.labels("failed").inc(0.5)

    assert orders.labels("placed") is orders.labels("placed")
    assert lines(registry, "orders_total") == [
        'orders_total{outcome="placed"} 3.0',
        'orders_total{outcome="failed"} 0.5',
    ]


def test_a_gauge_goes_both_ways():
    """A gauge is set, raised and lowered."""
    registry = Registry()
    gauge = registry.gauge("depth", "Depth.")
    gauge.set(5)
    gauge.inc(2)
    gauge.dec()

    assert lines(registry, "depth") == ["depth 6.0"]


def test_a_histogram_counts_a_bound_in_its_own_bucket():
    """Upper bounds are inclusive, and buckets are cumulated on the page."""
    registry = Registry()
    took = registry.histogram("took_seconds", "Time.", buckets=[0.1, 1, math.inf])
    for value in (0.1, 0.1000001, 1, 7):
        took.observe(value)

    assert lines(registry, "took_seconds_bucket") == [
        'took_seconds_bucket{le="0.1"} 1.0',
        'took_seconds_bucket{le="1.0"} 3.0',
        'took_seconds_bucket{le="+Inf"} 4.0',
    ]
    assert lines(registry, "took_seconds_count") == ["took_seconds_count 4.0"]
    assert lines(registry, "took_seconds_sum")[0].startswith("took_seconds_sum 8.2")


BAD_AMOUNTS = [-1, math.nan, math.inf, -math.inf, "1", None, Decimal(1), 10**400, object(), 1j]
BAD_AMOUNTS += [1e308, 2.0**63, 2**63]


@pytest.mark.parametrize("amount", BAD_AMOUNTS, ids=lambda one: type(one).__name__)
def test_what_cannot_be_counted_is_dropped_and_counted(amount):
    """Neither a counter nor a histogram raises, or changes."""
    registry = Registry()
    counter = registry.counter("hits_total", "Hits.")
    took = registry.histogram("took_seconds", "Time.", buckets=[1])
    counter.inc(amount)
    took.observe(amount)

    assert lines(registry, "hits_total") == ["hits_total 0.0"]
    assert lines(registry, "took_seconds_count") == ["took_seconds_count 0.0"]
    assert lines(registry, "took_seconds_sum") == ["took_seconds_sum 0.0"]
    assert lines(registry, "telemetry_values_dropped_total") == [
        "telemetry_values_dropped_total 2.0"
    ]


def test_negative_values_are_for_histograms_with_a_negative_bound():
    """A difference may be negative; OpenMetrics then has no sum."""
    registry = Registry()
    registry.histogram("drift_seconds", "Drift.", buckets=[-1, 0, 1]).observe(-0.5)

    assert lines(registry, "drift_seconds_sum") == ["drift_seconds_sum -0.5"]
    assert lines(registry, "drift_seconds_sum", openmetrics=True) == []


@pytest.mark.parametrize(
    "exemplar", [("no hex", "b2" * 8), ("a1", "b2"), ("x",), 7, ("a1" * 99, "b2" * 8), (None, None)]
)
def test_a_bad_exemplar_is_dropped_and_the_value_counted(exemplar):
    """No exemplar raises into the request."""
    registry = Registry()
    took = registry.histogram("took_seconds", "Time.", buckets=[1])
    took.observe(0.5, exemplar)

    assert lines(registry, "took_seconds_count") == ["took_seconds_count 1.0"]
    assert "#" not in lines(registry, "took_seconds_bucket", openmetrics=True)[0]
    assert registry.page().count(b"telemetry_values_dropped_total 1.0") == 1


def test_the_last_exemplar_of_a_bucket_stays():
    """OpenMetrics shows a trace for each bucket; the text format has none."""
    registry = Registry()
    took = registry.histogram("took_seconds", "Time.", buckets=[1])
    took.observe(0.25, ("00" * 16, "00" * 8))
    took.observe(0.5, TRACE)
    first, second = lines(registry, "took_seconds_bucket", openmetrics=True)

    assert f'# {{trace_id="{TRACE.trace_id}",span_id="{TRACE.span_id}"}} 0.5 ' in first
    assert "#" not in second
    assert "#" not in lines(registry, "took_seconds_bucket")[0]


@pytest.mark.parametrize("values", [(), ("a",), ("a", "b", "c")])
def test_a_wrong_number_of_values_counts_into_nothing(values):
    """The mistake is counted, and raises nothing."""
    registry = Registry()
    registry.counter("hits_total", "Hits.", labels=("a", "b")).labels(*values).inc()

    assert lines(registry, "hits_total") == []
    assert lines(registry, "telemetry_values_dropped_total")[0].endswith(" 1.0")


def test_any_object_is_a_label_value():
    """What is no text becomes text; equal numbers of other types stay apart."""
    registry = Registry()
    hits = registry.counter("hits_total", "Hits.", labels=("v",))
    for value in (1, True, None, Broken(), [1], "a\nb", "\ud800", "x" * 1000):
        hits.labels(value).inc()
    values = [line.partition('"')[2].rpartition('"')[0] for line in lines(registry, "hits_total")]

    assert values == ["1", "True", "None", "�", "[1]", "a�b", "x" * 128]


def test_a_removed_child_leaves_the_page_and_stays_usable():
    """Whoever kept it counts into nothing, also after its cells went to another."""
    registry = Registry()
    hits = registry.histogram("took_seconds", "Time.", labels=("t",), buckets=[1])
    kept = hits.labels("a")
    kept.observe(0.5, TRACE)
    hits.remove("a")
    hits.labels("b")
    kept.observe(0.5, TRACE)
    hits.remove("never there")

    assert lines(registry, 'took_seconds_count{t="a"}') == []
    assert lines(registry, 'took_seconds_count{t="b"}') == ['took_seconds_count{t="b"} 0.0']


def test_beyond_the_budget_series_are_refused_and_counted():
    """The page does not grow; removing makes room."""
    registry = Registry(max_series=3)
    hits = registry.counter("hits_total", "Hits.", labels=("t",))
    for number in range(10):
        hits.labels(number).inc()
    refused = lines(registry, "telemetry_series_refused_total{")
    hits.remove("0")
    hits.labels("10").inc()

    assert refused == ['telemetry_series_refused_total{metric="hits_total"} 7.0']
    assert lines(registry, 'hits_total{t="10"}') == ['hits_total{t="10"} 1.0']


def test_memory_is_bounded_when_children_come_and_go():
    """Ten thousand children in turn use the cells of one."""
    registry = Registry(max_series=5)
    took = registry.histogram("took_seconds", "Time.", labels=("t",))
    for number in range(10_000):
        took.labels(number).observe(1, TRACE)
        took.remove(number)
    gc.collect()

    assert len(registry._cells._pages) == 1
    assert len(took) == 0


DEFINITIONS = [
    ("counter", ("hits", "x"), {}, "metric_name_invalid"),
    ("counter", ("_total", "x"), {}, "metric_name_invalid"),
    ("counter", ("hits-total", "x"), {}, "metric_name_invalid"),
    ("gauge", ("", "x"), {}, "metric_name_invalid"),
    ("gauge", ("size_total", "x"), {}, "metric_name_invalid"),
    ("gauge", ("a" * 300, "x"), {}, "metric_name_invalid"),
    ("gauge", ("a\n", "x"), {}, "metric_name_invalid"),
    ("gauge", ("size", "x"), {"labels": ("a", "a")}, "metric_labels_invalid"),
    ("gauge", ("size", "x"), {"labels": ("__a",)}, "metric_labels_invalid"),
    ("gauge", ("size", "x"), {"labels": ("le",)}, "metric_labels_invalid"),
    ("gauge", ("size", "x"), {"labels": (7,)}, "metric_labels_invalid"),
    ("gauge", ("size", "x"), {"merge": "mean"}, "configuration_invalid"),
    ("histogram", ("took", "x"), {"unit": "seconds"}, "metric_name_invalid"),
    ("histogram", ("took", "x"), {"buckets": []}, "metric_buckets_invalid"),
    ("histogram", ("took", "x"), {"buckets": [1, 1]}, "metric_buckets_invalid"),
    ("histogram", ("took", "x"), {"buckets": [math.nan]}, "metric_buckets_invalid"),
    ("histogram", ("took", "x"), {"buckets": ["many"]}, "metric_buckets_invalid"),
    ("histogram", ("took", "x"), {"buckets": range(101)}, "metric_buckets_invalid"),
    ("histogram", ("taken", "x"), {}, "metric_duplicate"),
    ("gauge", ("taken_seconds", "x"), {}, "metric_duplicate"),
]


@pytest.mark.parametrize(("kind", "names", "options", "code"), DEFINITIONS)
def test_a_bad_definition_raises(kind, names, options, code):
    """What is wrong with a metric is said when it is defined."""
    registry = Registry()
    registry.counter("taken_total", "Taken.")
    registry.histogram("taken_seconds", "Taken.")

    with pytest.raises(ConfigurationError) as caught:
        getattr(registry, kind)(*names, **options)
    assert caught.value.code == code


def test_what_is_read_at_rendering_is_on_the_page():
    """Numbers of functions appear, change and vanish with what they return."""
    registry = Registry()
    depths = {("a",): 1.0, ("b",): 2.0}
    registry.gauge_of("depth", "Depth.", lambda: dict(depths), labels=("queue",))
    registry.counter_of("cpu_seconds_total", "CPU.", lambda: 4.5)
    before = lines(registry, "depth")
    del depths["a",]

    assert before == ['depth{queue="a"} 1.0', 'depth{queue="b"} 2.0']
    assert lines(registry, "depth") == ['depth{queue="b"} 2.0']
    assert lines(registry, "cpu_seconds_total") == ["cpu_seconds_total 4.5"]


def test_a_failing_function_does_not_break_the_page():
    """Its gauge is left out, and the failure is counted."""
    registry = Registry()
    registry.gauge_of("depth", "Depth.", lambda: 1 / 0)
    registry.on_render(lambda: 1 / 0)
    registry.join(lambda openmetrics, names: 1 / 0)

    assert lines(registry, "depth") == []
    assert lines(registry, "telemetry_values_dropped_total")[0].endswith(" 5.0")


def test_another_library_ends_the_page():
    """What is joined stands before the end mark of OpenMetrics, once."""
    registry = Registry()

    def theirs(openmetrics, names):
        yield b"theirs 1.0\n" if openmetrics else b"theirs 1\n"

    registry.join(theirs)
    registry.join(theirs)

    assert registry.page(openmetrics=True).endswith(b"_series 3.0\ntheirs 1.0\n# EOF\n")
    assert registry.page().endswith(b"_series 3.0\ntheirs 1\n")


@pytest.mark.parametrize("piece", ["text\n", b"no end of line", "", None, 7, [b"line\n"]])
def test_what_is_not_whole_lines_does_not_break_the_page(piece):
    """It is left out with the rest of its library, and counted; another library stays."""
    registry = Registry()
    registry.join(lambda openmetrics, names: [b"before 1\n", piece, b"after 1\n"])
    registry.join(lambda openmetrics, names: [b"another 1\n"])

    assert registry.page(openmetrics=True).endswith(b"\nbefore 1\nanother 1\n# EOF\n")
    assert b"telemetry_values_dropped_total 1.0\n" in registry.page()


def test_a_gauge_adds_up_what_is_below_the_bound():
    """It never becomes infinite by adding; setting it may."""
    registry = Registry()
    size = registry.gauge("size", "A size.")
    for add in (size.inc, size.dec):
        add(1e308)
        add(-(2.0**63))
        add(2.0**62)
    dropped = lines(registry, "telemetry_values_dropped_total")
    before = lines(registry, "size")
    size.set(math.inf)

    assert (before, lines(registry, "size")) == (["size 0.0"], ["size +Inf"])
    assert dropped == ["telemetry_values_dropped_total 4.0"]


def test_a_total_that_others_keep_has_the_same_bound():
    """One that is too large is left out, and counted."""
    registry = Registry()
    totals = iter([3.0, 2.0**63, 4.0])
    registry.counter_of("read_bytes_total", "Read.", lambda: next(totals))
    shown = [lines(registry, "read_bytes_total")[0] for _ in range(3)]

    assert shown == ["read_bytes_total 3.0", "read_bytes_total 3.0", "read_bytes_total 4.0"]
    assert registry.page().count(b"telemetry_values_dropped_total 2.0") == 1


@pytest.mark.parametrize("merge", ["min", "max", "each"])
def test_a_gauge_is_on_the_page_once_it_has_a_number(merge):
    """Unless gauges are added up, one that nobody has set is no zero; it is counted from there."""
    registry = Registry()
    gauge = registry.gauge("depth", "Depth.", merge=merge)
    gauge.inc("no number")
    gauge.dec(math.inf)
    unset = lines(registry, "depth")
    gauge.inc(3)
    gauge.dec()
    counted = lines(registry, "depth")
    gauge.set(math.nan)

    assert (unset, lines(registry, "depth")) == ([], [])
    assert counted[0].endswith(" 2.0")
