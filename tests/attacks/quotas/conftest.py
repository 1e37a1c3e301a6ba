"""
A store in this process and one on Redis, and the libraries whose faults were found.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import AsyncIterator
from types import ModuleType
from typing import Any

import pytest

from twh_platform.quotas import MemoryQuotaStore
from twh_platform.testing import ManualClock, RedisServer, require_part


@pytest.fixture
def clock() -> ManualClock:
    """
    The clock of what lies in memory: half a second before the start of a minute.
    """
    return ManualClock(start=1_700_000_039.5)


@pytest.fixture(params=["memory", "redis"])
def server(request: pytest.FixtureRequest) -> RedisServer | None:
    """
    Where the quotas are kept; an empty Redis, or none.
    """
    if request.param == "memory":
        return None
    redis: RedisServer = request.getfixturevalue("redis_server")
    redis.command("FLUSHALL")
    return redis


@pytest.fixture
def server_version(server: RedisServer | None) -> str:
    """
    How the table of the attacks names it.
    """
    return "Redis {}.{}.{}".format(*server.version) if server else "in memory"


@pytest.fixture
async def store(server: RedisServer | None, clock: ManualClock) -> AsyncIterator[Any]:
    """
    A store, empty.
    """
    if server is None:
        yield MemoryQuotaStore(clock=clock)
        return
    from redis.asyncio import Redis

    from twh_platform.quotas.redis import RedisQuotaStore

    # A busy machine is no attack: time is what attacks 11 and 18 are about.
    redis = RedisQuotaStore(lambda: Redis.from_url(server.url), timeout=5, patience=5)
    yield redis
    await redis.aclose()


@pytest.fixture
def limits() -> ModuleType:
    """
    The library of this name.
    """
    return _library("limits", "limits.aio.strategies", "limits.aio.storage")


@pytest.fixture
def throttled() -> ModuleType:
    """
    The library throttled-py.
    """
    return _library("throttled", "throttled.asyncio")


@pytest.fixture
def pyrate_limiter() -> ModuleType:
    """
    The library pyrate-limiter.
    """
    return _library("pyrate_limiter")


@pytest.fixture
def slowapi() -> ModuleType:
    """
    The library of this name.
    """
    return _library("slowapi", "slowapi.util")


@pytest.fixture
def fastapi_limiter() -> ModuleType:
    """
    The library of this name.
    """
    return _library("fastapi_limiter", "fastapi_limiter.depends")


def _library(name: str, *modules: str) -> ModuleType:
    found = importlib.util.find_spec(name)
    require_part("anchors", found, hint=f"{name}, of the group `anchors` in pyproject.toml")
    for module in modules:
        importlib.import_module(module)
    return importlib.import_module(name)
