"""
Requests that aiohttp sends, told to `ClientCalls` by its tracing.

    >>> import aiohttp
    >>> session = aiohttp.ClientSession(trace_configs=[trace_config(calls)])  # doctest: +SKIP

A request and its redirects are one call, named after its first host.  A time
ends with the headers of the last response.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from .._extras import missing_extra
from ._clients import ClientCalls, HttpCall

try:
    import aiohttp
    from yarl import URL
except ImportError as cause:
    raise missing_extra("aiohttp", cause) from cause

__all__ = ["trace_config"]


def trace_config(calls: ClientCalls) -> aiohttp.TraceConfig:
    """
    What to give `aiohttp.ClientSession` in ``trace_configs``.

    Args:
        calls: What is told, and whose `TrustBoundary` says who is sent trace
            context.
    """
    listener = _Listener(calls)
    config = aiohttp.TraceConfig()
    config.on_request_start.append(listener.start)
    config.on_request_redirect.append(listener.redirect)
    config.on_request_end.append(listener.end)
    config.on_request_exception.append(listener.failed)
    return config


class _Listener:
    def __init__(self, calls: ClientCalls) -> None:
        self._calls = calls

    async def start(self, _session: Any, context: SimpleNamespace, about: Any) -> None:
        url: URL = about.url
        host = url.host or ""
        call = self._calls.request(about.method, host, url.port, url.scheme)
        context.twh_call, context.twh_added = call, []
        self._add(context, about.headers, host)

    async def redirect(self, _session: Any, context: SimpleNamespace, about: Any) -> None:
        # aiohttp goes on with these same headers, to whatever host it is sent to.
        for name in context.twh_added:
            about.headers.popall(name, None)
        host = _next_host(about.response, about.url)
        if host is not None:
            self._add(context, about.headers, host)

    async def end(self, _session: Any, context: SimpleNamespace, about: Any) -> None:
        call: HttpCall = context.twh_call
        call.end(about.response.status)

    async def failed(self, _session: Any, context: SimpleNamespace, about: Any) -> None:
        call: HttpCall = context.twh_call
        call.end(error=about.exception)

    def _add(self, context: SimpleNamespace, headers: Any, host: str) -> None:
        told = self._calls.outbound_headers(context.twh_call, host)
        context.twh_added = [name for name in told if name not in headers]
        for name in context.twh_added:
            headers[name] = told[name]


def _next_host(response: Any, url: URL) -> str | None:
    # As aiohttp reads it; what it cannot read, it does not follow.
    target = response.headers.get("Location") or response.headers.get("URI")
    if not target:
        return None
    try:
        return URL(target).host or url.host if "://" in target else url.join(URL(target)).host
    except ValueError:
        return None
