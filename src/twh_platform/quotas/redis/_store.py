"""
The store of quotas in Redis.
"""

from __future__ import annotations

import asyncio
import re
from binascii import crc_hqx
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import groupby
from operator import attrgetter
from typing import Any
from weakref import WeakKeyDictionary

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import (
    ClusterCrossSlotError,
    NoScriptError,
    RedisClusterException,
    ResponseError,
)

from ...errors import BackendUnavailableError, ConfigurationError
from .._exchange import SHADOW, Outcome, Settled, Settlement, Take
from ._lane import Lane, Reply
from ._wire import SCRIPT, SCRIPT_SHA, Codec, Operation

__all__ = ["RedisQuotaStore"]

Client = Redis | RedisCluster
_PREFIX = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)
_GIVE_BACK_US = 10_000_000
_SLOTS, _SHARDS = 16_384, 16
_partition = attrgetter("partition")


class RedisQuotaStore:
    """
    Rules in Redis, shared by all instances of a service.

    A take is one atomic step of the server, by the server's clock.  What the
    tasks of an event loop ask for in one tick goes out in one call: with many
    requests at a time there are few round trips.  A take that is admitted after
    its caller was cancelled, or had given up waiting, is given back.

        >>> from redis.asyncio import Redis
        >>> RedisQuotaStore(lambda: Redis.from_url("redis://localhost"))
        RedisQuotaStore(prefix='twh:q')

    Every key has a life time.  Use a server that evicts nothing
    (``noeviction``): one that evicts forgets what was taken.

    Args:
        client: A client of redis-py's asyncio: `Redis`, of Sentinel too, or
            `RedisCluster`; or a function that makes one.  With a function, each
            event loop gets a client of its own when it first needs one, which
            `aclose` closes.  A client as such is for one event loop, and is the
            caller's to close.

        prefix: What the keys begin with: 1 to 64 of ``A-Z a-z 0-9 _ . : -``.

        timeout: Seconds that a caller waits for an answer.

        patience: Seconds after which a connection that does not answer is
            dropped.  Until then, what it answers late is still put right.

        connections: How many calls to a server may be on their way at a time.

        max_waiting: How many operations may wait for that; any more are refused
            at once.

    Raises:
        twh_platform.errors.ConfigurationError: If one of these is not valid.
    """

    # A take whose caller is cancelled is given back here: see FallbackQuotaStore.
    gives_back = True

    def __init__(
        self,
        client: Client | Callable[[], Client],
        *,
        prefix: str = "twh:q",
        timeout: float = 0.04,  # of each call, not of one
        patience: float = 2.0,
        connections: int = 2,
        max_waiting: int = 4096,
    ) -> None:
        fits = isinstance(client, Redis | RedisCluster) or callable(client)
        _require(fits, f"a client of redis.asyncio is needed, or a function, not {type(client)!r}")
        _require(_PREFIX.fullmatch(prefix), f"prefix={prefix!r} is not valid")
        _require(0 < timeout <= patience, f"timeout={timeout!r} is not between 0 and patience")
        _require(connections >= 1, f"connections={connections!r} is not above zero")
        _require(max_waiting >= 1, f"max_waiting={max_waiting!r} is not above zero")
        self._prefix = prefix
        self._client = client
        self._options: dict[str, Any] = {
            "timeout": timeout,
            "patience": patience,
            "calls": connections,
            "most": max_waiting,
        }
        self._codec = Codec(prefix)
        self._links: WeakKeyDictionary[asyncio.AbstractEventLoop, _Link] = WeakKeyDictionary()
        self._latest: tuple[asyncio.AbstractEventLoop, _Link] | None = None

    def __repr__(self) -> str:
        return f"RedisQuotaStore(prefix={self._prefix!r})"

    async def take(self, take: Take, /) -> Outcome:
        """
        Decide all charges at once; write all, or nothing at all.

        Raises:
            twh_platform.errors.BackendUnavailableError: With code
                ``quota_store_unavailable``, if Redis does not answer in time or
                answers with an error, or if too many wait already.
        """
        outcome: Outcome = await self._link().ask(self._codec.take(take))
        return outcome

    async def settle(self, settlement: Settlement, /) -> Settled:
        """
        Bring charges to what was really used, once; free the slots.

        Raises:
            twh_platform.errors.BackendUnavailableError: As `take`.
        """
        settled: Settled = await self._link().ask(self._codec.settlement(settlement))
        return settled

    async def renew(self, take: Take, at: int, /) -> bool:
        """
        Prolong the slots of a take; False if they are gone or held for too long.

        Raises:
            twh_platform.errors.BackendUnavailableError: As `take`.
        """
        operation = self._codec.renewal(take, at)
        if not operation.keys:
            return False
        renewed: bool = await self._link().ask(operation)
        return renewed

    def shard_of(self, partition: str) -> int:
        """
        A number for what fails together: a sixteenth of a cluster's slots.

        It stays when slots move to another server: see `FallbackQuotaStore`.
        """
        if not self._link().cluster:
            return 0
        return crc_hqx(partition.encode(), 0) % _SLOTS * _SHARDS // _SLOTS

    async def aclose(self) -> None:
        """
        Close what belongs to this event loop: calls on their way end, the client is closed.

        A client that was given as such stays open.
        """
        link = self._links.pop(asyncio.get_running_loop(), None)
        self._latest = None
        if link is not None:
            await link.close(client=callable(self._client))

    def _link(self) -> _Link:
        loop = asyncio.get_running_loop()
        if self._latest is not None and self._latest[0] is loop:
            return self._latest[1]
        link = self._links.get(loop)
        if link is None:
            link = self._links[loop] = _Link(self._new_client(), self._codec, self._options)
        self._latest = loop, link
        return link

    def _new_client(self) -> Client:
        if callable(self._client):
            return self._client()
        if self._links:
            message = (
                "the Redis client belongs to another event loop: "
                "give RedisQuotaStore a function that makes one"
            )
            raise ConfigurationError(message)
        return self._client


class _Link:
    """
    One event loop's way to Redis: a lane to the server, or one to each of a cluster's.
    """

    def __init__(self, client: Client, codec: Codec, options: dict[str, Any]) -> None:
        self._client = client
        self._codec = codec
        self._options = dict(options)
        self._lanes: dict[str, Lane] = {}
        self.cluster = isinstance(client, RedisCluster)
        # Whether one call may have keys of several slots.
        self._together = not self.cluster
        if isinstance(client, RedisCluster):
            self._options["patience"] = _cluster_patience(client, options["patience"])
        self._lane = self._lanes[""] = self._new_lane()

    async def ask(self, operation: Operation) -> Any:
        """
        Send an operation and wait for its answer.
        """
        lane = self._lane_of(operation.partition) if self.cluster else self._lane
        future = lane.put(operation)
        try:
            return await future
        except asyncio.CancelledError:
            # The answer may have come in the same tick as the cancellation.
            if future.done() and not future.cancelled() and future.exception() is None:
                lane.abandon(operation, future.result())
            raise

    async def close(self, *, client: bool) -> None:
        """
        Wait for the calls on their way, and close the client if it is ours.
        """
        for lane in list(self._lanes.values()):
            await lane.finish()
        if client:
            await self._client.aclose()

    def _new_lane(self) -> Lane:
        return Lane(self._send, self._give_back, **self._options)

    def _lane_of(self, partition: str) -> Lane:
        """
        The lane to a partition's server, so that one that hangs stops no other.
        """
        try:
            node = self._client.get_node_from_key(partition)  # type: ignore[union-attr]
        except (RedisClusterException, AttributeError):  # before the client knows its cluster
            return self._lane
        name = node.name if node else ""
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = self._new_lane()
        return lane

    def _give_back(self, take: Take, outcome: Outcome) -> None:
        charges = tuple(
            charge
            for charge, fits in zip(take.charges, outcome.fits, strict=True)
            if fits or take.force or charge.mode != SHADOW
        )
        settlement = Settlement(
            take.partition,
            take.lease,
            charges,
            (0,) * len(charges),
            outcome.now,
            outcome.now + _GIVE_BACK_US,
        )
        operation = self._codec.settlement(settlement, marked=False)
        lane = self._lane_of(take.partition) if self.cluster else self._lane
        with suppress(BackendUnavailableError):  # then it stays charged
            lane.put(operation).cancel()

    async def _send(self, operations: list[Operation]) -> list[Reply]:
        if self._together:
            try:
                return [(operations, await self._call(operations))]
            except ResponseError as error:
                crossed = isinstance(error, ClusterCrossSlotError)
                if not crossed and not str(error).startswith("CROSSSLOT"):
                    raise
                # A cluster behind one address: nothing was done, and is split from now on.
                self._together = False
        ordered = sorted(operations, key=_partition)
        groups = [list(group) for _, group in groupby(ordered, key=_partition)]
        if len(groups) == 1:
            return [(groups[0], await self._call(groups[0]))]
        return await self._call_all(groups)

    async def _call(self, operations: list[Operation]) -> Any:
        try:
            return await self._client.execute_command(*_command("EVALSHA", operations))
        except NoScriptError:
            # Flushed, restarted or failed over.  This loads it where it is missing.
            return await self._client.execute_command(*_command("EVAL", operations))

    async def _call_all(self, groups: list[list[Operation]]) -> list[Reply]:
        replies = await self._pipeline("EVALSHA", groups)
        missed = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if missed:
            again = await self._pipeline("EVAL", [groups[index] for index in missed])
            for index, reply in zip(missed, again, strict=True):
                replies[index] = reply
        return list(zip(groups, replies, strict=True))

    async def _pipeline(self, verb: str, groups: list[list[Operation]]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for group in groups:
            pipeline.execute_command(*_command(verb, group))
        return await pipeline.execute(raise_on_error=False)


def _command(verb: str, operations: Iterable[Operation]) -> list[Any]:
    keys: list[bytes] = []
    args: list[Any] = []
    for operation in operations:
        keys += operation.keys
        args += operation.args
    return [verb, SCRIPT_SHA if verb == "EVALSHA" else SCRIPT, len(keys), *keys, *args]


def _cluster_patience(client: RedisCluster, patience: float) -> float:
    """
    Long enough for the client to give a node up and ask the others who has its slots.
    """
    timeout: float | None = client.get_connection_kwargs().get("socket_timeout")
    if timeout is None:
        message = "the RedisCluster has no socket_timeout: it would wait for a dead node for ever"
        raise ConfigurationError(message)
    return max(patience, 3 * timeout)


def _require(fits: object, message: str) -> None:
    if not fits:
        raise ConfigurationError(message)
