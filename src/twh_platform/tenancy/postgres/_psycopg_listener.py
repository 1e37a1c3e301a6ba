"""
Hearing of changed tenants from PostgreSQL through psycopg.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Protocol, Self

from ..._extras import missing_extra
from ...errors import TenantUnresolvedError
from .._carry import create_clean_task
from .._tenant import valid_tenant_id
from ._directory_sql import CHANNEL
from ._psycopg_directory import CONNECTION

try:
    import psycopg
except ImportError as error:
    raise missing_extra("psycopg", error) from error

__all__ = ["TenantChangeListener"]

_logger = logging.getLogger("twh_platform.tenancy")


class _Cache(Protocol):
    def invalidate(self, tenant_id: str) -> None: ...

    def clear(self) -> None: ...


class TenantChangeListener:
    """
    Forget a cached tenant the moment that it changes in PostgreSQL.

    It listens on a connection of its own.  While that is lost, changes are
    seen when the cache's time to live is over; when it is back, the whole
    cache is cleared, because notifications may have been missed.  It
    reconnects with full jitter until it is stopped.

    It needs a direct connection: LISTEN does not pass through a pooler in
    transaction mode.

        async with TenantChangeListener(dsn, cache):
            ...  # the app's lifespan

    Args:
        conninfo: A DSN of the directory's own login role.

        cache: What to invalidate; a `CachedTenantDirectory`.

        max_delay: Seconds between two attempts to connect, at most.

        chance: Random numbers from 0 to 1.
    """

    def __init__(
        self,
        conninfo: str,
        cache: _Cache,
        *,
        max_delay: float = 30.0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._conninfo = conninfo
        self._cache = cache
        self._max_delay = max_delay
        self._chance = chance
        self._task: asyncio.Task[None] | None = None
        self._listening = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._task = create_clean_task(self._run(), name="tenant change listener")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            # Closing a connection does not wait for the server.
            await asyncio.wait((task,))

    async def wait_listening(self) -> None:
        """
        Return when it listens; at once if it does already.
        """
        await self._listening.wait()

    async def _run(self) -> None:
        attempt = 0
        while True:
            try:
                await self._listen()
            except (psycopg.Error, OSError) as error:
                # Without the message: that of a malformed DSN quotes the DSN.
                _logger.warning("not listening for tenant changes: %s", type(error).__name__)
            if self._listening.is_set():
                self._listening.clear()
                attempt = 0
            ceiling = min(self._max_delay, 0.1 * 2 ** min(attempt, 16))
            attempt += 1
            await asyncio.sleep(self._chance() * ceiling)

    async def _listen(self) -> None:
        connection = await psycopg.AsyncConnection.connect(self._conninfo, **CONNECTION)
        async with connection:
            await connection.execute(f"LISTEN {CHANNEL}")
            # From here on nothing is missed; what happened before is unknown.
            self._cache.clear()
            self._listening.set()
            async for notification in connection.notifies():
                self._forget(notification.payload)

    def _forget(self, tenant_id: str) -> None:
        with suppress(TenantUnresolvedError):
            self._cache.invalidate(valid_tenant_id(tenant_id))
            return
        self._cache.clear()  # the table was emptied, or somebody else notifies
