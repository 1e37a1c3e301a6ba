"""
Redis for tests: the one of `TWH_TEST_REDIS_URL`, or servers of our own.

A plugin and not a conftest: the documents need it as well as the tests.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator

import pytest

from twh_platform.testing import RedisCluster, RedisServer, find_redis, require_part
from twh_platform.testing._redis import HINT


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """
    The address of a Redis that keeps nothing.
    """
    given = os.environ.get("TWH_TEST_REDIS_URL")
    if given:
        yield given
        return
    require_redis()
    with RedisServer() as server:
        yield server.url


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """
    A Redis of our own, to freeze, flush and kill: whoever does, leaves it running.
    """
    require_redis()
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RedisCluster]:
    """
    Three masters with a replica each: whoever harms them, heals them.
    """
    require_redis()
    with RedisCluster(masters=3, replicas=1) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def document_redis(request: pytest.FixtureRequest) -> Iterator[None]:
    """
    Put the address of a Redis into the environment of one document, as `REDIS_URL`.

    A document about arq is skipped where arq is missing: it takes no new redis-py,
    so only one session has it.
    """
    text = request.path.read_text()
    if "from arq " in text:
        require_part("arq", importlib.util.find_spec("arq"), hint="pip install arq")
    if "REDIS_URL" not in text:
        yield
        return
    url: str = request.getfixturevalue("redis_url")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("REDIS_URL", url)
        yield


@pytest.fixture(scope="module")
def docstring_redis(request: pytest.FixtureRequest) -> None:
    """
    Skip the docstrings that start a Redis where there is none.
    """
    if ">>> with Redis" in request.path.read_text():
        require_redis()


def require_redis() -> None:
    """
    End the test unless a server can be started.
    """
    require_part("redis", find_redis(), hint=HINT)
