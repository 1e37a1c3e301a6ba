"""
prometheus_client beside our registry: each on the page of the other.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("prometheus_client")

import prometheus_client as client
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open
from prometheus_client.parser import text_string_to_metric_families as read_text
from prometheus_client.samples import Exemplar as TheirExemplar
from prometheus_client.samples import Sample

from twh_platform.errors import ConfigurationError
from twh_platform.telemetry import Exemplar, MetricsDirectory, Registry, watch_process
from twh_platform.telemetry.prometheus import show_ours, show_theirs

TRACE = Exemplar(trace_id="a1" * 16, span_id="b2" * 8)
READERS = [(read_text, False), (read_open, True)]
LINE = re.compile(r"# (HELP|TYPE|UNIT) [a-zA-Z_:]|# EOF\Z|[a-zA-Z_:][a-zA-Z0-9_:]*(\{.*\})? \S+\Z")
ODD = 'quote " backslash \\ n \\n\nline'


class Collector:
    """
    A collector of somebody else, that tells what it is given.
    """

    def __init__(self, *families, fault=None):
        self.families, self.fault = families, fault

    def describe(self):
        """Names for prometheus_client to compare: none."""
        return []

    def collect(self):
        """Tell all, then raise."""
        yield from self.families
        if self.fault is not None:
            raise self.fault


def ours():
    """
    A registry of ours with one metric of each kind.
    """
    registry = Registry()
    registry.counter("orders_total", "Orders.", labels=("a",)).labels(ODD).inc(3)
    registry.gauge("depth_ratio", "Depth.", merge="each").set(-0.25)
    took = registry.histogram("took_seconds", "Time.", labels=("route",), buckets=(0.1, 1.0))
    took.labels("/a/{b}").observe(0.3, TRACE)
    took.labels("/a/{b}").observe(7.0)
    return registry


def theirs():
    """
    A registry of theirs with one metric of each kind.
    """
    registry = client.CollectorRegistry()
    client.Counter("mails", "Mails.", ["to"], registry=registry).labels(ODD).inc(
        2, exemplar={"trace_id": "c3"}
    )
    client.Gauge("queue", "Queue.", registry=registry).set(float("-inf"))
    client.Summary("size_bytes", "Sizes.", unit="bytes", registry=registry).observe(3)
    client.Histogram("wait", "Waits.", unit="seconds", registry=registry).observe(
        0.3, exemplar={"trace_id": "d4"}
    )
    client.Info("build", "Build.", registry=registry).info({"version": "1"})
    client.Enum("state", "State.", states=["up", "down"], registry=registry).state("down")
    registry.register(Collector(Metric("old", "Old.", "untyped")))
    return registry


def dropped(registry):
    """
    How many values our registry has dropped, families among them.
    """
    return dict(samples(registry.page(), read_text))["telemetry_values_dropped_total", ()].value


def samples(page, read):
    """
    Every sample of a page by its name and labels; none is there twice.
    """
    found = {}
    for family in read(page.decode()):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample
    return found


def their_page(registry, *, openmetrics):
    """
    What an endpoint of theirs answers.
    """
    return (generate_openmetrics if openmetrics else client.generate_latest)(registry)


def promtool_says(page):
    """
    What Prometheus's own linter has against a page.
    """
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=page, capture_output=True, check=False
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize(("read", "openmetrics"), READERS)
def test_theirs_are_on_our_page(read, openmetrics):
    """Every sample of theirs, with its exemplar, is there beside ours, and one end mark."""
    registry, foreign = ours(), theirs()
    alone = samples(their_page(foreign, openmetrics=openmetrics), read)
    before = samples(registry.page(openmetrics=openmetrics), read)

    show_theirs(registry, foreign)
    page = registry.page(openmetrics=openmetrics)

    assert samples(page, read) == {**before, **alone}
    assert page.count(b"# EOF") == openmetrics
    assert (b'# {trace_id="d4"} 0.3' in page) == openmetrics


@pytest.mark.parametrize(("read", "openmetrics"), READERS)
def test_ours_are_on_their_page(read, openmetrics):
    """An endpoint of theirs shows every sample of ours as our page has it."""
    registry, foreign = ours(), theirs()
    alone = samples(registry.page(openmetrics=openmetrics), read)

    show_ours(registry, foreign)
    found = samples(their_page(foreign, openmetrics=openmetrics), read)

    assert {key: found.get(key) for key in alone} == alone
    assert ("mails_total", (("to", ODD),)) in found
    assert any(one.exemplar for one in found.values()) == openmetrics


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool: apt-get install prometheus")
def test_promtool_has_nothing_new_to_say():
    """Its linter accepts both joined pages as it accepts theirs alone."""
    registry, foreign = ours(), client.CollectorRegistry()
    client.Counter("mails_total", "Mails.", ["to"], registry=foreign).labels(ODD).inc()
    client.Histogram("wait_seconds", "Waits.", registry=foreign).observe(0.3)

    show_theirs(registry, foreign)
    show_ours(registry, foreign)

    assert promtool_says(registry.page()) == promtool_says(client.generate_latest(foreign)) == b""


def test_both_ways_at_once():
    """With an endpoint of each kind both show everything once."""
    registry, foreign = ours(), theirs()
    show_ours(registry, foreign)
    show_theirs(registry, foreign)
    show_theirs(registry, foreign)

    mine = samples(registry.page(openmetrics=True), read_open)

    assert mine.keys() == samples(generate_openmetrics(foreign), read_open).keys()
    assert dropped(registry) == 0.0


@pytest.mark.parametrize("show", [show_theirs, show_ours])
@pytest.mark.parametrize("name", ["orders", "took_seconds_count", "orders_created"])
def test_a_name_of_both_is_refused(show, name):
    """A clash, of a sample's name too, is an error when they are joined."""
    registry, foreign = ours(), client.CollectorRegistry()
    kind = client.Counter if name == "orders" else client.Gauge
    kind(name, "Theirs.", registry=foreign)

    with pytest.raises(ConfigurationError) as caught:
        show(registry, foreign)

    assert caught.value.code == "metric_duplicate"
    assert name.partition("_")[0] in str(caught.value)


def test_a_name_that_comes_later_is_left_out(caplog):
    """What becomes a clash after joining is left out, counted each time and logged once."""
    registry, foreign = Registry(), client.CollectorRegistry()
    show_theirs(registry, foreign)
    registry.counter("late_total", "Ours.").inc(3)
    client.Counter("late", "Theirs.", registry=foreign).inc(5)

    with caplog.at_level(logging.WARNING, "twh_platform.telemetry"):
        pages = [samples(registry.page(), read_text) for _ in range(3)]

    assert [page["late_total", ()].value for page in pages] == [3.0, 3.0, 3.0]
    assert dropped(registry) == 3.0
    assert len(caplog.records) == 1


def test_ours_that_comes_later_is_left_out_of_theirs():
    """A metric of ours that theirs has too, both defined late, is there once: theirs."""
    registry, foreign = Registry(), client.CollectorRegistry()
    show_ours(registry, foreign)
    client.Counter("late", "Theirs.", registry=foreign).inc(5)
    registry.counter("late_total", "Ours.").inc(3)
    registry.counter("fresh_total", "Ours.").inc(1)

    found = samples(client.generate_latest(foreign), read_text)

    assert found["late_total", ()].value == 5.0
    assert found["fresh_total", ()].value == 1.0
    assert dropped(registry) == 1.0


def test_theirs_refuses_a_name_of_ours():
    """prometheus_client knows our names: a metric of the same name raises there."""
    registry, foreign = ours(), client.CollectorRegistry()
    show_ours(registry, foreign)

    with pytest.raises(ValueError, match="Duplicated"):
        client.Counter("orders", "Theirs.", registry=foreign)
    with pytest.raises(ConfigurationError, match="orders"):
        show_ours(registry, foreign)


def test_two_of_theirs_that_clash():
    """Of two registries of theirs the first one has the say."""
    registry = Registry()
    for value in (1, 2):
        foreign = client.CollectorRegistry()
        client.Gauge("queue", "Queue.", registry=foreign).set(value)
        show_theirs(registry, foreign)

    assert samples(registry.page(), read_text)["queue", ()].value == 1.0
    assert dropped(registry) == 1.0


def test_the_process_is_told_once():
    """Where both watch the process, a page keeps its own, and nothing is counted."""
    registry, foreign = Registry(), client.CollectorRegistry()
    client.ProcessCollector(registry=foreign)
    client.PlatformCollector(registry=foreign)
    client.GCCollector(registry=foreign)
    watch_process(registry)

    show_theirs(registry, foreign)
    show_ours(registry, foreign)

    assert ("process_cpu_seconds_total", ()) in samples(registry.page(), read_text)
    assert ("process_cpu_seconds_total", ()) in samples(client.generate_latest(foreign), read_text)
    assert dropped(registry) == 0.0


def test_a_metric_of_another_worker_has_its_name(tmp_path):
    """A name that only another worker of ours has defined is on the page once."""
    registry = Registry(shared=MetricsDirectory(tmp_path / "shared"))
    other = Registry(shared=MetricsDirectory(tmp_path / "shared"))
    foreign = client.CollectorRegistry()
    show_theirs(registry, foreign)
    client.Counter("jobs", "Theirs.", registry=foreign).inc(5)
    other.counter("jobs_total", "Ours.").inc(3)

    found = samples(registry.page(), read_text)
    registry.close()
    other.close()

    assert found["jobs_total", ()].value == 3.0


def family(name="bad", kind="gauge", **sample):
    """
    A family of one sample, which may be anything.
    """
    one = Metric(name, "Bad.", kind)
    one.samples.append(Sample(**{"name": name, "labels": {}, "value": 1.0, **sample}))
    return one


HOSTILE = [
    family(value=None),
    family(value="many"),
    family(labels=None),
    family(labels={"": "x"}),
    family(labels={"a.b": "1", "a_b": "2"}),
    family(timestamp=float("nan")),
    family(timestamp=-1.0),
    family(timestamp=1e18),
    family(labels={"__name__": "bad"}),
    SimpleNamespace(name="bad", type="gauge", unit="", documentation="", samples=None),
    SimpleNamespace(name="bad", type="nonsense", unit="", documentation="", samples=[]),
    SimpleNamespace(name=None, type=None),
    None,
]


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("openmetrics", [False, True])
def test_a_family_that_nobody_could_read_is_left_out(hostile, openmetrics):
    """It is counted; what stands before and after it is on the page."""
    registry, foreign = ours(), client.CollectorRegistry()
    before, after = family(name="before"), family(name="after")
    foreign.register(Collector(before, hostile or object(), after))
    show_theirs(registry, foreign)

    page = registry.page(openmetrics=openmetrics)

    found = samples(page, read_open if openmetrics else read_text)
    assert {name for name, _ in found} > {"before", "after", "orders_total"}
    assert b"bad" not in page
    assert dropped(registry) == 1.0


def test_samples_of_others_are_left_out():
    """Control: prometheus_client writes samples under a family that is not theirs, or one twice."""
    twice, stray = family(name="twice"), family(name="stray")
    twice.samples *= 2
    stray.samples.append(Sample("orders_total", {}, 9.0))
    foreign = client.CollectorRegistry()
    foreign.register(Collector(twice, stray))
    registry = ours()
    show_theirs(registry, foreign)

    found = samples(registry.page(), read_text)

    assert client.generate_latest(foreign).count(b"\ntwice 1.0") == 2
    assert {"twice", "stray"}.isdisjoint(name for name, _ in found)
    assert ("orders_total", ()) not in found


@pytest.mark.parametrize("openmetrics", [False, True])
def test_a_collector_that_raises_breaks_nothing(openmetrics):
    """Ours are on the page, and what theirs told before; their own endpoint has nothing."""
    registry, foreign = ours(), client.CollectorRegistry()
    foreign.register(Collector(family(name="before"), fault=RuntimeError("no database")))
    show_theirs(registry, foreign)

    found = samples(registry.page(openmetrics=openmetrics), read_open if openmetrics else read_text)

    with pytest.raises(RuntimeError):
        client.generate_latest(foreign)
    assert {name for name, _ in found} > {"before", "orders_total"}
    assert dropped(registry) == 1.0


def test_characters_without_utf_8_are_replaced():
    """A lone surrogate in one label value makes their page raise for ever; not ours."""
    registry, foreign = Registry(), client.CollectorRegistry()
    client.Counter("mails", "Mails \ud800.", ["to"], registry=foreign).labels("a\ud800b").inc()
    show_theirs(registry, foreign)

    found = samples(registry.page(openmetrics=True), read_open)

    with pytest.raises(UnicodeEncodeError):
        client.generate_latest(foreign)
    assert found["mails_total", (("to", "a?b"),)].value == 1.0


@pytest.mark.parametrize(
    "exemplar",
    [
        TheirExemplar({"x" * 200: "1"}, 1.0),
        TheirExemplar({"bad name\n": "1"}, 1.0),
        TheirExemplar({"id": "a\0b"}, 1.0),
        TheirExemplar({"id": "1"}, float("nan")),
        TheirExemplar({"id": "1"}, 1.0, float("inf")),
    ],
)
def test_an_exemplar_that_no_page_can_have_goes_alone(exemplar):
    """The bucket that it came with stays."""
    registry, foreign = Registry(), client.CollectorRegistry()
    buckets = [("1.0", 1.0, exemplar), ("+Inf", 2.0)]
    foreign.register(Collector(HistogramMetricFamily("wait", "Waits.", buckets, 3.0)))
    show_theirs(registry, foreign)

    found = samples(registry.page(openmetrics=True), read_open)

    assert found["wait_bucket", (("le", "1.0"),)][2:5] == (1.0, None, None)


def test_a_large_family_comes_in_pieces():
    """Thousands of samples are written some hundred at a time, each line once."""
    registry, foreign = Registry(), client.CollectorRegistry()
    large = CounterMetricFamily("large", "Large.", labels=["n"])
    for at in range(1001):
        large.add_metric([str(at)], at, created=1.0)
    foreign.register(Collector(large))
    show_theirs(registry, foreign)

    for read, openmetrics in READERS:
        pieces = list(registry.slices(openmetrics=openmetrics))
        found = samples(b"".join(pieces), read)
        assert sum(name == "large_total" for name, _ in found) == 1001
        assert sum(name == "large_created" for name, _ in found) == 1001
        assert b"".join(pieces).count(b"# HELP large") == 2 - openmetrics
        assert max(piece.count(b"large") for piece in pieces) < 1000


SAMPLE = st.builds(
    lambda name, labels, value: Sample(name, labels, value),  # noqa: PLW0108 -- not the rest
    st.sampled_from(["x", "x_total", "x_bucket", "x_sum", "y", "x y", "é"]),
    st.dictionaries(st.text(st.characters(codec=None), max_size=4), st.text(max_size=9)),
    st.one_of(st.floats(), st.none(), st.text(max_size=3)),
)
FAMILIES = st.builds(
    lambda name, text, kind, told: SimpleNamespace(
        name=name, documentation=text, type=kind, unit="seconds", samples=told
    ),
    st.sampled_from(["x", "x_seconds", "x.y", "0x", "é\n"]),
    st.text(st.characters(codec=None), max_size=20),
    st.sampled_from(["counter", "gauge", "histogram", "info", "stateset", "unknown"]),
    st.lists(SAMPLE, max_size=3),
)


@settings(max_examples=150, deadline=None)
@given(families=st.lists(FAMILIES, max_size=3))
def test_no_collector_breaks_the_page(families):
    """Whatever a collector tells, both formats have a whole page with ours on it."""
    registry = Registry()
    registry.counter("ours_total", "Ours.").inc()
    show_theirs(registry, Collector(*families))

    for openmetrics in (False, True):
        lines = registry.page(openmetrics=openmetrics).decode().split("\n")
        heads = [line.split(" ")[2] for line in lines if line.startswith("# TYPE")]
        assert "ours_total 1.0" in lines
        assert len(heads) == len(set(heads))
        assert all(map(LINE.match, lines[:-1]))


_WORKER = """
import os, sys
import prometheus_client as client
client.Counter("mails", "Mails.").inc(int(sys.argv[1]))
client.Gauge("queue", "Queue.", multiprocess_mode="livesum").set(1)
if len(sys.argv) > 2:
    import json
    from prometheus_client.multiprocess import MultiProcessCollector
    from twh_platform.telemetry import Registry
    from twh_platform.telemetry.prometheus import show_theirs
    registry, theirs = Registry(), client.CollectorRegistry()
    MultiProcessCollector(theirs)
    show_theirs(registry, theirs)
    print(json.dumps(registry.page(openmetrics=True).decode()))
"""


def test_their_mode_of_several_workers(tmp_path):
    """A MultiProcessCollector tells of all workers of theirs, on our page too."""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for arguments in (["2"], ["3", "page"]):
        done = subprocess.run(
            [sys.executable, "-c", _WORKER, *arguments],
            env=environment,
            capture_output=True,
            check=True,
        )

    found = samples(json.loads(done.stdout).encode(), read_open)

    assert found["mails_total", ()].value == 5.0
    assert found["queue", ()].value == 2.0


def test_our_workers_are_on_their_page(tmp_path):
    """An endpoint of theirs tells what all workers of ours have counted."""
    workers = [Registry(shared=MetricsDirectory(tmp_path / "shared")) for _ in range(2)]
    foreign = client.CollectorRegistry()
    show_ours(workers[0], foreign)
    for worker, amount in zip(workers, (2, 3), strict=True):
        worker.counter("jobs_total", "Jobs.").inc(amount)
        worker.gauge("busy", "Busy.", merge="each").set(1)

    found = samples(client.generate_latest(foreign), read_text)
    for worker in workers:
        worker.close()

    assert found["jobs_total", ()].value == 5.0
    assert found["busy", (("pid", str(os.getpid())),)].value == 1.0


def test_buckets_are_cumulative_on_their_page():
    """Theirs have the counts of all lower buckets, and ours come so."""
    registry, foreign = ours(), client.CollectorRegistry()
    show_ours(registry, foreign)

    (family,) = [one for one in foreign.collect() if one.name == "took_seconds"]
    counts = [one.value for one in family.samples if one.name.endswith("_bucket")]

    assert counts == [0.0, 1.0, 2.0]
    assert all(low <= high for low, high in pairwise(counts))
    assert family.unit == "seconds"
