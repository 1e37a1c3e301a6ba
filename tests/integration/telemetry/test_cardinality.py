"""
A hundred thousand tenants, odd methods, unknown paths and hostile values (gate G4).

All of it goes through the whole middleware, as one process of a service sees it.
"""

from __future__ import annotations

import contextlib
import gc
import re
import tracemalloc

import pytest

from tests.support.prometheus import promtool
from tests.support.telemetry import answer, http, samples
from twh_platform import Tenant, TenantMiddleware
from twh_platform._signals import announce
from twh_platform.platform import observe
from twh_platform.quotas import QuotaRefused
from twh_platform.telemetry import (
    Registry,
    RouteTemplates,
    TelemetryMiddleware,
    TenantLabels,
    set_route,
)
from twh_platform.tenancy import HeaderResolver

TENANTS, METHODS, PATHS = 100_000, 1_000, 10_000
TRACED = 15_000  # which is slow
MOST_SERIES = 5_000
MOST_GROWTH = 2**20
REQUESTS = "platform_tenant_requests_total"
COUNT = "http_server_request_duration_seconds_count"
BODY = {"type": "http.request", "body": b"", "more_body": False}
HOSTILE = (
    'a"} 1\nup 0',
    "a\\",
    "\\n\n\r",
    "\0",
    "\ud800\udfff",
    "\u2028\x85",
    "x" * 2**20,
    "# EOF\n",
    "{trace_id=",
    "\N{SNOWMAN}" * 1000,
)


class Anybody:
    """A directory in which everybody is."""

    async def get(self, tenant_id):
        """Whoever is named."""
        return Tenant(id=tenant_id)


class House:
    """A service, driven without a server."""

    def __init__(self, app=None, **options):
        self.registry, self.labels = Registry(), TenantLabels()
        self.unobserve = observe(self.registry, tenants=self.labels)
        app = app or TenantMiddleware(
            answer(), resolver=HeaderResolver("X-Tenant", decides=True), directory=Anybody()
        )
        self.served = TelemetryMiddleware(
            app, metrics=self.registry, tenants=self.labels, **options
        )

    async def ask(self, **scope):
        """Send one request, and leave the answer."""

        async def receive():
            return BODY

        async def send(message):
            pass

        with contextlib.suppress(Exception):
            await self.served({**http(), **scope}, receive, send)

    async def ask_for(self, tenants):
        """A request of each, every eighth of which a quota refuses."""
        for number in tenants:
            tenant = f"tenant-{number}"
            await self.ask(headers=[(b"x-tenant", tenant.encode())])
            if number % 8 == 0:
                announce(refusal(tenant))

    @property
    def page(self):
        """The page, for Prometheus."""
        return self.registry.page().decode()

    @property
    def tenant_series(self):
        """How many lines of it name a tenant."""
        return self.page.count('tenant="')


def refusal(tenant):
    """What quotas announce."""
    return QuotaRefused(
        code="quota_exceeded",
        rules=("minute",),
        tenant_id=tenant,
        user=None,
        route=None,
        client=None,
        retry_after=1.0,
    )


@pytest.fixture
def house():
    """A service whose tenants are whoever is named."""
    house = House()
    yield house
    house.unobserve()


def held():
    """Bytes that Python holds."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


async def test_a_hundred_thousand_tenants(house):
    """Their series are within the budget, and the last of them take no memory."""
    await house.ask_for(range(TENANTS - TRACED))
    tracemalloc.start()
    try:
        before = held()
        await house.ask_for(range(TENANTS - TRACED, TENANTS))
        grown = held() - before
    finally:
        tracemalloc.stop()

    requests = sum(value for _, value in samples(house.registry, REQUESTS))
    assert requests == TENANTS
    assert 100 < house.tenant_series <= MOST_SERIES
    assert grown < MOST_GROWTH, f"{grown} bytes"
    assert promtool("check", "metrics", given=house.page) == ""


async def test_a_label_for_each_is_what_is_bounded():
    """The control: a plain label has a series for each tenant, up to the budget of the registry."""
    registry = Registry(max_series=20_000)
    naive = registry.counter("requests_total", "Requests.", labels=("tenant",))
    tracemalloc.start()
    try:
        before = held()
        for number in range(10_000):
            naive.labels(f"tenant-{number}").inc()
        grown = held() - before
    finally:
        tracemalloc.stop()

    assert registry.page().count(b'tenant="') == 10_000 > MOST_SERIES
    assert grown > 2 * MOST_GROWTH


async def test_odd_methods_and_unknown_paths():
    """They share a label each, and what they take is what the first hundred took."""
    starlette = pytest.importorskip("starlette.applications")
    app = starlette.Starlette()
    house = House(app, routes=RouteTemplates(app))

    async def scan(start, stop):
        for number in range(start, stop):
            await house.ask(path=f"/unknown-{number}", method=f"ODD{number % METHODS}")

    await scan(0, 100)
    first = house.page.count("\n")
    await scan(100, PATHS)
    house.unobserve()

    assert house.page.count("\n") == first
    assert {found["http_request_method"] for found, _ in samples(house.registry, COUNT)} == {
        "_OTHER"
    }
    assert sum(value for _, value in samples(house.registry, COUNT)) == PATHS
    assert promtool("check", "metrics", given=house.page) == ""


async def test_hostile_values_of_labels():
    """Through every door: route, method, scheme, version, error, announcement; the page is read."""

    async def app(scope, receive, send):
        set_route(scope["path"])
        raise named(scope["path"])

    house = House(app)
    for value in HOSTILE:
        await house.ask(path=value, method=value, scheme=value, http_version=value)
        announce(refusal(value))
    page, open_page = house.page, house.registry.page(openmetrics=True).decode()
    house.unobserve()

    assert sum(value for _, value in samples(house.registry, COUNT)) == len(HOSTILE)
    assert max(map(len, page.splitlines())) < 2_000
    assert not re.search("[\0\r\ud800-\udfff\u2028\x85]", page)
    assert promtool("check", "metrics", given=page) == ""
    parser = pytest.importorskip("prometheus_client.openmetrics.parser")
    told = {family.name for family in parser.text_string_to_metric_families(open_page)}
    assert told >= {COUNT.removesuffix("_count"), "platform_quota_decisions"}


def named(name):
    """An exception whose class is called so, as far as Python lets it."""
    try:
        return type(name, (Exception,), {})()
    except ValueError:
        return Exception()
