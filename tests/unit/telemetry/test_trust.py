"""
The trust boundary: whose trace context counts, and who is told ours.
"""

from __future__ import annotations

import pytest

from twh_platform.errors import ConfigurationError
from twh_platform.telemetry import Baggage, Inbound, TraceContext, TrustBoundary

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
SENT = (b"traceparent", f"00-{TRACE}-{SPAN}-01".encode())
STATE = (b"tracestate", b"congo=1")
B3 = (b"b3", f"{TRACE}-{SPAN}-1".encode())
PEER = ("10.1.2.3", 4711)
STRANGER = ("203.0.113.9", 4711)
HERE = TraceContext(trace_id=TRACE, span_id=SPAN, sampled=True, state="congo=1")

boundary = TrustBoundary(
    networks=["10.0.0.0/8", "2001:db8::/32"],
    hosts=["api.example", ".svc.example", "192.0.2.7", "::1"],
)


def _scope(client, *headers):
    return {"type": "http", "client": client, "headers": [(b"host", b"x"), *headers]}


def test_a_trusted_peer_is_continued():
    """With its flag, its state and its baggage."""
    found = boundary.accept(_scope(PEER, SENT, STATE, (b"baggage", b"a=1")))

    assert found.parent == HERE
    assert (found.sampled, found.link) == (True, None)
    assert dict(found.baggage.values) == {"a": "1"}


@pytest.mark.parametrize("more", [(), (STATE, (b"baggage", b"a=1"))])
def test_a_stranger_is_only_pointed_at(more):
    """Its flag, state and baggage count for nothing."""
    found = boundary.accept(_scope(STRANGER, SENT, *more))

    assert found == Inbound(link=TraceContext(trace_id=TRACE, span_id=SPAN))


def test_nobody_is_trusted_unless_named():
    """Not even the host itself."""
    found = TrustBoundary().accept(_scope(("127.0.0.1", 4711), SENT))

    assert found.parent is None


@pytest.mark.parametrize(
    "client",
    [
        ("10.1.2.3", 0),
        ("10.1.2.3", None),
        ("testclient", 50000),
        ("10.1.2.3, 203.0.113.9", 1),
        ("1" * 10_000, 1),
        ("", 0),
        None,
        ("::ffff:203.0.113.9", 1),
    ],
)
def test_what_is_no_trusted_socket_is_a_stranger(client):
    """A forwarded address has port 0, and a name is no address."""
    assert boundary.accept(_scope(client, SENT)).parent is None


@pytest.mark.parametrize("client", [("::ffff:10.1.2.3", 1), ("2001:db8::1%eth0", 1)])
def test_an_address_is_what_it_means(client):
    """IPv4 in IPv6, and with a zone."""
    assert boundary.accept(_scope(client, SENT)).parent is not None


def test_a_forwarded_header_is_not_read():
    """Whoever it names."""
    forwarded = [(b"x-forwarded-for", b"10.1.2.3"), (b"forwarded", b"for=10.1.2.3")]

    assert boundary.accept(_scope(STRANGER, SENT, *forwarded)).parent is None


@pytest.mark.parametrize(
    "name",
    [
        b"x-forwarded-for",
        b"X-Forwarded-For",
        b"x-forwarded-host",
        b"forwarded",
        b"x-real-ip",
        b"via",
    ],
)
def test_what_was_forwarded_is_a_strangers(name):
    """Also with an address and a port that a socket could have."""
    assert boundary.accept(_scope(PEER, SENT)).parent is not None
    assert boundary.accept(_scope(PEER, SENT, (name, b"10.1.2.3:4711"))).parent is None


@pytest.mark.parametrize("believed", ["127.0.0.1", "*"])
async def test_an_address_that_uvicorn_read_out_of_a_header_is_a_strangers(believed):
    """It takes the port over too, so that it looks like a socket's."""
    module = pytest.importorskip("uvicorn.middleware.proxy_headers")
    scopes = []

    async def app(scope, receive, send):
        scopes.append(scope)

    server = module.ProxyHeadersMiddleware(app, trusted_hosts=believed)
    header = (b"x-forwarded-for", b"10.1.2.3:4711")
    sent = _scope(("127.0.0.1", 50000), SENT, header) | {"type": "http"}
    await server(sent, None, None)

    assert scopes[0]["client"] == ("10.1.2.3", 4711)
    assert boundary.accept(scopes[0] | {"headers": [SENT]}).parent is not None  # the control
    assert boundary.accept(scopes[0]).parent is None


def test_a_callable_vouches_for_a_proxy():
    """For one that replaces the trace headers, and says that it forwards."""
    asked = TrustBoundary(authenticated=lambda scope: scope["client"] == PEER)

    assert asked.accept(_scope(PEER, SENT, (b"x-forwarded-for", b"1.2.3.4"))).parent is not None


def test_a_unix_socket_can_be_trusted():
    """By its name."""
    found = TrustBoundary(networks=["unix"]).accept(_scope(None, SENT))

    assert found.parent is not None


@pytest.mark.parametrize(("verdict", "trusted"), [(True, True), (False, False), ("yes", False)])
def test_a_callable_can_vouch(verdict, trusted):
    """With True, and with nothing that only looks true."""
    asked = TrustBoundary(authenticated=lambda scope: verdict)

    assert (asked.accept(_scope(STRANGER, SENT)).parent is not None) is trusted


def test_a_callable_that_fails_vouches_for_nobody():
    """The request goes on, and the failure is counted."""
    asked = TrustBoundary(authenticated=lambda scope: scope["no such key"])

    assert asked.accept(_scope(STRANGER, SENT)).parent is None
    assert asked.failures == 1


def test_a_callable_is_not_asked_for_nothing():
    """Where no trace is mentioned, nobody has to be judged."""
    asked = TrustBoundary(authenticated=lambda scope: scope["no such key"])

    assert asked.accept(_scope(STRANGER)) == Inbound()
    assert asked.failures == 0


@pytest.mark.parametrize("name", ["tenant", "tenant.id", "Tenant.ID", "tenant_id", "tenant-id"])
def test_the_tenant_never_comes_from_baggage(name):
    """Not even a trusted peer's."""
    found = boundary.accept(_scope(PEER, (b"baggage", f"{name}=victim,a=1".encode())))

    assert dict(found.baggage.values) == {"a": "1"}


@pytest.mark.parametrize(
    "headers",
    [
        (SENT, SENT),
        ((b"traceparent", b"\xff\x00"),),
        ((b"traceparent", b""), (b"baggage", b"=")),
        (STATE,),
    ],
)
@pytest.mark.parametrize("client", [PEER, STRANGER])
def test_what_is_malformed_is_not_there(client, headers):
    """From whomever it comes."""
    assert boundary.accept(_scope(client, *headers)) == Inbound()


def test_b3_is_read_where_asked_for():
    """After W3C, in the order of the formats."""
    both = TrustBoundary(networks=["10.0.0.0/8"], formats=("w3c", "b3"))
    other = (b"traceparent", SENT[1].replace(b"0af7", b"1111"))

    assert boundary.accept(_scope(PEER, B3)) == Inbound()
    assert both.accept(_scope(PEER, B3)).parent.trace_id == TRACE
    assert both.accept(_scope(PEER, B3, other)).parent.trace_id.startswith("1111")


def test_b3_can_deny_without_ids():
    """A trusted peer's 0 is a decision, a stranger's is not."""
    both = TrustBoundary(networks=["10.0.0.0/8"], formats=("b3", "w3c"))

    assert both.accept(_scope(PEER, (b"b3", b"0"))) == Inbound(sampled=False)
    assert both.accept(_scope(STRANGER, (b"b3", b"0"))) == Inbound()


def test_only_the_formats_named_are_read():
    """A service that speaks B3 alone takes no `traceparent`."""
    b3 = TrustBoundary(networks=["10.0.0.0/8"], formats=("b3",))

    assert b3.accept(_scope(PEER, SENT)) == Inbound()


@pytest.mark.parametrize(
    "host",
    ["api.example", "API.example.", "a.svc.example", "a.b.svc.example", "192.0.2.7", "[::1]"],
)
def test_our_hosts_are_told(host):
    """Ids, state, baggage, and the tenant that was verified."""
    carried = Baggage(values={"a": "1", "tenant.id": "victim"})

    sent = boundary.outbound_headers(HERE, host, baggage=carried, tenant="acme")

    assert sent == {
        "traceparent": HERE.traceparent,
        "tracestate": "congo=1",
        "baggage": "tenant.id=acme,a=1",
    }


@pytest.mark.parametrize(
    "host",
    [
        "",
        "example",
        "svc.example",
        "notsvc.example",
        "xapi.example",
        "api.example.evil.test",
        "api.example:443",
        "a@api.example.evil.test",
        ".",
        "x" * 10_000 + ".svc.example",
    ],
)
def test_third_parties_are_told_nothing(host):
    """Unless everybody is told the ids, and never more than those."""
    everybody = TrustBoundary(hosts=[".svc.example"], everybody=True)
    carried = Baggage(values={"a": "1"})

    assert boundary.outbound_headers(HERE, host, baggage=carried, tenant="acme") == {}
    assert everybody.outbound_headers(HERE, host, baggage=carried, tenant="acme") == {
        "traceparent": HERE.traceparent
    }


def test_what_is_sent_can_be_named():
    """B3 in both its forms."""
    old = TrustBoundary(hosts=["api.example"], sent=("b3", "b3multi"))

    assert old.outbound_headers(HERE, "api.example") == {
        "b3": f"{TRACE}-{SPAN}-1",
        "x-b3-traceid": TRACE,
        "x-b3-spanid": SPAN,
        "x-b3-sampled": "1",
    }


@pytest.mark.parametrize(
    "fault",
    [
        {"networks": ["0.0.0.0/0"]},
        {"networks": ["::/0"]},
        {"networks": ["10.0.0.1/8"]},
        {"networks": "10.0.0.0/8"},
        {"networks": ["::ffff:10.0.0.0/104"]},
        {"formats": ["jaeger"]},
        {"sent": ["w3"]},
        {"hosts": "api.example"},
        {"hosts": ["https://api.example"]},
        {"hosts": ["api.example:443"]},
        {"hosts": ["."]},
        {"hosts": ["*"]},
        {"hosts": [""]},
        {"hosts": ["abc:443"]},
    ],
)
def test_a_boundary_that_is_none_is_refused(fault):
    """One that everybody passes, or that means something else than it says."""
    with pytest.raises(ConfigurationError):
        TrustBoundary(**fault)
