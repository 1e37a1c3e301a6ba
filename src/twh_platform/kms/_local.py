"""
A key service without a server: master keys in a file, in the environment, or in memory.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Self

from .._signals import announce
from ..errors import (
    ConfigurationError,
    DecryptionError,
    KeyNotFoundError,
    KeyServiceError,
    KeyUnsupportedError,
)
from ..tenancy._tenant import valid_tenant_id
from ._announcements import KeyChanged
from ._checks import checked_data_key, checked_mac_key, checked_mac_message
from ._context import KeyContext, length_prefixed
from ._keyset import Keyset
from ._keyset_document import Passphrase, decode_keyset
from ._keyset_file import Change, FixedKeyset, KeysetFile, KeysetSource, MemoryKeyset
from ._keyset_wrapping import derive_key, unwrap_key, wrap_key
from ._owner import PLATFORM
from ._secret import HiddenBytes, Secret
from ._service import (
    DATA_KEY_BYTES,
    Capability,
    DataKey,
    Health,
    KeyInfo,
    KeyState,
    Mac,
    Result,
    WrappedKey,
)

__all__ = ["LocalKeyService"]

_USES = Capability.TENANT_KEYS | Capability.NATIVE_REWRAP | Capability.MAC | Capability.VERSIONS
_CHANGES = Capability.CREATE | Capability.ROTATE | Capability.DISABLE | Capability.DESTROY
_CANARY = KeyContext(tenant_id=PLATFORM.id, purpose="health", data_key_id=bytes(16))


class LocalKeyService:
    """
    A key service whose master keys are in a keyset of ours.

        >>> from twh_platform.kms import KeyContext, Keyset, LocalKeyService
        >>> service = LocalKeyService(Keyset.new())
        >>> bound = KeyContext(tenant_id="acme", purpose="data", data_key_id=bytes(16))
        >>> (made,) = service.generate([bound])
        >>> service.unwrap([(made.wrapped, bound)]) == [made.plaintext]
        True

    For development, tests, and services on one machine.  Several processes may
    share a file; a change by one of them is noticed by the others at their next
    call.  Whoever can read the memory of the process has the master keys, which
    is what Vault or AWS KMS would spare you.

    Args:
        keyset: The keyset's file, as `create_keyset` or ``twh-platform kms
            init`` makes it; or a `Keyset`, which lives as long as the process.

        passphrase: What the file is sealed under.

        create_missing: Make the master key of a tenant that has none when a
            data key is asked for.

    Raises:
        twh_platform.errors.ConfigurationError: If the file cannot be used: it is
            missing, damaged, of another user, or others may read it (code
            ``keyset_mode_too_wide``).
    """

    name = "local"

    def __init__(
        self,
        keyset: str | os.PathLike[str] | Keyset,
        *,
        passphrase: str | bytes | Secret | None = None,
        create_missing: bool = True,
    ) -> None:
        self.capabilities = _USES | _CHANGES
        self._create_missing = create_missing
        try:
            secret = Passphrase(passphrase) if passphrase is not None else None
        finally:
            # No traceback is to show it among its locals.
            del passphrase
        self._source: KeysetSource
        if isinstance(keyset, Keyset):
            self._source = MemoryKeyset(keyset)
        else:
            self._source = KeysetFile(Path(keyset), passphrase=secret)

    @classmethod
    def from_environment(
        cls,
        variable: str = "TWH_KEYSET",
        *,
        passphrase: str | bytes | Secret | None = None,
        create_missing: bool = True,
    ) -> Self:
        """
        Take the keyset from an environment variable.

        One that holds the document itself, or its base64, cannot be changed
        from here: there are the tenants that it was made with, and creating,
        rotating, disabling and destroying are unsupported.  Any other value is
        the path of a file, to which *create_missing* applies.

        Raises:
            twh_platform.errors.ConfigurationError: With code ``keyset_missing``
                if it is not set, and what the constructor raises.
        """
        try:
            secret = Passphrase(passphrase) if passphrase is not None else None
            found = _keyset_of(variable, secret)
            if isinstance(found, Path):
                return cls(found, passphrase=passphrase, create_missing=create_missing)
        finally:
            del passphrase
        service = cls(found, create_missing=False)
        service.capabilities = _USES
        service._source = FixedKeyset(found)
        return service

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def generate(self, contexts: Sequence[KeyContext]) -> list[Result[DataKey]]:
        """
        See `KeyService.generate`.
        """
        keyset = self._having(context.tenant_id for context in contexts)
        return [_generated(keyset, context) for context in contexts]

    def wrap(self, keys: Sequence[tuple[bytes, KeyContext]]) -> list[Result[WrappedKey]]:
        """
        See `KeyService.wrap`.
        """
        # Hidden, so that no traceback shows them among its locals.
        keys = [(HiddenBytes(key), context) for key, context in keys]
        for key, _ in keys:
            checked_data_key(key)
        keyset = self._having(context.tenant_id for _, context in keys)
        return [_wrapped(keyset, key, context) for key, context in keys]

    def unwrap(self, keys: Sequence[tuple[WrappedKey, KeyContext]]) -> list[Result[bytes]]:
        """
        See `KeyService.unwrap`.
        """
        keyset = self._source.current()
        return [_unwrapped(keyset, wrapped, context) for wrapped, context in keys]

    def rewrap(self, keys: Sequence[tuple[WrappedKey, KeyContext]]) -> list[Result[WrappedKey]]:
        """
        See `KeyService.rewrap`.
        """
        keyset = self._source.current()
        return [_rewrapped(keyset, wrapped, context) for wrapped, context in keys]

    def mac(self, message: bytes, *, key: str) -> Mac:
        """
        See `KeyService.mac`: HMAC-SHA256 by a key that is derived from the keyset's root.
        """
        checked_mac_message(message)
        keyset = self._source.current()
        return Mac(key_ref=_mac_ref(keyset, key), tag=_tag(keyset, key, message))

    def verify_mac(self, message: bytes, mac: Mac, *, key: str) -> None:
        """
        See `KeyService.verify_mac`.
        """
        checked_mac_message(message)
        keyset = self._source.current()
        same = hmac.compare_digest(_tag(keyset, key, message), mac.tag)
        if not same or mac.key_ref != _mac_ref(keyset, key):
            raise DecryptionError

    def create(self, tenant_id: str) -> KeyInfo:
        """
        See `KeyService.create`.

        Raises:
            twh_platform.errors.KeyDestroyedError: If the tenant's key was destroyed.
        """
        self._need(Capability.CREATE, tenant_id)
        keyset = self._source.change(lambda keyset: keyset.created(tenant_id))
        keyset.remaining(tenant_id)
        return keyset.info(tenant_id)

    def rotate(self, tenant_id: str) -> KeyInfo:
        """
        See `KeyService.rotate`.

        Of several processes that rotate at once one wins, and the others take
        over its version.
        """
        self._need(Capability.ROTATE, tenant_id)
        seen = self._source.current().usable(tenant_id).version
        return self._change_of(tenant_id, lambda keyset: keyset.rotated(tenant_id, seen=seen))

    def disable(self, tenant_id: str) -> KeyInfo:
        """
        See `KeyService.disable`.
        """
        self._need(Capability.DISABLE, tenant_id)
        return self._change_of(
            tenant_id, lambda keyset: keyset.turned(tenant_id, KeyState.DISABLED)
        )

    def enable(self, tenant_id: str) -> KeyInfo:
        """
        See `KeyService.enable`.
        """
        self._need(Capability.DISABLE, tenant_id)
        return self._change_of(tenant_id, lambda keyset: keyset.turned(tenant_id, KeyState.ENABLED))

    def destroy(self, tenant_id: str) -> KeyInfo:
        """
        See `KeyService.destroy`: at once, and a tombstone stays.

        Copies of the file that were made before hold the key still, and so may
        the blocks of the disk that the file was on.
        """
        self._need(Capability.DESTROY, tenant_id)
        return self._change_of(tenant_id, lambda keyset: keyset.destroyed(tenant_id))

    def describe(self, tenant_id: str) -> KeyInfo:
        """
        See `KeyService.describe`.
        """
        return self._source.current().info(valid_tenant_id(tenant_id))

    def health(self) -> Health:
        """
        See `KeyService.health`: the keyset is there, and its root wraps and unwraps.
        """
        began = perf_counter()
        try:
            _round_trip(self._source.current())
        except KeyServiceError as error:
            return Health(ok=False, seconds=perf_counter() - began, code=error.code)
        return Health(ok=True, seconds=perf_counter() - began)

    def close(self) -> None:
        """
        See `KeyService.close`: there is nothing to let go of.
        """

    def _need(self, capability: Capability, tenant_id: str) -> None:
        valid_tenant_id(tenant_id)
        if capability not in self.capabilities:
            raise KeyUnsupportedError(f"this keyset cannot be changed: no {capability.name}")

    def _change_of(self, tenant_id: str, change: Change) -> KeyInfo:
        return self._source.change(change).info(tenant_id)

    def _having(self, tenant_ids: Iterable[str]) -> Keyset:
        keyset = self._source.current()
        missing = [one for one in dict.fromkeys(tenant_ids) if one not in keyset.keys]
        if not missing or not self._create_missing:
            return keyset
        made: list[str] = []

        def created(before: Keyset) -> Keyset:
            made[:] = [one for one in missing if one not in before.keys]
            return before.created(*missing)

        keyset = self._source.change(created)
        for one in made:
            announce(
                KeyChanged(
                    service=self.name,
                    action="created",
                    tenant_id=one,
                    key_ref=keyset.ref(one),
                    key_version=1,
                )
            )
        return keyset


def _generated(keyset: Keyset, context: KeyContext) -> Result[DataKey]:
    plaintext = HiddenBytes(os.urandom(DATA_KEY_BYTES))
    wrapped = _wrapped(keyset, plaintext, context)
    if isinstance(wrapped, KeyServiceError):
        return wrapped
    return DataKey(plaintext=plaintext, wrapped=wrapped)


def _wrapped(keyset: Keyset, data_key: bytes, context: KeyContext) -> Result[WrappedKey]:
    try:
        key = keyset.usable(context.tenant_id)
    except KeyServiceError as error:
        return error
    key_ref, version = keyset.ref(context.tenant_id), key.version
    ciphertext = wrap_key(
        data_key, key.versions[version], key_ref=key_ref, version=version, context=context
    )
    return WrappedKey(
        provider=LocalKeyService.name, key_ref=key_ref, key_version=version, ciphertext=ciphertext
    )


def _unwrapped(keyset: Keyset, wrapped: WrappedKey, context: KeyContext) -> Result[bytes]:
    try:
        material = _material(keyset, wrapped, context)
        return unwrap_key(
            wrapped.ciphertext,
            material,
            key_ref=wrapped.key_ref,
            version=wrapped.key_version,
            context=context,
        )
    except KeyServiceError as error:
        return error.with_traceback(None)


def _material(keyset: Keyset, wrapped: WrappedKey, context: KeyContext) -> bytes:
    keyset_id, _, tenant_id = wrapped.key_ref.partition(":")
    if wrapped.provider != LocalKeyService.name or keyset_id != keyset.id:
        raise KeyNotFoundError("the data key was not wrapped by a key of this keyset")
    if tenant_id != context.tenant_id:
        raise DecryptionError
    material = keyset.usable(tenant_id).versions.get(wrapped.key_version)
    if material is None:
        message = f"the master key of tenant {tenant_id!r} has no version {wrapped.key_version}"
        raise KeyNotFoundError(message)
    return material


def _rewrapped(keyset: Keyset, wrapped: WrappedKey, context: KeyContext) -> Result[WrappedKey]:
    data_key = _unwrapped(keyset, wrapped, context)
    if isinstance(data_key, KeyServiceError):
        return data_key
    if wrapped.key_version == keyset.usable(context.tenant_id).version:
        return wrapped
    return _wrapped(keyset, data_key, context)


def _round_trip(keyset: Keyset) -> None:
    material = derive_key(keyset.root, info=b"twh/local/health/v1")
    canary, key_ref = HiddenBytes(os.urandom(DATA_KEY_BYTES)), keyset.ref(_CANARY.tenant_id)
    wrapped = wrap_key(canary, material, key_ref=key_ref, version=1, context=_CANARY)
    opened = unwrap_key(wrapped, material, key_ref=key_ref, version=1, context=_CANARY)
    if not hmac.compare_digest(opened, canary):
        raise DecryptionError


def _mac_ref(keyset: Keyset, key: str) -> str:
    return f"{keyset.id}:mac:{checked_mac_key(key)}"


def _tag(keyset: Keyset, key: str, message: bytes) -> bytes:
    name = checked_mac_key(key).encode()
    material = derive_key(keyset.root, info=length_prefixed(b"twh/local/mac/v1", name))
    return hmac.digest(material, message, "sha256")


def _keyset_of(variable: str, passphrase: Passphrase | None) -> Keyset | Path:
    value = HiddenBytes(os.environ.get(variable, "").strip().encode())
    if not value:
        message = f"{variable} holds no keyset, and no path of one"
        raise ConfigurationError(message, code="keyset_missing")
    document = _document_of(value)
    return Path(os.fsdecode(value)) if document is None else decode_keyset(document, passphrase)


def _document_of(value: bytes) -> bytes | None:
    if value.startswith(b"{"):
        return value
    try:
        document = HiddenBytes(base64.b64decode(value, validate=True))
    except (binascii.Error, ValueError):
        return None
    return document if document.startswith(b"{") else None
