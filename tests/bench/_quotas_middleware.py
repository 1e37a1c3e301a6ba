"""
What `QuotaMiddleware` adds to a request, in process (gate G6).

Two rules, headers on, in memory: a route of Starlette and one of FastAPI, bare,
behind ours, and with slowapi doing the same, in rounds that alternate.  The
time is this process's CPU time, because nothing here waits.  The tenant is
bound outside of what is measured.
"""

from __future__ import annotations

import asyncio
import importlib.util
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from twh_platform import Tenant, bind_tenant
from twh_platform.quotas import Limiter, MemoryQuotaStore, Plan, Plans, QuotaMiddleware, Rate

from ._rows import Row, paired_row

__all__ = ["middleware_rows"]

_HUGE = 1_000_000
_ROUNDS, _REQUESTS, _WARM_UP = 31, 150, 50

App = Callable[..., Any]


def middleware_rows() -> list[Row]:
    """
    Measure both frameworks.
    """
    rows = []
    for framework, make in (("Starlette", _starlette), ("FastAPI", _fastapi)):
        taken = asyncio.run(_measure(make()))
        rows += _rows(framework, taken)
    return rows


def _rows(framework: str, taken: Mapping[str, list[float]]) -> list[Row]:
    def added(name: str) -> list[float]:
        return [more - less for more, less in zip(taken[name], taken["bare"], strict=True)]

    rows = [
        paired_row(
            f"quota middleware on {framework}",
            "2 rules, headers, memory; added CPU; against 15 us",
            unit="us/request",
            ours=added("ours"),
            reference=[15.0] * len(taken["ours"]),
            target=1.0,
        )
    ]
    if "slowapi" in taken:
        rows.append(
            paired_row(
                f"quota middleware on {framework} against slowapi",
                "2 rules, headers, memory; added CPU",
                unit="us/request",
                ours=added("ours"),
                reference=added("slowapi"),
                target=0.5,
            )
        )
    return rows


def _starlette() -> dict[str, App]:
    async def endpoint(request: Request) -> JSONResponse:  # slowapi asks for the name
        return JSONResponse({"ok": True})

    bare = Starlette(routes=[Route("/items/{id}", endpoint)])
    apps: dict[str, App] = {"bare": bare, "ours": _behind(bare)}
    if importlib.util.find_spec("slowapi"):
        limiter = _slowapi()
        limited = limiter.limit(f"{_HUGE}/minute;{_HUGE}/hour")(endpoint)
        app = Starlette(routes=[Route("/items/{id}", limited)])
        app.state.limiter = limiter
        apps["slowapi"] = app
    return apps


def _fastapi() -> dict[str, App]:
    async def endpoint(request: Request) -> JSONResponse:
        return JSONResponse({"ok": True})

    bare = FastAPI()
    bare.get("/items/{id}")(endpoint)
    apps: dict[str, App] = {"bare": bare, "ours": _behind(bare)}
    if importlib.util.find_spec("slowapi"):
        limiter = _slowapi()
        app = FastAPI()
        app.get("/items/{id}")(limiter.limit(f"{_HUGE}/minute;{_HUGE}/hour")(endpoint))
        app.state.limiter = limiter
        apps["slowapi"] = app
    return apps


def _behind(app: App) -> App:
    rules = [Rate(name="minute", limit=_HUGE, per=60), Rate(name="hour", limit=_HUGE, per=3600)]
    limiter = Limiter(MemoryQuotaStore(), plans=Plans([Plan(name="bench", rules=rules)]))
    return QuotaMiddleware(app, limiter=limiter)


def _slowapi() -> Any:
    from slowapi import Limiter as SlowLimiter

    return SlowLimiter(
        key_func=lambda: "acme", headers_enabled=True, key_style="endpoint", storage_uri="memory://"
    )


async def _measure(apps: Mapping[str, App]) -> dict[str, list[float]]:
    scope = _scope()
    taken: dict[str, list[float]] = {name: [] for name in apps}
    with bind_tenant(Tenant(id="acme", tier="bench")):
        for app in apps.values():
            await _requests(app, scope, _WARM_UP)
        draw = random.Random(0)
        for _ in range(_ROUNDS):
            for name in draw.sample(list(apps), len(apps)):
                begun = time.process_time()
                await _requests(apps[name], scope, _REQUESTS)
                taken[name].append((time.process_time() - begun) / _REQUESTS * 1e6)
    return taken


async def _requests(app: App, scope: Mapping[str, Any], count: int) -> None:
    for _ in range(count):
        await app({**scope, "headers": list(scope["headers"])}, _receive, _send)


async def _receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send(message: Mapping[str, Any]) -> None:
    if message.get("status", 200) != 200:
        error = f"answered {message['status']}, so this measures nothing"
        raise AssertionError(error)


def _scope() -> dict[str, Any]:
    headers = {"host": "api.example.com", "user-agent": "bench", "accept": "application/json"}
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/items/7",
        "raw_path": b"/items/7",
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("192.0.2.1", 50000),
        "server": ("api.example.com", 443),
        "state": {},
    }
