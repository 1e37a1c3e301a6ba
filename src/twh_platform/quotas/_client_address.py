"""
The address that a client is counted under.

A forwarded header is whatever its writer says.  It is read from its right
end, where the proxy next to us wrote, and only as far to the left as the
writers are listed proxies.  What is returned is made here out of a number,
never copied from a request.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import NamedTuple

from .._asgi import Scope, header_values
from ..errors import ConfigurationError

__all__ = ["ClientAddress"]

Network = IPv4Network | IPv6Network

_UNIX = "unix"
_UNKNOWN = "unknown"
# More proxies in a row than anybody has; what lies further left is not read.
_MOST_HOPS = 32
# "[" + 45 characters of address + "%" + zone + "]:65535", with room to spare.
_LONGEST_NODE = 80
_LONGEST_FORWARDED = 4096
_REMEMBERED = 4096

# IPv4 addresses in IPv6, as translators write them: RFC 6052, section 2.1.
_TRANSLATED = IPv6Network("64:ff9b::/96")

_HEADER = re.compile(r"[a-z0-9!#$%&'*+.^`|~-]+", re.ASCII)
# RFC 7239, section 6: an IPv6 address stands in brackets; a port is a number or "_..."
_NODE = re.compile(r"(?:\[([^\[\]]*)\]|([^\[\]:]*))(?::(?:\d{1,5}|_[\w.-]+))?", re.ASCII)
# RFC 7239, section 4: one parameter or none, and what follows it.  The quantifiers are
# possessive, so that nothing is read twice.
_PAIR = re.compile(
    r"""[ \t]*+
    (?:([!\#$%&'*+.^_`|~0-9A-Za-z-]++)=(?:([!\#$%&'*+.^_`|~0-9A-Za-z-]++)|"((?:[^"\\]|\\.)*+)"))?+
    [ \t]*+([;,]|\Z)""",
    re.VERBOSE,
)
_ESCAPED = re.compile(r"\\(.)")


class _Host(NamedTuple):
    key: str
    trusted: bool


class ClientAddress:
    """
    Tell a request's client address, as text that a rule can count under.

    The peer of the connection is the client, unless it is one of
    *trusted_proxies*: then the header says who came to the proxy, and so on to
    the left until somebody is no listed proxy.  Where the header is missing,
    malformed or hides the address (``unknown``, ``_gateway``), the client is
    the last listed proxy that could be told.  With no proxies listed, headers
    are ignored.

    IPv4 addresses come out as they are, an IPv4 address inside an IPv6 one
    (``::ffff:192.0.2.1``, ``64:ff9b::192.0.2.1``) as that IPv4 address, and an
    IPv6 address as its network of *ipv6_prefix* bits, because one customer has
    all of it.  A connection over a unix socket is ``unix``, a peer with no
    address ``unknown``.

        >>> address = ClientAddress(trusted_proxies=("10.0.0.0/8",))
        >>> forwarded = [(b"x-forwarded-for", b"6.6.6.6, 203.0.113.9, 10.0.0.2")]
        >>> address({"client": ("10.0.0.1", 4711), "headers": forwarded})
        '203.0.113.9'
        >>> address({"client": ("2001:db8:1:2:3::4", 4711), "headers": forwarded})
        '2001:db8:1:2::/64'

    Args:
        trusted_proxies: Addresses and networks of our own proxies, and
            ``unix`` for one that connects over a unix socket.

        header: The header that they write: ``x-forwarded-for``, ``forwarded``
            (RFC 7239), or one that holds a single address, such as
            ``x-real-ip``.  Each of the proxies must overwrite or extend it.

        ipv6_prefix: How many bits of an IPv6 address tell clients apart.

    Raises:
        twh_platform.errors.ConfigurationError: For what is no network, for one
            that trusts everybody, and for a header that is no header name or
            has an underscore, which proxies do not send.
    """

    def __init__(
        self,
        *,
        trusted_proxies: Iterable[str] = (),
        header: str = "x-forwarded-for",
        ipv6_prefix: int = 64,
    ) -> None:
        if isinstance(trusted_proxies, str):
            message = f"trusted_proxies={trusted_proxies!r} is not a list of networks"
            raise ConfigurationError(message)
        proxies = tuple(trusted_proxies)
        if not isinstance(header, str) or not _HEADER.fullmatch(header.lower()):
            message = f"header={header!r} is not like 'x-forwarded-for'"
            raise ConfigurationError(message)
        if not isinstance(ipv6_prefix, int) or not 1 <= ipv6_prefix <= 128:  # noqa: PLR2004 -- bits of an address
            message = f"ipv6_prefix={ipv6_prefix!r} is not from 1 to 128"
            raise ConfigurationError(message)
        self._unix = _Host(_UNIX, _UNIX in proxies)
        self._networks = tuple(_network(one) for one in proxies if one != _UNIX)
        self._prefix = ipv6_prefix
        self._header = header.lower().encode()
        self._nodes = _READERS.get(header.lower(), _single)
        self._told: Callable[[str], _Host | None] = lru_cache(_REMEMBERED)(self._tell)

    def __call__(self, scope: Scope) -> str:
        """
        The address of the client of this http or websocket scope.
        """
        peer = scope.get("client")
        host = self._host(peer[0]) if peer and peer[0] else self._unix
        if host is None:
            return _UNKNOWN
        if host.trusted:
            return self._behind(host, header_values(scope, self._header))
        return host.key

    def _behind(self, host: _Host, lines: list[bytes]) -> str:
        for node in self._nodes(lines):
            nearer = self._host(_address_of(node))
            if nearer is None:
                break
            host = nearer
            if not host.trusted:
                break
        return host.key

    def _host(self, text: str) -> _Host | None:
        return self._told(text) if len(text) <= _LONGEST_NODE else None

    def _tell(self, text: str) -> _Host | None:
        try:
            address = ip_address(text.partition("%")[0])  # the rest is a zone of the host
        except ValueError:
            return None
        if isinstance(address, IPv6Address):
            address = address.ipv4_mapped or address
        trusted = any(address in network for network in self._networks)
        return _Host(self._key(address), trusted)

    def _key(self, address: IPv4Address | IPv6Address) -> str:
        if address in _TRANSLATED:
            # Trusted it is not: what IPv4 network it is of is the translator's word.
            address = IPv4Address(int(address) & 0xFFFF_FFFF)
        if isinstance(address, IPv4Address) or self._prefix == address.max_prefixlen:
            return str(address)
        return str(IPv6Network((address, self._prefix), strict=False))


def _network(text: str) -> Network:
    try:
        network = ip_network(text)
    except ValueError as error:
        message = f"trusted proxy {text!r}: {error}"
        raise ConfigurationError(message) from error
    if network.prefixlen == 0:
        message = (
            f"trusted proxy {text!r} trusts everybody, who could then call themselves anything"
        )
        raise ConfigurationError(message)
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped:
        message = f"trusted proxy {text!r}: write the IPv4 network, which is what is compared"
        raise ConfigurationError(message)
    return network


def _address_of(node: str) -> str:
    # "192.0.2.1:80", "[2001:db8::1]:80", and "2001:db8::1", where no port can follow.
    if node.count(":") > 1 and "[" not in node:
        return node
    found = _NODE.fullmatch(node) if len(node) <= _LONGEST_NODE else None
    return (found[1] or found[2] or "") if found else ""


def _single(lines: list[bytes]) -> Iterator[str]:
    if len(lines) == 1:
        yield lines[0].decode("latin-1").strip(" \t")


def _x_forwarded_for(lines: list[bytes]) -> Iterator[str]:
    left = _MOST_HOPS
    for line in reversed(lines):
        for node in reversed(line.rsplit(b",", left)[-left:]):
            yield node.decode("latin-1").strip(" \t")
            left -= 1
        if left <= 0:
            return


def _forwarded(lines: list[bytes]) -> Iterator[str]:
    # A line at a time: what a client has left open must not swallow the proxy's line.
    left = _MOST_HOPS
    for line in reversed(lines):
        elements = _elements(line.decode("latin-1")) if len(line) <= _LONGEST_FORWARDED else [""]
        for node in reversed(elements[-left:]):
            yield node
            left -= 1
        if left <= 0:
            return


def _elements(line: str) -> list[str]:
    # The "for" of each element, "" where it has none.  A line that breaks the
    # grammar anywhere, or has too many, is one element that says nothing.
    nodes: list[str] = []
    seen: dict[str, str] = {}
    position = 0
    while len(nodes) < _MOST_HOPS and (pair := _PAIR.match(line, position)):
        name, token, quoted, separator = pair.groups()
        if name is not None:
            if name.lower() in seen:
                break
            seen[name.lower()] = token if quoted is None else _ESCAPED.sub(r"\1", quoted)
        if separator != ";":
            nodes.append(seen.get("for", ""))
            seen = {}
        if not separator:
            return nodes
        position = pair.end()
    return [""]


_READERS: dict[str, Callable[[list[bytes]], Iterator[str]]] = {
    "x-forwarded-for": _x_forwarded_for,
    "forwarded": _forwarded,
}
