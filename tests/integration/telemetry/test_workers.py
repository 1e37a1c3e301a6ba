"""
Real processes that share a page, are killed, forked, and look at the same time.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from twh_platform.telemetry import MetricsDirectory, Registry

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forked processes")

# A worker answers each line of its input once it has counted it, as a server does a request.
WORKER = """
import sys
from twh_platform.telemetry import MetricsDirectory, Registry
registry = Registry(shared=MetricsDirectory(sys.argv[1]))
answered = registry.counter("answered_total", "Answered.", labels=("t",)).labels("a")
took = registry.histogram("took_seconds", "Time.", buckets=[1]).labels()
flying = registry.gauge("in_flight", "In flight.").labels()
print("ready", flush=True)
for line in sys.stdin:
    flying.inc()
    took.observe(0.5, ("a1" * 16, "b2" * 8))
    answered.inc()
    if line.strip() == "answer":
        flying.dec()
    print("done", flush=True)
"""

# Kills itself at the n-th change of a name in the directory while it folds the dead.
FOLDER = """
import os, signal, sys
from twh_platform.telemetry import MetricsDirectory, Registry
registry = Registry(shared=MetricsDirectory(sys.argv[1]))
left = int(sys.argv[2])
def hook(event, arguments):
    global left
    if event in {"os.rename", "os.remove"} and str(arguments[0]).startswith(sys.argv[1]):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
registry.page()
"""

# Writes two numbers that are always alike, as fast as it can.
WRITER = """
import sys
from twh_platform.telemetry import MetricsDirectory, Registry
registry = Registry(shared=MetricsDirectory(sys.argv[1]))
size = registry.gauge("size", "A size.").labels()
print("ready", flush=True)
while True:
    size.set(1.0000000000000002)
    size.set(-3.9999999999999996e200)
"""


@pytest.fixture
def path(tmp_path):
    """Where the workers meet."""
    return tmp_path / "metrics"


@pytest.fixture
def start(path):
    """Start a program on the directory; all are ended with the test."""
    started = []

    def begin(program, *arguments):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(path), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def answer(worker, line="answer"):
    """
    Have a worker count one request.
    """
    worker.stdin.write(f"{line}\n")
    worker.stdin.flush()
    assert worker.stdout.readline() == "done\n"


def value(registry, name):
    """
    The number after *name* on the page, or None.
    """
    found = re.search(rf"^{re.escape(name)} (.*)$", registry.page().decode(), re.MULTILINE)
    return found and float(found[1])


def in_child(work):
    """
    Run *work* in a forked process and return how it ended.
    """
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_killed_workers_have_counted_exactly(path, start):
    """Of two workers that are killed with requests in flight, not one answer is lost."""
    registry = Registry(shared=MetricsDirectory(path))
    for round_ in range(3):
        workers = [start(WORKER) for _ in range(2)]
        for worker in workers:
            assert worker.stdout.readline() == "ready\n"
            for _ in range(50):
                answer(worker)
            answer(worker, "stay")
        flying = value(registry, "in_flight")
        for worker in workers:
            worker.send_signal(signal.SIGKILL)
            worker.wait()
        expected = 102.0 * (round_ + 1)

        assert flying == 2.0
        assert value(registry, 'answered_total{t="a"}') == expected
        assert value(registry, "took_seconds_count") == expected
        assert value(registry, "took_seconds_sum") == expected / 2
        assert value(registry, "in_flight") is None
        assert b'trace_id="a1a1' in registry.page(openmetrics=True)


def test_a_lock_says_who_lives_and_not_a_process_id(path, start):
    """A file whose process id is that of a living process is of the dead all the same."""
    registry = Registry(shared=MetricsDirectory(path))
    other = Registry(shared=MetricsDirectory(path))
    other.gauge("in_flight", "In flight.").set(3)
    before = value(registry, "in_flight")
    other.close()

    assert before == 3.0
    assert value(registry, "in_flight") is None


@pytest.mark.parametrize("survived", range(4))
def test_killed_while_folding_nothing_is_lost_or_counted_twice(path, start, survived):
    """At whatever change of the directory it is killed, the sums stay right."""
    for _ in range(2):
        worker = Registry(shared=MetricsDirectory(path))
        worker.counter("answered_total", "Answered.").inc(5)
        worker.close()
    folder = start(FOLDER, survived)
    ended = folder.wait()
    registry = Registry(shared=MetricsDirectory(path))

    assert ended == (-signal.SIGKILL if survived < 3 else 0)
    assert [value(registry, "answered_total") for _ in range(3)] == [10.0] * 3
    assert sorted(one.suffix for one in path.iterdir()) == ["", ".metrics", ".metrics"]


def test_many_who_look_at_once_fold_once(path):
    """Six processes that read the page while workers end all see exact sums."""
    for _ in range(8):
        worker = Registry(shared=MetricsDirectory(path))
        hits = worker.counter("answered_total", "Answered.", labels=("t",))
        for number in range(50):
            hits.labels(number).inc()
        worker.close()
    pids = []
    for _ in range(6):
        pid = os.fork()
        if pid == 0:
            registry = Registry(shared=MetricsDirectory(path))
            seen = {value(registry, 'answered_total{t="7"}') for _ in range(4)}
            os._exit(0 if seen == {8.0} else 1)
        pids.append(pid)

    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * 6


def test_a_forked_child_counts_for_itself(path):
    """What was bound before the fork counts on in both, and nothing twice."""
    registry = Registry(shared=MetricsDirectory(path))
    hits = registry.counter("hits_total", "Hits.", labels=("t",)).labels("a")
    flying = registry.gauge("in_flight", "In flight.")
    hits.inc(10)
    flying.set(3)

    def work():
        for _ in range(1000):
            hits.inc()
        flying.inc(7)
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(work) == -signal.SIGKILL
    assert value(registry, 'hits_total{t="a"}') == 1010.0
    assert value(registry, "in_flight") == 3.0


def test_a_child_does_not_keep_its_parent_alive(path):
    """When the parent is killed its gauges go, though children that it forked live on."""
    registry = Registry(shared=MetricsDirectory(path))
    ready, told = os.pipe()

    def parent():
        mine = Registry(shared=MetricsDirectory(path))
        mine.gauge("in_flight", "In flight.").set(3)
        if os.fork() == 0:
            os.write(told, b"x")
            time.sleep(60)
            os._exit(0)
        time.sleep(60)

    pid = os.fork()
    if pid == 0:
        os.setsid()
        parent()
        os._exit(0)
    os.read(ready, 1)
    before = value(registry, "in_flight")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    after = value(registry, "in_flight")
    os.killpg(pid, signal.SIGKILL)

    assert (before, after) == (3.0, 0.0)


def test_a_private_registry_is_copied_by_a_fork():
    """Without a directory the child has a copy, and the parent sees nothing of it."""
    registry = Registry()
    hits = registry.counter("hits_total", "Hits.")
    hits.inc(3)

    def work():
        hits.inc()
        assert value(registry, "hits_total") == 4.0
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(work) == -signal.SIGKILL
    assert value(registry, "hits_total") == 3.0


def test_a_number_is_never_read_in_halves(path, start):
    """Of two numbers that are written in turn, a reader sees one or the other."""
    registry = Registry(shared=MetricsDirectory(path))
    writer = start(WRITER)
    assert writer.stdout.readline() == "ready\n"
    seen = {value(registry, "size") for _ in range(300)}

    assert seen <= {0.0, 1.0000000000000002, -3.9999999999999996e200}
    assert len(seen) > 1


def test_series_that_change_hands_are_never_mixed_up(path):
    """While one worker renames its series all the time, no number appears under another name."""
    registry = Registry(shared=MetricsDirectory(path))
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        hits = Registry(shared=MetricsDirectory(path)).counter("hits_total", "x", labels=("t",))
        os.write(told, b"x")
        while True:
            for number in range(1, 30):
                hits.labels(f"{number}").inc(number)
                hits.remove(f"{number}")
    os.read(ready, 1)
    seen = set()
    for _ in range(300):
        page = registry.page().decode()
        seen |= set(re.findall(r'^hits_total\{t="(\d+)"\} (\d+)\.0$', page, re.MULTILINE))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)

    assert [pair for pair in seen if pair[1] not in {pair[0], "0"}] == []
    assert seen


# As on a full disk: no file may become larger than three pages.
CROWDED = """
import resource, signal, sys
from twh_platform.telemetry import MetricsDirectory, Registry
registry = Registry(shared=MetricsDirectory(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (3 * 65536 + 100, 3 * 65536 + 100))
hits = registry.counter("hits_total", "Hits.", labels=("t",))
for number in range(9000):
    hits.labels(number).inc()
page = registry.page()
print(len(hits), page.count(b'telemetry_series_refused_total{metric="hits_total"}'))
"""


def test_a_full_disk_refuses_series_and_kills_nobody(path, start):
    """What there is room for goes on counting; a mapping of nothing would end in SIGBUS."""
    worker = start(CROWDED)
    shown, refusals = map(int, worker.communicate()[0].split())

    assert worker.returncode == 0
    assert 1000 < shown < 9000
    assert refusals == 1
    assert value(Registry(shared=MetricsDirectory(path)), 'hits_total{t="0"}') == 1.0


def test_a_child_without_a_directory_counts_alone(path, caplog):
    """Where no file can be made after a fork, nothing is raised, and a page is its own."""
    registry = Registry(shared=MetricsDirectory(path))
    hits = registry.counter("hits_total", "Hits.")
    hits.inc(3)
    path.rename(path.with_name("moved"))

    def work():
        hits.inc()
        if value(registry, "hits_total") == 1.0:
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(work) == -signal.SIGKILL
    assert value(registry, "hits_total") == 3.0
