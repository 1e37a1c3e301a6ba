"""
A small, real key service in memory, with counters and switches, for tests of what uses one.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from twh_platform.errors import (
    DecryptionError,
    KeyDestroyedError,
    KeyDisabledError,
    KeyServiceUnavailableError,
    KeyUnsupportedError,
)
from twh_platform.kms import (
    Capability,
    DataKey,
    Health,
    KeyContext,
    KeyInfo,
    KeyState,
    Mac,
    WrappedKey,
)

__all__ = ["SwitchedKeyService"]


class SwitchedKeyService:
    """
    One AES-256-GCM key per tenant.

    Attributes:
        calls: How often each call was made.

        per_tenant: How often any data key of a tenant was asked for.

        down: Refuse as a service that does not answer.

        slow: Seconds that each call takes.

        gate: If set, calls wait for this event.

        entered: Is set by each call that begins.
    """

    capabilities = Capability.TENANT_KEYS | Capability.DISABLE | Capability.DESTROY

    def __init__(self, name: str = "local") -> None:
        self.name = name
        self.calls: Counter[str] = Counter()
        self.per_tenant: Counter[str] = Counter()
        self.down = False
        self.slow = 0.0
        self.gate: threading.Event | None = None
        self.entered = threading.Event()
        self._keys: dict[str, bytes] = {}
        self._states: dict[str, KeyState] = {}
        self._lock = threading.Lock()

    def generate(self, contexts: Any) -> list[Any]:
        """See `KeyService.generate`."""
        plaintexts = [os.urandom(32) for _ in contexts]
        self._enter("generate", contexts)
        return [
            self._item(lambda c=c, p=p: DataKey(plaintext=p, wrapped=self._wrap(p, c)))
            for p, c in zip(plaintexts, contexts, strict=True)
        ]

    def wrap(self, keys: Any) -> list[Any]:
        """See `KeyService.wrap`."""
        self._enter("wrap", [context for _, context in keys])
        return [self._item(lambda p=p, c=c: self._wrap(p, c)) for p, c in keys]

    def unwrap(self, keys: Any) -> list[Any]:
        """See `KeyService.unwrap`."""
        self._enter("unwrap", [context for _, context in keys])
        return [self._item(lambda w=w, c=c: self._unwrap(w, c)) for w, c in keys]

    def rewrap(self, keys: Any) -> list[Any]:
        """See `KeyService.rewrap`."""
        self._enter("rewrap", [context for _, context in keys])
        return [self._item(lambda w=w, c=c: self._wrap(self._unwrap(w, c), c)) for w, c in keys]

    def mac(self, message: bytes, *, key: str) -> Mac:
        """See `KeyService.mac`."""
        raise KeyUnsupportedError

    def verify_mac(self, message: bytes, mac: Mac, *, key: str) -> None:
        """See `KeyService.verify_mac`."""
        raise KeyUnsupportedError

    def create(self, tenant_id: str) -> KeyInfo:
        """See `KeyService.create`."""
        self._key(tenant_id)
        return self.describe(tenant_id)

    def rotate(self, tenant_id: str) -> KeyInfo:
        """See `KeyService.rotate`."""
        raise KeyUnsupportedError

    def disable(self, tenant_id: str) -> KeyInfo:
        """See `KeyService.disable`."""
        return self._set(tenant_id, KeyState.DISABLED)

    def enable(self, tenant_id: str) -> KeyInfo:
        """See `KeyService.enable`."""
        return self._set(tenant_id, KeyState.ENABLED)

    def destroy(self, tenant_id: str) -> KeyInfo:
        """See `KeyService.destroy`."""
        self._keys.pop(tenant_id, None)
        return self._set(tenant_id, KeyState.DESTROYED)

    def describe(self, tenant_id: str) -> KeyInfo:
        """See `KeyService.describe`."""
        state = self._states.get(tenant_id, KeyState.ENABLED)
        return KeyInfo(key_ref=tenant_id, state=state, version=1, versions=(1,))

    def health(self) -> Health:
        """See `KeyService.health`."""
        return Health(ok=not self.down, seconds=0.0)

    def close(self) -> None:
        """See `KeyService.close`."""

    @property
    def asked(self) -> int:
        """How often data keys were asked for."""
        return self.calls["generate"] + self.calls["unwrap"]

    def _enter(self, call: str, contexts: list[KeyContext]) -> None:
        with self._lock:
            self.calls[call] += 1
            self.per_tenant.update(context.tenant_id for context in contexts)
        self.entered.set()
        if self.gate is not None:
            self.gate.wait(10)
        if self.slow:
            time.sleep(self.slow)
        if self.down:
            raise KeyServiceUnavailableError

    def _item(self, make: Any) -> Any:
        try:
            return make()
        except (DecryptionError, KeyDestroyedError, KeyDisabledError) as error:
            return error

    def _key(self, tenant_id: str) -> AESGCM:
        state = self._states.get(tenant_id, KeyState.ENABLED)
        if state is KeyState.DISABLED:
            raise KeyDisabledError
        if state is KeyState.DESTROYED:
            raise KeyDestroyedError
        with self._lock:
            return AESGCM(self._keys.setdefault(tenant_id, os.urandom(32)))

    def _wrap(self, plaintext: bytes, context: KeyContext) -> WrappedKey:
        nonce = os.urandom(12)
        sealed = self._key(context.tenant_id).encrypt(nonce, plaintext, context.encoded())
        return WrappedKey(
            provider=self.name,
            key_ref=context.tenant_id,
            key_version=1,
            ciphertext=nonce + sealed,
        )

    def _unwrap(self, wrapped: WrappedKey, context: KeyContext) -> bytes:
        nonce, sealed = wrapped.ciphertext[:12], wrapped.ciphertext[12:]
        try:
            return self._key(context.tenant_id).decrypt(nonce, sealed, context.encoded())
        except InvalidTag:
            raise DecryptionError from None

    def _set(self, tenant_id: str, state: KeyState) -> KeyInfo:
        self._states[tenant_id] = state
        return self.describe(tenant_id)
