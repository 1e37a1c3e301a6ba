"""
`twh_platform.testing` as a test suite uses it; checked, never run.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import assert_type

from twh_platform import Tenant
from twh_platform.testing import (
    AppAnswer,
    AppClient,
    AppRequest,
    Authorize,
    ManualClock,
    PostgresDatabase,
    PostgresServer,
    PostgresSource,
    RedisCluster,
    RedisServer,
    Replayed,
    WalkFinding,
    WalkReport,
    WalkStep,
    find_postgres,
    find_redis,
    replay,
    require_part,
    tenant_pair,
    walk,
)


def takes_clock(now: Callable[[], float]) -> None:
    """
    Stand for anything that is given a clock.
    """


clock = ManualClock(start=0)
takes_clock(clock)
takes_clock(clock.now)
takes_clock(clock.monotonic)
assert_type(clock.utc(), datetime)

sources: tuple[PostgresSource, ...] = ("system", "embedded")

with PostgresServer(
    sources=sources, data_directory=Path("data"), settings={"jit": "off"}
) as server:
    database = server.create_database("shop", owner=server.create_role("owner"))
    assert_type(database, PostgresDatabase)
    assert_type(database.dsn(user="owner", scheme="postgresql+asyncpg"), str)
    assert_type(server.version, tuple[int, int])
    with server.paused():
        pass

found = require_part("postgres", find_postgres(), hint="apt-get install postgresql")
assert_type(found.psql, Path)

with RedisServer(options={"maxmemory": "2mb"}, program=find_redis()) as redis:
    assert_type(redis.url, str)
    redis.command("SET", b"key", 1)
    with redis.frozen():
        pass

with RedisCluster(masters=3, replicas=1) as cluster:
    assert_type(cluster.failover(cluster.master_of("key"), kill=True), RedisServer)
    cluster.heal()


def as_header(request: AppRequest, tenant: Tenant) -> AppRequest:
    """
    Put the tenant into a header.
    """
    return request.with_header("X-Tenant-ID", tenant.id)


async def as_token(request: AppRequest, tenant: Tenant) -> AppRequest:
    """
    Fetch a token first.
    """
    return request.with_header("Authorization", f"Bearer {tenant.id}")


ways: list[Authorize] = [as_header, as_token]


async def app(scope: object, receive: object, send: object) -> None:
    """
    Stand for any ASGI app.
    """


async def suite() -> None:
    """
    Walk, replay and send.
    """
    first, _other = pair = tenant_pair(uuids=True)
    assert_type(first, Tenant)
    request = AppRequest.of("POST /items", json={"sku": "A"}, headers={"X-A": "1"})
    assert_type(request.with_path("/other").with_json([1]), AppRequest)
    async with AppClient(app, timeout=1.0) as client:
        assert_type(await client.send(request), AppAnswer)
    assert_type(await replay(app, request, tenants=pair, authorize=as_header), Replayed)
    report = await walk(
        app,
        tenants=pair,
        authorize=as_token,
        document={"paths": {}},
        routes=["GET /items/{id}"],
        steps=[WalkStep("POST /items", {"sku": "{mark}"}, keep={"bolt_id": "id"})],
        exceptions={"GET /health": "the same for everyone"},
        work=lambda: 0,
    )
    assert_type(report, WalkReport)
    assert_type(report.findings, list[WalkFinding])


WalkStep("GET /items", None, {})  # type: ignore[call-arg]
ManualClock(0, 0)  # type: ignore[call-arg]
PostgresServer(sources=["docker"])  # type: ignore[list-item]
