"""
The AWS Encryption SDK over one key in memory, which counts how often it is asked.
"""

from __future__ import annotations

import threading
import time
from types import ModuleType
from typing import Any

__all__ = ["Sdk", "static_sdk"]


class Sdk:
    """
    A client with one provider of keys, with or without the SDK's cache.

    Attributes:
        asked: How many data keys were wrapped.

        slow: Seconds that each wrapping takes.
    """

    def __init__(self, module: ModuleType, provider: Any, materials: dict[str, Any]) -> None:
        from aws_encryption_sdk.identifiers import Algorithm, CommitmentPolicy

        policy = CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT
        self.client = module.EncryptionSDKClient(commitment_policy=policy)
        self.suite = Algorithm.AES_256_GCM_HKDF_SHA512_COMMIT_KEY
        self.asked, self.slow = 0, 0.0
        self._materials = materials
        self._lock = threading.Lock()
        provider.sdk = self

    def seal(self, plaintext: bytes, context: dict[str, str] | None = None) -> bytes:
        """What the client makes of it."""
        options = {"encryption_context": context or {}, "algorithm": self.suite}
        return bytes(self.client.encrypt(source=plaintext, **options, **self._materials)[0])

    def open(self, sealed: bytes) -> bytes:
        """What the client opens."""
        return bytes(self.client.decrypt(source=sealed, **self._materials)[0])

    def met(self) -> None:
        """Count, and take as long as a service would."""
        with self._lock:
            self.asked += 1
        time.sleep(self.slow)


def static_sdk(module: ModuleType, *, cached: bool = False) -> Sdk:
    """
    The SDK with its committing suite over one key; *cached*, with its caching manager.
    """
    from aws_encryption_sdk.identifiers import EncryptionKeyType, WrappingAlgorithm
    from aws_encryption_sdk.internal.crypto.wrapping_keys import WrappingKey
    from aws_encryption_sdk.key_providers.raw import RawMasterKey, RawMasterKeyProvider

    wrapping = WrappingKey(
        wrapping_algorithm=WrappingAlgorithm.AES_256_GCM_IV12_TAG16_NO_PADDING,
        wrapping_key=bytes(32),
        wrapping_key_type=EncryptionKeyType.SYMMETRIC,
    )

    class Counted(RawMasterKey):  # type: ignore[misc, unused-ignore]
        def _generate_data_key(self, **asked: Any) -> Any:
            provider.sdk.met()
            return super()._generate_data_key(**asked)

    class Static(RawMasterKeyProvider):  # type: ignore[misc, unused-ignore]
        provider_id = "static"
        sdk: Sdk

        def _get_raw_key(self, key_id: Any) -> Any:
            return wrapping

        def _new_master_key(self, key_id: Any) -> Any:
            return Counted(key_id=key_id, provider_id="static", wrapping_key=wrapping)

    provider = Static()
    provider.add_master_key("static")
    materials: dict[str, Any] = {"key_provider": provider}
    if cached:
        cache = module.LocalCryptoMaterialsCache(100)
        manager = module.CachingCryptoMaterialsManager(
            cache=cache, max_age=600.0, master_key_provider=provider
        )
        materials = {"materials_manager": manager}
    return Sdk(module, provider, materials)
