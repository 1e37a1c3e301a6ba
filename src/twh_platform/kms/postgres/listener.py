"""
Hearing of changed keys and secrets from PostgreSQL (extra: `psycopg`).
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Protocol, Self, TypeVar

from ...tenancy.postgres._psycopg_channel import ChannelListener
from ._keys_sql import CHANNEL

__all__ = ["KeyChangeListener", "KeyChangeThread"]

_logger = logging.getLogger("twh_platform.kms")

_PAYLOAD = re.compile(r"key:([A-Za-z0-9_-]{1,64})|secret:([A-Za-z0-9_-]{1,64}):([a-z0-9._/-]+)")

T = TypeVar("T")


class Ciphers(Protocol):
    """
    What opened data keys are forgotten by: a `TenantCipher`.
    """

    def evict(self, tenant_id: str) -> None:
        """
        Forget the keys of one tenant.
        """
        ...

    def clear(self) -> None:
        """
        Forget the keys of all tenants.
        """
        ...


class Secrets(Protocol):
    """
    What secrets are forgotten by: `CachedSecrets`.
    """

    def forget(self, name: str, *, tenant_id: str | None = None) -> None:
        """
        Forget one secret.
        """
        ...

    def clear(self, *, tenant_id: str | None = None) -> None:
        """
        Forget all, or all of one tenant.
        """
        ...


class KeyChangeListener(ChannelListener):
    """
    Forget cached keys and secrets the moment that they change in PostgreSQL.

    A tenant that is shredded is refused at once by everyone who listens.  While
    the connection is lost, caches go by their ages; when it is back they are
    cleared, because notifications may have been missed.  It reconnects with
    full jitter until it is stopped.

    It needs a direct connection: LISTEN does not pass through a pooler in
    transaction mode.  The login needs no privilege.

        async with KeyChangeListener(dsn, cipher=cipher, secrets=secrets):
            ...  # the app's lifespan

    Any role of the database may notify.  The worst that a stranger does is that
    keys are loaded anew.

    Args:
        conninfo: A DSN.

        cipher: Whose keys are forgotten: a `TenantCipher`, or several.

        secrets: `CachedSecrets` that are forgotten, or several.

        max_delay: Seconds between two attempts to connect, at most.

        chance: Random numbers from 0 to 1.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        cipher: Ciphers | Iterable[Ciphers] | None = None,
        secrets: Secrets | Iterable[Secrets] | None = None,
        max_delay: float = 30.0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(
            conninfo,
            channel=CHANNEL,
            about="key",
            logger=_logger,
            max_delay=max_delay,
            chance=chance,
        )
        self._ciphers: tuple[Ciphers, ...] = _several(cipher)
        self._secrets: tuple[Secrets, ...] = _several(secrets)

    def _heard(self, payload: str) -> None:
        said = _PAYLOAD.fullmatch(payload)
        if said is None:
            self._missed()  # a table was emptied, or somebody else notifies
            return
        shredded, owner, name = said.groups()
        for cipher in self._ciphers if shredded else ():
            cipher.evict(shredded)
        for secrets in self._secrets:
            if shredded:
                secrets.clear(tenant_id=shredded)
            else:
                secrets.forget(name, tenant_id=owner)

    def _missed(self) -> None:
        for cipher in self._ciphers:
            cipher.clear()
        for secrets in self._secrets:
            secrets.clear()


class KeyChangeThread:
    """
    A `KeyChangeListener` in a thread of its own, for workers without an event loop.

        with KeyChangeThread(dsn, cipher=cipher):
            ...  # the worker's life

    A fork takes no threads along: start it in the child.

    Args:
        conninfo: See `KeyChangeListener`, as for the others.

        cipher: Whose keys are forgotten.

        secrets: What secrets are forgotten.

        max_delay: Seconds between two attempts to connect, at most.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        cipher: Ciphers | Iterable[Ciphers] | None = None,
        secrets: Secrets | Iterable[Secrets] | None = None,
        max_delay: float = 30.0,
    ) -> None:
        self._conninfo = conninfo
        self._ciphers: tuple[Ciphers, ...] = _several(cipher)
        self._secrets: tuple[Secrets, ...] = _several(secrets)
        self._max_delay = max_delay
        self._listening = threading.Event()
        self._ending = ExitStack()

    def __enter__(self) -> Self:
        loop = asyncio.new_event_loop()
        stop = asyncio.Event()
        thread = threading.Thread(
            target=self._serve, args=(loop, stop), name="twh-key-changes", daemon=True
        )
        thread.start()
        self._ending.callback(thread.join)
        self._ending.callback(loop.call_soon_threadsafe, stop.set)
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()
        self._listening.clear()

    def wait_listening(self, seconds: float | None = None) -> bool:
        """
        Return True when it listens for the first time, False if *seconds* are over before.
        """
        return self._listening.wait(seconds)

    def _serve(self, loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(self._until(stop))

    async def _until(self, stop: asyncio.Event) -> None:
        listener = KeyChangeListener(
            self._conninfo,
            cipher=self._ciphers,
            secrets=self._secrets,
            max_delay=self._max_delay,
        )
        async with listener:
            told = asyncio.ensure_future(self._tell(listener))
            await stop.wait()
            told.cancel()

    async def _tell(self, listener: KeyChangeListener) -> None:
        await listener.wait_listening()
        self._listening.set()


def _several(given: T | Iterable[T] | None) -> tuple[T, ...]:
    if given is None:
        return ()
    return tuple(given) if isinstance(given, Iterable) else (given,)
