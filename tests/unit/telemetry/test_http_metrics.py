"""
Requests by route and by tenant, on one page.
"""

from __future__ import annotations

import pytest

from tests.support.telemetry import Watched, answer, http, read, samples
from twh_platform.errors import ConfigurationError
from twh_platform.telemetry import Registry, TelemetryMiddleware, TenantLabels, set_route
from twh_platform.telemetry._names import HTTP_METRICS, TENANT_METRICS, WEBSOCKET_METRICS
from twh_platform.tenancy import FunctionResolver, MemoryTenantDirectory, Tenant, TenantMiddleware
from twh_platform.testing import ManualClock

DURATION = "http_server_request_duration_seconds"
REQUESTS = "platform_tenant_requests_total"
BY_TENANT = "platform_tenant_request_duration_seconds"


def named(scope) -> str | None:
    """The tenant that the header names, as if it had been proved."""
    return next((value.decode() for name, value in scope["headers"] if name == b"x-tenant"), None)


def of_tenants(*tenants: str, app=None, **options) -> Watched:
    """An app behind tenancy, with tenants by header."""
    directory = MemoryTenantDirectory([Tenant(id=one) for one in tenants])
    resolver = FunctionResolver(named, source="test", decides=True)
    inside = TenantMiddleware(app or answer(), resolver=resolver, directory=directory)
    return Watched(inside, **{"tenants": TenantLabels(), **options})


def of(tenant: str) -> dict:
    """A request of this tenant."""
    return http(headers=[(b"x-tenant", tenant.encode())])


def test_every_metric_is_defined_as_the_table_has_it():
    """The reference page and the dashboards are made of the table."""
    registry = Registry()
    TelemetryMiddleware(answer(), metrics=registry, tenants=TenantLabels())
    defined = {one.name: one for one in registry.definitions()}

    for name in (*HTTP_METRICS, *WEBSOCKET_METRICS, *TENANT_METRICS):
        assert defined[name.name].kind == name.kind
        assert defined[name.name].labels == name.labels


def test_a_registry_counts_requests_once():
    """Two middlewares on one registry are a mistake."""
    registry = Registry()
    TelemetryMiddleware(answer(), metrics=registry)

    with pytest.raises(ConfigurationError) as caught:
        TelemetryMiddleware(answer(), metrics=registry)
    assert caught.value.code == "metric_duplicate"


async def test_without_a_registry_nothing_is_counted():
    """The exchange is told all the same."""
    watched = Watched(answer(), metrics=None)
    await watched.get()

    assert watched.seen == [("success", 200, "")]
    assert DURATION not in watched.registry.page().decode()


async def test_the_labels_are_those_of_the_conventions():
    """OpenTelemetry 1.44, as Prometheus writes them."""
    watched = Watched(answer())
    await watched.get()

    labels, count = samples(watched.registry, f"{DURATION}_count")[0]
    assert count == 1
    assert labels == {
        "http_request_method": "GET",
        "url_scheme": "http",
        "http_route": "",
        "http_response_status_code": "200",
        "error_type": "",
        "network_protocol_version": "1.1",
    }


async def test_unmatched_paths_share_a_label():
    """Ten thousand of them are one series, without the path."""
    watched = Watched(answer(404))
    for number in range(1000):
        await watched.get(http(f"/wp-admin/{number}.php"))

    assert watched.labels(f"{DURATION}_count", "http_route") == {""}
    assert watched.value(f"{DURATION}_count", http_response_status_code="404") == 1000
    assert b"wp-admin" not in watched.registry.page()


async def test_a_route_that_is_told_counts():
    """For apps that leave nothing in the scope."""

    async def app(scope, receive, send):
        set_route("/orders/{id}")
        await answer()(scope, receive, send)

    watched = Watched(app)
    await watched.get(http("/orders/7"))

    assert watched.labels(f"{DURATION}_count", "http_route") == {"/orders/{id}"}


async def test_tenants_have_a_label_each():
    """The verified tenant, once tenancy inside has found it."""
    watched = of_tenants("acme", "globex")
    for tenant in ("acme", "acme", "globex"):
        await watched.get(of(tenant))

    assert watched.value(REQUESTS, tenant="acme", outcome="success") == 2
    assert watched.value(REQUESTS, tenant="globex", outcome="success") == 1
    assert watched.value(f"{BY_TENANT}_count", tenant="acme") == 2


async def test_who_is_refused_has_no_tenant():
    """A name that nobody has verified reaches no page."""
    watched = of_tenants("acme")
    await watched.get(of("victim"))
    await watched.get(http(headers=[(b"baggage", b"tenant.id=acme")]))

    assert watched.labels(REQUESTS, "tenant") == {""}
    assert watched.value(REQUESTS, tenant="", outcome="client_error") == 2


async def test_a_tenants_durations_add_up_to_the_exchanges():
    """The same clock again."""
    watched = of_tenants("acme")
    for _ in range(3):
        await watched.get(of("acme"))

    total = sum(one.duration for one in watched.ended)
    assert watched.value(f"{BY_TENANT}_sum", tenant="acme") == pytest.approx(total, abs=0)
    assert {one.tenant_id for one in watched.ended} == {"acme"}


async def test_tenants_beyond_the_top_are_others():
    """All of them together have one label."""
    names = [f"tenant-{number}" for number in range(50)]
    watched = of_tenants(*names, tenants=TenantLabels(top=5))
    for name in names:
        await watched.get(of(name))

    assert len(watched.labels(REQUESTS, "tenant")) == 6
    assert watched.value(REQUESTS, tenant="other") == 45


async def test_a_tenant_that_leaves_takes_its_series_along():
    """Nothing of it is on the page."""
    clock = ManualClock()
    watched = of_tenants("acme", tenants=TenantLabels(idle=60, clock=clock))
    await watched.get(of("acme"))
    clock.advance(61)
    watched.registry.refresh()
    clock.advance(61)

    assert watched.value(REQUESTS, tenant="acme") == 0
    assert b"acme" not in watched.registry.page()


async def test_hostile_values_render():
    """A lone surrogate in a route, and quotes in another."""
    for path in ("/\ud800/{x}", '/"\\\n/{x}'):

        async def app(scope, receive, send, path=path):
            set_route(path)
            await answer()(scope, receive, send)

        watched = Watched(app)
        await watched.get()
        assert read(watched.registry, f"{DURATION}_count") == 1
