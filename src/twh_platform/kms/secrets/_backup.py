"""
Backups of secrets: one sealed file, which a key service alone can open.

Each owner's secrets are a section of their own, sealed under the owner's master
key: where a tenant's key is destroyed, its section of every backup is closed for
good.  The sections carry their data keys wrapped, so that no other store is
needed to open them.  A manifest, sealed under the platform's key, names the
sections and their digests: none can be left out, doubled or put in from another
backup.

    file     = "TWHSECB1" | LP(manifest) | LP(section)*
    manifest = envelope (suite 2, inline) for _platform, context {"backup": "manifest"}
    section  = envelope (suite 2, inline) for its owner, context {"backup": <backup id>}

LP is a length of 4 bytes, big-endian, and as many bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import struct
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from ...errors import (
    ConfigurationError,
    DecryptionError,
    KeyDestroyedError,
    KeyNotFoundError,
    SecretError,
)
from .._clock import utc_now
from .._context import DATA_KEY_ID_BYTES, KeyContext, length_prefixed
from .._envelope import Suite, bound_tail, parse
from .._owner import as_owner, platform_owner, require_owner
from .._secret import HiddenBytes, Secret
from .._service import KeyService, KeyState, require_result
from .._suites import Keys
from ._announcing import announce_read
from ._versions import SecretState, read_state, write_state

__all__ = ["BackupReport", "RestoringStore", "backup_secrets", "restore_secrets"]

_MAGIC = b"TWHSECB1"
_PURPOSE = "backup"
_LENGTH = struct.Struct(">I")


class RestoringStore(Protocol):
    """
    A secret store that can be backed up and restored: any `VersionedSecretStore`.
    """

    def names(self, *, prefix: str = "") -> list[str]:
        """
        See `SecretStore.names`.
        """
        ...

    def state(self, name: str) -> SecretState:
        """
        All that is known of a secret but its values.
        """
        ...

    def stored(self, name: str) -> Mapping[int, Secret]:
        """
        All values that are there, by version, usable or not.
        """
        ...

    def restore(self, state: SecretState, values: Mapping[int, Secret]) -> None:
        """
        Put a secret back that is not there.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupReport:
    """
    What a backup holds, or what of it was restored.

    Attributes:
        made_at: When the backup was made.

        secrets: How many secrets, by the id of their owner.

        destroyed: The ids of owners whose keys are destroyed: what they had
            stays closed.
    """

    made_at: datetime
    secrets: Mapping[str, int]
    destroyed: tuple[str, ...] = ()


def backup_secrets(
    store: RestoringStore, service: KeyService, owners: Iterable[str]
) -> tuple[bytes, BackupReport]:
    """
    Make a sealed backup of the secrets of these owners.

    An owner whose master key is destroyed has nothing that opens: it is left
    out, and named in the report.

    Args:
        store: The store.

        service: The key service that seals it, and will have to open it.

        owners: The ids of tenants; ``_platform`` for the platform itself.

    Returns:
        The file's bytes and what is in it.
    """
    backup_id, made_at = os.urandom(DATA_KEY_ID_BYTES).hex(), utc_now()
    counts: dict[str, int] = {}
    sections: list[bytes] = []
    listed: list[dict[str, Any]] = []
    destroyed: list[str] = []
    for owner_id in dict.fromkeys(owners):
        with as_owner(owner_id):
            try:
                count, section = _section(store, service, backup_id)
            except KeyDestroyedError:
                if not _is_gone(service, owner_id):
                    raise
                destroyed.append(owner_id)
                continue
        counts[owner_id] = count
        sections.append(section)
        listed.append({"owner": owner_id, "sha256": hashlib.sha256(section).hexdigest()})
    manifest = {"id": backup_id, "made_at": made_at.isoformat(), "sections": listed}
    with platform_owner():
        sealed = _seal(service, HiddenBytes(json.dumps(manifest).encode()), "manifest")
    whole = _MAGIC + length_prefixed(sealed, *sections)
    return whole, BackupReport(made_at=made_at, secrets=counts, destroyed=tuple(destroyed))


def restore_secrets(store: RestoringStore, service: KeyService, backup: bytes) -> BackupReport:
    """
    Put the secrets of a backup into a store that has none of their owners.

    All of it is opened and checked before the first secret is written.  A run
    that ended half way is run again: what it has put back stays.

    Args:
        store: The store.

        service: The key service that sealed the backup.

        backup: The file's bytes.

    Raises:
        twh_platform.errors.DecryptionError: If the file was changed, cut, or put
            together of several, or was sealed by another key service.

        twh_platform.errors.SecretError: With code ``secret_store_not_empty``.
    """
    sealed, *sections = _parts(backup)
    with platform_owner():
        manifest = _document(_open(service, sealed, "manifest"))
    made_at, owners = _checked(manifest, sections)
    opened: dict[str, list[tuple[SecretState, dict[int, Secret]]]] = {}
    left: dict[str, list[tuple[SecretState, dict[int, Secret]]]] = {}
    destroyed = []
    for owner_id, section in zip(owners, sections, strict=True):
        with as_owner(owner_id):
            try:
                opened[owner_id] = _secrets(_open(service, section, manifest["id"]))
            except KeyDestroyedError:
                destroyed.append(owner_id)
            left[owner_id] = _left(store, opened.get(owner_id, []))
    if any(opened.values()) and not any(left.values()):
        raise _not_empty(next(iter(opened)))
    for owner_id, secrets in left.items():
        with as_owner(owner_id):
            for state, values in secrets:
                store.restore(state, values)
    counts = {owner_id: len(secrets) for owner_id, secrets in opened.items()}
    return BackupReport(made_at=made_at, secrets=counts, destroyed=tuple(destroyed))


def _is_gone(service: KeyService, owner_id: str) -> bool:
    # One data key alone may be destroyed: then its owner's other secrets are missed.
    try:
        return service.describe(owner_id).state in {KeyState.DESTROYED, KeyState.DESTROYING}
    except KeyNotFoundError:
        return True


def _left(
    store: RestoringStore, secrets: list[tuple[SecretState, dict[int, Secret]]]
) -> list[tuple[SecretState, dict[int, Secret]]]:
    # What an earlier run has put back, before it was ended, is there as it was.
    states = {state.name: state for state, _ in secrets}
    names = store.names()
    if any(store.state(name) != states.get(name) for name in names):
        raise _not_empty(require_owner().id)
    return [(state, values) for state, values in secrets if state.name not in names]


def _not_empty(owner_id: str) -> SecretError:
    message = f"{owner_id!r} has secrets here: a backup is restored where there are none"
    return SecretError(message, code="secret_store_not_empty")


def _section(store: RestoringStore, service: KeyService, backup_id: str) -> tuple[int, bytes]:
    names = store.names()
    for name in names:
        announce_read(require_owner().id, name, None, "backup")
    return len(names), _seal(service, _written(store, names), backup_id)


def _written(store: RestoringStore, names: list[str]) -> HiddenBytes:
    # In one expression: a traceback may show the variables of its frames.
    return HiddenBytes(
        json.dumps(
            [
                {
                    "state": write_state(store.state(name)),
                    "values": {
                        version: base64.b64encode(secret.hidden()).decode()
                        for version, secret in store.stored(name).items()
                    },
                }
                for name in names
            ]
        ).encode()
    )


def _secrets(document: HiddenBytes) -> list[tuple[SecretState, dict[int, Secret]]]:
    try:
        return [
            (
                read_state(one["state"]),
                {
                    int(version): Secret(base64.b64decode(value, validate=True))
                    for version, value in one["values"].items()
                },
            )
            for one in _document(document)
        ]
    except (KeyError, TypeError, ValueError, AttributeError):
        pass
    raise DecryptionError


def _seal(service: KeyService, document: HiddenBytes, what: str) -> bytes:
    owner_id = require_owner().id
    data_key_id = os.urandom(DATA_KEY_ID_BYTES)
    context = KeyContext(tenant_id=owner_id, purpose=_PURPOSE, data_key_id=data_key_id)
    made = require_result(service.generate([context])[0])
    keys = Keys(made.plaintext, tenant_id=owner_id, data_key_id=data_key_id)
    tail = bound_tail(owner_id, {"backup": what})
    return keys.seal(document, tail, Suite.STREAM, inline=(made.wrapped,))


def _open(service: KeyService, sealed: bytes, what: str) -> HiddenBytes:
    owner_id = require_owner().id
    parsed = parse(sealed)
    if not parsed.inline:
        raise DecryptionError
    context = KeyContext(tenant_id=owner_id, purpose=_PURPOSE, data_key_id=parsed.data_key_id)
    keys = Keys(
        require_result(service.unwrap([(parsed.inline[0], context)])[0]),
        tenant_id=owner_id,
        data_key_id=parsed.data_key_id,
    )
    return HiddenBytes(keys.open(parsed, bound_tail(owner_id, {"backup": what})))


def _document(document: HiddenBytes) -> Any:
    with suppress(ValueError):
        return json.loads(document)
    raise DecryptionError


def _checked(manifest: Any, sections: list[bytes]) -> tuple[datetime, list[str]]:
    with suppress(KeyError, TypeError, ValueError):
        listed = [(one["owner"], one["sha256"]) for one in manifest["sections"]]
        found = [hashlib.sha256(section).hexdigest() for section in sections]
        if [digest for _, digest in listed] == found:
            return datetime.fromisoformat(manifest["made_at"]), [owner for owner, _ in listed]
    raise DecryptionError


def _parts(backup: bytes) -> list[bytes]:
    if not backup.startswith(_MAGIC):
        message = "this is no backup of secrets"
        raise ConfigurationError(message, code="secret_backup_invalid")
    at, parts = len(_MAGIC), []
    while at < len(backup):
        start = at + _LENGTH.size
        if start > len(backup):
            raise DecryptionError
        at = start + _LENGTH.unpack_from(backup, start - _LENGTH.size)[0]
        if at > len(backup):
            raise DecryptionError
        parts.append(backup[start:at])
    if not parts:
        raise DecryptionError
    return parts
