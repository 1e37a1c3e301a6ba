"""
Who is at the other end of the socket, and whether the address is on our list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from .._asgi import Scope
from ..errors import ConfigurationError

__all__ = ["PeerNetworks"]

_UNIX = "unix"
# 45 characters of address, "%" and a zone, with room to spare.
_LONGEST_ADDRESS = 80
_REMEMBERED = 4096


class PeerNetworks:
    """
    Tell whether a request's peer is in one of some networks.

    The peer is the client of the socket, as the server has it in
    ``scope["client"]``; no header is read.  A server that puts a forwarded
    address there (uvicorn's ``--proxy-headers``, for proxies that it trusts)
    gives it port 0, which no socket has: such a peer is in no network, because
    what counts then is the word of a header.

        >>> peers = PeerNetworks(["10.0.0.0/8"])
        >>> peers({"client": ("10.1.2.3", 4711)}), peers({"client": ("10.1.2.3", 0)})
        (True, False)

    Args:
        networks: Addresses and networks, and ``unix`` for a peer on a unix socket.

    Raises:
        twh_platform.errors.ConfigurationError: For what is no network, and for
            one that everybody is in.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        if isinstance(networks, str):
            message = f"networks={networks!r} is not a list of networks"
            raise ConfigurationError(message)
        names = tuple(networks)
        self._unix = _UNIX in names
        self._networks = tuple(_network(one) for one in names if one != _UNIX)
        self._known: Callable[[str], bool] = lru_cache(_REMEMBERED)(self._tell)

    def __bool__(self) -> bool:
        return self._unix or bool(self._networks)

    def __call__(self, scope: Scope) -> bool:
        """
        Whether the peer of this http or websocket scope is in one of them.
        """
        peer = scope.get("client")
        if not peer or not peer[0]:
            return self._unix
        if not peer[1]:
            return False
        return len(peer[0]) <= _LONGEST_ADDRESS and self._known(peer[0])

    def _tell(self, text: str) -> bool:
        try:
            address = ip_address(text.partition("%")[0])  # the rest is a zone of the host
        except ValueError:
            return False
        if isinstance(address, IPv6Address):
            address = address.ipv4_mapped or address
        return any(address in network for network in self._networks)


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(text)
    except ValueError as error:
        message = f"network {text!r}: {error}"
        raise ConfigurationError(message) from error
    if network.prefixlen == 0:
        message = f"network {text!r} has everybody in it"
        raise ConfigurationError(message)
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped:
        message = f"network {text!r}: write the IPv4 network, which is what is compared"
        raise ConfigurationError(message)
    return network
