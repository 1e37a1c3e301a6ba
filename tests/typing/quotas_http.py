"""
Quotas over HTTP as a service author writes them; checked, never run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_type

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request

from twh_platform import Problem
from twh_platform.quotas import (
    QUOTA_PROBLEM_TYPES,
    ClientAddress,
    Decision,
    HeaderEmitter,
    Limiter,
    MemoryQuotaStore,
    QuotaMiddleware,
    Rate,
    RateLimitHeaders,
    Receipt,
    RetryAfter,
    RouteTable,
    Scope,
    charge_actual,
    quota_problem,
    quota_receipt,
)

limiter = Limiter(
    MemoryQuotaStore(), rules=[Rate(name="login", limit=5, per=60, scope=Scope.CLIENT)]
)


def own_fields(decision: Decision) -> list[tuple[bytes, bytes]]:
    """Fields of another form."""
    return [(b"x-left", b"%d" % min(one.remaining for one in decision.statuses))]


def own_route(scope: Mapping[str, Any]) -> str | None:
    """The route as another framework knows it."""
    return scope.get("route")


def own_identity(scope: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The ids of user and API key."""
    return scope["state"].get("user"), scope["state"].get("key")


async def endpoint(request: Request) -> None:
    """What a handler may say of its cost."""
    assert_type(charge_actual(request.scope, 7), bool)
    assert_type(charge_actual(request.scope, {"rows": 1000}), bool)
    receipt = quota_receipt(request.scope)
    assert_type(receipt, Receipt | None)
    if receipt is not None:
        assert_type(await receipt.commit(3), bool)


address = ClientAddress(trusted_proxies=["10.0.0.0/8", "unix"], header="forwarded", ipv6_prefix=56)
assert_type(address({"client": ("192.0.2.1", 1)}), str)
assert_type(RouteTable(["/items/{id}"])({"type": "http"}), str | None)
assert_type(RouteTable.of_starlette(Starlette().routes).names(), frozenset[str])
assert_type(RetryAfter(jitter=0.5)(6.2), int)

headers: HeaderEmitter = RateLimitHeaders(
    "draft-11", "draft-06", "x-ratelimit", reset="epoch", partition_key=b"sixteen bytes or more"
)
own: HeaderEmitter = own_fields

app = Starlette(
    middleware=[
        Middleware(QuotaMiddleware, limiter=limiter, client_address=address),
        Middleware(
            QuotaMiddleware,
            limiter=limiter,
            routes=RouteTable(["GET /items/{id}"]),
            costs={"/reports": 5, "POST /exports": {"rows": 1000}},
            exempt=["/healthz"],
            identity=own_identity,
            headers=headers,
            retry_after=RetryAfter(),
            refund_unanswered=False,
        ),
    ]
)
wrapped = QuotaMiddleware(app, limiter=limiter, routes=own_route, headers=None)
other = QuotaMiddleware(app, limiter=limiter, headers=own, retry_after=int)

assert_type(QUOTA_PROBLEM_TYPES["quota_exceeded"], str)
assert_type(
    quota_problem("quota_exceeded", violated=["minute"], retry_after=6, fields=[(b"x", b"1")]),
    Problem,
)
