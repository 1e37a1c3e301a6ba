"""
The global propagator: it judges the sender, and whom is told.
"""

from __future__ import annotations

import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import baggage, trace
from opentelemetry.context import Context
from opentelemetry.propagate import get_global_textmap
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tests.support.spans import Watch, call
from twh_platform._asgi import RESOLUTION
from twh_platform.telemetry import TrustBoundary
from twh_platform.telemetry.otel import TrustPropagator

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"
trust = TrustBoundary(
    networks=["10.0.0.0/8"], hosts=[".svc.example"], sent=["w3c", "b3", "b3multi"]
)
propagator = TrustPropagator(trust)


def _scope(client):
    headers = [(b"traceparent", PARENT.encode()), (b"baggage", b"a=1,tenant.id=victim")]
    return {"type": "http", "client": client, "headers": headers}


def _here(**attributes):
    place = trace.SpanContext(int(TRACE, 16), int(SPAN, 16), is_remote=False)
    span = trace.NonRecordingSpan(place)
    span.attributes, span.kind = attributes, trace.SpanKind.CLIENT
    return trace.set_span_in_context(span, Context())


def _parent(context):
    return trace.get_current_span(context).get_span_context()


def test_a_scope_is_judged_by_its_sender():
    """A trusted peer's counts without its tenant, a stranger's does not."""
    peer = propagator.extract(_scope(("10.1.2.3", 1)), Context())
    stranger = propagator.extract(_scope(("203.0.113.9", 1)), Context())

    assert f"{_parent(peer).trace_id:032x}" == TRACE
    assert dict(baggage.get_all(peer)) == {"a": "1"}
    assert not _parent(stranger).is_valid
    assert not baggage.get_all(stranger)


def test_the_usual_propagator_believes_everybody():
    """The control."""
    found = get_global_textmap().extract(
        {"traceparent": PARENT, "baggage": "tenant.id=victim"}, Context()
    )

    assert f"{_parent(found).trace_id:032x}" == TRACE
    assert baggage.get_all(found)["tenant.id"] == "victim"


def test_a_carrier_without_a_sender_is_believed_on_request():
    """The headers of a job out of a queue of ours; never those of a request."""
    starlette = pytest.importorskip("starlette.datastructures")
    messages = TrustPropagator(trust, messages=True)
    carrier = {"traceparent": PARENT}
    headers = starlette.Headers(carrier)

    assert not _parent(propagator.extract(carrier, Context())).is_valid
    assert _parent(messages.extract(carrier, Context())).is_valid
    assert not _parent(messages.extract(headers, Context())).is_valid


@pytest.mark.parametrize(
    "attributes",
    [
        {"server.address": "api.svc.example"},
        {"url.full": "https://api.svc.example:8443/x"},
        {"http.url": "http://u:p@api.svc.example/"},
    ],
)
def test_our_hosts_are_told_in_every_form_that_was_asked_for(attributes):
    """The host is read from the span of the request that is being sent."""
    carrier = {}

    propagator.inject(carrier, _here(**attributes))

    assert carrier["traceparent"] == PARENT.replace("-01", "-00")
    assert carrier["b3"].startswith(f"{TRACE}-{SPAN}")
    assert carrier["x-b3-traceid"] == TRACE


@pytest.mark.parametrize("host", ["api.example", "", "svc.example.evil.example"])
def test_strangers_are_told_nothing(host):
    """Nor is who cannot be told from one."""
    carrier = {}

    propagator.inject(carrier, _here(**{"server.address": host}))

    assert carrier == {}


def test_a_redirect_takes_nothing_along_to_a_stranger():
    """Clients copy the headers of the first request; the usual propagator leaves them there."""
    ours, stranger = (
        _here(**{"server.address": "api.svc.example"}),
        _here(**{"server.address": "x"}),
    )
    first = {"accept": "*/*"}
    propagator.inject(first, ours)
    second, naive = dict(first) | {"Baggage": "a=1"}, dict(first)

    propagator.inject(second, stranger)
    TraceContextTextMapPropagator().inject(naive, stranger)

    assert "traceparent" in first
    assert "traceparent" in naive
    assert second == {"accept": "*/*"}


async def test_the_tenant_that_is_told_is_the_verified_one():
    """Not what baggage in the context says."""
    watch, carrier = Watch(trust=trust), {"host": "api.svc.example"}

    class Resolution:
        class tenant:  # noqa: N801 -- an attribute
            id = "acme"

        user_id = None

    async def app(scope, receive, send):
        scope[RESOLUTION] = Resolution
        context = baggage.set_baggage("tenant.id", "victim")
        propagator.inject(carrier, context)
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    await call(watch.around(app))

    assert carrier["baggage"] == "tenant.id=acme"
    assert f"{watch.span.context.trace_id:032x}" in carrier["traceparent"]


def test_bad_carriers_are_no_errors():
    """Whatever stands in them."""
    messages = TrustPropagator(trust, messages=True)

    for bad in ("\ud800", "00-0-0-0", "x" * 9000):
        found = messages.extract({"traceparent": bad, "baggage": bad}, Context())
        assert not _parent(found).is_valid
