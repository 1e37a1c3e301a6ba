"""
Clients of redis-py that are watched.
"""

from __future__ import annotations

import pytest

pytest.importorskip("redis")
pytest.importorskip("psycopg")

import redis.asyncio

from tests.integration.telemetry._databases import *  # noqa: F403 -- fixtures
from tests.integration.telemetry._databases import CANARY
from twh_platform.telemetry.redis import watch_redis


@pytest.fixture
def client(redis_url, watched):
    """A client that is watched."""
    with redis.Redis.from_url(redis_url) as client:
        yield watch_redis(client, watched.calls)


@pytest.fixture
async def async_client(redis_url, watched):
    """An async one."""
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        yield watch_redis(client, watched.calls)


def test_a_command_is_one_call(client, watched, acme):
    """It has its name and its tenant, and neither key nor value."""
    client.set(CANARY, CANARY)
    assert client.get(CANARY) == CANARY.encode()

    assert watched.counted("GET", system="redis") == 1
    assert watched.spans.names == ["SET", "GET"]
    assert watched.spans.made[0].attributes["tenant.id"] == "a"
    assert watched.spans.made[0].attributes["server.port"]
    assert not watched.keeps(CANARY)


def test_a_failure_tells_its_type(client, watched):
    """The text of the error, which may have values, is nowhere."""
    client.set(CANARY, CANARY)
    with pytest.raises(redis.ResponseError):
        client.incr(CANARY)

    assert watched.counted("INCRBY", "redis.exceptions.ResponseError", system="redis") == 1
    assert watched.spans.made[-1].error == "redis.exceptions.ResponseError"


def test_a_pipeline_is_one_call(client, watched):
    """A transaction is called MULTI, and says how many commands it has."""
    with client.pipeline() as pipe:
        pipe.watch(CANARY)
        pipe.multi()
        pipe.set(CANARY, CANARY).get(CANARY)
        assert pipe.execute()[1] == CANARY.encode()
    with client.pipeline(transaction=False) as pipe:
        pipe.get(CANARY).execute()

    assert watched.spans.names == ["WATCH", "MULTI", "PIPELINE"]
    assert watched.spans.made[1].attributes["db.operation.batch.size"] == 2
    assert not watched.keeps(CANARY)


def test_scripts_and_locks_are_watched(client, watched):
    """What redis-py builds on commands is told by them."""
    script = client.register_script("return ARGV[1]")
    assert script(args=[CANARY]) == CANARY.encode()
    with client.lock(f"{CANARY}-lock", timeout=5):
        pass

    assert watched.counted("EVALSHA", system="redis") >= 1
    assert watched.counted("SET", system="redis") == 1
    assert not watched.keeps(CANARY)


def test_the_pool_is_on_the_page(client, watched):
    """Its connections, and waiting for them."""
    client.ping()
    client.ping()

    page = watched.page
    assert 'pool_name="redis",db_client_connection_state="idle"} 1' in page
    assert 'wait_time_seconds_count{db_client_connection_pool_name="redis"} 2' in page


@pytest.mark.parametrize("kind", [redis.ConnectionPool, redis.BlockingConnectionPool])
def test_an_empty_pool_is_counted(redis_url, watched, kind):
    """Nobody gets a connection."""
    options = {"timeout": 0.01} if kind is redis.BlockingConnectionPool else {}
    pool = kind.from_url(redis_url, max_connections=1, **options)
    client = watch_redis(redis.Redis(connection_pool=pool), watched.calls)
    taken = pool.get_connection()
    assert 'pool_name="redis",db_client_connection_state="used"} 1' in watched.page

    with pytest.raises(redis.ConnectionError):
        client.ping()
    pool.release(taken)
    pool.disconnect()

    assert 'timeouts_total{db_client_connection_pool_name="redis"} 1' in watched.page
    assert watched.counted("PING", "redis.exceptions.ConnectionError", system="redis") == 1 or (
        watched.counted("PING", "redis.exceptions.MaxConnectionsError", system="redis") == 1
    )


def test_watching_twice_counts_once(client, watched):
    """Said again, it changes nothing, with a second client of the pool neither."""
    watch_redis(client, watched.calls).ping()
    other = watch_redis(redis.Redis(connection_pool=client.connection_pool), watched.calls)
    other.ping()

    assert watched.counted("PING", system="redis") == 2
    assert 'wait_time_seconds_count{db_client_connection_pool_name="redis"} 2' in watched.page


async def test_an_async_client_is_watched(async_client, watched, acme):
    """Commands, pipelines and failures."""
    await async_client.set(CANARY, CANARY)
    async with async_client.pipeline() as pipe:
        pipe.get(CANARY)
        assert await pipe.execute() == [CANARY.encode()]
    with pytest.raises(redis.ResponseError):
        await async_client.incr(CANARY)

    assert watched.spans.names == ["SET", "MULTI", "INCRBY"]
    assert watched.counted("INCRBY", "redis.exceptions.ResponseError", system="redis") == 1
    assert 'pool_name="redis",db_client_connection_state="idle"} 1' in watched.page
    assert not watched.keeps(CANARY)


async def test_clusters_are_watched(redis_cluster, watched):
    """Their commands and pipelines, of both makes."""
    with redis.RedisCluster.from_url(redis_cluster.url) as client:
        watch_redis(client, watched.calls).set(CANARY, CANARY)
        assert client.pipeline().get(CANARY).execute() == [CANARY.encode()]
    async with redis.asyncio.RedisCluster.from_url(redis_cluster.url) as client:
        assert await watch_redis(client, watched.calls).get(CANARY) == CANARY.encode()
        assert await client.pipeline().get(CANARY).execute() == [CANARY.encode()]

    assert watched.spans.names == ["SET", "PIPELINE", "GET", "PIPELINE"]
    assert not watched.keeps(CANARY)
