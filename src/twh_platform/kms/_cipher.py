"""
Sealing and opening what belongs to the current tenant.

A seal is bound to the tenant and to a context, such as table, column and row:
what is copied elsewhere does not open there.  The tenant is the one that is
bound when the call is made, and is no argument.
"""

from __future__ import annotations

import asyncio
import os
import random as _random
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
)
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final, Self

from ..errors import DecryptionError
from ..tenancy._tenant import Tenant
from ._cache import CacheStats, DataKeyCache
from ._cache_entry import CachePolicy
from ._cipher_keys import CipherKeys, SealLimits
from ._clock import elapsed, utc_now
from ._data_keys import DataKeyStore
from ._envelope import Parsed, Suite, parse, parse_head
from ._owner import require_owner
from ._service import KeyService
from ._stream import OpeningStream, SealingStream

__all__ = ["AsyncTenantCipher", "TenantCipher"]

NO_CONTEXT: Final[Mapping[str, str]] = MappingProxyType({})

# From here on a seal takes longer than the way to another thread.
_INLINE_BYTES = 1024 * 1024


class TenantCipher:
    """
    Seals and opens values of the current tenant; calls block while a data key is loaded::

        cipher = TenantCipher(service, MemoryDataKeyStore())
        with bind_tenant(Tenant(id="acme")):
            sealed = cipher.seal(b"GB29 NWBK", {"column": "iban", "row": "42"})
            cipher.open(sealed, {"column": "iban", "row": "42"})

    One object serves any number of threads; `AsyncTenantCipher` is its twin
    for event loops.  A forked child begins with an empty cache.

    Args:
        service: The key service that wraps data keys.

        data_keys: Where wrapped data keys are kept.

        purpose: What is sealed, as the key service is told: 1 to 28 of
            ``a-z 0-9 _ . -``, a letter first.  What was sealed for another
            purpose does not open.

        policy: How long data keys are kept open, and how many.

        limits: After how much another data key is made.

        also: Further key services, which only unwrap: while data keys move
            from one to another.

        seconds: How long a caller waits for a data key.

        threads: How many data keys are loaded at once for event loops.

        clock: Seconds that never go back and count sleep.

        now: The wall clock, for what is stored.

        chance: Gives 0 to 1: spreads refreshes over time.

        random: Where ids of data keys come from.

    Raises:
        twh_platform.errors.ConfigurationError: If the purpose is not valid.
    """

    def __init__(
        self,
        service: KeyService,
        data_keys: DataKeyStore,
        *,
        purpose: str = "data",
        policy: CachePolicy | None = None,
        limits: SealLimits | None = None,
        also: Iterable[KeyService] = (),
        seconds: float = 10.0,
        threads: int = 8,
        clock: Callable[[], float] = elapsed,
        now: Callable[[], datetime] = utc_now,
        chance: Callable[[], float] = _random.random,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        # For the twin, and for what derives other keys.
        self.data_keys = CipherKeys(
            DataKeyCache(
                policy or CachePolicy(),
                clock=clock,
                chance=chance,
                threads=threads,
                seconds=seconds,
            ),
            (service, *also),
            data_keys,
            purpose=purpose,
            limits=limits or SealLimits(),
            now=now,
            random=random,
        )

    def seal(
        self,
        plaintext: bytes,
        context: Mapping[str, str] = NO_CONTEXT,
        *,
        suite: Suite = Suite.STREAM,
        inline: bool = False,
    ) -> bytes:
        """
        Seal *plaintext* for the current tenant.

        Args:
            plaintext: What to seal; it may be empty.

            context: What it is bound to; the same has to be given to open it.

            suite: How; see `Suite`.

            inline: Carry the wrapped data key along, for what leaves the
                reach of this store of data keys.

        Raises:
            twh_platform.errors.NoCurrentTenantError: If no tenant is bound.

            twh_platform.errors.ConfigurationError: With code
                ``seal_context_invalid`` or ``plaintext_too_large``.

            twh_platform.errors.KeyServiceError: If no data key can be had.
        """
        tenant = require_owner()
        tail = self.data_keys.tail(tenant.id, context)
        entry = self.data_keys.ready(tenant.id, suite, len(plaintext))
        if entry is None:
            entry = self.data_keys.cache.run(self.data_keys.to_seal(tenant, suite, len(plaintext)))
        if inline:
            return entry.keys.seal(plaintext, tail, suite, inline=(entry.record.wrapped,))
        sealed: bytes = entry.sealers[suite](plaintext, tail)
        return sealed

    def open(self, sealed: bytes, context: Mapping[str, str] = NO_CONTEXT) -> bytes:
        """
        Open what `seal` made for this tenant and this context, all of it or nothing.

        Raises:
            twh_platform.errors.NoCurrentTenantError: If no tenant is bound.

            twh_platform.errors.DecryptionError: If it is not such a thing.

            twh_platform.errors.KeyServiceError: If its data key cannot be had.
        """
        tenant = require_owner()
        parsed = parse(sealed)
        tail = self.data_keys.tail(tenant.id, context)
        entry = self.data_keys.known(tenant.id, parsed)
        if entry is None:
            entry = self.data_keys.cache.run(self.data_keys.opening(tenant, parsed))
        return entry.keys.open(parsed, tail)

    def seal_stream(
        self, chunks: Iterable[bytes], context: Mapping[str, str] = NO_CONTEXT
    ) -> Iterator[bytes]:
        """
        Seal what comes in pieces, in suite 2, without gathering it.

        The tenant is the one that is bound now, whoever takes the pieces.

        Raises:
            twh_platform.errors.PlatformError: As `seal`.
        """
        tenant = require_owner()
        tail = self.data_keys.tail(tenant.id, context)
        entry = self.data_keys.cache.run(self.data_keys.sealing(tenant, Suite.STREAM))
        return _seal_pieces(SealingStream(entry.keys, tail), chunks)

    def open_stream(
        self, chunks: Iterable[bytes], context: Mapping[str, str] = NO_CONTEXT
    ) -> Iterator[bytes]:
        """
        Open what `seal_stream` made, piece by piece.

        Each piece is authentic.  That nothing is missing is known at the end
        only: take what came as whole when the iterator has ended without
        `twh_platform.errors.DecryptionError`.

        Raises:
            twh_platform.errors.PlatformError: As `open`; from the iterator, but
                for `twh_platform.errors.NoCurrentTenantError`.
        """
        tenant = require_owner()
        return self._open_pieces(tenant, chunks, self.data_keys.tail(tenant.id, context))

    def warm(self, *suites: Suite) -> None:
        """
        Have the data keys ready that the current tenant's next seals take.

        Args:
            suites: Of these suites; suite 2 if none is given.

        Raises:
            twh_platform.errors.NoCurrentTenantError: If no tenant is bound.

            twh_platform.errors.KeyServiceError: If they cannot be had.
        """
        tenant = require_owner()
        for suite in suites or (Suite.STREAM,):
            self.data_keys.cache.run(self.data_keys.sealing(tenant, suite))

    def evict(self, tenant_id: str) -> None:
        """
        Forget the tenant's data keys; what is being loaded is loaded again.
        """
        self.data_keys.cache.evict(tenant_id)

    def clear(self) -> None:
        """
        Forget the data keys of all tenants.
        """
        self.data_keys.cache.clear()

    @property
    def stats(self) -> CacheStats:
        """
        What the cache holds and has done.
        """
        return self.data_keys.cache.stats()

    @property
    def policy(self) -> CachePolicy:
        """
        How long data keys are kept open.
        """
        return self.data_keys.cache.policy

    def close(self) -> None:
        """
        Forget all data keys and let go of threads; nothing is sealed or opened afterwards.
        """
        self.data_keys.cache.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_pieces(self, tenant: Tenant, chunks: Iterable[bytes], tail: bytes) -> Iterator[bytes]:
        head = _Head()
        stream: OpeningStream | None = None
        for chunk in chunks:
            if stream is None:
                parsed = head.take(chunk)
                if parsed is None:
                    continue
                entry = self.data_keys.cache.run(self.data_keys.opening(tenant, parsed))
                stream, chunk = OpeningStream(entry.keys, tail), head.start  # noqa: PLW2901
            if piece := stream.update(chunk):
                yield piece
        if stream is None:
            raise DecryptionError
        if piece := stream.finish():
            yield piece


class _Head:
    # Gathers the start of an envelope, until it says which data key opens it.
    __slots__ = ("start",)

    def __init__(self) -> None:
        self.start = b""

    def take(self, chunk: bytes) -> Parsed | None:
        self.start += chunk
        parsed = parse_head(self.start)
        if parsed is not None and parsed.suite is not Suite.STREAM:
            raise DecryptionError
        return parsed


def _seal_pieces(stream: SealingStream, chunks: Iterable[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        if piece := stream.update(chunk):
            yield piece
    yield stream.finish()


class AsyncTenantCipher:
    """
    The twin of a `TenantCipher` for a running event loop.

        cipher = AsyncTenantCipher(TenantCipher(service, store))
        sealed = await cipher.seal(b"GB29 NWBK", {"column": "iban", "row": "42"})

    The tenant is the one that is bound where a call is made, whoever awaits it;
    that there is none is told there.  With the data key at hand it works at
    once in the loop; what is above 1 MiB goes to a thread.  Data keys are loaded
    in threads of the cipher.  A task that is cancelled while it waits disturbs
    none that wait for the same.

    Args:
        cipher: The blocking one; both may be used at the same time.
    """

    def __init__(self, cipher: TenantCipher) -> None:
        self._cipher = cipher
        self._keys = cipher.data_keys

    @property
    def blocking(self) -> TenantCipher:
        """
        The blocking cipher.
        """
        return self._cipher

    def seal(
        self,
        plaintext: bytes,
        context: Mapping[str, str] = NO_CONTEXT,
        *,
        suite: Suite = Suite.STREAM,
        inline: bool = False,
    ) -> Coroutine[Any, Any, bytes]:
        """
        See `TenantCipher.seal`.
        """
        # Now, not when it is awaited: another tenant may be bound by then.
        tenant = require_owner()
        tail = self._keys.tail(tenant.id, context)
        return self._seal(tenant, tail, plaintext, suite, inline)

    def open(
        self, sealed: bytes, context: Mapping[str, str] = NO_CONTEXT
    ) -> Coroutine[Any, Any, bytes]:
        """
        See `TenantCipher.open`.
        """
        tenant = require_owner()
        return self._open(tenant, self._keys.tail(tenant.id, context), sealed)

    def seal_stream(
        self,
        chunks: AsyncIterable[bytes] | Iterable[bytes],
        context: Mapping[str, str] = NO_CONTEXT,
    ) -> AsyncIterator[bytes]:
        """
        See `TenantCipher.seal_stream`.
        """
        tenant = require_owner()
        return self._seal_pieces(tenant, chunks, self._keys.tail(tenant.id, context))

    def open_stream(
        self,
        chunks: AsyncIterable[bytes] | Iterable[bytes],
        context: Mapping[str, str] = NO_CONTEXT,
    ) -> AsyncIterator[bytes]:
        """
        See `TenantCipher.open_stream`.
        """
        tenant = require_owner()
        return self._open_pieces(tenant, chunks, self._keys.tail(tenant.id, context))

    async def warm(self, *suites: Suite) -> None:
        """
        See `TenantCipher.warm`.
        """
        keys, tenant = self._keys, require_owner()
        for suite in suites or (Suite.STREAM,):
            await keys.cache.run_async(keys.sealing(tenant, suite))

    def evict(self, tenant_id: str) -> None:
        """
        See `TenantCipher.evict`.
        """
        self._cipher.evict(tenant_id)

    @property
    def stats(self) -> CacheStats:
        """
        See `TenantCipher.stats`.
        """
        return self._cipher.stats

    async def _seal(
        self,
        tenant: Tenant,
        tail: bytes,
        plaintext: bytes,
        suite: Suite,
        inline: bool,  # noqa: FBT001 - as it was given
    ) -> bytes:
        keys, size = self._keys, len(plaintext)
        entry = keys.ready(tenant.id, suite, size)
        if entry is None:
            entry = await keys.cache.run_async(keys.to_seal(tenant, suite, size))
        wrapped = (entry.record.wrapped,) if inline else ()
        if size > _INLINE_BYTES:
            return await asyncio.to_thread(entry.keys.seal, plaintext, tail, suite, inline=wrapped)
        return entry.keys.seal(plaintext, tail, suite, inline=wrapped)

    async def _open(self, tenant: Tenant, tail: bytes, sealed: bytes) -> bytes:
        keys, parsed = self._keys, parse(sealed)
        entry = keys.known(tenant.id, parsed)
        if entry is None:
            entry = await keys.cache.run_async(keys.opening(tenant, parsed))
        if len(sealed) > _INLINE_BYTES:
            return await asyncio.to_thread(entry.keys.open, parsed, tail)
        return entry.keys.open(parsed, tail)

    async def _seal_pieces(
        self, tenant: Tenant, chunks: AsyncIterable[bytes] | Iterable[bytes], tail: bytes
    ) -> AsyncIterator[bytes]:
        keys = self._keys
        entry = await keys.cache.run_async(keys.sealing(tenant, Suite.STREAM))
        stream = SealingStream(entry.keys, tail)
        async for chunk in _each(chunks):
            if piece := stream.update(chunk):
                yield piece
        yield stream.finish()

    async def _open_pieces(
        self, tenant: Tenant, chunks: AsyncIterable[bytes] | Iterable[bytes], tail: bytes
    ) -> AsyncIterator[bytes]:
        keys, head = self._keys, _Head()
        stream: OpeningStream | None = None
        async for chunk in _each(chunks):
            if stream is None:
                parsed = head.take(chunk)
                if parsed is None:
                    continue
                entry = await keys.cache.run_async(keys.opening(tenant, parsed))
                stream, chunk = OpeningStream(entry.keys, tail), head.start  # noqa: PLW2901
            if piece := stream.update(chunk):
                yield piece
        if stream is None:
            raise DecryptionError
        if piece := stream.finish():
            yield piece


async def _each(chunks: AsyncIterable[bytes] | Iterable[bytes]) -> AsyncIterator[bytes]:
    if isinstance(chunks, AsyncIterable):
        async for chunk in chunks:
            yield chunk
    else:
        for chunk in chunks:
            yield chunk
