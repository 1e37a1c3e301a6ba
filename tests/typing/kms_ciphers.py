"""
Sealing as a service author writes it; checked, never run.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import assert_type

from twh_platform.kms import (
    AsyncTenantCipher,
    CachePolicy,
    CacheStats,
    DataKeyStore,
    KeyService,
    LocalKeyService,
    MemoryDataKeyStore,
    SealLimits,
    SqliteDataKeyStore,
    Suite,
    TenantCipher,
)


def built(service: KeyService, path: Path) -> TenantCipher:
    """
    Of any key service and any store of data keys.
    """
    TenantCipher(LocalKeyService(path), MemoryDataKeyStore())
    stores: list[DataKeyStore] = [MemoryDataKeyStore(), SqliteDataKeyStore(path)]
    cipher = TenantCipher(
        service,
        stores[0],
        purpose="orders",
        policy=CachePolicy(max_age=60.0),
        limits=SealLimits(),
        also=[service],
    )
    assert_type(cipher.stats, CacheStats)
    assert_type(cipher.policy, CachePolicy)
    return cipher


def sealed(cipher: TenantCipher, text: str) -> bytes:
    """
    Bytes go in and come out; a context is text by text.
    """
    at = {"table": "orders", "row": "42"}
    envelope = cipher.seal(text.encode(), at, suite=Suite.FIELD, inline=True)
    assert_type(envelope, bytes)
    assert_type(cipher.open(envelope, at), bytes)
    assert_type(cipher.warm(Suite.FIELD, Suite.STREAM), None)

    cipher.seal(text)  # type: ignore[arg-type]
    cipher.seal(b"", {"row": 42})  # type: ignore[dict-item]
    cipher.seal(b"", at, Suite.FIELD)  # type: ignore[call-arg]
    cipher.seal(b"", at, suite=1)  # type: ignore[arg-type]
    cipher.open(envelope, tenant="acme")  # type: ignore[call-arg]
    return envelope


def streamed(cipher: TenantCipher, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """
    Pieces, as they come.
    """
    pieces = cipher.seal_stream(chunks, {"file": "a"})
    assert_type(pieces, Iterator[bytes])
    return cipher.open_stream(pieces, {"file": "a"})


async def awaited(cipher: TenantCipher) -> bytes:
    """
    The same in a loop, with the same blocking one behind it.
    """
    twin = AsyncTenantCipher(cipher)
    assert_type(twin.blocking, TenantCipher)
    envelope = await twin.seal(b"GB29", {"row": "42"}, suite=Suite.DETERMINISTIC)
    assert_type(envelope, bytes)
    assert_type(await twin.open(envelope, {"row": "42"}), bytes)

    twin.open(await twin.seal("text"))  # type: ignore[arg-type,unused-coroutine]
    AsyncTenantCipher(twin)  # type: ignore[arg-type]
    return envelope


def awaited_pieces(
    cipher: AsyncTenantCipher, body: AsyncIterable[bytes], chunks: Iterable[bytes]
) -> AsyncIterator[bytes]:
    """
    From what a request's body gives, or from a list; taken with `async for`.
    """
    assert_type(cipher.seal_stream(chunks), AsyncIterator[bytes])
    return cipher.open_stream(cipher.seal_stream(body))


def misbuilt(service: KeyService) -> None:
    """
    Options are named, and the store is not optional.
    """
    TenantCipher(service)  # type: ignore[call-arg]
    TenantCipher(service, MemoryDataKeyStore(), "orders")  # type: ignore[call-arg]
    TenantCipher(service, service)  # type: ignore[arg-type]
    CachePolicy(60.0)  # type: ignore[call-arg]
    CachePolicy().max_age = 1.0  # type: ignore[misc]
