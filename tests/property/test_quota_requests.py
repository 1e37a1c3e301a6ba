"""
Laws of what quotas read of a request and write into its answer.
"""

from __future__ import annotations

import asyncio
import ipaddress

from hypothesis import assume, given
from hypothesis import strategies as st

from tests.support.quotas import ACME, OnePlan, limiter_of
from tests.support.structured_fields import read_list
from tests.support.tenancy import http_scope
from twh_platform.quotas import (
    ClientAddress,
    Limiter,
    MemoryQuotaStore,
    Rate,
    RateLimitHeaders,
    RouteTable,
)
from twh_platform.testing import ManualClock

PROXY = "10.0.0.1"

pieces = st.sampled_from(
    [
        *(b"for=", b'"', b"\\", b",", b";", b" ", b"=", b"[", b"]", b":", b"%", b"unknown", b"_x"),
        *(b"1.2.3.4", b"10.0.0.2", b"::1", b"::ffff:1.2.3.4", b"2001:db8::1", b"99999", b"\x00"),
    ]
)
lines = st.lists(
    st.one_of(st.binary(max_size=60), st.lists(pieces, max_size=12).map(b"".join)), max_size=4
)
headers = st.sampled_from(["x-forwarded-for", "forwarded", "x-real-ip"])


def is_address(text: str) -> bool:
    """Whether it is an address or a network, written in the one usual way."""
    network = ipaddress.ip_network(text)
    return text in {str(network), str(network.network_address)}


@given(headers, lines)
def test_whatever_a_header_says_an_address_comes_out(header, written):
    """Never the bytes that were sent."""
    address = ClientAddress(trusted_proxies=["10.0.0.0/8"], header=header)
    scope = {"client": (PROXY, 1), "headers": [(header.encode(), line) for line in written]}

    assert is_address(address(scope))


@given(st.sampled_from(["x-forwarded-for", "forwarded"]), lines, st.ip_addresses())
def test_what_the_proxy_saw_is_the_client_whatever_came_before(header, written, seen):
    """A line of its own, behind anything that the client has written."""
    address = ClientAddress(trusted_proxies=[PROXY], header=header)
    node = f'"[{seen}]"' if seen.version == 6 else str(seen)
    line = f"for={node}" if header == "forwarded" else node.strip('"')
    name = header.encode()
    scope = {"client": (PROXY, 1), "headers": [(name, x) for x in (*written, line.encode())]}
    expected = address({"client": (str(seen), 1), "headers": []})
    assume(expected != PROXY)

    assert address(scope) == expected


@given(lines)
def test_a_peer_that_is_no_proxy_is_itself(written):
    """Nothing in its headers matters."""
    address = ClientAddress(trusted_proxies=["10.0.0.0/8"])
    scope = {"client": ("192.0.2.1", 1), "headers": [(b"x-forwarded-for", x) for x in written]}

    assert address(scope) == "192.0.2.1"


TEMPLATES = [
    "/",
    "/items",
    "/items/{id}",
    "/items/{id:int}/parts",
    "/items/new/parts",
    "/files/{name:path}",
    "/files/{name:path}/info",
    "/{a}/{b}.csv",
    "/items/{id}/{kind}",
    "/{all}/parts/{n:float}",
]
paths = st.lists(
    st.sampled_from(["", "items", "new", "7", "7.5", "parts", "files", "a.csv", "info", "x", "\n"]),
    max_size=5,
).map(lambda parts: "/" + "/".join(parts))


def one_by_one(path: str) -> str | None:
    """Control: each template alone, in the table's order of preference."""
    for template in sorted(TEMPLATES, key=lambda one: "{" in one):
        if found := RouteTable([template])(http_scope(path)):
            return found
    return None


@given(paths)
def test_a_table_finds_what_its_templates_find_one_by_one(path):
    """However the templates are arranged for speed."""
    assert RouteTable(TEMPLATES)(http_scope(path)) == one_by_one(path)


@given(st.text(max_size=30), st.text(max_size=8))
def test_no_path_makes_a_route(path, method):
    """The answers stay a closed list."""
    table = RouteTable(TEMPLATES)
    found = table(http_scope("/" + path, method=method, raw_path=b""))

    assert found is None or found in table.names()


@given(
    limit=st.integers(1, 1000),
    per=st.integers(1, 10**4),
    burst=st.integers(1, 1000),
    takes=st.lists(st.tuples(st.floats(0, 10), st.integers(1, 50)), min_size=1, max_size=6),
)
def test_what_is_left_is_read_from_the_state_as_the_arithmetic_has_it(limit, per, burst, takes):
    """The short way is the long way, for every decision that admits."""
    clock = ManualClock()
    rule = Rate(name="r", limit=limit, per=per, burst=burst)
    limiter = Limiter(MemoryQuotaStore(clock=clock), plans=OnePlan([rule]), clock=clock)
    headers = RateLimitHeaders()
    for wait, cost in takes:
        clock.advance(wait)
        decision = asyncio.run(limiter.take(ACME, cost=cost))
        if decision.allowed:
            assert headers._draft_11(decision) == headers._draft_11_in_full(decision)


@given(
    limit=st.integers(1, 1000),
    per=st.floats(0.001, 86400),
    waits=st.lists(st.floats(0, 1000), max_size=5),
)
async def test_every_answer_is_structured(limit, per, waits):
    """Whatever the rule and the moment."""
    now = [1_800_000_000.0]
    rule = Rate(name="r", limit=limit, per=round(per, 6))
    limiter = limiter_of(MemoryQuotaStore(clock=lambda: now[0]), rule)
    for wait in [0.0, *waits]:
        now[0] += wait
        decision = await limiter.take(ACME)
        fields = dict(RateLimitHeaders()(decision))

        [(name, parameters)] = read_list(fields[b"ratelimit"])
        assert (name, parameters["r"]) == ("r", decision.statuses[0].remaining)
        assert read_list(fields[b"ratelimit-policy"])[0][1]["q"] == limit
