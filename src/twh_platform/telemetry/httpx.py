"""
Requests that httpx sends, told to `ClientCalls` by its transports.

    >>> import httpx
    >>> client = watch_client(httpx.AsyncClient(), calls)  # doctest: +SKIP
    >>> transport = AsyncTelemetryTransport(httpx.AsyncHTTPTransport(), calls)  # doctest: +SKIP

A transport is where httpx means this to stand: its event hooks hear nothing of
a request that fails.  Each redirect is a request of its own.  A time ends with
the headers of the response, since its body may be read for hours or never.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from .._extras import missing_extra
from ._clients import ClientCalls, HttpCall

try:
    import httpx
except ImportError as cause:
    raise missing_extra("httpx", cause) from cause

__all__ = ["AsyncTelemetryTransport", "TelemetryTransport", "watch_client"]

C = TypeVar("C", httpx.Client, httpx.AsyncClient)


class _Telling:
    def __init__(self, calls: ClientCalls) -> None:
        self._calls = calls

    @contextmanager
    def _telling(self, request: httpx.Request) -> Iterator[HttpCall]:
        url = request.url
        call = self._calls.request(request.method, url.host, _port(url), url.scheme)
        headers = self._calls.outbound_headers(call, url.host)
        # What is there was put there by somebody who knows better.
        added = [name for name in headers if name not in request.headers]
        for name in added:
            request.headers[name] = headers[name]
        try:
            with call:
                yield call
        finally:
            # httpx copies the headers of a request to the one that follows a redirect,
            # which may go to a stranger.
            for name in added:
                request.headers.pop(name, None)


class TelemetryTransport(httpx.BaseTransport, _Telling):
    """
    A transport that tells *calls* what goes through *transport*.

    Args:
        transport: What sends.

        calls: What is told, and whose `TrustBoundary` says who is sent trace
            context.
    """

    def __init__(self, transport: httpx.BaseTransport, calls: ClientCalls) -> None:
        super().__init__(calls)
        self._transport = transport

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """
        See `httpx.BaseTransport`.
        """
        with self._telling(request) as call:
            response = self._transport.handle_request(request)
            call.end(response.status_code)
            return response

    def close(self) -> None:
        """
        Close the transport inside.
        """
        self._transport.close()


class AsyncTelemetryTransport(httpx.AsyncBaseTransport, _Telling):
    """
    The same for `httpx.AsyncClient`.

    Args:
        transport: What sends.

        calls: What is told.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport, calls: ClientCalls) -> None:
        super().__init__(calls)
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """
        See `httpx.AsyncBaseTransport`.
        """
        with self._telling(request) as call:
            response = await self._transport.handle_async_request(request)
            call.end(response.status_code)
            return response

    async def aclose(self) -> None:
        """
        Close the transport inside.
        """
        await self._transport.aclose()


def watch_client(client: C, calls: ClientCalls) -> C:
    """
    Put the transports of *client* into such ones, and return it.

    It is for a client that is there already, with its proxies, limits and
    certificates: httpx makes them when a client is made, and has no other
    place to hand one in.  Said again, it changes nothing.

    Args:
        client: The client.

        calls: What is told.
    """
    watched: Any = client
    kind: Any = TelemetryTransport
    if isinstance(client, httpx.AsyncClient):
        kind = AsyncTelemetryTransport

    def wrap(transport: Any) -> Any:
        if transport is None or isinstance(transport, _Telling):
            return transport
        return kind(transport, calls)

    watched._transport = wrap(watched._transport)  # noqa: SLF001
    mounts = watched._mounts  # noqa: SLF001
    for pattern, transport in list(mounts.items()):
        mounts[pattern] = wrap(transport)
    return client


def _port(url: httpx.URL) -> int | None:
    return url.port or {"http": 80, "https": 443}.get(url.scheme)
