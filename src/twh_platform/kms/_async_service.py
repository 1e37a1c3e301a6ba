"""
A key service for a running event loop: its calls, in a bounded number of threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Self

from ..errors import KeyServiceUnavailableError
from ._context import KeyContext
from ._service import (
    Capability,
    DataKey,
    Health,
    KeyInfo,
    KeyService,
    Mac,
    Result,
    WrappedKey,
)
from ._threads import TimedThreads

__all__ = ["AsyncKeyService"]


class AsyncKeyService:
    """
    The twin of a blocking key service: the same calls, to be awaited.

        async with AsyncKeyService(service) as keys:
            (data_key,) = await keys.generate([context])

    Args:
        service: The blocking one.

        threads: How many of its calls run at once.

        seconds: How long a caller waits, its turn in the queue included.  The
            call itself ends by the service's own timeouts.
    """

    def __init__(self, service: KeyService, *, threads: int = 8, seconds: float = 10.0) -> None:
        self._service = service
        late = partial(_late, service.name, seconds)
        self._threads = TimedThreads(threads, name="twh-key-service", seconds=seconds, late=late)

    @property
    def name(self) -> str:
        """
        What `WrappedKey.provider` says.
        """
        return self._service.name

    @property
    def capabilities(self) -> Capability:
        """
        What the service can do beyond wrapping.
        """
        return self._service.capabilities

    async def generate(self, contexts: Sequence[KeyContext]) -> list[Result[DataKey]]:
        """
        See `KeyService.generate`.
        """
        return await self._threads.run(self._service.generate, contexts)

    async def wrap(self, keys: Sequence[tuple[bytes, KeyContext]]) -> list[Result[WrappedKey]]:
        """
        See `KeyService.wrap`.
        """
        return await self._threads.run(self._service.wrap, keys)

    async def unwrap(self, keys: Sequence[tuple[WrappedKey, KeyContext]]) -> list[Result[bytes]]:
        """
        See `KeyService.unwrap`.
        """
        return await self._threads.run(self._service.unwrap, keys)

    async def rewrap(
        self, keys: Sequence[tuple[WrappedKey, KeyContext]]
    ) -> list[Result[WrappedKey]]:
        """
        See `KeyService.rewrap`.
        """
        return await self._threads.run(self._service.rewrap, keys)

    async def mac(self, message: bytes, *, key: str) -> Mac:
        """
        See `KeyService.mac`.
        """
        return await self._threads.run(self._service.mac, message, key=key)

    async def verify_mac(self, message: bytes, mac: Mac, *, key: str) -> None:
        """
        See `KeyService.verify_mac`.
        """
        return await self._threads.run(self._service.verify_mac, message, mac, key=key)

    async def create(self, tenant_id: str) -> KeyInfo:
        """
        See `KeyService.create`.
        """
        return await self._threads.run(self._service.create, tenant_id)

    async def rotate(self, tenant_id: str) -> KeyInfo:
        """
        See `KeyService.rotate`.
        """
        return await self._threads.run(self._service.rotate, tenant_id)

    async def disable(self, tenant_id: str) -> KeyInfo:
        """
        See `KeyService.disable`.
        """
        return await self._threads.run(self._service.disable, tenant_id)

    async def enable(self, tenant_id: str) -> KeyInfo:
        """
        See `KeyService.enable`.
        """
        return await self._threads.run(self._service.enable, tenant_id)

    async def destroy(self, tenant_id: str) -> KeyInfo:
        """
        See `KeyService.destroy`.
        """
        return await self._threads.run(self._service.destroy, tenant_id)

    async def describe(self, tenant_id: str) -> KeyInfo:
        """
        See `KeyService.describe`.
        """
        return await self._threads.run(self._service.describe, tenant_id)

    async def health(self) -> Health:
        """
        See `KeyService.health`.  One that does not answer in time is not healthy.
        """
        try:
            return await self._threads.run(self._service.health)
        except KeyServiceUnavailableError as error:
            return Health(ok=False, seconds=self._threads.seconds, code=error.code)

    async def aclose(self) -> None:
        """
        Close the service; calls that still run are not waited for.

        One that has not begun is refused, as are later ones: with
        `twh_platform.errors.ConfigurationError`, code ``async_closed``.
        """
        self._threads.close()
        await asyncio.to_thread(self._service.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _late(name: str, seconds: float) -> KeyServiceUnavailableError:
    return KeyServiceUnavailableError(f"key service {name!r} did not answer within {seconds:g} s")
