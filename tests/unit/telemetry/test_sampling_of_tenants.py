"""
Sampling by tenant, end to end: through `TenantMiddleware`, to spans that were exported.
"""

from __future__ import annotations

import logging

import pytest

from twh_platform import HeaderResolver, Tenant, TenantMiddleware, current_tenant
from twh_platform._asgi import TENANT_KNOWN
from twh_platform.telemetry import HeadSampler, TenantRate, TrustBoundary, current_exchange
from twh_platform.tenancy import MemoryTenantDirectory

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.support.spans import Watch, answering, call
from twh_platform.telemetry.otel import OtelTracing
from twh_platform.testing import ManualClock

DIRECTORY = MemoryTenantDirectory([Tenant(id="acme"), Tenant(id="globex")])
EVERY = HeadSampler(ratio=1.0)


def tenants(app, directory=DIRECTORY):
    """The real middleware of tenancy around an app."""
    return TenantMiddleware(app, resolver=HeaderResolver(decides=True), directory=directory)


def of(tenant):
    """The header that names a tenant."""
    return [(b"x-tenant-id", tenant.encode())]


class Packing:
    """An app that does something in a span below that of the request."""

    def __init__(self, watch):
        self.tracer = watch.telemetry.provider.get_tracer("shop")
        self.places = []

    async def __call__(self, scope, receive, send):
        """Answer."""
        exchange = current_exchange()
        self.places.append((exchange.trace_id, exchange.span_id, exchange.place.sampled))
        with self.tracer.start_as_current_span("pack"):
            pass
        await answering(scope, receive, send)


async def test_a_tenant_with_a_ratio_of_its_own_is_recorded():
    """From the moment it is known on, with the ids and the start that the request had."""
    watch = Watch(ratio=0.0)
    packing = Packing(watch)
    app = watch.around(tenants(packing), sampler=HeadSampler(ratio=0.0, tenants={"acme": 1.0}))
    await call(app, headers=of("globex"))
    assert watch.spans == ()  # control: whom the rule is not for
    await call(app, headers=of("acme"))

    pack, server = watch.spans
    assert (f"{server.context.trace_id:032x}", f"{server.context.span_id:016x}", True) == (
        packing.places[1]
    )
    assert pack.parent.span_id == server.context.span_id
    assert server.attributes["tenant.id"] == "acme"
    assert server.start_time <= pack.start_time


async def test_without_the_rule_nobody_is():
    """Control: the same ratio, the same stack; and nothing is put into the scope."""
    watch, seen = Watch(ratio=0.0), []

    async def app(scope, receive, send):
        seen.append(TENANT_KNOWN in scope)
        await tenants(Packing(watch))(scope, receive, send)

    await call(watch.around(app, sampler=HeadSampler(ratio=0.0)), headers=of("acme"))

    assert watch.spans == ()
    assert seen == [False]


async def test_a_tenant_can_be_recorded_less():
    """What was begun for it leaves nothing, neither itself nor what is below it."""
    watch = Watch()
    packing = Packing(watch)
    app = watch.around(tenants(packing), sampler=HeadSampler(ratio=1.0, tenants={"acme": 0.0}))
    await call(app, headers=of("acme"))
    await call(app, headers=of("globex"))

    assert [sampled for *_, sampled in packing.places] == [False, True]
    assert [span.name for span in watch.spans] == ["pack", "GET"]
    assert watch.spans[1].attributes["tenant.id"] == "globex"


async def test_a_tenant_has_a_rate():
    """Of ten requests at once three are recorded; another tenant's are not hidden by them."""
    watch = Watch()
    rate = TenantRate(rate=1.0, burst=3.0)
    sampler = HeadSampler(ratio=1.0, tenant_rate=rate, clock=ManualClock(0.0))
    app = watch.around(tenants(answering), sampler=sampler)
    for tenant in [*["acme"] * 10, "globex"]:
        await call(app, headers=of(tenant))

    recorded = [span.attributes["tenant.id"] for span in watch.spans]
    assert recorded == [*["acme"] * 3, "globex"]
    assert (sampler.stats().sampled, sampler.stats().limited) == (4, 7)


async def test_an_error_of_who_is_recorded_less_is_kept():
    """The end has the last word, as for each request that was not sampled."""
    watch = Watch()

    async def failing(scope, receive, send):
        raise LookupError

    sampler = HeadSampler(ratio=1.0, tenants={"acme": 0.0})
    with pytest.raises(LookupError):
        await call(watch.around(tenants(failing), sampler=sampler), headers=of("acme"))

    assert watch.span.attributes["platform.kept"] == "error"


class TracedDirectory:
    """A directory that is asked in a span, as one behind a database is."""

    def __init__(self, watch):
        self.tracer = watch.telemetry.provider.get_tracer("directory")

    async def get(self, tenant_id):
        """Look it up."""
        with self.tracer.start_as_current_span("look up"):
            return await DIRECTORY.get(tenant_id)


async def test_what_has_a_child_already_stays_recorded():
    """Half a trace is worse than one too many; it uses up the tenant's rate all the same."""
    watch = Watch()
    rate = TenantRate(rate=0.001, burst=1.0)
    sampler = HeadSampler(ratio=1.0, tenants={"acme": 0.0}, tenant_rate=rate)
    app = watch.around(tenants(answering, TracedDirectory(watch)), sampler=sampler)
    for tenant in ["acme", "globex"]:
        await call(app, headers=of(tenant))

    assert [span.name for span in watch.spans] == ["look up", "GET"] * 2
    assert sampler.stats().sampled == 2
    assert sampler.revise(EVERY.decide("0" * 32), "0" * 32, "globex").reason == "tenant_rate"


@pytest.mark.parametrize("decided", [b"00", b"01"])
async def test_what_a_trusted_peer_decided_stands(decided):
    """Whoever the tenant turns out to be: the trace is the peer's."""
    watch = Watch(trust=TrustBoundary(networks=["10.0.0.0/8"]))
    sent = (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-" + decided)
    sampler = HeadSampler(tenants={"acme": float(decided == b"00")})
    app = watch.around(tenants(answering), sampler=sampler)
    await call(app, headers=[*of("acme"), sent], client=("10.1.2.3", 4711))

    assert len(watch.spans) == (decided == b"01")


async def test_another_provider_decides_for_itself():
    """Its ids are not ours, so they would change in the middle of a request."""
    memory, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    watch = Watch(ratio=0.0)
    sampler = HeadSampler(ratio=0.0, tenants={"acme": 1.0})
    app = watch.around(tenants(answering), sampler=sampler)
    app._tracing = app._revising._tracing = OtelTracing(provider)
    await call(app, headers=of("acme"))

    assert memory.get_finished_spans() == ()
    assert sampler.stats().sampled == 0


class Pairs(SpanProcessor):
    """Counts the spans that have begun and not ended."""

    def __init__(self):
        self.open = 0

    def on_start(self, span, parent_context=None):
        """One more."""
        self.open += 1

    def on_end(self, span):
        """One less."""
        self.open -= 1


@pytest.mark.parametrize("share", [0.0, 1.0])
async def test_processors_see_an_end_for_each_beginning(share):
    """Those of a request that was given up too, and nothing is current afterwards."""
    watch, pairs = Watch(), Pairs()
    watch.telemetry.provider.add_span_processor(pairs)
    sampler = HeadSampler(ratio=1.0 - share, tenants={"acme": share})
    await call(watch.around(tenants(Packing(watch)), sampler=sampler), headers=of("acme"))

    assert pairs.open == 0
    assert trace.get_current_span() is trace.INVALID_SPAN
    assert current_tenant() is None


async def test_a_failing_sampler_fails_no_request(caplog):
    """It is logged, and the request is answered."""
    watch, sampler = Watch(), HeadSampler(ratio=1.0, tenants={"acme": 0.0})
    sampler.revise = None
    sent = await call(watch.around(tenants(answering), sampler=sampler), headers=of("acme"))

    assert sent[0]["status"] == 200
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert len(watch.spans) == 1


async def test_a_task_in_between_changes_nothing():
    """Middleware that runs the app in a task of its own has a copy of the context."""
    starlette = pytest.importorskip("starlette.middleware.base")
    watch = Watch(ratio=0.0)
    packing = Packing(watch)
    inner = starlette.BaseHTTPMiddleware(tenants(packing), dispatch=lambda one, call: call(one))
    app = watch.around(inner, sampler=HeadSampler(ratio=0.0, tenants={"acme": 1.0}))
    for tenant in ["globex", "acme"]:
        await call(app, headers=of(tenant))

    pack, server = watch.spans
    assert f"{server.context.span_id:016x}" == packing.places[1][1]
    assert pack.parent.span_id == server.context.span_id
    assert trace.get_current_span() is trace.INVALID_SPAN


async def test_a_websocket_has_a_tenant_too():
    """It is recorded from then on, as a request is."""
    watch = Watch(ratio=0.0)

    async def app(scope, receive, send):
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 1000})

    sampler = HeadSampler(ratio=0.0, tenants={"acme": 1.0})
    for tenant in ["globex", "acme"]:
        await call(
            watch.around(tenants(app), sampler=sampler), type="websocket", headers=of(tenant)
        )

    assert watch.span.attributes["tenant.id"] == "acme"


async def test_whoever_is_refused_changes_nothing():
    """A tenant that is only claimed has no say in what is recorded."""
    watch = Watch(ratio=0.0)
    sampler = HeadSampler(ratio=0.0, tenants={"stranger": 1.0})
    sent = await call(watch.around(tenants(answering), sampler=sampler), headers=of("stranger"))

    assert sent[0]["status"] == 403
    assert watch.spans == ()


async def test_what_is_sent_on_says_the_last_word():
    """The place that others are told is recorded once the tenant's ratio says so."""
    watch, told = Watch(ratio=0.0), []
    hook = watch.telemetry.trust

    async def app(scope, receive, send):
        told.append(current_exchange().place.traceparent)
        await answering(scope, receive, send)

    sampler = HeadSampler(ratio=0.0, tenants={"acme": 1.0})
    watched = watch.around(tenants(app), sampler=sampler, trust=hook)
    for tenant in ["globex", "acme"]:
        await call(watched, headers=of(tenant))

    assert [one[-1] for one in told] == ["2", "3"]
