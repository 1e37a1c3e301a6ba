"""
Who is at the other end of the socket, and whether the address is on our list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from .._asgi import Scope
from ..errors import ConfigurationError

__all__ = ["PeerNetworks"]

_UNIX = "unix"
# 45 characters of address, "%" and a zone, with room to spare.
_LONGEST_ADDRESS = 80
_REMEMBERED = 4096
# Whoever forwards for others is not the one who asks.
_FORWARDING = frozenset(
    {
        b"cf-connecting-ip",
        b"fastly-client-ip",
        b"fly-client-ip",
        b"forwarded",
        b"true-client-ip",
        b"via",
        b"x-client-ip",
        b"x-cluster-client-ip",
        b"x-original-forwarded-for",
        b"x-real-ip",
    }
)
_FORWARDED = b"x-forwarded"  # -for, -host, -proto and whatever else proxies make of it


class PeerNetworks:
    """
    Tell whether a request's peer is in one of some networks.

    The peer is the client of the socket, as the server has it in
    ``scope["client"]``.  A request that says it was forwarded is nobody's in
    our networks, whatever address is there: a server that believes its proxies
    (uvicorn believes those on its machine, unless told otherwise) puts the word
    of `X-Forwarded-For` there, address and port, which a stranger may have
    written.  Headers only take away: none of them brings anybody in.

        >>> peers = PeerNetworks(["10.0.0.0/8"])
        >>> peer = ("10.1.2.3", 4711)
        >>> peers({"client": peer, "headers": []})
        True
        >>> peers({"client": peer, "headers": [(b"x-forwarded-for", b"10.1.2.3:4711")]})
        False

    Args:
        networks: Addresses and networks, and ``unix`` for a peer on a unix socket.

        everybody: Allow a network that everybody is in, such as ``0.0.0.0/0``.

    Raises:
        twh_platform.errors.ConfigurationError: For what is no network, and for
            one that everybody is in, unless that is allowed.
    """

    def __init__(self, networks: Iterable[str], *, everybody: bool = False) -> None:
        if isinstance(networks, str):
            message = f"networks={networks!r} is not a list of networks"
            raise ConfigurationError(message)
        names = tuple(networks)
        self._unix = _UNIX in names
        self._networks = tuple(_network(one) for one in names if one != _UNIX)
        if not everybody and (wide := [str(one) for one in self._networks if not one.prefixlen]):
            message = f"networks={wide!r} have everybody in them"
            raise ConfigurationError(message)
        self._known: Callable[[str], bool] = lru_cache(_REMEMBERED)(self._tell)

    def __call__(self, scope: Scope) -> bool:
        """
        Whether the peer of this http or websocket scope is in one of them.
        """
        return self._has(scope.get("client")) and not _is_forwarded(scope)

    def _has(self, peer: Sequence[Any] | None) -> bool:
        if not peer or not peer[0]:
            return self._unix
        if not peer[1]:
            return False  # no socket has port 0: it is out of a header
        return len(peer[0]) <= _LONGEST_ADDRESS and self._known(peer[0])

    def _tell(self, text: str) -> bool:
        try:
            address = ip_address(text.partition("%")[0])  # the rest is a zone of the host
        except ValueError:
            return False
        if isinstance(address, IPv6Address):
            address = address.ipv4_mapped or address
        return any(address in network for network in self._networks)


def _is_forwarded(scope: Scope) -> bool:
    names = (name.lower() for name, _ in scope.get("headers") or ())
    return any(name in _FORWARDING or name.startswith(_FORWARDED) for name in names)


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(text)
    except ValueError as error:
        message = f"network {text!r}: {error}"
        raise ConfigurationError(message) from error
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped:
        message = f"network {text!r}: write the IPv4 network, which is what is compared"
        raise ConfigurationError(message)
    return network
