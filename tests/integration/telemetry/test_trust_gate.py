"""
Strangers with trace headers, through the whole middleware, to a collector (gate G5).
"""

from __future__ import annotations

import pytest

pytest.importorskip("opentelemetry.sdk")
pytest.importorskip("opentelemetry.proto")

from opentelemetry import baggage, propagate
from opentelemetry.context import attach, detach
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from tests.support.spans import answering, call
from twh_platform.telemetry import Registry, TelemetryMiddleware, TenantLabels, TrustBoundary
from twh_platform.telemetry.otel import configure_telemetry

REQUESTS = 300
FRIEND = ("10.1.2.3", 4711)
STATE = ",".join(f"vendor{number}={'x' * 200}" for number in range(40))
TENANTS = b"tenant.id=victim,tenant=victim,tenant_id=victim,enduser.id=root"


def headers(number: int) -> list[tuple[bytes, bytes]]:
    """What a stranger sends who wants to be sampled, believed and carried on."""
    trace = f"{number:032x}"
    return [
        (b"traceparent", f"00-{trace}-b7ad6b7169203331-01".encode()),
        (b"tracestate", STATE.encode()),
        (b"baggage", TENANTS),
        (b"b3", f"{trace}-b7ad6b7169203331-d".encode()),
        (b"x-b3-traceid", trace.encode()),
        (b"x-b3-spanid", b"b7ad6b7169203331"),
        (b"x-b3-sampled", b"1"),
        (b"x-b3-flags", b"1"),
    ]


class House:
    """A service with spans, metrics and tenants, which trusts one network."""

    def __init__(self, collector, ratio=0.0, **options):
        self.registry, self.seen = Registry(), set()
        trust = TrustBoundary(networks=["10.0.0.0/8"], formats=("w3c", "b3"))
        self.telemetry = configure_telemetry(
            endpoint=collector.url, ratio=ratio, set_global=False, environ={}, **options
        )
        self.app = TelemetryMiddleware(
            self.answer,
            metrics=self.registry,
            tenants=TenantLabels(),
            tracing=self.telemetry.tracing,
            sampler=self.telemetry.sampler,
            trust=trust,
        )

    async def answer(self, scope, receive, send):
        """Note what the context says of the tenant, and answer."""
        self.seen |= {key for key in baggage.get_all() if "victim" in str(baggage.get_baggage(key))}
        await answering(scope, receive, send)

    async def ask(self, count, client):
        """So many requests of one client."""
        for number in range(1, count + 1):
            await call(self.app, headers=headers(number), client=client)

    def end(self):
        """Everything that waits is sent."""
        assert self.telemetry.force_flush(20)
        self.telemetry.shutdown()


STRANGER = ("203.0.113.9", 4711)


def naive(app, provider):
    """What instrumentation does by default: it believes the headers, whoever sends them."""
    tracer = provider.get_tracer(__name__)

    async def around(scope, receive, send):
        sent = {name.decode(): value.decode() for name, value in scope["headers"]}
        token = attach(propagate.extract(sent))
        try:
            with tracer.start_as_current_span("served"):
                await app(scope, receive, send)
        finally:
            detach(token)

    return around


async def test_strangers_force_nothing(otlp_receiver):
    """No sample, no tenant in context or page; the control forces all, and is believed."""
    house = House(otlp_receiver)
    await house.ask(REQUESTS, STRANGER)
    house.end()
    assert otlp_receiver.spans == []
    assert house.seen == set()
    assert b"victim" not in house.registry.page(openmetrics=True)

    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(0.0)))
    exporter = OTLPSpanExporter(f"{otlp_receiver.url}/v1/traces")
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    believing = naive(house.answer, provider)
    for number in range(1, 21):
        await call(believing, headers=headers(number), client=STRANGER)
    provider.shutdown()
    assert len(otlp_receiver.spans) == 20
    assert "tenant.id" in house.seen


@pytest.mark.parametrize("believed", ["127.0.0.1", "*"])
async def test_a_stranger_cannot_say_that_it_is_a_friend(otlp_receiver, believed):
    """An address and port in a header, which uvicorn puts in the place of the socket's."""
    module = pytest.importorskip("uvicorn.middleware.proxy_headers")
    house = House(otlp_receiver)
    served = module.ProxyHeadersMiddleware(house.app, trusted_hosts=believed)
    for port in (b"", b":0", b":4711"):
        forged = [*headers(1), (b"x-forwarded-for", b"10.1.2.3" + port)]
        await call(served, headers=forged, client=("127.0.0.1", 50000))
    house.end()

    assert otlp_receiver.spans == []
    assert house.seen == set()


async def test_what_is_recorded_of_a_stranger_is_ours(otlp_receiver):
    """A new trace with a link, without a state or a tenant; a friend's is carried on."""
    house = House(otlp_receiver, ratio=1.0)
    await house.ask(20, STRANGER)
    await house.ask(1, FRIEND)
    house.end()

    *strange, friendly = otlp_receiver.spans
    sent = {f"{number:032x}" for number in range(1, 21)}
    assert len({span.trace_id for span in strange} - sent) == 20
    assert {(span.parent_id, span.state) for span in strange} == {("", "")}
    assert {link.split("-")[0] for span in strange for link in span.links} == sent
    assert not [span for span in otlp_receiver.spans if "victim" in repr(span)]
    assert friendly.trace_id == f"{1:032x}"
    assert friendly.parent_id == "b7ad6b7169203331"


async def test_a_ratio_holds_for_strangers(otlp_receiver):
    """As many are sampled as without their headers: far fewer than they ask for."""
    house = House(otlp_receiver, ratio=0.01)
    await house.ask(REQUESTS, STRANGER)
    house.end()

    # Of 300 at 1 % more than 20 are sampled once in ten billion times.
    assert len(otlp_receiver.spans) <= 20
