"""
A secret store for a running event loop: its calls, in a bounded number of threads.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Self

from ...errors import BackendUnavailableError
from .._secret import Secret
from .._threads import TimedThreads
from ._store import SecretStore
from ._versions import RotationPolicy, SecretValue, SecretVersion, Stage

__all__ = ["AsyncSecretStore", "secret_threads"]


class AsyncSecretStore:
    """
    The twin of a blocking secret store: the same calls, to be awaited.

        async with AsyncSecretStore(store) as secrets:
            value = await secrets.get("smtp/password")

    Args:
        store: The blocking one.

        threads: How many of its calls run at once.

        seconds: How long a caller waits, its turn in the queue included; then
            `twh_platform.errors.BackendUnavailableError` with code
            ``secret_store_timeout`` is raised.  The call itself ends by the
            store's own timeouts.
    """

    def __init__(self, store: SecretStore, *, threads: int = 4, seconds: float = 10.0) -> None:
        self._store = store
        self._threads = secret_threads(threads, seconds)

    async def put(
        self,
        name: str,
        secret: Secret,
        *,
        stage: Stage = Stage.CURRENT,
        expires_at: datetime | None = None,
        expected: int | None = None,
        overlap: float | None = None,
        policy: RotationPolicy | None = None,
    ) -> SecretVersion:
        """
        See `SecretStore.put`.
        """
        return await self._threads.run(
            self._store.put,
            name,
            secret,
            stage=stage,
            expires_at=expires_at,
            expected=expected,
            overlap=overlap,
            policy=policy,
        )

    async def get(
        self, name: str, *, stage: Stage = Stage.CURRENT, version: int | None = None
    ) -> SecretValue:
        """
        See `SecretStore.get`.
        """
        return await self._threads.run(self._store.get, name, stage=stage, version=version)

    async def versions(self, name: str) -> list[SecretVersion]:
        """
        See `SecretStore.versions`.
        """
        return await self._threads.run(self._store.versions, name)

    async def promote(self, name: str, *, overlap: float | None = None) -> SecretVersion:
        """
        See `SecretStore.promote`.
        """
        return await self._threads.run(self._store.promote, name, overlap=overlap)

    async def roll_back(self, name: str, *, overlap: float | None = None) -> SecretVersion:
        """
        See `SecretStore.roll_back`.
        """
        return await self._threads.run(self._store.roll_back, name, overlap=overlap)

    async def revoke(self, name: str, version: int) -> SecretVersion:
        """
        See `SecretStore.revoke`.
        """
        return await self._threads.run(self._store.revoke, name, version)

    async def names(self, *, prefix: str = "") -> list[str]:
        """
        See `SecretStore.names`.
        """
        return await self._threads.run(self._store.names, prefix=prefix)

    async def policy(self, name: str) -> RotationPolicy | None:
        """
        See `SecretStore.policy`.
        """
        return await self._threads.run(self._store.policy, name)

    async def aclose(self) -> None:
        """
        Let the threads go; calls that still run are not waited for.

        One that has not begun is refused, as are later ones: with
        `twh_platform.errors.ConfigurationError`, code ``async_closed``.
        """
        self._threads.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def secret_threads(count: int, seconds: float) -> TimedThreads:
    """
    Threads for calls of a secret store; see `AsyncSecretStore`.
    """
    return TimedThreads(count, name="twh-secrets", seconds=seconds, late=partial(_late, seconds))


def _late(seconds: float) -> BackendUnavailableError:
    message = f"the secret store did not answer within {seconds:g} s"
    return BackendUnavailableError(message, code="secret_store_timeout")
