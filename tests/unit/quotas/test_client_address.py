"""
The client's address: whose word is taken, and how it is written.
"""

from __future__ import annotations

import pytest

from twh_platform.errors import ConfigurationError
from twh_platform.quotas import ClientAddress

PROXIES = ("10.0.0.0/8", "2001:db8:ffff::/48")


def told(address: ClientAddress, peer: str | None, *lines: str, header="x-forwarded-for") -> str:
    """The address of a client whose request came from this peer with these header lines."""
    headers = [(header.encode(), line.encode("latin-1")) for line in lines]
    return address({"client": peer and (peer, 4711), "headers": headers})


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["203.0.113.9"], "203.0.113.9"),
        (["6.6.6.6, 203.0.113.9"], "203.0.113.9"),
        (["6.6.6.6, 203.0.113.9, 10.0.0.2 ,\t10.0.0.3"], "203.0.113.9"),
        (["6.6.6.6", "203.0.113.9", "10.0.0.2"], "203.0.113.9"),
        (["203.0.113.9:8080"], "203.0.113.9"),
        (["[2001:db8:1:2:3::4]:443"], "2001:db8:1:2::/64"),
        (["2001:db8:1:2:3::4"], "2001:db8:1:2::/64"),
        (["fe80::1%eth0"], "fe80::/64"),
        (["::ffff:203.0.113.9"], "203.0.113.9"),
        (["::ffff:10.0.0.2"], "10.0.0.2"),
        (["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
    ],
)
def test_listed_proxies_are_believed_about_who_came_to_them(lines, expected):
    """The first from the right that is no listed proxy is the client."""
    address = ClientAddress(trusted_proxies=PROXIES)

    assert told(address, "10.0.0.1", *lines) == expected
    assert told(address, "::ffff:10.0.0.1", *lines) == expected


@pytest.mark.parametrize("peer", ["203.0.113.7", "::ffff:203.0.113.7"])
@pytest.mark.parametrize("line", ["6.6.6.6", "10.0.0.1", "6.6.6.6, 10.0.0.1"])
def test_nobody_else_is_believed(peer, line):
    """A client may write any header; who came to us is known without it."""
    listed, none = ClientAddress(trusted_proxies=PROXIES), ClientAddress()

    assert told(listed, peer, line) == told(none, peer, line) == "203.0.113.7"
    assert told(none, "10.0.0.1", line) == "10.0.0.1"


def leftmost(scope) -> str:
    """Control: the way of fastapi-limiter and many others."""
    return dict(scope["headers"])[b"x-forwarded-for"].decode().split(",")[0].strip()


def test_a_prefix_of_the_clients_own_does_not_make_another_client():
    """Whoever sends a new first element each time stays one client."""
    address = ClientAddress(trusted_proxies=PROXIES)
    forged = [f"6.6.6.{number}, 203.0.113.9" for number in range(50)]
    scopes = [
        {"client": ("10.0.0.1", 1), "headers": [(b"x-forwarded-for", line.encode())]}
        for line in forged
    ]

    assert {leftmost(scope) for scope in scopes} != {"203.0.113.9"}
    assert {address(scope) for scope in scopes} == {"203.0.113.9"}


@pytest.mark.parametrize(
    "entry",
    [
        *("", "unknown", "_gateway", "localhost", "1.2.3", "1.2.3.4.5", "01.2.3.4", "1.2.3.4:x"),
        *("[::1", "::1]", "[::1]x", "[::1]:123456", ":::", "1.2.3.4 5.6.7.8", "\xb9.2.3.4"),
        *("'; DROP", "9" * 500),
    ],
)
def test_what_is_no_address_leads_back_to_the_proxy(entry):
    """The last that could be told is the client, never the text that was sent."""
    address = ClientAddress(trusted_proxies=PROXIES)

    assert told(address, "10.0.0.1", f"6.6.6.6, {entry}") == "10.0.0.1"
    assert told(address, "10.0.0.1", f"6.6.6.6, {entry}, 10.0.0.2") == "10.0.0.2"


def test_a_header_name_with_an_underscore_is_another_header():
    """No proxy writes X_FORWARDED_FOR, so nobody but the client can have."""
    address = ClientAddress(trusted_proxies=PROXIES)

    assert told(address, "10.0.0.1", "6.6.6.6", header="x_forwarded_for") == "10.0.0.1"
    with pytest.raises(ConfigurationError, match="X_FORWARDED_FOR"):
        ClientAddress(trusted_proxies=PROXIES, header="X_FORWARDED_FOR")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["for=203.0.113.9;proto=https;by=10.0.0.1"], "203.0.113.9"),
        (['For="203.0.113.9:8080" ; PROTO=https'], "203.0.113.9"),
        (['for=6.6.6.6, for="[2001:db8:1:2:3::4]:4711"'], "2001:db8:1:2::/64"),
        (['for="6.6.6.6", for=203.0.113.9', 'for=10.0.0.2;host="a, for=7.7.7.7"'], "203.0.113.9"),
        (["for=203.0.113.9;"], "203.0.113.9"),
        (['for="20\\3.0.113.9"'], "203.0.113.9"),
        (["for=unknown"], "10.0.0.1"),
        (["for=6.6.6.6, for=_hidden, for=10.0.0.2"], "10.0.0.2"),
        (["proto=https"], "10.0.0.1"),
        (["for=6.6.6.6,"], "10.0.0.1"),
        (["for=6.6.6.6;for=7.7.7.7"], "10.0.0.1"),
        (["for=6.6.6.6 for=7.7.7.7"], "10.0.0.1"),
        (['for="6.6.6.6, for=203.0.113.9'], "10.0.0.1"),
        (['for="6.6.6.6', "for=203.0.113.9, for=10.0.0.2"], "203.0.113.9"),
        (["for=203.0.113.9" + ";x=y" * 2000], "10.0.0.1"),
    ],
)
def test_the_header_of_rfc_7239_is_read_by_its_grammar(lines, expected):
    """Quoted commas are no borders; a line that breaks the grammar says nothing."""
    address = ClientAddress(trusted_proxies=PROXIES, header="Forwarded")

    assert told(address, "10.0.0.1", *lines, header="forwarded") == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["203.0.113.9"], "203.0.113.9"),
        (["203.0.113.9, 6.6.6.6"], "10.0.0.1"),
        (["203.0.113.9", "6.6.6.6"], "10.0.0.1"),
        ([], "10.0.0.1"),
    ],
)
def test_a_header_for_one_address_has_one(lines, expected):
    """Two values mean that one is not the proxy's."""
    address = ClientAddress(trusted_proxies=PROXIES, header="x-real-ip")

    assert told(address, "10.0.0.1", *lines, header="x-real-ip") == expected


def test_a_chain_that_is_too_long_ends_at_a_proxy():
    """No header is read without bound."""
    address = ClientAddress(trusted_proxies=PROXIES)

    assert told(address, "10.0.0.1", "6.6.6.6" + ", 10.0.0.9" * 40) == "10.0.0.9"
    assert told(address, "10.0.0.1", *["6.6.6.6", *["10.0.0.9"] * 40]) == "10.0.0.9"


def test_without_an_address_there_is_one_key():
    """A unix socket, and what a test client calls itself."""
    closed, opened = ClientAddress(), ClientAddress(trusted_proxies=["unix"])

    assert told(closed, None, "203.0.113.9") == told(closed, "", "203.0.113.9") == "unix"
    assert told(opened, None, "203.0.113.9") == "203.0.113.9"
    assert told(opened, "testclient", "203.0.113.9") == "unknown"
    assert told(opened, "x" * 10_000) == "unknown"


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [(128, "2001:db8:1:2:3::4"), (56, "2001:db8:1::/56"), (48, "2001:db8:1::/48")],
)
def test_how_much_of_an_ipv6_address_counts_is_an_option(prefix, expected):
    """One customer may have a /64, or a /56."""
    address = ClientAddress(ipv6_prefix=prefix)

    assert told(address, "2001:db8:1:2:3::4") == expected
    assert told(address, "203.0.113.9") == "203.0.113.9"


def test_ipv4_clients_behind_a_translator_are_told_apart():
    """Under the prefix of RFC 6052 they share a /64: one could use up what is of all."""
    address = ClientAddress(trusted_proxies=["10.0.0.0/8"])

    assert told(address, "64:ff9b::203.0.113.9", "6.6.6.6") == "203.0.113.9"
    assert told(address, "64:ff9b::cb00:710a", "6.6.6.6") == "203.0.113.10"
    assert told(address, "64:ff9b::10.0.0.1", "6.6.6.6") == "10.0.0.1"
    assert told(address, "64:ff9b:1::203.0.113.9") == "64:ff9b:1::/64"


@pytest.mark.parametrize(
    "options",
    [
        {"trusted_proxies": ["*"]},
        {"trusted_proxies": ["0.0.0.0/0"]},
        {"trusted_proxies": ["::/0"]},
        {"trusted_proxies": ["10.0.0.1/8"]},
        {"trusted_proxies": ["::ffff:10.0.0.0/104"]},
        {"trusted_proxies": "10.0.0.0/8"},
        {"header": "x forwarded for"},
        {"ipv6_prefix": 0},
        {"ipv6_prefix": 129},
    ],
)
def test_a_setting_that_would_trust_everybody_or_nobody_is_refused(options):
    """The mistake shows when the service starts."""
    with pytest.raises(ConfigurationError):
        ClientAddress(**options)
