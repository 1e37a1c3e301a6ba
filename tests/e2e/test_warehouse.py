"""
The demo as a process: its check, its tour in a shell, its end.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn  # noqa: F401 -- the demo needs it, so a bare session skips these tests

from twh_platform.testing import PostgresServer, require_part

MODULE = (sys.executable, "-m", "examples.warehouse")


@pytest.fixture
def environment(twh_postgres: PostgresServer) -> dict[str, str]:
    """
    An environment in which the demo uses the server of the tests.
    """
    return {**os.environ, "TWH_TEST_POSTGRES_DSN": twh_postgres.dsn()}


def databases(server: PostgresServer) -> set[str]:
    """
    The databases of the demo that are on this server.
    """
    listed = "SELECT datname FROM pg_database WHERE datname LIKE 'warehouse%'"
    return set(server.execute(listed).split())


def test_the_check_passes_and_leaves_nothing(
    project_root: Path, environment: dict[str, str], twh_postgres: PostgresServer
) -> None:
    """
    `--check` takes every step of both tenants over HTTP and drops its database.
    """
    before = databases(twh_postgres)

    done = subprocess.run(
        [*MODULE, "--check"],
        cwd=project_root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^4\d\d steps, 0 failed$", done.stdout, re.MULTILINE)
    assert databases(twh_postgres) == before


WRONG = """
import sys
from examples.warehouse.__main__ import main
from examples.warehouse.tour import Tour
from examples.warehouse.tour.step import Step

steps = {"status": Step("s", "GET /healthz", 418, bearer=""),
         "body": Step("b", "GET /healthz", 200, {"status": "ill"}, bearer=""),
         "none": None}
step = steps[sys.argv[1]]
tour = Tour(name="wrong", steps=[step] if step else [], variables={})
sys.exit(main(["--check"], planner=lambda settings, password: [tour]))
"""


@pytest.mark.parametrize("what", ["status", "body", "none"])
def test_the_check_fails_for_one_wrong_answer(
    project_root: Path, environment: dict[str, str], what: str
) -> None:
    """
    A status or a body that is not the right one, or no step at all, ends with status 1.
    """
    done = subprocess.run(
        [sys.executable, "-c", WRONG, what],
        cwd=project_root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1, done.stdout + done.stderr
    assert ("FAILED" in done.stdout) is (what != "none")


@contextmanager
def demo(folder: Path, environment: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """
    Start the demo and read what it prints up to the end of the tour.
    """
    process = subprocess.Popen(
        [*MODULE, "--port", "0"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    printed = ""
    try:
        for line in process.stdout:
            printed += line
            if line.startswith("Ctrl-C"):
                break
        yield process, printed
    finally:
        process.kill()
        process.communicate()


COUNTED = "curl() { command curl -w '%{stderr}%{http_code}\\n' \"$@\"; }\n"


def test_the_tour_can_be_copied_into_a_shell(
    project_root: Path, environment: dict[str, str]
) -> None:
    """
    Every printed line gets the status that is printed behind its title.
    """
    require_part("curl", shutil.which("curl"), hint="apt-get install curl")
    with demo(project_root, environment) as (_, printed):
        lines = printed[printed.index("pick()") : printed.index("\nCtrl-C")]
        script = subprocess.run(
            ["bash", "-c", COUNTED + lines], capture_output=True, text=True, check=False
        )

    titles = re.findall(r"^# .* \((\d+)(?:, (\d+) times)?\)$", lines, re.MULTILINE)
    promised = [status for status, times in titles for _ in range(int(times or 1))]
    assert script.stderr.split() == promised
    assert len(promised) > 40


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_cleanly(
    project_root: Path,
    environment: dict[str, str],
    twh_postgres: PostgresServer,
    number: signal.Signals,
) -> None:
    """
    Ctrl-C ends the demo with status 0, a free port and no database left.
    """
    before = databases(twh_postgres)
    with demo(project_root, environment) as (process, printed):
        port = int(re.findall(r"http://127\.0\.0\.1:(\d+)", printed)[0])
        process.send_signal(number)
        rest, _ = process.communicate(timeout=60)

    assert (process.returncode, "Traceback" in rest) == (0, False), rest
    assert databases(twh_postgres) == before
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
