"""
What telemetry adds to a request, in process, beside others.

The time is this process's CPU time, because nothing here waits.  A round takes
the fastest of three blocks of each contender, in an order that is drawn anew,
and ratios are those of one round.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from ._rows import Row, paired_row
from ._telemetry_apps import Contender, Makers, event_streams, fastapi_apps, routed, starlette_apps

__all__ = ["fastapi_rows", "route_rows", "sse_rows", "starlette_rows"]

_BLOCKS, _WARM_UP = 3, 60
_METRICS, _UNSAMPLED = "ours, metrics", "ours, metrics, unsampled"
_TENANTS, _SAMPLED = "ours, metrics, tenants, unsampled", "ours, metrics, sampled"
_SDK = "ours, metrics, unsampled by the SDK"

Taken = dict[str, list[float]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


def starlette_rows(*, rounds: int) -> list[Row]:
    """
    One route of Starlette.
    """
    taken = asyncio.run(_measure(starlette_apps(), rounds=rounds))
    targets = {_METRICS: 1.6, _TENANTS: 1.8, _SAMPLED: 5.0}
    return [
        *_on_bare("starlette", taken, targets),
        *_against("starlette", taken, _METRICS, "instrumentator, metrics", 1.0),
        *_against("starlette", taken, _METRICS, "starlette_exporter, metrics", 1.0),
        *_against("starlette", taken, _TENANTS, "OpenTelemetry, metrics, unsampled", 0.15),
        *_against("starlette", taken, _TENANTS, "OpenTelemetry, unsampled", None),
        *_against("starlette", taken, _SAMPLED, "OpenTelemetry, metrics, sampled", 0.35),
        *_against("starlette", taken, _SAMPLED, "OpenTelemetry, sampled", None),
        *_against("starlette", taken, _UNSAMPLED, _SDK, 0.65),
    ]


def fastapi_rows(*, rounds: int) -> list[Row]:
    """
    One route of FastAPI, which has instrumentation of its own.
    """
    taken = asyncio.run(_measure(fastapi_apps(), rounds=rounds))
    native = "FastAPI's own" if "FastAPI's own, sampled" in taken else "OpenTelemetry"
    return [
        *_on_bare("fastapi", taken, {_UNSAMPLED: 1.3, _SAMPLED: 2.2}),
        *_against("fastapi", taken, _UNSAMPLED, f"{native}, metrics, unsampled", 0.5),
        *_against("fastapi", taken, _TENANTS, f"{native}, metrics, unsampled", 0.5),
        *_against("fastapi", taken, _SAMPLED, f"{native}, metrics, sampled", 0.5),
    ]


def sse_rows(*, rounds: int) -> list[Row]:
    """
    An event stream of twenty chunks.
    """
    taken = asyncio.run(
        _measure(event_streams(), rounds=rounds, requests=25, path="/events", receive=_open_end)
    )
    return _on_bare("sse", taken, {_METRICS: 1.15, _SAMPLED: 1.6})


def route_rows(*, rounds: int) -> list[Row]:
    """
    What is added where sixty routes are tried before, against where none is.
    """
    near, far = routed(far=False), routed(far=True)
    named = {f"near {name}": one for name, one in near.items()}
    named |= {f"far {name}": one for name, one in far.items()}
    taken = asyncio.run(_measure(named, rounds=rounds))
    return [
        paired_row(
            f"routes: {name}",
            "added behind 60 routes; against added behind none; CPU",
            unit="us/request",
            ours=_added(taken, f"far {name}", "far bare"),
            reference=_added(taken, f"near {name}", "near bare"),
            target=1.1 if name == _METRICS else None,
        )
        for name in near
        if name != "bare"
    ]


def _on_bare(part: str, taken: Taken, targets: Mapping[str, float]) -> list[Row]:
    return [
        paired_row(
            f"{part}: {name}",
            "whole request; against the bare app; CPU",
            unit="us/request",
            ours=series,
            reference=taken["bare"],
            target=targets.get(name),
        )
        for name, series in taken.items()
        if name != "bare"
    ]


def _against(part: str, taken: Taken, ours: str, theirs: str, target: float | None) -> list[Row]:
    if theirs not in taken:
        return []
    return [
        paired_row(
            f"{part} added: {ours.removeprefix('ours, ')}, against {theirs}",
            "added to the bare app; CPU",
            unit="us/request",
            ours=_added(taken, ours, "bare"),
            reference=_added(taken, theirs, "bare"),
            target=target,
        )
    ]


def _added(taken: Taken, name: str, bare: str) -> Sequence[float]:
    return [more - less for more, less in zip(taken[name], taken[bare], strict=True)]


async def _measure(
    makers: Makers,
    *,
    rounds: int,
    requests: int = 100,
    path: str = "/items/7",
    receive: Receive | None = None,
) -> Taken:
    scope, get = _scope(path), receive or _no_body
    contenders = {name: make() for name, make in makers.items()}
    for one in contenders.values():
        await _block(one, scope, get, _WARM_UP)
    taken: Taken = {name: [] for name in contenders}
    draw = random.Random(0)
    for _ in range(rounds):
        for name in draw.sample(list(contenders), len(contenders)):
            blocks = [await _block(contenders[name], scope, get, requests) for _ in range(_BLOCKS)]
            taken[name].append(min(blocks))
    return taken


async def _block(
    contender: Contender, scope: Mapping[str, Any], receive: Receive, requests: int
) -> float:
    begun = time.process_time()
    for _ in range(requests):
        await contender.app(dict(scope), receive, _send)
    contender.flush()
    return (time.process_time() - begun) / requests * 1e6


async def _no_body() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _open_end() -> dict[str, Any]:
    # A client that stays: a receive that always returns would keep Starlette's listener busy.
    await asyncio.Event().wait()
    raise AssertionError


async def _send(message: Mapping[str, Any]) -> None:
    if message.get("status", 200) != 200:
        error = f"answered {message['status']}, so this measures nothing"
        raise AssertionError(error)


def _scope(path: str) -> dict[str, Any]:
    headers = {"host": "api.example.com", "user-agent": "bench", "accept": "application/json"}
    return {
        "type": "http",
        # As uvicorn says: below 2.4, Starlette listens for the disconnect of a stream.
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("192.0.2.1", 50000),
        "server": ("api.example.com", 443),
        "state": {},
    }
