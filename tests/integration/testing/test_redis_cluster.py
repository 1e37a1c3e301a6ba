"""
`RedisCluster`: who holds what, and what happens to it when nodes are lost.
"""

from __future__ import annotations

import pytest

from tests.support.redis import require_redis
from twh_platform.errors import ConfigurationError, PlatformError
from twh_platform.testing import RedisCluster

KEY = "{t.acme}:key"


@pytest.fixture
def cluster(redis_cluster):
    """
    The cluster of the session, whole again after the test.
    """
    yield redis_cluster
    redis_cluster.heal()


def test_it_is_a_cluster(cluster):
    """Every node says that all slots are served, by three masters with a replica each."""
    states = [node.command("CLUSTER", "INFO") for node in cluster.nodes]

    assert len(cluster.urls) == len(set(cluster.urls)) == 6
    assert all("cluster_state:ok" in state for state in states)
    assert all("cluster_slots_ok:16384" in state for state in states)
    assert [len(cluster.replicas_of(master)) for master in cluster.masters] == [1, 1, 1]


def test_keys_lie_with_their_masters(cluster):
    """One tag is one node, many tags are all of them, and `command` finds each."""
    holders = {cluster.master_of(f"{{t.{number}}}") for number in range(50)}
    cluster.command("SET", KEY, "here")

    assert holders == set(cluster.masters)
    assert cluster.master_of(KEY) is cluster.master_of("{t.acme}:other")
    assert cluster.master_of(KEY).command("GET", KEY) == cluster.command("GET", KEY) == "here"


def test_other_nodes_send_away(cluster):
    """The control: a node that does not hold the key refuses it."""
    other = next(node for node in cluster.masters if node is not cluster.master_of(KEY))

    with pytest.raises(PlatformError, match=f"MOVED .*:{cluster.master_of(KEY).port}"):
        other.command("GET", KEY)
    with pytest.raises(PlatformError, match="unknown command"):
        cluster.command("NONSENSE", KEY)


def test_places_are_changed_in_good_order(cluster):
    """After a failover the replica holds the data, and the old master follows it."""
    cluster.command("SET", KEY, "kept")
    old = cluster.master_of(KEY)
    new = cluster.failover(old)

    assert new is cluster.master_of(KEY) is not old
    assert cluster.replicas_of(new) == (old,)
    assert new.command("GET", KEY) == cluster.command("GET", KEY) == "kept"


def test_a_killed_master_is_replaced(cluster):
    """The others notice by themselves; one that comes back follows its successor."""
    cluster.command("SET", KEY, "kept")
    old = cluster.master_of(KEY)
    cluster.master_of(KEY).command("WAIT", 1, 1000)
    new = cluster.failover(old, kill=True)

    assert (old.running, cluster.command("GET", KEY)) == (False, "kept")
    cluster.heal()
    assert cluster.master_of(KEY) is new
    assert old.info("replication")["role"] == "slave"


def test_a_frozen_master_is_replaced(cluster):
    """`wait` returns when another serves; the frozen one finds itself a replica."""
    old = cluster.master_of(KEY)
    old.freeze()
    cluster.wait()

    assert cluster.master_of(KEY) is not old
    assert cluster.url in {node.url for node in cluster.nodes if node is not old}
    cluster.heal()
    assert old.info("replication")["role"] == "slave"


def test_a_master_alone_cannot_be_replaced():
    """Without a replica nothing is killed, and waiting for the impossible ends."""
    require_redis()
    with RedisCluster(masters=3, options={"cluster-node-timeout": "500"}) as cluster:
        with pytest.raises(ConfigurationError, match="with a replica that answers"):
            cluster.failover(cluster.masters[0], kill=True)
        assert all(node.running for node in cluster.nodes)

        cluster.masters[0].kill()
        with pytest.raises(ConfigurationError, match=r"(?s)do not agree within 1 s.*fail"):
            cluster.wait(timeout=1)


def test_closing_leaves_nothing(cluster):
    """After the `with`, even with a node frozen, none runs, and none answers."""
    with RedisCluster(masters=3) as other:
        other.nodes[1].freeze()

    assert not any(node.running for node in other.nodes)
    with pytest.raises(ConfigurationError, match="no node of the cluster"):
        other.command("PING")
