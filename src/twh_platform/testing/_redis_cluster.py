"""
A real Redis Cluster for tests: its nodes, how they find each other, who holds what.

A node tells what it believes in lines of `CLUSTER NODES`
(https://redis.io/docs/latest/commands/cluster-nodes/)::

    ID HOST:PORT@BUS[,NAME] FLAGS MASTER-ID PING PONG EPOCH LINK [SLOT | FROM-TO]...
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from ..errors import ConfigurationError, PlatformError
from ._redis import RedisServer
from ._resp import RedisArgument, RedisReply

__all__ = ["RedisCluster"]

_SLOTS = 16_384
_SETTLE_SECONDS = 60.0
_ELECTION_SECONDS = 6.0
_ELECTIONS = 4
_MOVED = re.compile(r"MOVED \d+ .*:(\d+)")
_REDIRECTIONS = 5

# A master counts as failed after two seconds, and replicas lose no time in waiting.
_OPTIONS = {
    "cluster-enabled": "yes",
    "cluster-node-timeout": "2000",
    "cluster-replica-validity-factor": "0",
    "cluster-announce-ip": "127.0.0.1",
    "repl-diskless-sync-delay": "0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    """
    What one node believes of another, or of itself.

    Args:
        id: The member's id.

        port: Its port.

        flags: Such as ``myself``, ``master``, ``fail?``.

        master: The id of its master; ``-`` for a master.

        linked: Whether the two are connected.

        slots: What it serves.
    """

    id: str
    port: int
    flags: frozenset[str]
    master: str
    linked: bool
    slots: frozenset[int]

    @classmethod
    def parse(cls, line: str) -> _Member:
        identity, address, flags, master, _, _, _, link, *ranges = line.split()
        return cls(
            id=identity,
            port=int(address.partition("@")[0].rpartition(":")[2]),
            flags=frozenset(flags.split(",")),
            master=master,
            linked=link == "connected",
            slots=frozenset(_numbers(part for part in ranges if not part.startswith("["))),
        )


class RedisCluster:
    """
    A Redis Cluster that is started here: masters that share the slots, and replicas.

    Each node is a `RedisServer` with a folder of its own; freeze or kill one and
    `wait` until the others have dealt with it.

        >>> with RedisCluster(masters=3) as cluster:
        ...     cluster.command("SET", "greeting", "hello")
        ...     cluster.command("GET", "greeting")
        ...     cluster.master_of("{acme}:a") is cluster.master_of("{acme}:b")
        'OK'
        'hello'
        True

    Args:
        masters: How many masters, three at least.

        replicas: How many replicas each master has.

        options: Directives of every node as in `redis.conf`, over ours.

        program: The server's program; without it what `find_redis` finds.

    Raises:
        twh_platform.errors.ConfigurationError: If there is no `redis-server`.
    """

    def __init__(
        self,
        *,
        masters: int = 3,
        replicas: int = 0,
        options: Mapping[str, str] | None = None,
        program: Path | None = None,
    ) -> None:
        merged = {**_OPTIONS, **(options or {})}
        # Nobody votes twice about one master within twice the node timeout.
        self._pause = 2 * int(merged["cluster-node-timeout"]) / 1000
        self._voted = -self._pause
        self._masters = masters
        self._nodes = tuple(
            RedisServer(options=merged, program=program) for _ in range(masters * (1 + replicas))
        )

    def __repr__(self) -> str:
        return f"RedisCluster(ports={[node.port for node in self._nodes]})"

    def __enter__(self) -> Self:
        try:
            self._form()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def nodes(self) -> tuple[RedisServer, ...]:
        """
        All nodes: those that began as masters, then the replicas.
        """
        return self._nodes

    @property
    def urls(self) -> tuple[str, ...]:
        """
        The addresses of all nodes; a client needs one of them.
        """
        return tuple(node.url for node in self._nodes)

    @property
    def url(self) -> str:
        """
        The address of a node that answers.
        """
        return self._any().url

    @property
    def masters(self) -> tuple[RedisServer, ...]:
        """
        The nodes that hold slots now, by their first slot.
        """
        holding = [member for member in _members(self._any()) if member.slots]
        return tuple(self._at(one.port) for one in sorted(holding, key=lambda m: min(m.slots)))

    def master_of(self, key: str) -> RedisServer:
        """
        Return the node that holds *key* now.
        """
        node = self._any()
        slot = node.command("CLUSTER", "KEYSLOT", key)
        return next(self._at(member.port) for member in _members(node) if slot in member.slots)

    def replicas_of(self, master: RedisServer) -> tuple[RedisServer, ...]:
        """
        Return the nodes that follow *master* now, those that do not answer as well.
        """
        members = _members(self._any())
        named = {member.id for member in members if member.port == master.port}
        return tuple(self._at(member.port) for member in members if member.master in named)

    def command(self, *arguments: RedisArgument, timeout: float = 5.0) -> RedisReply:
        """
        Send one command to the node that it belongs to; see `RedisServer.command`.
        """
        node = self._any()
        for _ in range(_REDIRECTIONS):
            try:
                return node.command(*arguments, timeout=timeout)
            except PlatformError as error:
                moved = _MOVED.fullmatch(str(error))
                if moved is None:
                    raise
                node = self._at(int(moved[1]))
        message = "the nodes send the command back and forth"
        raise PlatformError(message, code="test_redis_failed")

    def failover(self, master: RedisServer, *, kill: bool = False) -> RedisServer:
        """
        Let a replica take the place of *master*, and wait until all nodes know.

        One after another takes longer: the nodes vote only every few seconds.

        Args:
            master: The node to be replaced; it needs a replica.

            kill:
                Kill it first, so that the others have to notice, which takes some
                seconds, and what it had not passed on is lost.  Without it the two
                change places in good order, and nothing is lost.

        Returns:
            The new master; the old one follows it, or is down until it is started.

        Raises:
            twh_platform.errors.ConfigurationError: If *master* has no replica that answers.
        """
        slots = next(one.slots for one in _members(self._any()) if one.port == master.port)
        heirs = [node for node in self.replicas_of(master) if node.responsive]
        if not heirs or not slots:
            message = "only a master with a replica that answers can be replaced"
            raise ConfigurationError(message, code="test_redis_failed")
        time.sleep(max(0, self._voted + self._pause - time.monotonic()))
        if kill:
            master.kill()
            self._await_heir(heirs, slots, timeout=_SETTLE_SECONDS)
        else:
            self._promote(heirs, slots)
        self.wait()
        self._voted = time.monotonic()
        return next(node for node in heirs if _serves(node, slots))

    def wait(self, *, timeout: float = _SETTLE_SECONDS) -> None:
        """
        Wait until all nodes that answer agree, and every slot is served by one of them.

        Args:
            timeout: For how long, in seconds.

        Raises:
            twh_platform.errors.ConfigurationError: If it takes longer.
        """
        _until(self._settled, "the nodes do not agree", self._state, timeout=timeout)

    def heal(self) -> None:
        """
        Thaw and start every node, and wait until all agree.
        """
        for node in self._nodes:
            if not node.responsive:
                self._voted = time.monotonic()
            if node.running and not node.responsive:
                node.thaw()
            node.start()
        self.wait()

    def close(self) -> None:
        """
        Stop all nodes and delete their folders.
        """
        for node in self._nodes:
            node.close()

    def _form(self) -> None:
        for epoch, node in enumerate(self._nodes, start=1):
            node.start()
            # Two nodes with one epoch would quarrel about who is newer.
            node.command("CLUSTER", "SET-CONFIG-EPOCH", epoch)
        first, masters = self._nodes[0], self._nodes[: self._masters]
        for number, node in enumerate(masters):
            share = range(*(_SLOTS * part // self._masters for part in (number, number + 1)))
            node.command("CLUSTER", "ADDSLOTS", *share)
        for node in self._nodes[1:]:
            first.command("CLUSTER", "MEET", node.host, node.port)
        _until(self._acquainted, "the nodes did not meet", self._state)
        for number, node in enumerate(self._nodes[self._masters :]):
            master = masters[number % self._masters]
            node.command("CLUSTER", "REPLICATE", str(master.command("CLUSTER", "MYID")))
        self.wait()

    def _promote(self, heirs: list[RedisServer], slots: frozenset[int]) -> None:
        """
        Ask a replica to take over, again if it was not elected in its five seconds.
        """
        for _ in range(_ELECTIONS):
            heirs[0].command("CLUSTER", "FAILOVER")
            with contextlib.suppress(ConfigurationError):
                self._await_heir(heirs, slots, timeout=_ELECTION_SECONDS)
                return
        self._await_heir(heirs, slots, timeout=_ELECTION_SECONDS)

    def _await_heir(
        self, heirs: list[RedisServer], slots: frozenset[int], *, timeout: float
    ) -> None:
        _until(
            lambda: any(_serves(node, slots) for node in heirs),
            "no replica took over",
            self._state,
            timeout=timeout,
        )

    def _acquainted(self) -> bool:
        ports = {node.port for node in self._nodes}
        return all(
            {member.port for member in _members(node) if "handshake" not in member.flags} == ports
            for node in self._nodes
        )

    def _settled(self) -> bool:
        awake = [node for node in self._nodes if node.responsive]
        ports = {node.port for node in awake}
        views = [_members(node) for node in awake]
        pictures = {_picture(view, ports) for view in views}
        return (
            len(pictures) == 1
            and sum(len(slots) for _, _, slots in next(iter(pictures))) == _SLOTS
            and all(_sound(view, ports) for view in views)
            and all(_ready(node) for node in awake)
        )

    def _any(self) -> RedisServer:
        for node in self._nodes:
            if node.responsive:
                return node
        message = "no node of the cluster is running"
        raise ConfigurationError(message, code="test_redis_failed")

    def _at(self, port: int) -> RedisServer:
        return next(node for node in self._nodes if node.port == port)

    def _state(self) -> str:
        awake = (node for node in self._nodes if node.responsive)
        return "\n".join(str(node.command("CLUSTER", "NODES")) for node in awake)


def _members(node: RedisServer) -> list[_Member]:
    return [_Member.parse(line) for line in str(node.command("CLUSTER", "NODES")).splitlines()]


def _numbers(ranges: Iterable[str]) -> Iterable[int]:
    for one in ranges:
        first, _, last = one.partition("-")
        yield from range(int(first), int(last or first) + 1)


def _serves(node: RedisServer, slots: frozenset[int]) -> bool:
    return node.responsive and any(
        slots <= member.slots for member in _members(node) if "myself" in member.flags
    )


def _picture(view: list[_Member], ports: set[int]) -> frozenset[tuple[int, str, frozenset[int]]]:
    """
    Reduce what a node believes to who of *ports* follows whom and serves what.
    """
    return frozenset((one.port, one.master, one.slots) for one in view if one.port in ports)


def _sound(view: list[_Member], ports: set[int]) -> bool:
    """
    Tell whether a node thinks well of all that answer, and is connected with them.
    """
    doubts = {"fail", "fail?", "handshake", "noaddr"}
    return all(one.linked and not one.flags & doubts for one in view if one.port in ports)


def _ready(node: RedisServer) -> bool:
    """
    Tell whether a node serves, and a replica has caught up.
    """
    replication = node.info("replication")
    linked = replication["role"] == "master" or replication["master_link_status"] == "up"
    return linked and "cluster_state:ok" in str(node.command("CLUSTER", "INFO"))


def _until(
    holds: Callable[[], bool],
    complaint: str,
    state: Callable[[], str],
    *,
    timeout: float = _SETTLE_SECONDS,
) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        # A node that is starting or changing sides refuses for a moment.
        with contextlib.suppress(PlatformError):
            if holds():
                return
        time.sleep(0.05)
    message = f"{complaint} within {timeout:g} s:\n{state()}"
    raise ConfigurationError(message, code="test_redis_failed")
