"""
Pages with prometheus_client's metrics and ours, scraped by a real Prometheus.
"""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("prometheus_client")
pytest.importorskip("uvicorn")

import prometheus_client as client
from prometheus_client.core import GaugeMetricFamily

from tests.support.prometheus import prometheus_of, waited
from tests.support.serving import running
from twh_platform.telemetry import Exemplar, MetricsApp, Registry
from twh_platform.telemetry.prometheus import show_ours, show_theirs

TRACE = Exemplar(trace_id="a1" * 16, span_id="b2" * 8)


class Hostile:
    """
    A collector with families that no scraper could read, and one that is odd.
    """

    def describe(self):
        """No names."""
        return []

    def collect(self):
        """One has a sample of ours, one a value that is none, one any characters."""
        stray = GaugeMetricFamily("stray", "Stray.", value=1)
        stray.add_sample("orders_total", {}, 99.0)
        yield stray
        yield GaugeMetricFamily("none", "None.", value="many")
        odd = GaugeMetricFamily("odd", "Odd \0 \r.", labels=["to"])
        odd.add_metric(['\0 \r \u2028 é\ud800 \\ "\n'], 1.0)
        yield odd


def joined():
    """
    Both registries, each shown on the other.
    """
    registry, theirs = Registry(), client.CollectorRegistry()
    registry.counter("orders_total", "Orders.").inc(3)
    registry.histogram("took_seconds", "Time.").observe(0.3, TRACE)
    mails = client.Counter("mails", "Mails.", registry=theirs)
    mails.inc(2, exemplar={"trace_id": "c3"})
    show_ours(registry, theirs)
    return registry, theirs


def scraped(folder, port):
    """
    What a server has after scraping: whether it could, numbers by name, and trace ids.
    """
    with prometheus_of(folder, job="joined", ports=[port]) as server:
        waited(lambda: not server.answers("up == 1"), lambda: str(server.get("/api/v1/targets")))
        waited(lambda: not server.exemplars('{job="joined"}'))
        found = server.series('{job="joined"}')
        exemplars = server.exemplars('{job="joined"}')
    numbers = {labels["__name__"]: value for labels, value in found}
    return numbers, {one["labels"]["trace_id"] for one in exemplars}


async def test_prometheus_reads_theirs_on_our_page(tmp_path):
    """What a hostile collector tells is left out; everything else, and each exemplar, arrives."""
    registry, theirs = joined()
    theirs.register(Hostile())
    show_theirs(registry, theirs)

    async with running(MetricsApp(registry)) as port:
        numbers, traces = await asyncio.to_thread(scraped, tmp_path, port)

    assert (numbers["orders_total"], numbers["mails_total"], numbers["odd"]) == (3.0, 2.0, 1.0)
    assert {"stray", "none"}.isdisjoint(numbers)
    assert traces == {TRACE.trace_id, "c3"}


async def test_prometheus_reads_ours_on_their_page(tmp_path):
    """An endpoint of theirs, as it is, serves our numbers and exemplars."""
    _, theirs = joined()

    async with running(client.make_asgi_app(theirs)) as port:
        numbers, traces = await asyncio.to_thread(scraped, tmp_path, port)

    assert (numbers["orders_total"], numbers["took_seconds_count"]) == (3.0, 1.0)
    assert numbers["mails_total"] == 2.0
    assert traces == {TRACE.trace_id, "c3"}
