"""
Where claims are kept, and the libraries whose faults were found.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import AsyncIterator
from types import ModuleType
from typing import Any

import pytest

from twh_platform.testing import PostgresDatabase, PostgresServer, RedisServer, require_part
from twh_platform.webhooks import MemoryReplayStore


@pytest.fixture(params=["memory", "redis", "postgres"])
def server(request: pytest.FixtureRequest) -> Any:
    """
    Where claims are kept: nowhere but in this process, a Redis, or a PostgreSQL.
    """
    if request.param == "memory":
        return None
    fixture = {"redis": "redis_server", "postgres": "twh_postgres"}[request.param]
    return request.getfixturevalue(fixture)


@pytest.fixture
def server_version(server: Any) -> str:
    """
    How the table of the attacks names it.
    """
    if server is None:
        return "in memory"
    name = "Redis" if isinstance(server, RedisServer) else "PostgreSQL"
    return f"{name} {'.'.join(map(str, server.version))}"


@pytest.fixture
async def store(request: pytest.FixtureRequest, server: Any) -> AsyncIterator[Any]:
    """
    A replay store, empty.
    """
    if server is None:
        yield MemoryReplayStore()
    elif isinstance(server, RedisServer):
        from redis.asyncio import Redis

        from twh_platform.webhooks.redis import RedisReplayStore

        server.command("FLUSHALL")
        # A busy machine is no attack.
        redis = RedisReplayStore(lambda: Redis.from_url(server.url), timeout=10)
        yield redis
        await redis.aclose()
    else:
        from tests.support.postgres_webhooks import tenant_pool, webhooks_database
        from twh_platform.webhooks.postgres.store import PostgresReplayStore

        async with tenant_pool(webhooks_database(request)) as pool:
            yield PostgresReplayStore(pool.connection, timeout=10)


@pytest.fixture
def database(request: pytest.FixtureRequest, twh_postgres: PostgresServer) -> PostgresDatabase:
    """
    The tables of claims and of payments, empty.
    """
    from tests.support.postgres_webhooks import webhooks_database

    return webhooks_database(request)


@pytest.fixture
def standardwebhooks() -> ModuleType:
    """
    The module of the library of this name.
    """
    return _library("standardwebhooks.webhooks")


@pytest.fixture
def svix() -> ModuleType:
    """
    The webhooks of the library of this name.
    """
    return _library("svix.webhooks")


@pytest.fixture
def stripe() -> ModuleType:
    """
    The library of this name.
    """
    return _library("stripe")


@pytest.fixture
def message_signatures() -> ModuleType:
    """
    The library http-message-signatures.
    """
    return _library("http_message_signatures")


def _library(name: str) -> ModuleType:
    found = importlib.util.find_spec(name.partition(".")[0])
    require_part("anchors", found, hint=f"{name}, of the group `anchors` in pyproject.toml")
    return importlib.import_module(name)
