"""
Data keys wrapped by the Transit engine of Vault or OpenBao.

Each tenant has a master key of its own, made with ``derived``: Transit derives
a subkey by the context (tenant, purpose, id of the data key) and refuses another.
Rewrapping takes the context too, so it stays inside and keeps the binding.

A key that was destroyed leaves a key ``...gone-...`` behind, which is used for
nothing: while it stands, no key of that tenant is made again.
"""

from __future__ import annotations

import base64
import hmac
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self, TypeVar

from ...errors import (
    DecryptionError,
    KeyDestroyedError,
    KeyDisabledError,
    KeyNotFoundError,
    KeyServiceError,
    KeyServiceUnavailableError,
    KeyUnsupportedError,
)
from .._checks import checked_data_key
from .._context import KeyContext
from .._service import (
    DATA_KEY_BYTES,
    LONGEST_WRAPPED_BYTES,
    Capability,
    DataKey,
    Health,
    KeyInfo,
    KeyState,
    Mac,
    Result,
    WrappedKey,
)
from ._auth import VaultAuth
from ._batches import by_tenant, fill, filled
from ._metadata import check_kind, latest_version, made_at, open_versions
from ._names import KeyNames, ciphertext_version
from ._session import VaultSession
from ._status import VaultRequestRefusedError
from ._texts import context_text, decoded, mac_input, to_encrypt
from ._transport import Hidden, VaultTransport, valid_path

__all__ = ["VaultKeyService"]

T = TypeVar("T")

_ALWAYS = (
    Capability.TENANT_KEYS
    | Capability.NATIVE_REWRAP
    | Capability.MAC
    | Capability.CREATE
    | Capability.ROTATE
    | Capability.DESTROY
    | Capability.VERSIONS
)
_KEY_TYPE = "aes256-gcm96"
_MOST_KNOWN = 10_000
# Some versions say 500 of a key in a state that does not fit.
_FAILED = "vault_failed"
_CANARY_CONTEXT = base64.b64encode(b"twh/health/v1").decode()


class VaultKeyService:
    """
    Master keys in Transit, one for each tenant.

        >>> from twh_platform.kms.vault import TokenAuth, VaultKeyService
        >>> VaultKeyService("https://vault.example:8200", TokenAuth("hvs.example"))
        VaultKeyService('https://vault.example:8200', mount='transit')

    Nothing is asked of the server before the first call.  Calls may come from
    any thread.  A key that was made elsewhere must be derived, and neither
    exportable nor open to plaintext backups; others are refused.

    Args:
        address: ``https://host:port`` of Vault or OpenBao, from the operator and
            from nobody else; ``http`` is for loopback only.

        auth: How to log in.

        mount: Where Transit is mounted.

        namespace: The namespace of all requests.

        key_prefix: What the names of keys begin with: letters, digits, one hyphen.

        create_missing: Make a tenant's master key when it is first needed.

        ca: A file or folder of certificates to trust instead of the usual.

        client_certificate: Files of a certificate and its key, for TLS.

        timeout: Seconds that one request may take.

        connections: How many connections are kept.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``vault_address_invalid`` or ``vault_name_invalid``.
    """

    name = "vault"

    def __init__(
        self,
        address: str,
        auth: VaultAuth,
        *,
        mount: str = "transit",
        namespace: str | None = None,
        key_prefix: str = "twh-",
        create_missing: bool = True,
        ca: str | os.PathLike[str] | None = None,
        client_certificate: tuple[str, str] | None = None,
        timeout: float = 2.0,
        connections: int = 8,
    ) -> None:
        self._names = KeyNames(valid_path(mount, "mount"), key_prefix)
        self._create_missing = create_missing
        transport = VaultTransport(
            address,
            namespace=namespace,
            ca=ca,
            client_certificate=client_certificate,
            timeout=timeout,
            connections=connections,
        )
        self._session = VaultSession(transport, auth)
        self._known: dict[str, None] = {}
        self._soft_delete: bool | None = None

    def __repr__(self) -> str:
        address = self._session.transport.address
        return f"VaultKeyService({address!r}, mount={self._names.mount!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def capabilities(self) -> Capability:
        """
        All, but `Capability.DISABLE` only where the server knows soft deletion (OpenBao).

        That is seen from how it describes a key, which may take one request.
        """
        if self._soft_delete is None:
            try:
                self._canary()
            except KeyServiceError:
                return _ALWAYS
        return _ALWAYS | Capability.DISABLE if self._soft_delete else _ALWAYS

    def generate(self, contexts: Sequence[KeyContext]) -> list[Result[DataKey]]:
        """
        See `KeyService.generate`: a request each, for Transit has no batch of it.
        """
        results: list[Result[DataKey] | None] = [None] * len(contexts)
        for at, context in enumerate(contexts):
            fill(results, [at], partial(self._generated, context))
        return filled(results)

    def wrap(self, keys: Sequence[tuple[bytes, KeyContext]]) -> list[Result[WrappedKey]]:
        """
        See `KeyService.wrap`: encrypt, those of a tenant in one request.

        Raises:
            twh_platform.errors.ConfigurationError: With code
                ``data_key_length``, for one of another length.
        """
        # Hidden before anything can fail: a traceback may be shown with locals.
        hidden = [Hidden(one) for one in keys]
        del keys
        for one in hidden:
            checked_data_key(one.value[0])
        results: list[Result[WrappedKey] | None] = [None] * len(hidden)
        for tenant_id, places in by_tenant([one.value[1] for one in hidden]):
            items = [hidden[at] for at in places]
            fill(results, places, partial(self._wrapped, tenant_id, items))
        return filled(results)

    def unwrap(self, keys: Sequence[tuple[WrappedKey, KeyContext]]) -> list[Result[bytes]]:
        """
        See `KeyService.unwrap`: decrypt, those of a tenant in one request.
        """
        return self._batch(keys, "decrypt", self._opened)

    def rewrap(self, keys: Sequence[tuple[WrappedKey, KeyContext]]) -> list[Result[WrappedKey]]:
        """
        See `KeyService.rewrap`: inside of Vault, those of a tenant in one request.
        """
        return self._batch(keys, "rewrap", self._wrapped_key)

    def mac(self, message: bytes, *, key: str) -> Mac:
        """
        See `KeyService.mac`: HMAC-SHA256, under a key of its own in Transit.

        Raises:
            twh_platform.errors.ConfigurationError: With code
                ``mac_message_too_long`` or ``mac_key_invalid``.
        """
        name = self._names.mac(key)
        body = Hidden({"input": mac_input(message)})
        path = self._path("hmac", name)
        try:
            answer = self._session.request("POST", path, body)
        except (VaultRequestRefusedError, KeyNotFoundError):
            if self._read(name) is not None:
                raise
            self._make(name, derived=False)
            answer = self._session.request("POST", path, body)
        tag = answer.data.get("hmac")
        if not isinstance(tag, str) or not ciphertext_version(tag.encode()):
            raise _unusable("a MAC")
        return Mac(key_ref=self._names.reference(name), tag=tag.encode())

    def verify_mac(self, message: bytes, mac: Mac, *, key: str) -> None:
        """
        See `KeyService.verify_mac`.
        """
        name = self._names.mac(key)
        given = mac_input(message)
        if mac.key_ref != self._names.reference(name) or not ciphertext_version(mac.tag):
            raise DecryptionError
        body = {"input": given, "hmac": mac.tag.decode("ascii")}
        try:
            answer = self._session.request("POST", self._path("verify", name), body)
        except (VaultRequestRefusedError, KeyNotFoundError):
            if self._read(name) is None:
                raise _not_found(self._names.reference(name)) from None
            raise DecryptionError from None
        if answer.data.get("valid") is not True:
            raise DecryptionError

    def create(self, tenant_id: str) -> KeyInfo:
        """
        See `KeyService.create`.
        """
        name = self._names.tenant(tenant_id)
        found = self._read(name)
        if found is None:
            found = self._made(tenant_id)
        check_kind(found, name)
        return self._info(tenant_id, found)

    def rotate(self, tenant_id: str) -> KeyInfo:
        """
        See `KeyService.rotate`.
        """
        name = self._names.tenant(tenant_id)
        try:
            self._session.request("POST", f"{self._key_path(name)}/rotate", {})
        except (VaultRequestRefusedError, KeyNotFoundError, KeyServiceUnavailableError) as error:
            raise self._explained(tenant_id, error) from None
        return self.describe(tenant_id)

    def disable(self, tenant_id: str) -> KeyInfo:
        """
        See `KeyService.disable`: OpenBao does so by soft deletion; Vault cannot.
        """
        return self._switched(tenant_id, "DELETE", "soft-delete", KeyState.DISABLED)

    def enable(self, tenant_id: str) -> KeyInfo:
        """
        See `KeyService.enable`.
        """
        return self._switched(tenant_id, "POST", "soft-delete-restore", KeyState.ENABLED)

    def destroy(self, tenant_id: str) -> KeyInfo:
        """
        See `KeyService.destroy`: at once.

        What a backup of Vault's storage holds is not reached by it.

        Returns:
            The state as it was read afterwards: a key that the server still has
            is `KeyState.DESTROYING`, whatever it answered before.
        """
        name = self._names.tenant(tenant_id)
        found = self._read(name)
        if found is None:
            return self.describe(tenant_id)
        # The tombstone first: nobody makes the key anew while this goes on.
        self._make(self._names.gone(tenant_id), derived=False)
        if found.get("soft_deleted"):
            self._session.request("POST", f"{self._key_path(name)}/soft-delete-restore", {})
        self._session.request("POST", f"{self._key_path(name)}/config", {"deletion_allowed": True})
        self._session.request("DELETE", self._key_path(name), accept=(404,))
        self._known.pop(name, None)
        return self.describe(tenant_id)

    def describe(self, tenant_id: str) -> KeyInfo:
        """
        See `KeyService.describe`.
        """
        found = self._read(self._names.tenant(tenant_id))
        if found is None:
            return self._gone(tenant_id)
        return self._info(tenant_id, found)

    def health(self) -> Health:
        """
        See `KeyService.health`: 32 random bytes, under a key that is for nothing else.
        """
        began = time.monotonic()
        code = None
        try:
            self._round_trip()
        except KeyServiceError as error:
            code = error.code
        return Health(ok=code is None, seconds=time.monotonic() - began, code=code)

    def close(self) -> None:
        """
        Let go of the token, the connections and the thread that renews.
        """
        self._session.close()

    # --- one tenant's part of a batch

    def _generated(self, context: KeyContext) -> list[Result[DataKey]]:
        self._prepare(context.tenant_id)
        name = self._names.tenant(context.tenant_id)
        body = {"context": context_text(context), "bits": DATA_KEY_BYTES * 8}
        try:
            answer = self._session.request("POST", self._path("datakey/plaintext", name), body)
        except (VaultRequestRefusedError, KeyNotFoundError, KeyServiceUnavailableError) as error:
            raise self._explained(context.tenant_id, error) from None
        plaintext = decoded(answer.data.get("plaintext"))
        if len(plaintext.value) != DATA_KEY_BYTES:
            raise _unusable("a data key of the wrong length")
        wrapped = self._wrapped_key(name, answer.data)
        return [DataKey(plaintext=plaintext.value, wrapped=wrapped)]

    def _wrapped(self, tenant_id: str, items: list[Hidden]) -> list[Result[WrappedKey]]:
        # `encrypt` would make a key that is missing, or was destroyed, by itself.
        self._prepare(tenant_id, known=False)
        name = self._names.tenant(tenant_id)
        answers = self._asked(tenant_id, "encrypt", to_encrypt(items))
        return [self._item(one, partial(self._wrapped_key, name)) for one in answers]

    def _batch(
        self,
        keys: Sequence[tuple[WrappedKey, KeyContext]],
        verb: str,
        read: Callable[[str, dict[str, Any]], T],
    ) -> list[Result[T]]:
        results: list[Result[T] | None] = [None] * len(keys)
        for at, (wrapped, context) in enumerate(keys):
            if not self._is_ours(wrapped, context):
                results[at] = DecryptionError()
        contexts = [context for _, context in keys]
        for tenant_id, places in by_tenant(contexts):
            asked = [at for at in places if results[at] is None]
            batch = [
                {
                    "ciphertext": keys[at][0].ciphertext.decode(),
                    "context": context_text(keys[at][1]),
                }
                for at in asked
            ]
            fill(results, asked, partial(self._read_batch, tenant_id, verb, batch, read))
        return filled(results)

    def _read_batch(
        self,
        tenant_id: str,
        verb: str,
        batch: list[dict[str, str]],
        read: Callable[[str, dict[str, Any]], T],
    ) -> list[Result[T]]:
        name = self._names.tenant(tenant_id)
        answers = self._asked(tenant_id, verb, Hidden(batch))
        return [self._item(one, partial(read, name)) for one in answers]

    def _asked(self, tenant_id: str, verb: str, batch: Hidden) -> list[dict[str, Any]]:
        name = self._names.tenant(tenant_id)
        body = Hidden({"batch_input": batch.value, "partial_failure_response_code": 200})
        try:
            # 400 is the answer when every item fails; it lists them like any other.
            answer = self._session.request("POST", self._path(verb, name), body, accept=(400,))
        except (KeyNotFoundError, KeyServiceUnavailableError) as error:
            raise self._explained(tenant_id, error) from None
        results = answer.data.get("batch_results")
        if answer.status == 400 and results is None:  # noqa: PLR2004
            refused = VaultRequestRefusedError(f"Vault refuses to {verb} by {name}")
            raise self._explained(tenant_id, refused)
        if not isinstance(results, list) or len(results) != len(batch.value):
            raise _unusable("a batch of another length")
        return [one if isinstance(one, dict) else {} for one in results]

    def _item(self, answer: dict[str, Any], read: Callable[[dict[str, Any]], T]) -> Result[T]:
        if answer.get("error"):
            return DecryptionError()
        try:
            return read(answer)
        except KeyServiceError as error:
            return error

    def _opened(self, _: str, answer: dict[str, Any]) -> bytes:
        plaintext = decoded(answer.get("plaintext"))
        if len(plaintext.value) != DATA_KEY_BYTES:
            raise DecryptionError
        found: bytes = plaintext.value
        return found

    def _wrapped_key(self, name: str, answer: dict[str, Any]) -> WrappedKey:
        text = answer.get("ciphertext")
        ciphertext = text.encode() if isinstance(text, str) else b""
        version = ciphertext_version(ciphertext)
        if not version or len(ciphertext) > LONGEST_WRAPPED_BYTES:
            raise _unusable("a ciphertext of another form")
        return WrappedKey(
            provider=self.name,
            key_ref=self._names.reference(name),
            key_version=version,
            ciphertext=ciphertext,
        )

    def _is_ours(self, wrapped: WrappedKey, context: KeyContext) -> bool:
        """
        Whether it may have been wrapped here: asked before anything is sent.
        """
        expected = self._names.reference(self._names.tenant(context.tenant_id))
        version = ciphertext_version(wrapped.ciphertext)
        return (
            wrapped.provider == self.name
            and wrapped.key_ref == expected
            and version == wrapped.key_version > 0
        )

    # --- keys

    def _prepare(self, tenant_id: str, *, known: bool = True) -> None:
        """
        See to it that the tenant's key is there and of the right kind.
        """
        name = self._names.tenant(tenant_id)
        if known and name in self._known:
            return
        found = self._read(name)
        if found is None:
            if not self._create_missing:
                self._gone(tenant_id, refuse=True)
            found = self._made(tenant_id)
        check_kind(found, name)
        if found.get("soft_deleted"):
            raise _disabled(self._names.reference(name))
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[name] = None

    def _made(self, tenant_id: str) -> dict[str, Any]:
        tombstone = self._names.gone(tenant_id)
        self._refuse_if(tombstone)
        name = self._names.tenant(tenant_id)
        found = self._make(name, derived=True)
        # It may have been destroyed between the look and the making.
        if self._read(tombstone) is not None:
            self.destroy(tenant_id)
            self._refuse_if(tombstone)
        return found

    def _make(self, name: str, *, derived: bool) -> dict[str, Any]:
        body = {
            "type": _KEY_TYPE,
            "derived": derived,
            "exportable": False,
            "allow_plaintext_backup": False,
        }
        self._session.request("POST", self._key_path(name), body)
        found = self._read(name)
        if found is None:
            message = f"{self._names.reference(name)} was made and is not there yet"
            raise KeyServiceUnavailableError(message)
        return found

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            found = self._session.request("GET", self._key_path(name)).data
        except KeyNotFoundError:
            return None
        self._soft_delete = "soft_deleted" in found
        return found

    def _info(self, tenant_id: str, found: dict[str, Any]) -> KeyInfo:
        name = self._names.tenant(tenant_id)
        state, destroyed_at = KeyState.ENABLED, None
        if found.get("soft_deleted"):
            state = KeyState.DISABLED
        if found.get("deletion_allowed"):
            tombstone = self._read(self._names.gone(tenant_id))
            if tombstone is not None:
                state, destroyed_at = KeyState.DESTROYING, made_at(tombstone)
        return KeyInfo(
            key_ref=self._names.reference(name),
            state=state,
            version=latest_version(found),
            versions=open_versions(found),
            destroyed_at=destroyed_at,
        )

    def _gone(self, tenant_id: str, *, refuse: bool = False) -> KeyInfo:
        reference = self._names.reference(self._names.tenant(tenant_id))
        tombstone = self._read(self._names.gone(tenant_id))
        if tombstone is None:
            raise _not_found(reference)
        if refuse:
            raise _destroyed(reference)
        return KeyInfo(key_ref=reference, state=KeyState.DESTROYED, destroyed_at=made_at(tombstone))

    def _refuse_if(self, tombstone: str) -> None:
        if self._read(tombstone) is not None:
            raise _destroyed(self._names.reference(tombstone))

    def _explained(self, tenant_id: str, error: KeyServiceError) -> KeyServiceError:
        """
        Why a request about a tenant's key failed, seen from the state of the key.

        The server says 400 for a key that is missing and for much else, and
        tells the two apart in words only.
        """
        name = self._names.tenant(tenant_id)
        if isinstance(error, KeyServiceUnavailableError) and error.code != _FAILED:
            return error
        try:
            found = self._read(name)
            if found is None:
                self._known.pop(name, None)
                self._gone(tenant_id, refuse=True)
        except KeyServiceError as why:
            return error if why.retryable else why
        if found and found.get("soft_deleted"):
            self._known.pop(name, None)
            return _disabled(self._names.reference(name))
        return error

    def _switched(self, tenant_id: str, method: str, verb: str, state: KeyState) -> KeyInfo:
        name = self._names.tenant(tenant_id)
        if Capability.DISABLE not in self.capabilities:
            message = f"{self._names.reference(name)}: this Vault cannot disable a key"
            raise KeyUnsupportedError(message)
        if (before := self.describe(tenant_id)).state is state:
            return before
        if before.state is KeyState.DESTROYED:
            raise _destroyed(before.key_ref)
        self._session.request(method, f"{self._key_path(name)}/{verb}")
        self._known.pop(name, None)
        return self.describe(tenant_id)

    def _canary(self) -> None:
        if self._read(self._names.canary) is None and self._create_missing:
            self._make(self._names.canary, derived=True)

    def _round_trip(self) -> None:
        name, secret = self._names.canary, Hidden(os.urandom(DATA_KEY_BYTES))
        body = {"plaintext": base64.b64encode(secret.value).decode(), "context": _CANARY_CONTEXT}
        self._canary()
        sealed = self._session.request("POST", self._path("encrypt", name), Hidden(body)).data
        opening = {"ciphertext": sealed.get("ciphertext"), "context": _CANARY_CONTEXT}
        opened = self._session.request("POST", self._path("decrypt", name), opening).data
        if not hmac.compare_digest(decoded(opened.get("plaintext")).value, secret.value):
            raise DecryptionError

    def _path(self, verb: str, name: str) -> str:
        return f"{self._names.mount}/{verb}/{name}"

    def _key_path(self, name: str) -> str:
        return f"{self._names.mount}/keys/{name}"


def _not_found(reference: str) -> KeyNotFoundError:
    return KeyNotFoundError(f"there is no key {reference}")


def _disabled(reference: str) -> KeyDisabledError:
    return KeyDisabledError(f"the key {reference} is disabled")


def _destroyed(reference: str) -> KeyDestroyedError:
    return KeyDestroyedError(f"the key {reference} is destroyed")


def _unusable(what: str) -> KeyServiceError:
    return KeyServiceError(f"Vault answered {what}", code="vault_answer_invalid")
