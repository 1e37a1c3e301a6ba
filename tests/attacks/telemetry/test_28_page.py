"""
Attack 28: the page of metrics, read by anybody, and as large as it may be.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.attacks.telemetry._peers import anchor, drive
from tests.support.telemetry import Client, http
from twh_platform.telemetry import MetricsApp, Registry

SERIES = 2000


async def test_28_reads_the_page(twh_attack):
    """Without a token only this machine may."""
    module = anchor("prometheus_fastapi_instrumentator")
    client = anchor("prometheus_client")
    fastapi = pytest.importorskip("fastapi")
    attack = twh_attack(number=28, title="reads the page of metrics")
    naive, registry = client.CollectorRegistry(), Registry()
    client.Counter("orders", "Orders.", registry=naive).inc()
    registry.counter("orders_total", "Orders.").inc()
    app = fastapi.FastAPI()
    module.Instrumentator(registry=naive).instrument(app).expose(app)

    def got(served: Client) -> int:
        return sum(b"orders_total" in one.get("body", b"") for one in served.sent)

    attack.control(got(await drive(app, http("/metrics"))))

    for ours in (MetricsApp(registry), MetricsApp(registry, token="t" * 20)):
        served = await drive(ours, http("/metrics"))
        assert served.sent[0]["status"] in {401, 403}
        attack.ours(got(served))


async def turns(app) -> int:
    """How often others run while the page is made."""
    task = asyncio.create_task(drive(app, http("/metrics", client=("127.0.0.1", 4711))))
    found = 0
    while not task.done():
        await asyncio.sleep(0)
        found += 1
    assert sum(one.get("body", b"").count(b"\n") for one in (await task).sent) > 10 * SERIES
    return found


async def test_28_holds_up_others_by_a_large_page(twh_attack):
    """It is made in parts, with turns of others between them; turns are counted, not time."""
    client = anchor("prometheus_client")
    attack = twh_attack(number=28, title="holds up all others by asking for a large page")
    naive, registry = client.CollectorRegistry(), Registry()
    theirs = client.Histogram("took", "Time.", ["t"], registry=naive)
    took = registry.histogram("took_seconds", "Time.", labels=("t",))
    for number in range(SERIES):
        theirs.labels(str(number)).observe(1)
        took.labels(str(number)).observe(1)
    few = 20
    attack.control(await turns(client.make_asgi_app(naive)) < few)

    attack.ours(await turns(MetricsApp(registry)) < few)
