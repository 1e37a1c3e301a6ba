"""
Calls of clients: their metric, their span, and what others are told.
"""

from __future__ import annotations

from asyncio import CancelledError
from http import HTTPStatus

import pytest

from tests.support.client_spans import Spans, in_request
from twh_platform import Tenant, bind_tenant
from twh_platform.errors import ConfigurationError
from twh_platform.kms import KeyUsed
from twh_platform.telemetry import ClientCalls, Registry, TrustBoundary
from twh_platform.telemetry._baggage import parse_baggage
from twh_platform.telemetry._clients_pools import PoolState
from twh_platform.telemetry._trust import Inbound

ACME = Tenant(id="acme")


@pytest.fixture
def registry():
    """A registry of its own."""
    return Registry()


@pytest.fixture
def spans():
    """What was recorded."""
    return Spans()


def page(registry):
    """The page in words."""
    return registry.page(openmetrics=True).decode()


def test_a_call_is_an_observation(registry):
    """A call that went well has its system, its operation and no error."""
    ClientCalls(registry).database("postgresql", "SELECT").end()

    labels = 'db_system_name="postgresql",db_operation_name="SELECT",error_type=""'
    assert f"db_client_operation_duration_seconds_count{{{labels}}} 1" in page(registry)


def test_a_failed_call_tells_the_type_alone(registry, spans):
    """What an error says is nowhere: it may contain values."""
    call = ClientCalls(registry, spans=spans).database("postgresql", "INSERT", "items")
    call.end(ValueError("hunter2"))

    assert 'error_type="ValueError"' in page(registry)
    assert spans.made[0].error == "ValueError"
    assert "hunter2" not in page(registry) + str(spans)


def test_a_call_ends_once(registry):
    """Whoever ends a call a second time counts nothing."""
    call = ClientCalls(registry).database("redis", "GET")
    call.end()
    call.end(ValueError())

    assert "ValueError" not in page(registry)
    assert 'error_type=""} 1' in page(registry)


def test_a_stream_that_is_left_early_is_no_error(registry):
    """GeneratorExit is how a reader says that it has had enough."""
    ClientCalls(registry).database("postgresql", "SELECT").end(GeneratorExit())

    assert "GeneratorExit" not in page(registry)


def test_a_cancelled_call_is_no_error(registry, spans):
    """It is told apart: a client that leaves cancels what runs for it."""
    calls = ClientCalls(registry, spans=spans)
    calls.database("postgresql", "SELECT").end(CancelledError())
    calls.request("GET", "stock", 80, "http").end(error=CancelledError())

    counted = [line for line in page(registry).splitlines() if "_count{" in line]
    assert sum(line.endswith('error_type="cancelled"} 1.0') for line in counted) == 2
    assert [span.error for span in spans.made] == [None, None]
    assert spans.made[0].attributes["platform.outcome"] == "cancelled"


@pytest.mark.parametrize(("state", "is_told"), [("23505", True), ("hunter2", False), (5, False)])
def test_a_span_has_the_sqlstate(spans, state, is_told):
    """Five characters as SQL has them, and nothing else that is called so."""
    error = ValueError()
    error.sqlstate = state
    ClientCalls(spans=spans).database("postgresql", "INSERT").end(error)

    assert spans.made[0].attributes.get("db.response.status_code") == (state if is_told else None)


def test_a_span_says_who_and_what(spans):
    """A span has the tenant that is bound, and the operation of its request."""
    calls = ClientCalls(spans=spans)
    with in_request() as exchange, bind_tenant(ACME):
        exchange.operation = "order.place"
        calls.database("postgresql", "INSERT", "orders", where=lambda: {"db.namespace": "shop"})

    assert spans.made[0].name == "INSERT orders"
    assert spans.made[0].kind == "client"
    assert spans.made[0].attributes == {
        "db.system.name": "postgresql",
        "db.operation.name": "INSERT",
        "db.collection.name": "orders",
        "db.namespace": "shop",
        "tenant.id": "acme",
        "platform.operation": "order.place",
    }


def test_a_request_that_is_not_sampled_has_no_spans(registry, spans):
    """The call is counted all the same."""
    calls = ClientCalls(registry, spans=spans)
    with in_request(sampled=False):
        calls.database("postgresql", "SELECT").end()

    assert not spans.made
    assert "db_client_operation_duration_seconds_count" in page(registry)


def test_the_exemplar_is_the_span(registry, spans):
    """Metric and span have the same ids."""
    ClientCalls(registry, spans=spans).database("postgresql", "SELECT").end()

    place = spans.made[0].place
    assert f'trace_id="{place.trace_id}",span_id="{place.span_id}"' in page(registry)


def test_a_place_that_fails_fails_no_call(spans):
    """What cannot be said about a span is left out."""
    ClientCalls(spans=spans).database("redis", "GET", where=lambda: 1 / 0).end()

    assert spans.names == ["GET"]


def test_a_batch_is_one_call(spans):
    """A pipeline says how many commands it has; one command does not."""
    calls = ClientCalls(spans=spans)
    calls.database("redis", "PIPELINE", batch=3).end()
    calls.database("redis", "PIPELINE", batch=1).end()

    assert spans.made[0].attributes["db.operation.batch.size"] == 3
    assert "db.operation.batch.size" not in spans.made[1].attributes


def test_hosts_are_bounded(registry):
    """A host that is not named, and a method that is not known, have no label of their own."""
    calls = ClientCalls(registry, hosts=["Stock.example"])
    calls.request("GET", "stock.example", 443, "https").end(200)
    for number in range(1000):
        calls.request(f"BREW{number}", f"h{number}.example", 443, "https").end(503)

    text = page(registry)
    assert (
        'http_request_method="GET",server_address="stock.example",http_response_status_code="200"'
        in text
    )
    assert 'server_address="_OTHER",http_response_status_code="503",error_type="503"} 1000' in text
    assert text.count("http_client_request_duration_seconds_count") == 2


def test_a_host_cannot_make_up_statuses(registry, spans):
    """What is in no registry is counted as its class; the span says what came."""
    calls = ClientCalls(registry, spans=spans)
    for status in range(100, 1000):
        calls.request("GET", "evil.example", 443, "https").end(status)

    text = page(registry)
    assert 'http_response_status_code="503",error_type="503"} 1' in text
    assert 'http_response_status_code="5xx",error_type="5xx"} ' in text
    assert 'http_response_status_code="2xx",error_type=""} ' in text
    assert 'http_response_status_code="_OTHER",error_type="_OTHER"} 400' in text
    assert text.count("http_client_request_duration_seconds_count") <= len(HTTPStatus) + 6
    assert spans.made[-1].attributes == {
        "http.request.method": "GET",
        "server.address": "evil.example",
        "server.port": 443,
        "url.scheme": "https",
        "http.response.status_code": 999,
    }


def test_a_with_ends_a_call(registry):
    """With what came out of it; what was ended inside stays as it was."""
    calls = ClientCalls(registry)
    with pytest.raises(ValueError, match="hunter2"), calls.database("redis", "GET"):
        raise ValueError("hunter2")
    with calls.database("redis", "GET"):
        pass
    with calls.request("GET", "stock", 80, "http") as sent:
        sent.end(204)

    assert 'db_operation_name="GET",error_type="ValueError"} 1' in page(registry)
    assert 'db_operation_name="GET",error_type=""} 1' in page(registry)
    assert page(registry).count("http_client_request_duration_seconds_count") == 1
    assert 'http_response_status_code="204",error_type=""} 1' in page(registry)


def test_one_text_is_no_list_of_hosts():
    """Its letters would be the hosts."""
    with pytest.raises(ConfigurationError, match="is not a list of hosts"):
        ClientCalls(hosts="stock.example")


def test_strangers_are_told_nothing(spans):
    """Trace context, baggage and tenant go to our hosts alone."""
    calls = ClientCalls(spans=spans, trust=TrustBoundary(hosts=[".svc.example"]))
    inbound = Inbound(baggage=parse_baggage([b"flavour=mild"]))
    with in_request(inbound=inbound), bind_tenant(ACME):
        ours = calls.request("GET", "stock.svc.example", 443, "https")
        told = calls.outbound_headers(ours, "stock.svc.example")

        assert told["traceparent"] == spans.made[0].place.traceparent
        assert set(told["baggage"].split(",")) == {"tenant.id=acme", "flavour=mild"}
        assert calls.outbound_headers(ours, "stranger.example") == {}


def test_a_request_that_is_not_sampled_is_told_on(spans):
    """What is called knows that nobody records, and in which trace it is."""
    calls = ClientCalls(spans=spans, trust=TrustBoundary(hosts=["stock"]))
    with in_request(sampled=False) as exchange:
        told = calls.outbound_headers(calls.request("GET", "stock", 80, "http"), "stock")

    assert told == {"traceparent": f"00-{exchange.trace_id}-{exchange.span_id}-02"}


def test_outside_of_a_trace_nothing_is_told():
    """Without a request and a span there are no ids to tell."""
    calls = ClientCalls(trust=TrustBoundary(hosts=["stock"]))
    call = calls.request("GET", "stock", 80, "http")

    assert calls.outbound_headers(call, "stock") == {}


def test_a_registry_takes_one(registry):
    """A second one would count the same calls again."""
    ClientCalls(registry)

    with pytest.raises(ConfigurationError):
        ClientCalls(registry)


class Pool:
    """Something that can be held weakly."""


def test_pools_of_one_name_are_added(registry):
    """Two pools of a name are one on the page, and a pool that is gone is on none."""
    pools = ClientCalls(registry).pools
    one, other = Pool(), Pool()
    pools.add("main", one, lambda _: PoolState(2, 1, 5, 4))
    pools.add("main", other, lambda _: PoolState(1, 0, 5))

    assert 'pool_name="main",db_client_connection_state="used"} 3' in page(registry)
    assert 'db_client_connection_pending_requests{db_client_connection_pool_name="main"} 4' in (
        page(registry)
    )
    del one, other
    assert 'pool_name="main"' not in page(registry)


def test_a_closed_pool_leaves_the_page(registry):
    """A pool that reads as None is not shown until it reads as something again."""
    pools = ClientCalls(registry).pools
    states = [PoolState(0, 1)]
    pools.add("main", 5, lambda _: states[0] if states else None)
    assert 'pool_name="main"' in page(registry)
    states.clear()
    assert 'pool_name="main"' not in page(registry)
    states.append(PoolState(0, 2))

    assert 'pool_name="main",db_client_connection_state="idle"} 2' in page(registry)


def test_a_pool_that_cannot_be_read_hides_no_other(registry):
    """It is asked again at the next page."""
    pools = ClientCalls(registry).pools
    pools.add("broken", 5, lambda _: 1 / 0)
    pools.add("main", 5, lambda _: PoolState(0, 1))

    assert 'pool_name="main"' in page(registry)
    assert 'pool_name="broken"' not in page(registry)


def used(**more):
    """What a key service announces."""
    told = {"operation": "unwrap", "tenant_id": "acme", "key_ref": None, "code": None}
    return KeyUsed(service="vault", **{**told, "seconds": 0.25, **more})


def test_a_call_of_a_key_service_is_a_span(spans):
    """It has its provider and its tenant; a failure has its code."""
    calls = ClientCalls(spans=spans)
    calls.key_used(used())
    calls.key_used(used(operation="mac", tenant_id=None, code="key_denied"))

    good, bad = spans.made
    assert (good.name, good.kind, good.error) == ("kms.unwrap", "client", None)
    assert good.attributes == {"platform.provider": "vault", "tenant.id": "acme"}
    assert (bad.name, bad.error, bad.has_ended) == ("kms.mac", "key_denied", True)
    assert "tenant.id" not in bad.attributes


def test_a_call_of_a_key_service_has_the_tenant_whose_key_it_was(spans):
    """Which need not be the one that is bound; then the user is nobody of it."""
    with in_request() as exchange, bind_tenant(ACME):
        exchange.operation = "keys.rewrap"
        ClientCalls(spans=spans).key_used(used(tenant_id="globex"))

    assert spans.made[0].attributes["tenant.id"] == "globex"
    assert spans.made[0].attributes["platform.operation"] == "keys.rewrap"
    assert "enduser.id" not in spans.made[0].attributes


def test_a_call_of_a_key_service_has_no_span_where_there_is_none(spans):
    """Where nobody has timed it, in a request that is not sampled, or without spans."""
    ClientCalls(spans=spans).key_used(used(seconds=None))
    ClientCalls().key_used(used())
    with in_request(sampled=False):
        ClientCalls(spans=spans).key_used(used())

    assert spans.made == []


class Broken:
    """A span of a technology that keeps none of its promises."""

    @property
    def place(self):
        """Nowhere."""
        raise LookupError

    def end(self, error=None, attributes=None):
        """Not now."""
        raise LookupError


class Breaking:
    """Makes such spans, or none."""

    def __init__(self, *, begins):
        self.begins = begins

    def begin(self, name, **options):
        """See `SpanSource`."""
        if not self.begins:
            raise LookupError
        return Broken()


@pytest.mark.parametrize("begins", [True, False])
def test_no_span_fails_a_call(begins, registry):
    """Whatever its source does, the call is counted and its answer stays."""
    boundary = TrustBoundary(hosts=["stock.example"])
    calls = ClientCalls(registry, spans=Breaking(begins=begins), trust=boundary)

    calls.database("redis", "GET").end()
    request = calls.request("GET", "stock.example", 443, "https")
    headers = calls.outbound_headers(request, "stock.example")
    request.end(200)

    assert headers == {}
    assert "db_client_operation_duration_seconds_count" in page(registry)
    assert "http_client_request_duration_seconds_count" in page(registry)
