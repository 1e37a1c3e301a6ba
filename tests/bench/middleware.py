"""
What `TenantMiddleware` adds to a request, in process (gate G6).

A bare Starlette app, the same behind ours, and the same behind the nearest
public alternative, `fastapi-tenancy`, in rounds that alternate.  The time is
this process's CPU time, because nothing here waits.

Theirs reads one bearer token (HS256, audience) and looks the tenant up in its
memory store.  Ours reads the same token, checks the issuer too, and looks up
in `CachedTenantDirectory`; "agreement" also compares header and host and asks
for membership.  "first use" is ours without remembered tokens.

Run alone, it prints its rows as JSON: `python -m tests.bench.middleware`.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import jwt
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from twh_platform.tenancy import (
    Agreement,
    CachedTenantDirectory,
    HeaderResolver,
    HostResolver,
    MemoryTenantDirectory,
    Tenant,
    TenantMiddleware,
)
from twh_platform.tenancy.jwt import JWTResolver

from ._rows import Row, paired_row

__all__ = ["rows"]

_SECRET = "a shared secret of thirty-two bytes or more"
_AUDIENCE, _ISSUER = "warehouse", "https://id.example.com"
_ROUNDS, _REQUESTS, _WARM_UP = 41, 150, 50

App = Callable[..., Any]


def rows() -> list[dict[str, Any]]:
    """
    Measure, and return the rows as the bench runner takes them.
    """
    microseconds = asyncio.run(_measure(_variants()))
    return [asdict(row) for row in _rows(microseconds)]


def _rows(taken: Mapping[str, list[float]]) -> Iterator[Row]:
    bare = taken["bare"]

    def added(name: str) -> list[float]:
        return [more - less for more, less in zip(taken[name], bare, strict=True)]

    yield paired_row(
        "middleware on a bare app",
        "GET, remembered JWT, cached directory; CPU",
        unit="us/request",
        ours=taken["jwt"],
        reference=bare,
        target=None,
    )
    if "fastapi-tenancy" not in taken:
        return
    for name in ("jwt", "agreement", "first use"):
        yield paired_row(
            f"middleware alone, {name}",
            "added to a bare app; against fastapi-tenancy, JWT; CPU",
            unit="us/request",
            ours=added(name),
            reference=added("fastapi-tenancy"),
            target=None if name == "first use" else 1.0,
        )


def _variants() -> dict[str, App]:
    bare = Starlette(routes=[Route("/items", _endpoint)])
    directory = CachedTenantDirectory(MemoryTenantDirectory([Tenant(id="acme")]), ttl=3600)

    def ours(resolver: Any) -> App:
        return TenantMiddleware(
            bare, resolver=resolver, directory=directory, public_paths=["/healthz"]
        )

    agreement = Agreement(
        _jwt_resolver(),
        HeaderResolver(),
        HostResolver("{tenant}.example.com"),
        member=lambda user_id, _tenant_id: user_id == "user-1",
    )
    variants: dict[str, App] = {
        "bare": bare,
        "jwt": ours(_jwt_resolver()),
        "agreement": ours(agreement),
        "first use": ours(_jwt_resolver(cache_capacity=0)),
    }
    theirs = _fastapi_tenancy(bare)
    return variants if theirs is None else {**variants, "fastapi-tenancy": theirs}


async def _endpoint(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")


def _jwt_resolver(**options: Any) -> JWTResolver:
    return JWTResolver(
        keys=_SECRET, algorithms=["HS256"], audience=_AUDIENCE, issuer=_ISSUER, **options
    )


def _fastapi_tenancy(app: App) -> App | None:
    try:
        middleware = importlib.import_module("fastapi_tenancy.middleware.tenancy")
        resolution = importlib.import_module("fastapi_tenancy.resolution.jwt")
        memory = importlib.import_module("fastapi_tenancy.storage.memory")
        types = importlib.import_module("fastapi_tenancy.core.types")
    except ImportError:
        sys.stderr.write("fastapi-tenancy is not installed: no row compares with it\n")
        return None
    store = memory.InMemoryTenantStore()
    tenant = types.Tenant(id="1", identifier="acme", name="Acme")
    asyncio.run(store.create(tenant))
    resolver = resolution.JWTTenantResolver(store, _SECRET, audience=_AUDIENCE)
    # What the middleware reads of its manager; the rate limit is off.
    manager = SimpleNamespace(resolver=resolver, config=SimpleNamespace(enable_rate_limiting=False))
    made: App = middleware.TenancyMiddleware(app, manager, excluded_paths=["/healthz"])
    return made


async def _measure(variants: Mapping[str, App]) -> dict[str, list[float]]:
    scope = _scope()
    for app in variants.values():
        await _requests(app, scope, _WARM_UP)
    taken: dict[str, list[float]] = {name: [] for name in variants}
    draw = random.Random(0)
    for _ in range(_ROUNDS):
        for name in draw.sample(list(variants), len(variants)):
            begun = time.process_time()
            await _requests(variants[name], scope, _REQUESTS)
            taken[name].append((time.process_time() - begun) / _REQUESTS * 1e6)
    return taken


async def _requests(app: App, scope: Mapping[str, Any], count: int) -> None:
    for _ in range(count):
        await app(dict(scope), _receive, _send)


async def _receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send(message: Mapping[str, Any]) -> None:
    if message.get("status", 200) != 200:
        error = f"answered {message['status']}, so this measures nothing"
        raise AssertionError(error)


def _scope() -> dict[str, Any]:
    claims = {
        "tenant_id": "acme",
        "sub": "user-1",
        "aud": _AUDIENCE,
        "iss": _ISSUER,
        "exp": time.time() + 3600,
        "scope": "items:read items:write stock:read stock:adjust",
        "roles": ["clerk", "receiver"],
    }
    token = jwt.encode(claims, _SECRET, "HS256")
    headers = {
        "host": "acme.example.com",
        "user-agent": "bench",
        "accept": "application/json",
        "accept-encoding": "gzip",
        "connection": "keep-alive",
        "x-tenant-id": "acme",
        "authorization": f"Bearer {token}",
    }
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/items",
        "raw_path": b"/items",
        "root_path": "",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 5000),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(rows(), indent=2) + "\n")
