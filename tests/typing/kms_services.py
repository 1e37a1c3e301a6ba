"""
Key services as a service author uses them; checked, never run.
"""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

from twh_platform.errors import KeyServiceError
from twh_platform.kms import (
    AsyncKeyService,
    Capability,
    DataKey,
    GuardedKeyService,
    Health,
    KeyContext,
    KeyInfo,
    KeyService,
    KeyState,
    LocalKeyService,
    Mac,
    WrappedKey,
)
from twh_platform.kms.aws import AwsKeyService
from twh_platform.kms.vault import VaultKeyService


def any_of(
    path: Path, vault: VaultKeyService, aws: AwsKeyService, twin: AsyncKeyService
) -> list[KeyService]:
    """
    Each is one; their twin for loops is not, for it has to be awaited.
    """
    wrong: KeyService = twin  # type: ignore[assignment]
    return [LocalKeyService(path), GuardedKeyService(vault), vault, aws, wrong]


def batched(service: KeyService, contexts: list[KeyContext]) -> list[WrappedKey]:
    """
    What failed stands as an error in its place, and has to be told from a key.
    """
    assert_type(service.name, str)
    assert_type(service.capabilities, Capability)
    results = service.generate(contexts)
    assert_type(results, list[DataKey | KeyServiceError])
    service.rewrap([(results[0].wrapped, contexts[0])])  # type: ignore[union-attr]
    made = [one for one in results if not isinstance(one, KeyServiceError)]
    assert_type(made, list[DataKey])
    unwrapped = service.unwrap([(made[0].wrapped, contexts[0])])
    assert_type(unwrapped, list[bytes | KeyServiceError])
    return [one.wrapped for one in made]


def lived(service: KeyService) -> KeyState:
    """
    A tenant's master key, by the tenant's id.
    """
    info = service.rotate("acme")
    assert_type(info, KeyInfo)
    assert_type(info.versions, tuple[int, ...])
    assert_type(service.health(), Health)
    mac = service.mac(b"text", key="receipts")
    assert_type(mac, Mac)
    assert_type(service.verify_mac(b"text", mac, key="receipts"), None)

    service.mac(b"text", "receipts")  # type: ignore[call-arg]
    service.mac("text", key="receipts")  # type: ignore[arg-type]
    info.version = 2  # type: ignore[misc]
    return info.state


async def awaited(service: KeyService, context: KeyContext) -> list[WrappedKey | KeyServiceError]:
    """
    The same calls with the same types.
    """
    async with AsyncKeyService(service, threads=4, seconds=5.0) as keys:
        assert_type(keys, AsyncKeyService)
        assert_type(await keys.generate([context]), list[DataKey | KeyServiceError])
        assert_type(await keys.describe("acme"), KeyInfo)
        assert_type(await keys.mac(b"text", key="receipts"), Mac)
        assert_type(await keys.health(), Health)
        await keys.rotate(42)  # type: ignore[arg-type]
        return await keys.wrap([(b"k" * 32, context)])


def contexts() -> KeyContext:
    """
    Whom and what a key is for is named.
    """
    KeyContext("acme", "data", b"id")  # type: ignore[call-arg]
    KeyContext(tenant_id="acme", purpose="data")  # type: ignore[call-arg]
    return KeyContext(tenant_id="acme", purpose="data", data_key_id=b"i" * 16)
