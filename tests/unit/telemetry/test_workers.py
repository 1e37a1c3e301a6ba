"""
Several workers' files in one directory, read by one of them.

A registry that is closed has given up its lock, as a killed process has.
"""

from __future__ import annotations

import os
import stat
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twh_platform.errors import ConfigurationError
from twh_platform.telemetry import Exemplar, MetricsDirectory, Registry
from twh_platform.telemetry._cells import PAGE_BYTES

EARLY = Exemplar(trace_id="a1" * 16, span_id="b2" * 8)
LATE = Exemplar(trace_id="c3" * 16, span_id="d4" * 8)


class Worker:
    """
    A worker with one metric of each kind.
    """

    def __init__(self, path, **options):
        self.registry = Registry(shared=MetricsDirectory(path, **options))
        self.hits = self.registry.counter("hits_total", "Hits.", labels=("t",))
        self.took = self.registry.histogram("took_seconds", "Time.", buckets=[1])
        self.open = self.registry.gauge("open", "Open.")
        self.least = self.registry.gauge("least", "Least.", merge="min")
        self.most = self.registry.gauge("most", "Most.", merge="max")
        self.each = self.registry.gauge("each", "Each.", merge="each")

    def lines(self, start, **options):
        """
        The lines of its page that begin with *start*.
        """
        page = self.registry.page(**options).decode()
        return [line for line in page.splitlines() if line.startswith(start)]

    def skipped(self):
        """
        What it says of files that it left out.
        """
        return self.lines("telemetry_worker_files_skipped_total{")


@pytest.fixture
def path(tmp_path):
    """Where the workers meet."""
    return tmp_path / "metrics"


def files(path):
    """
    The names of the workers' files.
    """
    return [one for one in path.glob("*.metrics") if one.name != "retained.metrics"]


def test_any_worker_answers_for_all(path):
    """Counters and histograms add up; gauges as they were defined."""
    one, two = Worker(path), Worker(path)
    for number, worker in enumerate((one, two), 1):
        worker.hits.labels("a").inc(number)
        worker.hits.labels(f"only {number}").inc()
        worker.took.observe(number)
        for gauge in (worker.open, worker.least, worker.most):
            gauge.set(number)

    assert set(one.lines("hits_total")) == {
        'hits_total{t="a"} 3.0',
        'hits_total{t="only 1"} 1.0',
        'hits_total{t="only 2"} 1.0',
    }
    assert sorted(one.lines("hits_total")) == sorted(two.lines("hits_total"))
    assert one.lines("took_seconds_") == [
        'took_seconds_bucket{le="1.0"} 1.0',
        'took_seconds_bucket{le="+Inf"} 2.0',
        "took_seconds_count 2.0",
        "took_seconds_sum 3.0",
    ]
    gauges = (two.lines("open"), two.lines("least"), two.lines("most"))
    assert gauges == (["open 3.0"], ["least 1.0"], ["most 2.0"])


def test_a_worker_takes_part_with_gauges_that_it_has_set(path):
    """A zero that nobody has set is neither the least, nor the most, nor a line."""
    one, two = Worker(path), Worker(path)
    one.least.set(3)
    one.most.set(-3)
    alone = two.lines("least"), two.lines("most"), two.lines("each")
    two.least.set(2)
    two.most.inc()
    both = one.lines("least"), one.lines("most")

    assert alone == (["least 3.0"], ["most -3.0"], [])
    assert both == (["least 2.0"], ["most 1.0"])


def test_a_gauge_of_each_worker_names_its_process(path):
    """The label pid tells them apart; two of one number are one line."""
    one, two = Worker(path), Worker(path)
    one.each.set(1)
    two.each.set(2)

    assert one.lines("each") == [f'each{{pid="{os.getpid()}"}} 1.0']


def test_the_dead_keep_their_counts_and_lose_their_gauges(path):
    """Their files go, and nothing is counted twice, however often one looks."""
    one, two, three = Worker(path), Worker(path), Worker(path)
    for worker in (one, two, three):
        worker.hits.labels("a").inc(2)
        worker.took.observe(0.5)
        worker.open.inc()
        worker.least.set(-1 if worker is three else 1)
    three.registry.close()
    first = [three_lines(one), three_lines(two), three_lines(one)]
    two.registry.close()

    assert first == [(['hits_total{t="a"} 6.0'], ["open 2.0"], ["least 1.0"])] * 3
    assert three_lines(one) == (['hits_total{t="a"} 6.0'], ["open 1.0"], ["least 1.0"])
    assert one.lines("took_seconds_count") == ["took_seconds_count 3.0"]
    assert len(files(path)) == 1


def three_lines(worker):
    """
    What a worker says of a counter and two gauges.
    """
    return worker.lines("hits_total"), worker.lines("open"), worker.lines("least")


def test_the_latest_exemplar_of_all_workers_stays(path):
    """Exemplars are merged, and survive their worker."""
    one, two = Worker(path), Worker(path)
    one.took.observe(0.25, EARLY)
    two.took.observe(0.5, LATE)
    living = one.lines('took_seconds_bucket{le="1.0"}', openmetrics=True)
    two.registry.close()
    dead = one.lines('took_seconds_bucket{le="1.0"}', openmetrics=True)

    assert LATE.trace_id in living[0]
    assert living == dead == one.lines('took_seconds_bucket{le="1.0"}', openmetrics=True)


def test_a_restarted_service_counts_on(path):
    """All workers end, and the next ones begin where they were."""
    for _ in range(30):
        worker = Worker(path)
        worker.hits.labels("a").inc()
        worker.registry.close()
    last = Worker(path)

    assert last.lines("hits_total") == ['hits_total{t="a"} 30.0']
    assert len(files(path)) == 1


def test_files_do_not_pile_up_when_nobody_looks(path):
    """Workers that start fold those that are gone."""
    for _ in range(60):
        Worker(path).registry.close()

    assert len(files(path)) <= 17


def test_a_file_does_not_grow_with_how_often_series_change(path):
    """Chunks that come back are used again, and are never read as two series."""
    one, two = Worker(path), Worker(path)
    for number in range(5000):
        two.hits.labels(f"tenant-{number % 97}").inc()
        two.hits.remove(f"tenant-{number % 97}")
    two.hits.labels("last").inc()

    assert one.lines("hits_total") == ['hits_total{t="last"} 1.0']
    assert all(file.stat().st_size <= 2 * PAGE_BYTES for file in files(path))


def test_a_full_file_refuses_series(path):
    """Beyond its size a worker's series count into nothing, and are counted."""
    worker = Worker(path, max_bytes=PAGE_BYTES)
    for number in range(3000):
        worker.hits.labels(number).inc()
    refused = worker.lines("telemetry_series_refused_total{")

    assert 0 < len(worker.hits) < 3000
    assert refused[-1].endswith(f"{3000 - len(worker.hits):.1f}")
    assert all(file.stat().st_size == PAGE_BYTES for file in files(path))


def test_what_the_dead_leave_is_bounded(path):
    """The series that were added to longest ago go first, and are counted."""
    for number in range(5):
        worker = Worker(path, max_retained=7)
        worker.hits.labels(number).inc()
        worker.registry.close()
        Worker(path, max_retained=7).lines("hits_total")
    last = Worker(path, max_retained=7)
    shown = last.lines("hits_total")

    assert 'hits_total{t="4"} 1.0' in shown
    assert len(shown) < 5


def test_a_metric_that_only_the_dead_knew_stays(path):
    """After a release without it, its last count is still there."""
    old = Registry(shared=MetricsDirectory(path))
    old.counter("gone_total", "Gone.").inc(7)
    old.close()

    assert b"gone_total 7.0\n" in Registry(shared=MetricsDirectory(path)).page()


def test_two_definitions_of_one_name_do_not_mix(path):
    """During a release the other one is left out, and that is counted."""
    worker = Worker(path)
    other = Registry(shared=MetricsDirectory(path))
    other.gauge("hits", "Clashes with a counter's family.").set(5)
    other.histogram("took_seconds", "Other buckets.", buckets=[2]).observe(1)
    worker.took.observe(1)

    assert worker.lines("took_seconds_count") == ["took_seconds_count 1.0"]
    assert worker.lines("hits ") == []
    assert worker.skipped() == [
        'telemetry_worker_files_skipped_total{reason="definition"} 4.0',
    ]


def _zeros(content):
    return bytes(len(content))


def _empty(content):
    return b""


def _cut(content):
    return content[: len(content) // 2]


def _stub(content):
    return content[:7]


def _of_another_version(content):
    return content[:8] + struct.pack("=I", 2) + content[12:]


def _not_a_number(content):
    return content.replace(struct.pack("=d", 3.0), struct.pack("=d", float("nan")))


def _endless_chunk(content):
    return content[:64] + b"\xff" * 4 + content[68:]


def _another_name(content):
    return content.replace(b"victim", b"hacked")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_zeros, "damaged"),
        (_empty, "damaged"),
        (_cut, "damaged"),
        (_stub, "damaged"),
        (_of_another_version, "version"),
        (_not_a_number, "damaged"),
        (_endless_chunk, "damaged"),
        (_another_name, "damaged"),
    ],
)
def test_a_damaged_file_is_left_out_and_counted(path, damage, reason):
    """The page goes on without it."""
    worker, other = Worker(path), Worker(path)
    own = files(path)[:]
    other.hits.labels("victim").inc(3)
    (theirs,) = (one for one in own if b"victim" in one.read_bytes())
    theirs.write_bytes(damage(theirs.read_bytes()))
    worker.hits.labels("mine").inc()

    assert worker.lines("hits_total") == ['hits_total{t="mine"} 1.0']
    assert f'reason="{reason}"' in worker.skipped()[0]


def test_half_an_observation_is_left_out_and_counted(path):
    """Whoever reads OpenMetrics would refuse the whole page."""
    worker, other = Worker(path), Worker(path)
    other.took.observe(0.5)
    slot = other.took.labels()._slot
    slot.page.cells[slot.at + 1] += 0.5

    assert worker.lines("took_seconds_count") == ["took_seconds_count 0.0"]
    assert worker.skipped() == ['telemetry_worker_files_skipped_total{reason="damaged"} 2.0']


def test_what_is_no_file_is_not_opened(path):
    """A pipe would block, and a link would lead out."""
    worker = Worker(path)
    os.mkfifo(path / "pipe.metrics")
    (path / "link.metrics").symlink_to("/etc/passwd")
    (path / "folder.metrics").mkdir()
    worker.hits.labels("mine").inc()

    assert worker.lines("hits_total") == ['hits_total{t="mine"} 1.0']
    assert worker.skipped() == ['telemetry_worker_files_skipped_total{reason="unreadable"} 6.0']


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_no_content_breaks_the_page(tmp_path_factory, changes):
    """Whatever bytes are changed in another's file, the page is rendered and can be read."""
    parser = pytest.importorskip("prometheus_client.openmetrics.parser")
    path = tmp_path_factory.mktemp("hostile")
    worker, other = Worker(path), Worker(path)
    other.hits.labels("victim").inc(3)
    other.took.observe(0.5, LATE)
    (theirs,) = (one for one in files(path) if b"victim" in one.read_bytes())
    used = theirs.read_bytes().rstrip(b"\0")
    content = bytearray(theirs.read_bytes())
    for place, byte in changes:
        content[int(place * len(used))] = byte
    theirs.write_bytes(content)
    other.registry.close()
    for _ in range(2):
        list(parser.text_string_to_metric_families(worker.registry.page(openmetrics=True).decode()))
    worker.registry.close()


def test_the_directory_is_private(path, tmp_path):
    """It is made for its owner alone; one that others can write to is refused."""
    worker = Worker(path)
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)

    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(one.stat().st_mode) for one in files(path)} == {0o600}
    assert worker.registry.shared.path == path
    for unfit in (open_to_all, files(path)[0]):
        with pytest.raises(ConfigurationError) as caught:
            MetricsDirectory(unfit)
        assert caught.value.code == "metrics_directory_invalid"


def test_a_directory_that_vanishes_leaves_a_page(path):
    """A worker goes on with its own numbers."""
    worker = Worker(path)
    worker.hits.labels("mine").inc()
    for file in path.iterdir():
        file.unlink()
    path.rmdir()

    assert worker.lines("hits_total") == ['hits_total{t="mine"} 1.0']


def test_a_worker_tells_that_its_file_was_removed(path):
    """Who comes later sees nothing of it; that it counts on is said on its own page."""
    worker = Worker(path)
    worker.hits.labels("mine").inc()
    before = worker.skipped()
    files(path)[0].unlink()
    later = Worker(path)

    assert (before, later.lines("hits_total")) == ([], [])
    assert worker.lines("hits_total") == ['hits_total{t="mine"} 1.0']
    assert worker.skipped() == ['telemetry_worker_files_skipped_total{reason="removed"} 2.0']
    assert later.skipped() == []


def test_what_was_read_is_not_remembered_for_ever(path):
    """What the dead leave is a new file each time; only the newest is kept in mind."""
    worker = Worker(path)
    for _ in range(5):
        dead = Worker(path)
        dead.hits.labels("a").inc()
        dead.registry.close()
        worker.lines("hits_total")

    assert [name for name, _ in worker.registry.shared._sources] == ["retained.metrics"]


def test_files_without_a_name_are_swept(path):
    """What a process left that was killed while it began is removed, once nobody holds it."""
    worker = Worker(path)
    left = path / ".new-0123"
    left.write_bytes(b"half")
    worker.lines("hits_total")

    assert not left.exists()


def test_what_belongs_to_a_newer_release_is_not_overwritten(path):
    """The dead are not folded into a file of another version; they still count."""
    worker, dead = Worker(path), Worker(path)
    dead.hits.labels("a").inc(2)
    dead.registry.close()
    worker.lines("hits_total")
    retained = path / "retained.metrics"
    newer = _of_another_version(retained.read_bytes())
    retained.write_bytes(newer)
    second = Worker(path)
    second.hits.labels("a").inc(5)
    second.registry.close()

    assert worker.lines("hits_total") == ['hits_total{t="a"} 5.0']
    assert retained.read_bytes() == newer


def test_a_closed_registry_speaks_for_itself(path):
    """What others have taken over is not counted on its page again."""
    worker, other = Worker(path), Worker(path)
    worker.hits.labels("a").inc(2)
    worker.registry.close()
    other.lines("hits_total")
    worker.registry.close()

    assert worker.lines("hits_total") == ['hits_total{t="a"} 2.0']
    assert other.lines("hits_total") == ['hits_total{t="a"} 2.0']
