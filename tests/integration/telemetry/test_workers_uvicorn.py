"""
Two uvicorn workers, one of which is killed with requests in flight, scraped throughout.
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
    A number on the page, or None.
    """
    found = re.search(rf"^{name} (.*)$", get(port, "/metrics") or "", re.MULTILINE)
    return found and float(found[1])


@pytest.fixture
def port(tmp_path):
    """
    The port of two workers.
    """
    (tmp_path / "app.py").write_text(APP)
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
