"""
A real Prometheus scrapes every metric of the table, and answers every panel and rule.
"""

from __future__ import annotations

import itertools
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.support.prometheus import free_port, prometheus_of, substituted, waited
from twh_platform.telemetry import Exemplar, Registry
from twh_platform.telemetry._define import define
from twh_platform.telemetry._names import MetricName
from twh_platform.telemetry.dashboards._boards import BOARDS
from twh_platform.telemetry.dashboards._objectives import Objectives
from twh_platform.telemetry.dashboards._rules import rule_documents
from twh_platform.telemetry.dashboards._vocabulary import known_metrics

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
            ("platform_telemetry_label_overflow_total", ("tenants",)),
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


@pytest.fixture(scope="module")
def prometheus(page, tmp_path_factory):
    """A Prometheus that scrapes the page each second, and a target that is down."""
    folder = tmp_path_factory.mktemp("prometheus")
    rules = []
    for name, document in rule_documents(OBJECTIVES).items():
        for group in document["groups"]:
            group["interval"] = "1s"
        rules.append(folder / name)
        rules[-1].write_text(json.dumps(document).replace(":10m]", ":1s]"))
    with prometheus_of(folder, job="shop", ports=[page, free_port()], rules=rules) as server:
        yield server


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
    told = {rule["name"]: rule["health"] for rule in prometheus.rules()}
    assert set(told.values()) == {"ok"}, told


def test_variables_and_exemplars(prometheus):
    """What can be picked is there, and a point of a panel leads to its trace."""
    labels = prometheus.get("/api/v1/label/tenant/values")["data"]
    found = prometheus.exemplars("http_server_request_duration_seconds_bucket")

    assert labels == ["acme", "other"]
    traces = {one["labels"]["trace_id"] for one in found}
    assert traces == {TRACE.trace_id}


def test_a_metric_that_is_not_there_has_no_data(prometheus):
    """The control: a wrong name would be found, and so would a wrong value of a label."""
    assert not prometheus.answers("sum (rate(http_requests_total[10s]))")
    assert not prometheus.answers('platform_degraded{part="quota_stores"}')
