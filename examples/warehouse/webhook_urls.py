"""
Where webhooks may be sent, as far as the URL alone says it.

What a name stands for is looked up when something is sent, and may be another
address each time: a guard for that belongs where the connection is made, and
is not here yet.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

import httpx

from .problems import Refusal

__all__ = ["webhook_url"]

# Nothing that two readers of a URL are known to disagree about.
_PLAIN = re.compile(r"[!-~]{1,2000}", re.ASCII)
_DISPUTED = frozenset('\\"<>^`{|}')
# What stands for itself in every resolver: an encoded character does not.
_NAME = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?", re.ASCII)
_LOOPBACK_NAME = "localhost"
_PRIVATE_NAMES = frozenset({"internal", "local", "localhost"})
# Outside of it are addresses with one of IPv4 in them, such as those of NAT64.
_UNICAST = IPv6Network("2000::/3")
_LAST_PORT = 65_535


def webhook_url(text: str, *, loopback: bool = False) -> str:
    """
    The URL as it is kept: with `https`, without a user, to a name or a public address.

    It is read by what will send to it.

    Args:
        text: What a tenant gave.

        loopback: Whether this machine may be meant, then also with `http`.

    Raises:
        Refusal: With `url_refused`.
    """
    url = _parsed(text)
    if url.userinfo or url.fragment:
        raise _refused("It has a user, a password or a fragment.")
    here = _is_here(url.host)
    if here and loopback and url.scheme in {"http", "https"}:
        return str(url)
    if url.scheme != "https":
        raise _refused("It has to begin with https://.")
    if here or not _is_public(url.host):
        raise _refused("It names no host in public.")
    return str(url)


def _parsed(text: str) -> httpx.URL:
    if not _PLAIN.fullmatch(text) or not _DISPUTED.isdisjoint(text):
        raise _refused("It has characters that do not stand in a URL.")
    try:
        url = httpx.URL(text)
        known = _address(url.host) is not None or _NAME.fullmatch(url.raw_host.decode())
    except (httpx.InvalidURL, ValueError):  # the latter for a name that is no IDNA
        raise _refused("It is no URL.") from None
    if not known or not (url.port is None or 0 < url.port <= _LAST_PORT):
        raise _refused("It has no host, or a port that there is not.")
    return url


def _is_here(host: str) -> bool:
    address = _address(host)
    return host == _LOOPBACK_NAME if address is None else address.is_loopback


def _is_public(host: str) -> bool:
    address = _address(host)
    if isinstance(address, IPv6Address) and (address not in _UNICAST or address.sixtofour):
        return False
    if address is not None:
        return address.is_global and not address.is_multicast
    *before, last = host.rstrip(".").split(".")
    # A last part that begins with a digit is an address in one of its other
    # spellings: 127.1, 0x7f.1 (WHATWG URL, section 3.5, "ends in a number").
    return bool(before) and not last[:1].isdigit() and last not in _PRIVATE_NAMES


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _refused(why: str) -> Refusal:
    return Refusal("url_refused", why)
