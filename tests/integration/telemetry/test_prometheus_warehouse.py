"""
A real Prometheus scrapes the real warehouse at work (gate G2).

First a day on which all is well, and then one on which much fails: panels that
show failures have data by then.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("psycopg")
pytest.importorskip("sqlalchemy")
pytest.importorskip("redis")
pytest.importorskip("opentelemetry.sdk")
pytest.importorskip("opentelemetry.proto")

from tests.integration.telemetry._warehouse import Day, Trouble, watched_warehouse
from tests.support.otlp import receiving
from tests.support.prometheus import prometheus_of, promtool, substituted, waited
from tests.support.redis import require_redis

# What one process of the warehouse does not come to; a page with all of it is scraped by
# tests/unit/telemetry/test_dashboards_prometheus.py.
NOT_SHOWN = {
    "Refused series": "takes twenty thousand series",
    "Workers that are left out": "takes several workers, and a damaged file",
}
# Pending for a moment where other work holds the machine; fires by no means so soon.
OF_A_BUSY_MACHINE = {"TwhEventLoopLag", "TwhQuotaStoreDown"}
LEAST_REQUESTS = 200
STATUSES = {200, 201, 401, 404, 422, 429}
# Its panels show what was in the last half minute.
WINDOW = "30s"
HTTP_EXEMPLARS = "http_server_request_duration_seconds_bucket"


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """An expression of a panel."""

    board: str
    title: str
    expr: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the first day came to, before anything failed."""

    empty_rules: list[str]
    unhealthy: list[dict]
    fired: list
    pending: set[str]
    exemplars: list[dict]
    statuses: set[int]
    faults: list[Exception]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder that the command line has written."""
    folder = tmp_path_factory.mktemp("exported")
    # What is fast enough on a machine that does other things besides.
    options = ["--job", "warehouse", "--latency-seconds", "5"]
    command = [sys.executable, "-m", "twh_platform.cli", "dashboards", "export", str(folder)]
    subprocess.run([*command, *options], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def panels(exported):
    """Every expression of every panel."""
    return [
        Panel(board=board.stem, title=panel["title"], expr=target["expr"])
        for board in sorted(exported.glob("grafana/dashboards/*/*.json"))
        for panel in json.loads(board.read_text())["panels"]
        for target in panel.get("targets", ())
    ]


@pytest.fixture(scope="module")
def collector():
    """Where its spans are sent."""
    with receiving() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def warehouse(twh_postgres, collector, tmp_path_factory):
    """A running warehouse."""
    require_redis()
    folder = tmp_path_factory.mktemp("warehouse")
    with watched_warehouse(folder, twh_postgres, collector) as watched:
        yield watched


@pytest.fixture(scope="module")
def prometheus(warehouse, exported, tmp_path_factory):
    """A Prometheus that scrapes it every other second, with the exported rules each second."""
    folder = tmp_path_factory.mktemp("prometheus")
    rules = [folder / path.name for path in exported.glob("prometheus/rules/*.yml")]
    for path in rules:
        text = (exported / "prometheus/rules" / path.name).read_text()
        path.write_text(text.replace('interval: "30s"', 'interval: "1s"'))
        assert 'interval: "1s"' in path.read_text()
    ports = [warehouse.port]
    with prometheus_of(folder, job="warehouse", ports=ports, rules=rules, every="2s") as server:
        yield server


@pytest.fixture(scope="module")
def day(warehouse, prometheus):
    """People at work."""
    with Day(warehouse) as day:
        yield day


@pytest.fixture(scope="module")
def seen(day, prometheus):
    """The first day."""
    rules = [one for one in prometheus.rules() if one["type"] == "recording"]

    def missing():
        left = LEAST_REQUESTS - day.answered.total()
        empty = [one["name"] for one in rules if not prometheus.answers(one["query"])]
        return empty + [f"{left} requests"] * (left > 0)

    waited(missing, seconds=60)
    return Seen(
        empty_rules=[one["name"] for one in rules if not prometheus.answers(one["query"])],
        unhealthy=[one for one in prometheus.rules() if one["health"] != "ok"],
        fired=prometheus.series('count_over_time(ALERTS{alertstate="firing"}[10m])'),
        pending={name for name, state in states(prometheus).items() if state != "inactive"},
        exemplars=prometheus.exemplars('{__name__=~".+_bucket"}'),
        statuses=set(day.answered),
        faults=list(day.faults),
    )


@pytest.fixture(scope="module")
def shown(seen, day, collector, prometheus, panels):
    """The second day, and the expressions that have never had data on either."""
    left = list(panels)

    def missing():
        left[:] = [one for one in left if not prometheus.answers(substituted(one.expr, WINDOW))]
        return {one.title for one in left} - NOT_SHOWN.keys()

    missing()
    Trouble(day, collector).happen()
    end = time.monotonic() + 45
    while missing() and time.monotonic() < end:
        time.sleep(0.5)
    return left


def states(prometheus):
    """How each alert is."""
    return {one["name"]: one["state"] for one in prometheus.rules() if one["type"] == "alerting"}


def test_where_all_is_well_no_alert_fires(seen, prometheus):
    """People get the answers that they should, every rule is worked out, and nobody is called."""
    assert seen.faults == []
    assert seen.statuses <= STATUSES
    assert seen.empty_rules == []
    assert seen.unhealthy == []
    assert seen.fired == []
    assert seen.pending <= OF_A_BUSY_MACHINE


def test_every_panel_has_data(shown, panels, prometheus):
    """Each expression of each panel of each dashboard; no more is left out than what is said."""
    assert len(panels) > 110
    assert {one.title for one in shown} == NOT_SHOWN.keys()


def test_where_much_fails_alerts_do_not_stay_silent(shown, prometheus):
    """The control: one fires at once, others have begun to."""
    waited(lambda: states(prometheus)["TwhRlsContextError"] != "firing")
    began = prometheus.series("count by (alertname) (count_over_time(ALERTS[10m]))")

    assert {"TwhReplayStoreDown", "TwhSpansDropped"} <= {one["alertname"] for one, _ in began}


def test_exemplars_lead_to_spans_and_log_lines(seen, warehouse, collector):
    """Though only half of the requests are sampled, no exemplar points to nothing."""
    traces = {one["labels"]["trace_id"] for one in seen.exemplars}
    of_requests = {
        one["labels"]["trace_id"]
        for one in seen.exemplars
        if one["of"]["__name__"] == HTTP_EXEMPLARS
    }
    waited(lambda: traces - {span.trace_id for span in list(collector.spans)})
    lines = [json.loads(line) for line in warehouse.log.read_text().splitlines()]
    logged = {line.get("trace_id") for line in lines}
    served = {span.trace_id for span in collector.server_spans}

    assert len(of_requests) > 20
    assert of_requests <= logged & served
    # What is in no line was done outside of any request: it has no SERVER span either.
    assert not (traces - logged) & served
    assert logged - served - {None}  # the control: requests that were not sampled


def test_promtool_finds_nothing(exported, warehouse, day, tmp_path):
    """Neither in the rules, nor in a configuration with them, nor on the page."""
    rules = [str(path) for path in exported.glob("prometheus/rules/*.yml")]
    configuration = tmp_path / "prometheus.yml"
    configuration.write_text(json.dumps({"rule_files": rules}))
    with urllib.request.urlopen(f"{warehouse.url}/metrics", timeout=30) as answer:
        page = answer.read().decode()

    assert len(rules) == 2
    assert promtool("check", "rules", *rules) == ""
    assert promtool("check", "config", str(configuration)) == ""
    assert promtool("check", "metrics", given=page) == ""
    assert "counter metrics should have" in promtool(  # the control
        "check", "metrics", given="# HELP hits Hits.\n# TYPE hits counter\nhits 1\n"
    )


def test_a_name_that_is_misspelt_is_told(seen, panels, prometheus):
    """The control: the same check, of the same panels, with one letter that is wrong."""
    found = [one for one in panels if "http_server_request_duration" in one.expr]
    wrong = [re.sub("http_server_request_d", "http_server_requests_d", one.expr) for one in found]

    assert len(wrong) > 10
    assert not any(prometheus.answers(substituted(one, WINDOW)) for one in wrong)
