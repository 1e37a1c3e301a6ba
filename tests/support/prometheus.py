"""
A real Prometheus on loopback, and what is asked of it.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from twh_platform.testing import require_part

__all__ = ["Prometheus", "free_port", "prometheus_of", "promtool", "substituted", "waited"]

HINT = "apt-get install prometheus"
# As Grafana puts them in, and what is looked at every ten minutes is looked at now.
_PUT_IN = {"$__rate_interval": "10s", "$__range": "1m", "$__interval": "5s", ":10m]": ":1s]"}


class Prometheus:
    """
    A server, by its API.

    Args:
        port: Where it is.
    """

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def get(self, path: str, **query: Any) -> Any:
        """What the API answers; its complaint where it has one."""
        url = f"{self._url}{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return json.loads(response.read())
        except urllib.error.HTTPError as error:
            return json.loads(error.read())

    def ready(self) -> bool:
        """Whether it answers."""
        ready = f"{self._url}/-/ready"
        with contextlib.suppress(OSError), urllib.request.urlopen(ready, timeout=10):
            return True
        return False

    def series(self, expr: str) -> list[tuple[dict[str, str], float]]:
        """What an expression comes to now."""
        answer = self.get("/api/v1/query", query=expr)
        assert answer["status"] == "success", (expr, answer)
        return [(one["metric"], float(one["value"][1])) for one in answer["data"]["result"]]

    def answers(self, expr: str) -> bool:
        """Whether there is data, a number in any series of it."""
        return any(not math.isnan(value) for _, value in self.series(expr))

    def rules(self) -> list[dict[str, Any]]:
        """All rules, with how they are."""
        groups = self.get("/api/v1/rules")["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def exemplars(self, query: str) -> list[dict[str, Any]]:
        """The exemplars of the last ten minutes, each with the labels of its series."""
        now = time.time()
        span = {"start": now - 600, "end": now + 600}
        found = self.get("/api/v1/query_exemplars", query=query, **span)
        return [
            {"of": series["seriesLabels"], **one}
            for series in found["data"]
            for one in series["exemplars"]
        ]


@contextlib.contextmanager
def prometheus_of(
    folder: Path, *, job: str, ports: Sequence[int], rules: Sequence[Path] = (), every: str = "1s"
) -> Iterator[Prometheus]:
    """
    Run a server that scrapes these ports, within a `with`.

    Args:
        folder: An empty one, for its files.

        job: What its targets are called.

        ports: Where they are.

        rules: Files of rules.

        every: How often it scrapes, and evaluates rules without an interval.
    """
    program = require_part("prometheus", shutil.which("prometheus"), hint=HINT)
    port = free_port()
    command = [
        str(program),
        f"--config.file={_configuration(folder, job, ports, rules, every)}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--enable-feature=exemplar-storage",
    ]
    log = folder / "log"
    with (
        log.open("w") as output,
        subprocess.Popen(command, cwd=folder, stdout=output, stderr=output) as process,
    ):
        server = Prometheus(port)
        try:
            waited(lambda: [] if server.ready() else ["ready"], log.read_text)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def _configuration(
    folder: Path, job: str, ports: Sequence[int], rules: Sequence[Path], every: str
) -> Path:
    quick = {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every}
    targets = [f"127.0.0.1:{port}" for port in ports]
    scraped = {"job_name": job, "static_configs": [{"targets": targets}]}
    text = {"global": quick, "rule_files": [*map(str, rules)], "scrape_configs": [scraped]}
    path = folder / "prometheus.yml"
    path.write_text(json.dumps(text))  # which YAML reads too
    return path


def promtool(*arguments: str, given: str = "") -> str:
    """
    What promtool complains of; empty where it finds nothing.
    """
    program = require_part("promtool", shutil.which("promtool"), hint=HINT)
    done = subprocess.run(
        [str(program), *arguments], input=given, capture_output=True, text=True, check=False
    )
    # It lints with status 3, and on stderr.
    return done.stderr + (done.stdout if done.returncode else "")


def substituted(expr: str, window: str = "10s") -> str:
    """
    An expression as Grafana sends it, with all values of its variables.

    Args:
        expr: As a dashboard or a rule has it.

        window: What rates are taken over.
    """
    for name, value in {**_PUT_IN, "$__rate_interval": window}.items():
        expr = expr.replace(name, value)
    return re.sub(r"\$\w+", ".*", expr)


def waited(
    missing: Callable[[], Any], tell: Callable[[], str] = lambda: "", seconds: float = 30.0
) -> None:
    """
    Ask until nothing is missing.
    """
    last = time.monotonic() + seconds
    while left := missing():
        assert time.monotonic() < last, (left, tell())
        time.sleep(0.5)


def free_port() -> int:
    """
    A port that nobody listens on.
    """
    with contextlib.closing(socket.socket()) as opened:
        opened.bind(("127.0.0.1", 0))
        port: int = opened.getsockname()[1]
        return port
