"""
Keys published at a URL (JWKS), fetched off the event loop.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from io import BufferedReader, RawIOBase
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    Request,
    build_opener,
)

from ..errors import BackendUnavailableError, ConfigurationError
from ._carry import create_clean_task
from ._deadline import finish_within
from ._jwt_keys import VerifyingKey, key_set

__all__ = ["JWKS"]

_logger = logging.getLogger("twh_platform.tenancy")

_MAX_BYTES = 512 * 1024
_CHUNK_BYTES = 16 * 1024
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

Fetch = Callable[[str, float], bytes]


class JWKS:
    """
    The keys that an identity provider publishes at a URL.

    They are fetched in a thread of their own, one fetch at a time: one that was
    given up and has not ended is not followed by another.  After
    *refresh_after* a fetch runs in the background while the keys at hand go
    on; after *max_age* they are no longer believed, so a provider that is down
    is survived for that long.  An unknown `kid` makes us fetch, but never
    sooner than *min_interval* after the last attempt: a stranger cannot make
    us hammer the provider.

    Give one to `JWTResolver`; one instance serves one resolver.

        >>> keys = JWKS("https://id.example.com/.well-known/jwks.json")

    Args:
        url: An ``https`` URL; plain ``http`` on loopback only.  Redirects are
            not followed.

        refresh_after: Seconds after which the keys are fetched again.

        max_age: Seconds after which keys not confirmed are not used.

        min_interval: Seconds between two attempts.

        timeout: Seconds that a fetch may take.

        fetch: Gets the bytes at a URL within so many seconds, in a thread; it
            has to end by itself.

        clock: Seconds that never go back.
    """

    def __init__(
        self,
        url: str,
        *,
        refresh_after: float = 300.0,
        max_age: float = 3600.0,
        min_interval: float = 10.0,
        timeout: float = 5.0,
        fetch: Fetch | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        parts = urlsplit(url)
        local = parts.scheme == "http" and parts.hostname in _LOOPBACK
        if not parts.hostname or not (parts.scheme == "https" or local):
            message = f"url={url!r} is not an https URL"
            raise ConfigurationError(message)
        if not 0 < min_interval <= refresh_after <= max_age or not timeout > 0:
            message = "0 < min_interval <= refresh_after <= max_age and 0 < timeout must hold"
            raise ConfigurationError(message)
        self._url = url
        self._refresh_after, self._max_age = refresh_after, max_age
        self._min_interval, self._timeout = min_interval, timeout
        self._fetch = fetch or fetch_bytes
        self._clock = clock
        self._algorithms: frozenset[str] = frozenset()
        self._keys: tuple[VerifyingKey, ...] = ()
        self._refreshed_at = self._attempted_at = float("-inf")
        self._failure: Exception | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread: Future[bytes] | None = None

    def pin(self, algorithms: frozenset[str]) -> None:
        """
        Say which algorithms the keys are for; `JWTResolver` does.
        """
        if self._algorithms not in (frozenset(), algorithms):
            message = "this JWKS serves another resolver already; make a second one"
            raise ConfigurationError(message)
        self._algorithms = algorithms

    def keys(self) -> tuple[VerifyingKey, ...] | None:
        """
        The keys at hand, or None if a fetch has to come first.
        """
        age = self._clock() - self._refreshed_at
        if age >= self._max_age:
            return None
        if age >= self._refresh_after:
            self._refresh_soon()
        return self._keys

    async def find(self, kid: str | None, algorithm: str) -> Sequence[VerifyingKey]:
        """
        The key with this id; without an id, the only key there is.

        Raises:
            twh_platform.errors.BackendUnavailableError: With code
                ``jwks_unavailable``, if there is no such key, or none at all,
                and the last fetch failed.
        """
        keys = self.keys()
        if keys is None:
            keys = await self._refreshed()
        if not any(key.kid == kid for key in keys) and kid is not None:
            keys = await self._refreshed()
        if kid is None:
            keys = keys if len(keys) == 1 else ()
        else:
            keys = tuple(key for key in keys if key.kid == kid)
        return [key for key in keys if algorithm in key.algorithms]

    async def _refreshed(self) -> tuple[VerifyingKey, ...]:
        task = self._refresh_soon()
        if task is not None:
            await asyncio.wait((task,))
        if self._failure is not None or self.keys() is None:
            message = f"no keys from {self._url!r}: {self._failure}"
            raise BackendUnavailableError(
                message, code="jwks_unavailable", retry_after=self._min_interval
            ) from self._failure
        return self._keys

    def _refresh_soon(self) -> asyncio.Task[None] | None:
        if self._task is not None and not self._task.done():
            return self._task
        if self._thread is not None and not self._thread.done():
            return None  # given up, but not ended
        if self._clock() - self._attempted_at < self._min_interval:
            return None
        self._attempted_at = self._clock()
        self._task = create_clean_task(self._refresh(), name="jwks refresh")
        return self._task

    async def _refresh(self) -> None:
        asked_at = self._clock()
        try:
            self._thread = _start_thread(self._fetch, self._url, self._timeout)
            content = await finish_within(
                self._timeout,
                _outcome(self._thread),
                what="fetching the JWKS",
                code="jwks_unavailable",
            )
            keys = key_set(json.loads(content), self._algorithms)
        except Exception as error:  # noqa: BLE001 -- kept for those who need the keys
            self._failure = error
            _logger.warning("the keys at %s could not be refreshed: %s", self._url, error)
            return
        self._failure = None
        self._refreshed_at = asked_at
        if _identity(keys) != _identity(self._keys):
            self._keys = keys


def _start_thread(fetch: Fetch, url: str, timeout: float) -> Future[bytes]:
    # Not in the loop's executor, whose threads are for those who serve; and a
    # daemon, so that a fetch which does not end keeps no process from ending.
    future: Future[bytes] = Future()
    future.set_running_or_notify_cancel()  # from here on it cannot be cancelled

    def run() -> None:
        try:
            future.set_result(fetch(url, timeout))
        except BaseException as error:  # noqa: BLE001 -- handed to the one who waits
            future.set_exception(error)

    threading.Thread(target=run, name="twh-jwks", daemon=True).start()
    return future


async def _outcome(future: Future[bytes]) -> bytes:
    return await asyncio.wrap_future(future)


def _identity(keys: tuple[VerifyingKey, ...]) -> list[Any]:
    return [(key.kid, key.algorithms, _public_numbers(key.material)) for key in keys]


def _public_numbers(material: Any) -> object:
    if hasattr(material, "public_numbers"):
        return material.public_numbers()
    return material.public_bytes_raw()


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None


class _TimedReader(RawIOBase):
    # A socket's own timeout begins anew with each byte that arrives.
    def __init__(self, connection: socket.socket, inner: RawIOBase, deadline: float) -> None:
        self._connection, self._inner, self._deadline = connection, inner, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            message = "the answer is too slow"
            raise TimeoutError(message)
        self._connection.settimeout(left)
        return self._inner.readinto(buffer)

    def close(self) -> None:
        self._inner.close()
        super().close()


class _TimedResponse(HTTPResponse):
    # Headers and body are read through `fp`.
    def __init__(self, deadline: float, connection: socket.socket, **options: Any) -> None:
        super().__init__(connection, **options)
        inner: Any = self.fp.detach()
        self.fp = BufferedReader(_TimedReader(connection, inner, deadline))


class _Timed(HTTPHandler, HTTPSHandler):
    def __init__(self, deadline: float) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, request: Request) -> HTTPResponse:
        return self.do_open(partial(self._connect, HTTPConnection), request)

    def https_open(self, request: Request) -> HTTPResponse:
        return self.do_open(partial(self._connect, HTTPSConnection), request)

    def _connect(self, kind: type[HTTPConnection], host: str, **options: Any) -> HTTPConnection:
        connection: Any = kind(host, **options)
        connection.response_class = partial(_TimedResponse, self._deadline)
        return connection  # type: ignore[no-any-return]


def fetch_bytes(url: str, timeout: float) -> bytes:
    """
    Get what is at *url* within *timeout* seconds, at most 512 KiB.

    The time is for headers and body together.  Looking the name up is not
    bounded by it, and each address that is tried may take as long again.

    Raises:
        OSError: For every kind of failure.
    """
    opener: OpenerDirector = build_opener(_NoRedirect, _Timed(time.monotonic() + timeout))
    request = Request(url, headers={"accept": "application/json"})  # noqa: S310 -- scheme checked
    try:
        with opener.open(request, timeout=timeout) as response:
            return _read(response)
    except HTTPError as error:
        error.close()  # it holds the connection
        raise


def _read(response: HTTPResponse) -> bytes:
    content = b""
    while chunk := response.read1(_CHUNK_BYTES):
        content += chunk
        if len(content) > _MAX_BYTES:
            message = "the answer is too long"
            raise OSError(message)
    return content
