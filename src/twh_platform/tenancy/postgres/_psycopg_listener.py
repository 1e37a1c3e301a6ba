"""
Hearing of changed tenants from PostgreSQL through psycopg.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from ...errors import TenantUnresolvedError
from .._tenant import valid_tenant_id
from ._directory_sql import CHANNEL
from ._psycopg_channel import ChannelListener

__all__ = ["TenantChangeListener"]

_logger = logging.getLogger("twh_platform.tenancy")


class _Cache(Protocol):
    def invalidate(self, tenant_id: str) -> None: ...

    def clear(self) -> None: ...


class TenantChangeListener(ChannelListener):
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
        super().__init__(
            conninfo,
            channel=CHANNEL,
            about="tenant",
            logger=_logger,
            max_delay=max_delay,
            chance=chance,
        )
        self._cache = cache

    def _heard(self, payload: str) -> None:
        with suppress(TenantUnresolvedError):
            self._cache.invalidate(valid_tenant_id(payload))
            return
        self._cache.clear()  # the table was emptied, or somebody else notifies

    def _missed(self) -> None:
        self._cache.clear()
