"""
Two uvicorn workers that are killed with requests in flight, scraped throughout (gate G3).
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest

pytest.importorskip("uvicorn")

APP = """
import asyncio, os
from twh_platform.telemetry import MetricsApp, MetricsDirectory, Registry
registry = Registry(shared=MetricsDirectory(os.environ["METRICS"]))
answered = registry.counter("answered_total", "Answered.").labels()
flying = registry.gauge("in_flight", "In flight.").labels()
metrics = MetricsApp(registry, max_age=0)
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    if scope["path"] == "/metrics":
        return await metrics(scope, receive, send)
    flying.inc()
    if scope["path"] == "/hang":
        await asyncio.sleep(60)
    answered.inc()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
    flying.dec()
"""


SERVICE = """
import asyncio, os, pathlib
from twh_platform.telemetry import (
    MetricsApp, MetricsDirectory, Registry, TelemetryMiddleware, watch_process,
)
registry = Registry(shared=MetricsDirectory(os.environ["METRICS"]))
watch_process(registry)
metrics = MetricsApp(registry, max_age=0)
here = pathlib.Path(os.getcwd())
async def answer(scope, receive, send):
    pid = str(os.getpid())
    if scope["path"].startswith("/hang"):
        (here / scope["path"].replace("/", "-")).write_text(pid)
        while not (here / "released").exists():
            await asyncio.sleep(0.05)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": pid.encode()})
watched = TelemetryMiddleware(answer, metrics=registry)
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    await (metrics if scope["path"] == "/metrics" else watched)(scope, receive, send)
"""
COUNT = "http_server_request_duration_seconds_count"
ACTIVE = "http_server_active_requests"


def get(port, path):
    """
    The body of a response, or None where the connection broke.
    """
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as response:
            return response.read().decode()
    except (OSError, urllib.error.URLError):
        return None


def until(condition):
    """
    Wait for *condition*, for half a minute at most.
    """
    end = time.monotonic() + 30
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


def metric(port, name):
    """
    The sum of what the page has under a name, or None.
    """
    found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", get(port, "/metrics") or "", re.MULTILINE)
    return sum(map(float, found)) if found else None


@pytest.fixture
def port(request, tmp_path):
    """
    The port of two workers, of the app that the test asks for.
    """
    (tmp_path / "app.py").write_text(getattr(request, "param", APP))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "uvicorn", "app:app", "--workers", "2"),
                *("--fd", str(listener.fileno()), "--log-level", "critical", "--lifespan", "off"),
            ],
            cwd=tmp_path,
            env={**os.environ, "METRICS": str(tmp_path / "metrics")},
            pass_fds=[listener.fileno()],
        )
        yield listener.getsockname()[1]
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def test_a_killed_worker_of_uvicorn_leaves_exact_counts(port):
    """Every answer is counted once, and no request in flight stays in the gauge."""
    pids = set()
    answers = 0
    while len(pids) < 2 and answers < 2000:
        pid = until(lambda: get(port, "/"))
        pids.add(int(pid))
        answers += 1
    hanging = [threading.Thread(target=get, args=(port, "/hang"), daemon=True) for _ in range(8)]
    for thread in hanging:
        thread.start()
    until(lambda: metric(port, "in_flight") == 8.0)
    before = metric(port, "answered_total")
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for thread in hanging:
        thread.join(30)
    until(lambda: metric(port, "in_flight") == 0.0)
    more = sum(get(port, "/") is not None for _ in range(50))

    assert len(pids) == 2
    assert before == answers
    assert metric(port, "answered_total") == answers + more


class Background:
    """
    Something that is done again and again by a thread, within a `with`.

    Attributes:
        found: What came of it each time.

        between: Held while it is done.
    """

    def __init__(self, work):
        self.work, self.found = work, []
        self.between, self._over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        while not self._over.wait(0.005):
            with self.between:
                self.found.append(self.work())

    def kinds(self):
        """
        The different things that came of it, but None.
        """
        return {*self.found} - {None}

    def answered(self):
        """
        How often something came of it.
        """
        return len(self.found) - self.found.count(None)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join(60)


class Hanging:
    """
    Requests that are answered once a file is there.
    """

    def __init__(self, port, folder, count):
        self.folder, self.count = folder, count
        self._found = []
        self._threads = [
            threading.Thread(target=self._ask, args=(port, number)) for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, port, number):
        self._found.append(get(port, f"/hang{number}"))

    def most(self):
        """
        The process that has most of them, and how many.
        """
        until(lambda: len([one for one in self._pids() if one]) == self.count)
        pids = self._pids()
        pid = max(set(pids), key=pids.count)
        return int(pid), pids.count(pid)

    def _pids(self):
        return [path.read_text() for path in self.folder.glob("-hang*")]

    def answers(self):
        """
        What came of them: None where the connection broke.
        """
        for thread in self._threads:
            thread.join(60)
        return self._found


@pytest.mark.parametrize("port", [SERVICE], indirect=True)
def test_one_killed_worker_scraped_throughout(port, tmp_path):
    """No count ever falls; in the end each answer is counted once, and nothing is in flight."""
    until(lambda: get(port, "/"))
    hanging = Hanging(port, tmp_path, 12)
    asking = Background(lambda: get(port, "/"))
    scraping = Background(lambda: metric(port, COUNT))
    with scraping, asking:
        until(lambda: len(asking.kinds()) == 2)
        victim, lost = hanging.most()
        # What is on its way out while a process is killed may be counted or not.
        with asking.between:
            until(lambda: metric(port, COUNT) == 1 + asking.answered())
            os.kill(victim, signal.SIGKILL)
            until(lambda: metric(port, ACTIVE) == 12 - lost)
        until(lambda: len(asking.kinds()) == 3)  # another was started
        (tmp_path / "released").touch()
        answered = sum(one is not None for one in hanging.answers())
    until(lambda: metric(port, ACTIVE) == 0)

    scrapes = [one for one in scraping.found if one is not None]
    assert len(scrapes) > 10
    assert scrapes == sorted(scrapes)
    assert answered == 12 - lost < 12
    assert metric(port, COUNT) == 1 + asking.answered() + answered
