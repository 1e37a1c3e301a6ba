"""
Listening on one channel of PostgreSQL through psycopg, for as long as it takes.
"""

from __future__ import annotations

import asyncio
import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Self

from ..._extras import missing_extra
from .._carry import create_clean_task
from ._psycopg_directory import CONNECTION

try:
    import psycopg
except ImportError as error:
    raise missing_extra("psycopg", error) from error

__all__ = ["ChannelListener"]


class ChannelListener(ABC):
    """
    What hears notifications on a connection of its own, and connects again until it is stopped.

    A subclass says what to do with a payload, and what when some may have been
    missed: at the beginning, and after each loss of the connection.

    Args:
        conninfo: A DSN; a direct one, for LISTEN does not pass through a
            pooler in transaction mode.

        channel: An identifier that needs no quotes.

        about: What is heard of, for the log and the task's name.

        logger: Where a lost connection is told.

        max_delay: Seconds between two attempts to connect, at most.

        chance: Random numbers from 0 to 1.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        channel: str,
        about: str,
        logger: logging.Logger,
        max_delay: float = 30.0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._conninfo = conninfo
        self._channel = channel
        self._about = about
        self._logger = logger
        self._max_delay = max_delay
        self._chance = chance
        self._task: asyncio.Task[None] | None = None
        self._listening = asyncio.Event()

    @abstractmethod
    def _heard(self, payload: str) -> None:
        """
        Do what a notification asks for; anybody may have sent it.
        """

    @abstractmethod
    def _missed(self) -> None:
        """
        Believe nothing that is older than now.
        """

    async def __aenter__(self) -> Self:
        self._task = create_clean_task(self._run(), name=f"{self._about} change listener")
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
                kind = type(error).__name__
                self._logger.warning("not listening for %s changes: %s", self._about, kind)
            if self._listening.is_set():
                self._listening.clear()
                attempt = 0
            ceiling = min(self._max_delay, 0.1 * 2 ** min(attempt, 16))
            attempt += 1
            await asyncio.sleep(self._chance() * ceiling)

    async def _listen(self) -> None:
        settings = {**CONNECTION, "application_name": f"twh-{self._about}-changes"}
        connection = await psycopg.AsyncConnection.connect(self._conninfo, **settings)
        async with connection:
            await connection.execute(f"LISTEN {self._channel}".encode())
            # From here on nothing is missed; what happened before is unknown.
            self._missed()
            self._listening.set()
            async for notification in connection.notifies():
                self._heard(notification.payload)
