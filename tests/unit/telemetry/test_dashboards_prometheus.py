"""
A real Prometheus scrapes every metric of the table, and answers every panel and rule.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from twh_platform.telemetry import Exemplar, Registry
from twh_platform.telemetry._http_metrics import define
from twh_platform.telemetry._names import MetricName
from twh_platform.telemetry.dashboards._boards import BOARDS
from twh_platform.telemetry.dashboards._objectives import Objectives
from twh_platform.telemetry.dashboards._rules import rule_documents
from twh_platform.telemetry.dashboards._vocabulary import known_metrics
from twh_platform.testing import require_part

OBJECTIVES = Objectives(jobs=("shop", "gone"))
# What a label may be, where expressions ask for something.
VALUES = {
    "error_type": ("", "500"),
    "outcome": ("success", "error", "server_error", "client_error", "client_disconnect", "failure"),
    "part": ("quota_store", "usage_ledger", "key_service"),
    "tenant": ("acme", "other"),
}
TRACE = Exemplar(trace_id="0af7651916cd43dd8448eb211c80319c", span_id="b7ad6b7169203331")
# The only one whose cause excludes those of others: few requests.
EXCLUDED = {"TwhQuietServiceFails"}
# As Grafana puts them in, and what is looked at every ten minutes is looked at now.
PUT_IN = {"$__rate_interval": "10s", "$__range": "1m", "$__interval": "5s", ":10m]": ":1s]"}


def filled(registry):
    """Define every metric, and give back what makes all of them grow."""
    growing = []
    for name in known_metrics().values():
        if isinstance(name, MetricName):
            values = [VALUES.get(label, ("one",)) for label in name.labels]
            metric = define(registry, name)
            growing += [(name, metric.labels(*one)) for one in itertools.product(*values)]
    own = {metric.definition.name: metric for metric in registry._metrics}
    growing += [
        (own[name].definition, own[name].labels(*labels))
        for name, labels in (
            ("telemetry_series_refused_total", ("x",)),
            ("telemetry_values_dropped_total", ()),
            ("telemetry_worker_files_skipped_total", ("damaged",)),
            ("telemetry_retained_series_dropped_total", ()),
        )
    ]
    return lambda: [grow(name, child) for name, child in growing]


def grow(name, child):
    """A scrape's worth of events, some of them slow."""
    if name.kind == "counter":
        child.inc(50)
    elif name.kind == "gauge":
        child.set(1)
    else:
        for value in (0.02, 0.2, 3.0):
            child.observe(value, exemplar=TRACE if name.exemplars else None)


@pytest.fixture(scope="module")
def page():
    """The port of a page with every metric, which grows with each scrape."""
    registry = Registry()
    happen, lock = filled(registry), threading.Lock()

    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            with lock:
                happen()
                body = registry.page(openmetrics=True)
            self.send_response(200)
            kind = "application/openmetrics-text; version=1.0.0; charset=utf-8"
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def free_port():
    """A port that nobody listens on."""
    with contextlib.closing(socket.socket()) as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


class Prometheus:
    """A server of its own, on loopback."""

    def __init__(self, port):
        self._url = f"http://127.0.0.1:{port}"

    def get(self, path, **query):
        """What the API answers; its complaint where it has one."""
        url = f"{self._url}{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return json.loads(response.read())
        except urllib.error.HTTPError as error:
            return json.loads(error.read())

    def ready(self):
        """Whether it answers."""
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self._url}/-/ready"):
            return True
        return False

    def answers(self, expr):
        """Whether there is data, a number in any series of it."""
        answer = self.get("/api/v1/query", query=expr)
        assert answer["status"] == "success", (expr, answer)
        values = [float(one["value"][1]) for one in answer["data"]["result"]]
        return any(not math.isnan(value) for value in values)


def configuration(folder, port):
    """Two targets, one of which is down, and the rules each second."""
    documents = rule_documents(OBJECTIVES)
    for name, document in documents.items():
        for group in document["groups"]:
            group["interval"] = "1s"
        (folder / name).write_text(json.dumps(document).replace(":10m]", PUT_IN[":10m]"]))
    targets = [f"127.0.0.1:{port}", f"127.0.0.1:{free_port()}"]
    path = folder / "prometheus.yml"
    job = {"job_name": "shop", "static_configs": [{"targets": targets}]}
    quick = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    path.write_text(
        json.dumps({"global": quick, "rule_files": [*documents], "scrape_configs": [job]})
    )
    return path


@pytest.fixture(scope="module")
def prometheus(page, tmp_path_factory):
    """A Prometheus that scrapes the page each second."""
    program = shutil.which("prometheus")
    program = require_part("prometheus", program, hint="apt-get install prometheus")
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    command = [
        program,
        f"--config.file={configuration(folder, page)}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--enable-feature=exemplar-storage",
    ]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(command, cwd=folder, stdout=log, stderr=log) as process,
    ):
        server = Prometheus(port)
        try:
            waited(lambda: [] if server.ready() else ["ready"], (folder / "log").read_text)
            yield server
        finally:
            process.terminate()
            process.wait(30)


def waited(missing, tell=lambda: "", seconds=30):
    """Ask until nothing is missing."""
    last = time.monotonic() + seconds
    while left := missing():
        assert time.monotonic() < last, (left, tell())
        time.sleep(0.5)


def substituted(expr):
    """An expression as Grafana sends it, with all values of its variables."""
    for name, value in PUT_IN.items():
        expr = expr.replace(name, value)
    return re.sub(r"\$\w+", ".*", expr)


def test_every_panel_has_data(prometheus):
    """Each expression of each panel answers with numbers."""
    panels = [
        (f"{board.title}: {panel.title}", substituted(query.expr))
        for board in BOARDS
        for row in board.rows
        for panel in row.panels
        for query in panel.queries
    ]

    assert len(panels) > 100
    waited(lambda: [one for one in panels if not prometheus.answers(one[1])])


def test_every_rule_has_data(prometheus):
    """Where everything is wrong, each rule has something to say, and none has failed."""
    groups = rule_documents(OBJECTIVES).values()
    rules = [rule for document in groups for group in document["groups"] for rule in group["rules"]]
    wanted = [
        (rule.get("alert", rule.get("record")), substituted(rule["expr"]))
        for rule in rules
        if rule.get("alert") not in EXCLUDED
    ]

    waited(lambda: [one for one in wanted if not prometheus.answers(one[1])])
    loaded = prometheus.get("/api/v1/rules")["data"]["groups"]
    told = {rule["name"]: rule["health"] for group in loaded for rule in group["rules"]}
    assert set(told.values()) == {"ok"}, told


def test_variables_and_exemplars(prometheus):
    """What can be picked is there, and a point of a panel leads to its trace."""
    labels = prometheus.get("/api/v1/label/tenant/values")["data"]
    found = prometheus.get(
        "/api/v1/query_exemplars",
        query="http_server_request_duration_seconds_bucket",
        start=time.time() - 600,
        end=time.time() + 600,
    )

    assert labels == ["acme", "other"]
    traces = {one["labels"]["trace_id"] for series in found["data"] for one in series["exemplars"]}
    assert traces == {TRACE.trace_id}


def test_a_metric_that_is_not_there_has_no_data(prometheus):
    """The control: a wrong name would be found, and so would a wrong value of a label."""
    assert not prometheus.answers("sum (rate(http_requests_total[10s]))")
    assert not prometheus.answers('platform_degraded{part="quota_stores"}')
