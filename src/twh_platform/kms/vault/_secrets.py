"""
Secrets in the KV engine (version 2) of Vault or OpenBao.

A secret is one document, at ``<prefix>/<tenant>/<name>``, with ``~`` for each
``/`` of the name::

    {"format": 1, "state": {...}, "values": {"1": "<base64>", "2": ...}}

It is changed by check-and-set, so that versions, stages and values change in one
step or not at all.  The engine is told to keep no older document: what is
revoked is gone.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Any, Self

from ...errors import KeyServiceError
from .._clock import utc_now
from .._secret import HiddenBytes
from ..secrets._store import VersionedSecretStore
from ..secrets._versions import SecretState, read_state, write_state
from ._auth import VaultAuth
from ._session import VaultSession
from ._status import VaultRequestRefusedError, error_of
from ._transport import Answer, Hidden, VaultTransport, valid_path

__all__ = ["VaultSecretStore"]

_FORMAT = 1
_SETTINGS = {"max_versions": 1, "cas_required": True}


class VaultSecretStore(VersionedSecretStore):
    """
    A `SecretStore` in KV version 2: each tenant's secrets under a path of its own.

        >>> from twh_platform.kms.vault import TokenAuth, VaultSecretStore
        >>> VaultSecretStore("https://vault.example:8200", TokenAuth("hvs.example"))
        VaultSecretStore('https://vault.example:8200', mount='secret', prefix='twh')

    Vault seals what it keeps, so values are not sealed once more.  All values of
    a secret are one document: with integrated storage at most 1 MiB of it.

    Args:
        address: ``https://host:port`` of Vault or OpenBao, from the operator and
            from nobody else; ``http`` is for loopback only.

        auth: How to log in.

        mount: Where KV version 2 is mounted.

        prefix: What the paths begin with.

        namespace: The namespace of all requests.

        ca: A file or folder of certificates to trust instead of the usual.

        client_certificate: Files of a certificate and its key, for TLS.

        timeout: Seconds that one request may take.

        connections: How many connections are kept.

        now: The wall clock, with time zone.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``vault_address_invalid`` or ``vault_name_invalid``.
    """

    def __init__(
        self,
        address: str,
        auth: VaultAuth,
        *,
        mount: str = "secret",
        prefix: str = "twh",
        namespace: str | None = None,
        ca: str | os.PathLike[str] | None = None,
        client_certificate: tuple[str, str] | None = None,
        timeout: float = 2.0,
        connections: int = 8,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        super().__init__(now=now)
        self._mount = valid_path(mount, "mount")
        self._prefix = valid_path(prefix, "prefix")
        transport = VaultTransport(
            address,
            namespace=namespace,
            ca=ca,
            client_certificate=client_certificate,
            timeout=timeout,
            connections=connections,
        )
        self._session = VaultSession(transport, auth)

    def __repr__(self) -> str:
        address = self._session.transport.address
        return f"VaultSecretStore({address!r}, mount={self._mount!r}, prefix={self._prefix!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """
        Let go of the token, the connections and the thread that renews.
        """
        self._session.close()

    def _load(self, tenant_id: str, name: str) -> SecretState:
        return self._document(tenant_id, name)[0]

    def _save(
        self,
        tenant_id: str,
        before: SecretState,
        after: SecretState,
        values: Mapping[int, bytes],
    ) -> bool:
        path = self._path(tenant_id, before.name)
        found, kept, version = self._document(tenant_id, before.name)
        if found != before:
            return False
        if not version:
            # Before the first value, so that no older document is ever kept.
            self._session.request("POST", f"{self._mount}/metadata/{path}", dict(_SETTINGS))
        body = _body(after, kept, values, version)
        try:
            self._session.request("POST", f"{self._mount}/data/{path}", body)
        except VaultRequestRefusedError:
            if self._document(tenant_id, before.name)[2] == version:
                raise  # nobody was faster: it is refused for another reason
            return False
        return True

    def _value(self, tenant_id: str, name: str, version: int) -> bytes | None:
        kept = self._document(tenant_id, name)[1]
        return _opened(kept, version, name)

    def _names(self, tenant_id: str, prefix: str) -> list[str]:
        path = f"{self._mount}/metadata/{self._prefix}/{tenant_id}?list=true"
        answer = self._session.request("GET", path, accept=(404,))
        _refuse_missing_mount(answer, path)
        listed = answer.data.get("keys")
        names = [str(one).replace("~", "/") for one in listed] if isinstance(listed, list) else []
        return [one for one in names if one.startswith(prefix) and not one.endswith("/")]

    def _document(self, tenant_id: str, name: str) -> tuple[SecretState, Hidden, int]:
        """
        What is known, the values in base64, and the engine's own version of them.
        """
        path = f"{self._mount}/data/{self._path(tenant_id, name)}"
        answer = self._session.request("GET", path, accept=(404,))
        _refuse_missing_mount(answer, path)
        metadata = answer.data.get("metadata")
        version = int(metadata.get("version") or 0) if isinstance(metadata, dict) else 0
        if answer.status == HTTPStatus.NOT_FOUND:
            return SecretState(name=name), Hidden({}), version
        state, values = _read(answer, name)
        return state, values, version

    def _path(self, tenant_id: str, name: str) -> str:
        return f"{self._prefix}/{tenant_id}/{name.replace('/', '~')}"


def _refuse_missing_mount(answer: Answer, path: str) -> None:
    if answer.status == HTTPStatus.NOT_FOUND and answer.errors:
        raise error_of(answer.status, {}, what=f"GET {path}", details=True)


def _read(answer: Answer, name: str) -> tuple[SecretState, Hidden]:
    fault = True
    state, values = SecretState(name=name), Hidden({})
    try:
        document = Hidden(answer.data["data"])
        if document.value["format"] == _FORMAT:
            state = read_state(document.value["state"])
            values = Hidden(dict(document.value["values"]))
            fault = state.name != name
    except (KeyError, TypeError, ValueError):
        pass
    if fault:
        # Outside of `except`: the error's context may quote a value.
        raise _foreign(name)
    return state, values


def _body(after: SecretState, kept: Hidden, values: Mapping[int, bytes], version: int) -> Hidden:
    alive = {str(number) for number in after.kept}
    new = {str(one): base64.b64encode(value).decode() for one, value in values.items()}
    merged = {one: text for one, text in {**kept.value, **new}.items() if one in alive}
    data: dict[str, Any] = {"format": _FORMAT, "state": write_state(after), "values": merged}
    return Hidden({"options": {"cas": version}, "data": data})


def _opened(kept: Hidden, version: int, name: str) -> HiddenBytes | None:
    if str(version) not in kept.value:
        return None
    try:
        return HiddenBytes(base64.b64decode(kept.value[str(version)], validate=True))
    except (TypeError, ValueError):
        pass
    raise _foreign(name)


def _foreign(name: str) -> KeyServiceError:
    message = f"what Vault has as secret {name!r} was not written by this store"
    return KeyServiceError(message, code="vault_answer_invalid")
