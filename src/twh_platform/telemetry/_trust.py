"""
Whom we believe about traces, and whom we tell.

Inbound, anybody can write `traceparent`.  Believed from a stranger it decides
what is recorded, at our cost, and puts a request into a trace of the stranger's
choice.  Outbound, ids and baggage tell a third party who calls what, and when.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import ip_address
from operator import itemgetter
from typing import Final, NamedTuple

from .._asgi import Scope
from ..errors import ConfigurationError
from ._b3 import B3_NAMES, b3_headers, b3_multi_headers, read_b3
from ._baggage import Baggage, parse_baggage
from ._peers import PeerNetworks
from ._trace_context import Headers, TraceContext, parse_traceparent, read_trace_context

__all__ = ["NOTHING", "TENANT_BAGGAGE", "Inbound", "TrustBoundary"]

TENANT_BAGGAGE: Final = "tenant.id"
"""
The baggage member that tells our services about the tenant; for reading, not for believing.
"""

_TENANT_NAMES = (TENANT_BAGGAGE, "tenant", "tenant_id", "tenant-id", "tenantid")
_NAMES: Final = {"w3c": frozenset({b"traceparent", b"tracestate"}), "b3": B3_NAMES}
# A name, or a dot and what all names below end with; no port, no scheme.
_HOST = re.compile(r"\.?[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*", re.ASCII)
_REMEMBERED = 1024
_NAME = itemgetter(0)
_LONGEST_HOST = 255


class Inbound(NamedTuple):
    """
    What a request says about its trace, as far as it is believed; a tuple, for speed.

    Args:
        parent: Where a trusted peer says that we are; its trace is continued.

        link: Where a stranger says that we are: ids to point at from a new
            root, without the sampled flag and the state.

        sampled: What a trusted peer has decided; None where nobody has.

        baggage: What a trusted peer sent along, without the tenant.
    """

    parent: TraceContext | None = None
    link: TraceContext | None = None
    sampled: bool | None = None
    baggage: Baggage | None = None


NOTHING: Final = Inbound()
"""
What most requests say: nothing that counts.  It is known by its identity.
"""


class TrustBoundary:
    """
    Decide whose trace context counts, and who is told ours.

    A trusted peer's trace is continued: its ids, its sampled flag, its
    `tracestate` and its baggage count.  From everybody else the request begins
    a trace of its own, with a link to what was sent; flag, state and baggage
    are dropped.  Nobody is trusted unless named.

    The tenant never comes from baggage, not even from a trusted peer's: the
    members ``tenant``, ``tenant.id`` and the like are removed on the way in.
    On the way out ``tenant.id`` says whom the caller of `outbound_headers` has
    verified.

        >>> boundary = TrustBoundary(networks=["10.0.0.0/8"], hosts=[".svc.example"])
        >>> sent = (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        >>> boundary.accept({"client": ("203.0.113.9", 4711), "headers": [sent]}).parent is None
        True
        >>> boundary.outbound_headers(TraceContext.root(), "api.example")
        {}

    Args:
        networks: Networks of trusted peers, and ``unix`` for unix sockets.
            They are compared with the address of the socket, and whoever sends
            a forwarding header (`X-Forwarded-...`, `Forwarded`, `Via` and the
            like) is a stranger.  A proxy that replaces the trace headers, and
            says that it forwards, is for *authenticated*.

        authenticated: Told the scope, says whether its sender is trusted; for
            what the server or a layer around this one has verified, such as a
            client certificate.  If it raises, the sender is a stranger, and
            `failures` counts.

        formats: What is read, the first that is there: ``w3c``, and ``b3`` for
            the single and the multiple headers of B3.

        hosts: Host names that are ours, which are told everything.  A leading
            dot stands for all names below: ``.svc.example``.

        sent: What they are sent: ``w3c``, ``b3``, ``b3multi``.

        everybody: Tell other hosts the `traceparent` too, and nothing else.

    Raises:
        twh_platform.errors.ConfigurationError: For a network, format or host
            that is none.
    """

    def __init__(
        self,
        *,
        networks: Iterable[str] = (),
        authenticated: Callable[[Scope], bool] | None = None,
        formats: Iterable[str] = ("w3c",),
        hosts: Iterable[str] = (),
        sent: Iterable[str] = ("w3c",),
        everybody: bool = False,
    ) -> None:
        self._peers = PeerNetworks(networks)
        self._authenticated = authenticated
        self._formats = _named("formats", formats, _NAMES)
        self._names = frozenset({b"baggage"}).union(*(_NAMES[one] for one in self._formats))
        self._sent = [_WRITERS[one] for one in _named("sent", sent, _WRITERS)]
        self._exact, self._below = _hosts(hosts)
        self._ours: Callable[[str], bool] = lru_cache(_REMEMBERED)(self._is_ours)
        self._everybody = everybody
        self._failures = 0

    @property
    def failures(self) -> int:
        """
        How often *authenticated* raised; each of those senders was a stranger.
        """
        return self._failures

    def accept(self, scope: Scope) -> Inbound:
        """
        Read what a http or websocket scope says about its trace; never raises.
        """
        names = self._names
        sent = scope.get("headers") or ()
        if names.isdisjoint(map(_NAME, sent)):
            return NOTHING  # most requests: nobody has to be judged
        headers = [pair for pair in sent if pair[0] in names]
        if len(headers) == 1 and headers[0][0] == b"traceparent":  # most others; for speed
            trusted = self._trusted(scope)
            place = parse_traceparent(headers[0][1], ids_only=not trusted)
            if place is None:
                return NOTHING
            return Inbound(place, None, place.sampled) if trusted else Inbound(None, place)
        if self._trusted(scope):
            return self._from_peer(headers)
        place, _ = self._place(headers, state=False)
        return NOTHING if place is None else Inbound(None, place.link())

    def outbound_headers(
        self,
        context: TraceContext,
        host: str,
        *,
        baggage: Baggage | None = None,
        tenant: str | None = None,
    ) -> dict[str, str]:
        """
        The headers for a request that we send to *host*; none for a stranger.

        Args:
            context: The place of the span that stands for that request.

            host: The name or address alone, without port and user.

            baggage: What to send along.

            tenant: The verified tenant's id, to be sent as ``tenant.id``.
        """
        if not self._ours(host[: _LONGEST_HOST + 1]):
            return {"traceparent": context.traceparent} if self._everybody else {}
        headers: dict[str, str] = {}
        for write in self._sent:
            headers |= write(context)
        if carried := _carried(baggage, tenant):
            headers["baggage"] = carried
        return headers

    def _trusted(self, scope: Scope) -> bool:
        if self._peers(scope):
            return True
        if self._authenticated is None:
            return False
        try:
            return self._authenticated(scope) is True
        except Exception:  # noqa: BLE001 -- a request is served whatever is known of its trace
            self._failures += 1
            return False

    def _from_peer(self, headers: Headers) -> Inbound:
        parent, sampled = self._place(headers, state=True)
        values = [value for name, value in headers if name == b"baggage"]
        if not values:
            return Inbound(parent=parent, sampled=sampled)
        baggage = parse_baggage(values)
        if baggage is not None:
            baggage = baggage.without(_TENANT_NAMES)
        return Inbound(parent=parent, sampled=sampled, baggage=baggage)

    def _place(self, headers: Headers, *, state: bool) -> tuple[TraceContext | None, bool | None]:
        for one in self._formats:
            if one == "b3":
                if (found := read_b3(headers)) is not None:
                    return found.context, found.sampled
            elif (place := read_trace_context(headers, state=state)) is not None:
                return place, place.sampled
        return None, None

    def _is_ours(self, host: str) -> bool:
        name = host.lower().removesuffix(".").strip("[]")
        return name in self._exact or name.endswith(self._below)


def _w3c_headers(context: TraceContext) -> dict[str, str]:
    headers = {"traceparent": context.traceparent}
    if context.state:
        headers["tracestate"] = context.state
    return headers


_WRITERS: Final[dict[str, Callable[[TraceContext], dict[str, str]]]] = {
    "w3c": _w3c_headers,
    "b3": b3_headers,
    "b3multi": b3_multi_headers,
}


def _carried(baggage: Baggage | None, tenant: str | None) -> str:
    if baggage is None and tenant is None:
        return ""
    own = (baggage or Baggage()).without(_TENANT_NAMES)
    if tenant is not None:
        # First, so that it is not what the limit of a header leaves out.
        own = Baggage(values={TENANT_BAGGAGE: tenant, **own.values}, properties=own.properties)
    return own.header


def _named(option: str, given: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    names = (given,) if isinstance(given, str) else tuple(given)
    if unknown := [one for one in names if one not in known]:
        message = f"{option}={unknown!r} is none of {sorted(known)!r}"
        raise ConfigurationError(message)
    return names


def _hosts(given: Iterable[str]) -> tuple[frozenset[str], tuple[str, ...]]:
    if isinstance(given, str):
        message = f"hosts={given!r} is not a list of hosts"
        raise ConfigurationError(message)
    names = tuple(given)
    if wrong := [one for one in names if not _HOST.fullmatch(one) and not _is_address(one)]:
        message = f"hosts={wrong!r} are not like 'api.example' or '.svc.example'"
        raise ConfigurationError(message)
    lower = [one.lower().strip("[]") for one in names]
    below = tuple(one for one in lower if one.startswith("."))
    return frozenset(lower) - frozenset(below), below


def _is_address(text: str) -> bool:
    try:
        ip_address(text.strip("[]"))
    except ValueError:
        return False
    return True
