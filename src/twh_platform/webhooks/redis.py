"""
Claims on webhooks in Redis: one server, Sentinel or a cluster (extra: `redis`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from hashlib import sha1
from typing import Any, Final, TypeAlias, final
from weakref import WeakKeyDictionary

from .._extras import missing_extra
from ..errors import ConfigurationError
from ._delivery import checked_key
from ._replay import Claim, ClaimState, ClaimToken, new_nonce, store_unavailable

try:
    from redis.asyncio import Redis, RedisCluster
    from redis.exceptions import NoScriptError, RedisError
except ImportError as cause:
    raise missing_extra("redis", cause) from cause

__all__ = ["RedisReplayStore"]

Client: TypeAlias = Redis | RedisCluster
_PREFIX = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)

# What is kept is "c" or "d" for claimed or done, the nonce (16) and the fingerprint (32).
_SCRIPT: Final = """\
local step, nonce, fingerprint, milliseconds = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local kept = redis.call('GET', KEYS[1])
local mine = kept and string.sub(kept, 2, 17) == nonce
if step == 'claim' then
    if not kept then
        redis.call('SET', KEYS[1], 'c' .. nonce .. fingerprint, 'PX', milliseconds)
        return 'new'
    end
    if string.sub(kept, 18) ~= fingerprint then
        return 'conflict'
    end
    return string.sub(kept, 1, 1) == 'd' and 'done' or 'busy'
end
if step == 'commit' then
    if kept and not mine then
        return 'lost'
    end
    redis.call('SET', KEYS[1], 'd' .. nonce .. fingerprint, 'PX', milliseconds)
    return 'kept'
end
if mine and string.sub(kept, 1, 1) == 'c' then
    redis.call('DEL', KEYS[1])
    return 'kept'
end
return 'lost'
"""
_SCRIPT_SHA: Final = sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()


@final
class RedisReplayStore:
    """
    Remembers deliveries in Redis, for all instances of a service.

    Every step is one script of the server, on one key.  Every key has a life time.
    Use a server that evicts nothing (``noeviction``) and writes to disk: what it
    forgets is handled again.  So may be, once for each failover, what a replica did
    not know yet when it became the master; with ``min-replicas-to-write`` a master
    without replicas takes no claims.

        >>> from redis.asyncio import Redis
        >>> RedisReplayStore(lambda: Redis.from_url("redis://localhost"))
        RedisReplayStore(prefix='twh:w')

    Args:
        client: A client of redis-py's asyncio: `Redis`, of Sentinel too, or
            `RedisCluster`; or a function that makes one.  With a function, each
            event loop gets a client of its own, which `aclose` closes.

        prefix: What the keys begin with: 1 to 64 of ``A-Z a-z 0-9 _ . : -``.

        timeout: Seconds that a step may take.

    Raises:
        twh_platform.errors.ConfigurationError: If one of these is not valid.
    """

    def __init__(
        self,
        client: Client | Callable[[], Client],
        *,
        prefix: str = "twh:w",
        timeout: float = 1.0,
    ) -> None:
        if not (isinstance(client, Redis | RedisCluster) or callable(client)):
            message = f"a client of redis.asyncio is needed, or a function, not {type(client)!r}"
            raise ConfigurationError(message)
        if not _PREFIX.fullmatch(prefix):
            message = f"prefix={prefix!r} is not valid"
            raise ConfigurationError(message)
        if not timeout > 0:
            message = f"timeout={timeout!r} is not above zero"
            raise ConfigurationError(message)
        self._given = client
        self._prefix = prefix
        self._timeout = timeout
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, Client] = WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"RedisReplayStore(prefix={self._prefix!r})"

    async def claim(self, key: bytes, fingerprint: bytes, *, lease: float, ttl: float) -> Claim:
        """
        See `ReplayStore.claim`.

        Raises:
            twh_platform.errors.BackendUnavailableError: With code
                ``replay_store_unavailable``, if Redis does not answer in time or
                answers with an error.
        """
        checked_key(key, fingerprint)
        token = ClaimToken(key=key, fingerprint=fingerprint, nonce=new_nonce(), ttl=ttl)
        state = ClaimState(await self._ask("claim", token, lease))
        return Claim(state=state, token=token if state is ClaimState.NEW else None)

    async def commit(self, token: ClaimToken) -> bool:
        """
        See `ReplayStore.commit`.

        Raises:
            twh_platform.errors.BackendUnavailableError: As `claim`.
        """
        return await self._ask("commit", token, token.ttl) == "kept"

    async def release(self, token: ClaimToken) -> bool:
        """
        See `ReplayStore.release`.

        Raises:
            twh_platform.errors.BackendUnavailableError: As `claim`.
        """
        return await self._ask("release", token, 0) == "kept"

    async def aclose(self) -> None:
        """
        Close this event loop's client, unless it was given as such.
        """
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    async def _ask(self, step: str, token: ClaimToken, seconds: float) -> str:
        key = f"{self._prefix}:{token.key.hex()}"
        milliseconds = max(1, int(seconds * 1000))
        arguments = (1, key, step, token.nonce, token.fingerprint, milliseconds)
        try:
            async with asyncio.timeout(self._timeout):
                answer = await self._run(*arguments)
        # Clients of a cluster let those of sockets through.
        except (RedisError, TimeoutError, OSError) as error:
            raise store_unavailable("Redis", error) from error
        return answer.decode() if isinstance(answer, bytes) else str(answer)

    async def _run(self, *arguments: Any) -> Any:
        client = self._client()
        try:
            return await client.execute_command("EVALSHA", _SCRIPT_SHA, *arguments)
        except NoScriptError:
            # Flushed, restarted or failed over.  This loads it where it is missing.
            return await client.execute_command("EVAL", _SCRIPT, *arguments)

    def _client(self) -> Client:
        if isinstance(self._given, Redis | RedisCluster):
            return self._given
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            client = self._clients[loop] = self._given()
        return client
