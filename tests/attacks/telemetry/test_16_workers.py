"""
Attacks 16 and 21: workers that are killed, and that are forked.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.attacks.telemetry._peers import anchor
from twh_platform.telemetry import MetricsDirectory, Registry

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forked processes")

# Each has a request in flight for ever.
NAIVE = """
import os, signal
from prometheus_client import Gauge
Gauge("in_flight", "In flight.", multiprocess_mode="livesum").inc()
os.kill(os.getpid(), signal.SIGKILL)
"""
OURS = """
import os, signal, sys
from twh_platform.telemetry import MetricsDirectory, Registry
registry = Registry(shared=MetricsDirectory(sys.argv[1]))
registry.counter("begun_total", "Begun.").inc()
registry.gauge("in_flight", "In flight.").inc()
os.kill(os.getpid(), signal.SIGKILL)
"""


def run(program: str, *arguments: str, **environment: str) -> str:
    """What a program of its own process has printed."""
    command = [sys.executable, "-W", "ignore", "-c", program, *arguments]
    environ = {**os.environ, **environment}
    return subprocess.run(
        command, env=environ, stdout=subprocess.PIPE, text=True, timeout=60, check=False
    ).stdout


def test_16_leaves_requests_in_flight_for_ever(tmp_path, twh_attack):
    """A gauge goes with its process, whose lock the kernel has given up."""
    anchor("prometheus_client")
    from prometheus_client import CollectorRegistry
    from prometheus_client.multiprocess import MultiProcessCollector

    attack = twh_attack(number=16, title="leaves requests in flight for ever by a crash")
    theirs, path = tmp_path / "theirs", tmp_path / "ours"
    theirs.mkdir()
    for _ in range(2):
        run(NAIVE, PROMETHEUS_MULTIPROC_DIR=str(theirs))
    left = CollectorRegistry()
    MultiProcessCollector(left, path=str(theirs))
    attack.control(int(left.get_sample_value("in_flight") or 0))

    for _ in range(2):
        run(OURS, str(path))
    page = Registry(shared=MetricsDirectory(path)).page()
    assert b"begun_total 2.0" in page
    found = [line for line in page.splitlines() if line.startswith(b"in_flight")]
    attack.ours([line for line in found if not line.endswith(b" 0.0")])


FORKED = """
import os, queue, threading
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from twh_platform.telemetry.otel import configure_telemetry

waiting = queue.Queue()
def take():
    while waiting.get():
        waiting.task_done()
threading.Thread(target=take, daemon=True).start()
memory = InMemorySpanExporter()
telemetry = configure_telemetry(
    exporter=lambda: memory, delay=60.0, set_global=False, ratio=1.0, environ={}
)
tracer = telemetry.provider.get_tracer("x")
tracer.start_span("before").end()
assert telemetry.force_flush(20)
for _ in range(3):
    child = os.fork()
    if not child:
        waiting.put("span")
        joined = threading.Thread(target=waiting.join, daemon=True)
        joined.start()
        joined.join(0.5)
        tracer.start_span("child").end()
        telemetry.force_flush(20)
        naive, ours = joined.is_alive(), 1 - telemetry.stats().exported
        print(int(naive), ours, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_21_loses_what_a_forked_worker_tells(twh_attack):
    """The thread that exports begins anew in each child; what was told before is not repeated."""
    pytest.importorskip("opentelemetry.sdk")
    attack = twh_attack(number=21, title="is served by a forked worker, and never told")
    told = [tuple(map(int, line.split())) for line in run(FORKED).splitlines()]
    assert len(told) == 3
    attack.control(sum(naive for naive, _ in told))

    attack.ours([ours for _, ours in told if ours])
