"""
A Redis for tests: the one of `TWH_TEST_REDIS_URL`, or a server of our own.

A plugin and not a conftest: the documents need it as well as the tests.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from twh_platform.testing import require_part
from twh_platform.testing._process import OrphanGuard

_HOST = "127.0.0.1"
_START_SECONDS = 20.0


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """
    The address of a Redis that keeps nothing.
    """
    given = os.environ.get("TWH_TEST_REDIS_URL")
    if given:
        yield given
        return
    program = require_part(
        "redis", shutil.which("redis-server"), hint="apt-get install redis-server"
    )
    with _running(program) as port:
        yield f"redis://{_HOST}:{port}/0"


@pytest.fixture(scope="module")
def document_redis(request: pytest.FixtureRequest) -> Iterator[None]:
    """
    Put the address of a Redis into the environment of one document, as `REDIS_URL`.
    """
    if "REDIS_URL" not in request.path.read_text():
        yield
        return
    url: str = request.getfixturevalue("redis_url")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("REDIS_URL", url)
        yield


@contextmanager
def _running(program: str) -> Iterator[int]:
    folder = tempfile.mkdtemp(prefix="twh-redis-")
    port = _free_port()
    options = {"bind": _HOST, "port": str(port), "dir": folder, "save": "", "appendonly": "no"}
    command = [program, *(part for name in options for part in (f"--{name}", options[name]))]
    with Path(folder, "redis.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    guard = OrphanGuard(process.pid, remove=Path(folder))
    try:
        _await_port(process, port)
        yield port
    finally:
        process.terminate()
        process.wait(_START_SECONDS)
        guard.dismiss()
        shutil.rmtree(folder, ignore_errors=True)


def _await_port(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection((_HOST, port), 1):
            return
        time.sleep(0.02)
    pytest.fail("redis-server did not start", pytrace=False)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
    return port
