"""
Workers that fork: pools of processes, and servers that load the app before they fork.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")


def run(program, *arguments):
    """
    The lines that a program of its own process has printed.
    """
    command = [sys.executable, "-W", "ignore", "-c", HELP + program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()


HELP = """
import os, signal, sys
from twh_platform.telemetry import MetricsDirectory, Registry, _definitions, _workers

path, way = sys.argv[1:]
def begin():
    return Registry(shared=MetricsDirectory(path))
def show(start, registry):
    lines = registry.page().decode().splitlines()
    print(*[line for line in lines if line.startswith(start)], sep="; ", flush=True)
def forked(work):
    # Returns when the child has worked; it then stays until the pipe is closed.
    done, tell = os.pipe()
    wait, end = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(end)
            work()
            os.write(tell, b".")
            os.read(wait, 1)
        finally:
            os._exit(0)
    os.close(tell)
    assert os.read(done, 1), "the child has failed"
    def leave():
        os.close(end)
        os.waitpid(pid, 0)
    return leave
"""

GAUGES = """
if way == "naive":
    _definitions.Definition.start = 0.0
registry = begin()
left = {("acme",): 0.8, ("globex",): 0.5}
registry.gauge_of("left_ratio", "Left.", lambda: left, labels=("tenant",), merge="min")
limit = registry.gauge("limit", "Limit.", labels=("pool",), merge="min").labels("a")
limit.set(20)
served = registry.counter("served_total", "Served.", labels=("by",)).labels("all")
served.inc()
show(("left", "limit"), registry)
for work in (served.inc, lambda: limit.set(7)):
    leave = forked(work)
    show(("left", "limit", "served"), registry)
    leave()
"""
SET = 'left_ratio{tenant="acme"} 0.8; left_ratio{tenant="globex"} 0.5; limit{pool="a"} 20.0'


def test_a_forked_child_has_set_no_gauges(tmp_path):
    """It takes part once it has; what it kept from before the fork is what it counts with."""
    naive = run(GAUGES, tmp_path / "naive", "naive")
    before, counts, sets = run(GAUGES, tmp_path / "ours", "ours")

    assert naive[1].count(" 0.0") == 3
    assert before == SET
    assert counts == f'{SET}; served_total{{by="all"}} 2.0'
    assert sets == f'{SET.replace("20.0", "7.0")}; served_total{{by="all"}} 2.0'


LOCK = """
if way == "naive":
    _workers.MetricsDirectory.after_fork = lambda self: None
def dead():
    begin().counter("x_total", "X.").inc()
forked(dead)()
registry = begin()
registry.counter("x_total", "X.")
pages = registry.slices()
held = lambda: any(map(lambda one: one.number >= 0, registry.shared._handles))
while not held():
    next(pages)
def work():
    others = [open(os.devnull) for _ in range(20)]
    if way == "goes on":
        list(pages)
    elif way == "ends":
        pages.close()
    for one in others:
        one.read()
leave = forked(work)
list(pages)
for _ in range(5):
    forked(dead)()
for _ in range(2):
    show("x_total", registry)
print(len([name for name in os.listdir(path) if name.endswith(".metrics")]))
print(len([name for name in os.listdir(path) if name.startswith(".new")]))
leave()
"""


@pytest.mark.parametrize("way", ["stays", "ends", "goes on"])
def test_a_child_forked_within_a_page_does_not_keep_the_lock(way, tmp_path):
    """Others fold the dead while it lives; what it does with the page closes no other file."""
    naive = run(LOCK, tmp_path / "naive", "naive")
    ours = run(LOCK, tmp_path / "ours", way)

    assert naive == ["x_total 6.0", "x_total 6.0", "13", "0"]
    assert ours == ["x_total 6.0", "x_total 6.0", "3", "0"]
