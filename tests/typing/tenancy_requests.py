"""
Tenant resolution as a service author writes it; checked, never run.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, assert_type

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request

from twh_platform import Problem
from twh_platform.tenancy import (
    REFUSALS,
    Agreement,
    CachedTenantDirectory,
    FirstAnswer,
    FunctionResolver,
    HeaderResolver,
    HostResolver,
    MemoryTenantDirectory,
    PathResolver,
    Resolution,
    Tenant,
    TenantClaim,
    TenantDirectory,
    TenantMiddleware,
    TenantResolver,
    finish_within,
    resolution_of,
)
from twh_platform.tenancy.jwt import JWKS, BearerVerifier, JWTResolver
from twh_platform.tenancy.postgres.directory import (
    PostgresTenantDirectory,
    TenantChangeListener,
    directory_pool,
    directory_sql,
)


class Certificate:
    """A source of one's own."""

    async def resolve(self, scope: Mapping[str, Any]) -> TenantClaim | None:
        """Read the scope."""
        return TenantClaim(tenant_id=scope["certificate"], source="certificate", decides=True)


class Callable:
    """A directory of one's own."""

    async def get(self, tenant_id: str) -> Tenant | None:
        """Look up."""
        return Tenant(id=tenant_id)


async def member(user_id: str, tenant_id: str) -> bool:
    """An async membership check."""
    return user_id == tenant_id


async def later(scope: Mapping[str, Any]) -> str | None:
    """An async function as a source."""
    return scope.get("tenant")


tokens = JWTResolver(
    keys=JWKS("https://id.example.com/jwks.json"),
    algorithms=["RS256", "ES256"],
    audience="warehouse",
    issuer=("https://id.example.com", "https://old.example.com"),
    clock=time.time,
)
rotating = JWTResolver(
    keys={"new": "s" * 32, "old": b"o" * 32},
    algorithms=("HS256",),
    audience=["a", "b"],
    issuer="https://id.example.com",
)
administrators = BearerVerifier(
    keys=b"a secret of thirty-two bytes, or more",
    algorithms=["HS256"],
    audience="administrators",
    issuer="https://id.example.com",
)
resolver: TenantResolver = Agreement(
    tokens,
    HeaderResolver(),
    HostResolver("{tenant}.example.com", reserved={"www"}),
    PathResolver("/t/{tenant}"),
    Certificate(),
    FunctionResolver(later, source="own"),
    FunctionResolver(lambda scope: scope.get("tenant"), source="own", decides=True),
    member=member,
)
plain_member: TenantResolver = Agreement(rotating, member=lambda user, tenant: user == tenant)
first: TenantResolver = FirstAnswer(tokens, Certificate())

memory: TenantDirectory = MemoryTenantDirectory([Tenant(id="acme")])
cached = CachedTenantDirectory(Callable(), ttl=10)
directory: TenantDirectory = cached


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Open what the directory needs."""
    async with (
        directory_pool("postgresql://directory@db/app") as pool,
        TenantChangeListener("postgresql://directory@db/app", cached) as listener,
    ):
        await listener.wait_listening()
        assert_type(await PostgresTenantDirectory(pool).get("acme"), Tenant | None)
        yield


async def endpoint(request: Request) -> None:
    """Who is asking?"""
    resolution = resolution_of(request.scope)
    assert_type(resolution, Resolution)
    assert_type(resolution.tenant, Tenant)
    assert_type(resolution.user_id, str | None)
    assert_type(resolution.claim.claims, Mapping[str, Any])
    assert_type(await administrators.verify(request.scope), Mapping[str, Any] | None)
    assert_type(await finish_within(2.0, Callable().get("acme")), Tenant | None)


app = Starlette(
    lifespan=lifespan,
    middleware=[
        Middleware(
            TenantMiddleware, resolver=resolver, directory=directory, public_paths=["/healthz"]
        )
    ],
)
assert_type(REFUSALS["tenant_refused"], Problem)
wrapped = TenantMiddleware(Starlette(), resolver=first, directory=memory)
assert_type(directory_sql(role="directory", administrators=["admin"]), str)
