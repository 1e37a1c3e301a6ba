"""
The endpoint that Prometheus scrapes: an ASGI app, guarded and cached.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import time
import weakref
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from .._asgi import Problem, Receive, Scope, Send, header_values
from ..errors import ConfigurationError
from ._accept import accepts_gzip, choose_format
from ._exposition import OPENMETRICS_TYPE
from ._peers import PeerNetworks
from ._registry import Registry

__all__ = ["MetricsApp"]

_LOOPBACK = ("127.0.0.0/8", "::1/128")
_LEAST_TOKEN = 16
# How one calls one's own machine.  A page in its browser can have any name lead here.
_OWN_HOST = re.compile(rb"(?i:localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])(?::[0-9]{1,5})?")
# Fast, and still a twentieth of the size: a page repeats itself.
_LEVEL = 1
_GZIP = 31  # zlib's number for a gzip header and 2**15 bytes of window
_PIECE = 64 * 1024

_REFUSED = Problem(status=403, code="metrics_refused", title="Metrics are not served here")
_MISSING = Problem(
    status=401,
    code="credentials_missing",
    title="Credentials are required",
    headers={"www-authenticate": "Bearer"},
)
_INVALID = Problem(
    status=401,
    code="credentials_invalid",
    title="Credentials are required",
    headers={"www-authenticate": 'Bearer error="invalid_token"'},
)
_METHOD = Problem(
    status=405,
    code="method_not_allowed",
    title="The method is not allowed",
    headers={"allow": "GET, HEAD"},
)
_own_machine = PeerNetworks(_LOOPBACK)
_Form = tuple[str, bool]


@dataclass(slots=True)
class _Pages:
    # By format and compression, of one event loop: the page and when it was made.
    made: dict[_Form, tuple[float, bytes]] = field(default_factory=dict)
    making: dict[_Form, asyncio.Task[bytes]] = field(default_factory=dict)


class MetricsApp:
    """
    Answer GET and HEAD with the page of a registry, on whatever path it is mounted.

    A page is made in small pieces, and the event loop runs in between: how
    long others wait does not depend on the number of series.  It is made once
    for all who ask at the same time, and served again for *max_age* seconds.
    Prometheus text or OpenMetrics, by Accept; compressed with gzip, if asked.

    Whoever asks needs a bearer token, or an address in *networks*.  An address
    says nothing where a proxy asks for others: a request with a forwarding
    header (`X-Forwarded-...`, `Forwarded`, `Via` and the like) needs a token.
    From the machine itself, `Host` has to be ``localhost`` or a loopback
    address, because a web page in a browser there can ask under another name.
    Behind a proxy on this machine set a token: one that adds no header cannot
    be told from the machine.  Refusals are 401 where there are tokens, else 403.

        >>> registry = Registry()
        >>> metrics = MetricsApp(registry, tokens=["a-long-random-token"])

    Args:
        registry: Whose page.

        token: A bearer token (RFC 6750), at least 16 characters.

        tokens: More of them, all good at the same time: for rotation.

        networks: Who needs no token: networks of peers, such as
            ``"10.0.0.0/8"``, and ``unix`` for unix sockets.  By default the
            machine itself, and nobody where there is a token.

        max_age: How old a page may be, in seconds.

        clock: Tells the time that pages age by, in seconds.

    Raises:
        twh_platform.errors.ConfigurationError: For a token that is too short or
            not printable ASCII, a network that is none, or a negative age.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        token: str | None = None,
        tokens: Iterable[str] = (),
        networks: Iterable[str] | None = None,
        max_age: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        given = [*tokens] if token is None else [token, *tokens]
        if networks is None:
            networks = () if given else _LOOPBACK
        self._tokens = [_checked_token(one) for one in given]
        self._peers = PeerNetworks(networks, everybody=True)
        if not max_age >= 0.0:
            raise ConfigurationError(f"max_age={max_age!r} is negative")
        self._registry = registry
        self._max_age = max_age
        self._clock = clock
        self._pages: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Pages] = (
            weakref.WeakKeyDictionary()
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Answer one request; a websocket is refused, and lifespan is not ours.
        """
        if scope["type"] == "lifespan":
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        form = choose_format(_joined(scope, b"accept"))
        gzip = accepts_gzip(_joined(scope, b"accept-encoding"))
        body = await self._page((form, gzip))
        headers = [
            (b"content-type", form.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
            (b"vary", b"accept, accept-encoding"),
            (b"x-content-type-options", b"nosniff"),
        ]
        if gzip:
            headers.append((b"content-encoding", b"gzip"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body * (scope["method"] == "GET")})

    def _refusal(self, scope: Scope) -> Problem | None:
        if scope["type"] != "http":
            return _REFUSED
        given = header_values(scope, b"authorization")
        if not self._is_near(scope) and not (len(given) == 1 and self._knows(given[0])):
            if not self._tokens:
                return _REFUSED
            return _INVALID if given else _MISSING
        return None if scope["method"] in {"GET", "HEAD"} else _METHOD

    def _is_near(self, scope: Scope) -> bool:
        if not self._peers(scope):
            return False
        hosts = header_values(scope, b"host")
        return all(map(_OWN_HOST.fullmatch, hosts)) or not _own_machine(scope)

    def _knows(self, authorization: bytes) -> bool:
        scheme, _, given = authorization.partition(b" ")
        # Every token is compared, in a time that does not depend on where they differ.
        found = [hmac.compare_digest(given.strip(), token) for token in self._tokens]
        return scheme.lower() == b"bearer" and any(found)

    async def _page(self, form: _Form) -> bytes:
        pages = self._pages.setdefault(asyncio.get_running_loop(), _Pages())
        made = pages.made.get(form)
        if made is not None and self._clock() - made[0] < self._max_age:
            return made[1]
        task = pages.making.get(form)
        if task is None:
            task = pages.making[form] = asyncio.ensure_future(self._make(form, pages))
            task.add_done_callback(lambda _: pages.making.pop(form, None))
        # One who goes away does not take the page from the others.
        return await asyncio.shield(task)

    async def _make(self, form: _Form, pages: _Pages) -> bytes:
        kind, gzip = form
        if gzip:
            body = await _compress(await self._page((kind, False)))
        else:
            pieces = []
            for piece in self._registry.slices(openmetrics=kind == OPENMETRICS_TYPE):
                pieces.append(piece)
                await asyncio.sleep(0)
            body = b"".join(pieces)
        pages.made[form] = (self._clock(), body)
        return body


async def _compress(page: bytes) -> bytes:
    compressor = zlib.compressobj(_LEVEL, wbits=_GZIP)
    pieces = []
    for start in range(0, len(page), _PIECE):
        pieces.append(compressor.compress(page[start : start + _PIECE]))
        await asyncio.sleep(0)
    return b"".join([*pieces, compressor.flush()])


def _joined(scope: Scope, name: bytes) -> str:
    return b",".join(header_values(scope, name)).decode("latin-1")


def _checked_token(token: str) -> bytes:
    if not isinstance(token, str) or len(token) < _LEAST_TOKEN or not token.isascii():
        message = f"a token is not at least {_LEAST_TOKEN} characters of ASCII"
        raise ConfigurationError(message)
    if not token.isprintable() or " " in token:
        raise ConfigurationError("a token has a space or a control character")
    return token.encode()
