"""
A cipher and all that it stands on, each part within the reach of an attacker.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from tests.support.memory_keys import SwitchedKeyService
from twh_platform import Tenant, bind_tenant
from twh_platform.errors import KeyServiceError
from twh_platform.kms import (
    AsyncTenantCipher,
    CachePolicy,
    MemoryDataKeyStore,
    Suite,
    TenantCipher,
    WrappedKey,
    replace_inline,
)
from twh_platform.testing import ManualClock

__all__ = ["ACME", "GLOBEX", "ROW", "House", "crafted", "opened_by"]

ACME, GLOBEX = Tenant(id="acme"), Tenant(id="globex")
ROW = {"table": "suppliers", "column": "iban", "row": "42"}


class House:
    """
    A key service that counts, a store, a cipher and its twin, and their clock.

    Args:
        policy: Of the cipher's cache.

        options: Of the cipher.
    """

    def __init__(self, policy: Mapping[str, Any] | None = None, **options: Any) -> None:
        self.clock = ManualClock()
        self.service = SwitchedKeyService()
        self.store = MemoryDataKeyStore(now=self.clock.utc)
        given = {"clock": self.clock.monotonic, "now": self.clock.utc, "chance": lambda: 0.0}
        self.cipher = TenantCipher(
            self.service,
            self.store,
            policy=CachePolicy(**(policy or {})),
            **{**given, **options},
        )
        self.twin = AsyncTenantCipher(self.cipher)

    def seal(
        self,
        plaintext: bytes = b"GB29 NWBK",
        context: Mapping[str, str] = ROW,
        *,
        tenant: Tenant = ACME,
        suite: Suite = Suite.STREAM,
        inline: bool = False,
    ) -> bytes:
        """What a tenant seals."""
        with bind_tenant(tenant):
            return self.cipher.seal(plaintext, context, suite=suite, inline=inline)

    def open(
        self, sealed: Any, context: Mapping[str, str] = ROW, *, tenant: Tenant = ACME
    ) -> bytes:
        """What a tenant opens."""
        with bind_tenant(tenant):
            return self.cipher.open(sealed, context)

    def opens(self, sealed: Any, context: Mapping[str, str] = ROW, *, tenant: Tenant = ACME) -> int:
        """1 if a tenant can open it, else 0."""
        return len(opened_by(lambda: self.open(sealed, context, tenant=tenant)))

    def key_of(self, tenant: Tenant = ACME, suite: Suite = Suite.STREAM) -> Any:
        """The open data key that a tenant seals with."""
        return self.cipher.data_keys.cache.tenants[tenant.id].sealing[suite]


def opened_by(act: Callable[[], bytes]) -> list[bytes]:
    """What an attempt opened: one plaintext, or nothing if it was refused."""
    with contextlib.suppress(KeyServiceError):
        return [act()]
    return []


def crafted(house: House, number: int) -> bytes:
    """An envelope with four wrapped keys that nobody wrapped."""
    keys = [
        WrappedKey(
            provider="local",
            key_ref="acme",
            key_version=1,
            ciphertext=bytes([at, number]) * 30,
        )
        for at in range(4)
    ]
    return replace_inline(house.seal(inline=True), keys)
