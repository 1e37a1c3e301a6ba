"""
The seam to secret stores, what all of our own have in common, and one in memory.

A store keeps the secrets of each tenant apart, in versions.  Every call is about
the tenant that is bound here; `platform_owner()` binds the platform itself, for
what belongs to the service.  Calls block; `AsyncSecretStore` is the same for a
running loop.

`VersionedSecretStore` is for stores that can load and compare-and-set what is
known of a secret: they give four small methods, and get from the base what
versions, stages, overlap and revocation mean, and the announcements.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Protocol, runtime_checkable

from ...errors import SecretConflictError, SecretNotFoundError, SecretRevokedError
from .._clock import utc_now
from .._owner import require_owner
from .._secret import HiddenBytes, Secret
from ._announcing import announce_read, announcing_change, code_of
from ._versions import (
    RotationPolicy,
    SecretState,
    SecretValue,
    SecretVersion,
    Stage,
    add_version,
    choose_version,
    promote_pending,
    revoke_version,
    roll_back_current,
    usable_versions,
    valid_secret_name,
)

__all__ = ["MemorySecretStore", "SecretStore", "VersionedSecretStore", "accepted_values"]

_ATTEMPTS = 8


@runtime_checkable
class SecretStore(Protocol):
    """
    Where secrets are kept, in versions, each under its tenant.

    All calls block, are about the current tenant, and are safe to make from
    several threads.  A store raises `twh_platform.errors.BackendUnavailableError`
    where it, or the key service behind it, does not answer.
    """

    def put(
        self,
        name: str,
        secret: Secret,
        *,
        stage: Stage = Stage.CURRENT,
        expires_at: datetime | None = None,
        expected: int | None = None,
        overlap: float | None = None,
        policy: RotationPolicy | None = None,
    ) -> SecretVersion:
        """
        Keep a new version; the current one becomes the previous one.

        Args:
            name: See `valid_secret_name`.

            secret: Its value.

            stage: ``CURRENT``, or ``PENDING`` for one that is not used yet.

            expires_at: From this moment (with time zone) on it is not given.

            expected: The newest version's number as the caller knows it; 0 for
                none.

            overlap: Seconds for which the previous one stays valid; the
                policy's if None, else a day.

            policy: How the secret rotates from now on; None leaves that as it is.

        Raises:
            twh_platform.errors.SecretConflictError: If there is a newer version
                than *expected*, or others change it all the time.
        """
        ...

    def get(
        self, name: str, *, stage: Stage = Stage.CURRENT, version: int | None = None
    ) -> SecretValue:
        """
        The value of a stage, or of that version.

        Raises:
            twh_platform.errors.SecretNotFoundError: If there is none.

            twh_platform.errors.SecretRevokedError: If it was revoked, or with
                code ``secret_expired`` if its time or its overlap is over.
        """
        ...

    def versions(self, name: str) -> list[SecretVersion]:
        """
        What is known of each version, oldest first, without values; empty if there is none.
        """
        ...

    def promote(self, name: str, *, overlap: float | None = None) -> SecretVersion:
        """
        Make the pending version the current one, and that the previous one.

        Raises:
            twh_platform.errors.SecretNotFoundError: If none is pending.

            twh_platform.errors.SecretRevokedError: If that was revoked or has expired.
        """
        ...

    def roll_back(self, name: str, *, overlap: float | None = None) -> SecretVersion:
        """
        Make the previous version the current one again, also after its overlap.

        Raises:
            twh_platform.errors.SecretNotFoundError: If there is none.

            twh_platform.errors.SecretRevokedError: If that was revoked or has expired.
        """
        ...

    def revoke(self, name: str, version: int) -> SecretVersion:
        """
        Refuse that version from now on and erase its value; no other takes its place.

        Raises:
            twh_platform.errors.SecretNotFoundError: If there is no such version.
        """
        ...

    def names(self, *, prefix: str = "") -> list[str]:
        """
        The names of the tenant's secrets that begin with *prefix*, sorted.
        """
        ...

    def policy(self, name: str) -> RotationPolicy | None:
        """
        How the secret rotates, if it does.
        """
        ...


def accepted_values(
    store: SecretStore, name: str, *, now: datetime | None = None
) -> tuple[SecretValue, ...]:
    """
    All values to accept: the current one first, then older ones within their overlap.

    For whoever checks signatures or passwords that were made before a rotation.
    It is empty if there is no secret, or all of it was revoked.
    """
    moment = now or utc_now()
    state = SecretState(name=name, versions=tuple(store.versions(name)))
    values = []
    for one in usable_versions(state, now=moment):
        try:
            values.append(store.get(name, version=one.version))
        except (SecretNotFoundError, SecretRevokedError):
            continue  # revoked since the list was made
    return tuple(values)


class VersionedSecretStore(ABC):
    """
    What stores have in common that can compare-and-set what is known of a secret.

    A subclass gives `_load`, `_save`, `_value` and `_names`, and where it seals
    values, `_pack` and `_unpack`.  They are given the tenant's id and names that
    were checked, and raise nothing but `twh_platform.errors.PlatformError`.

    Args:
        now: The wall clock, with time zone.
    """

    def __init__(self, *, now: Callable[[], datetime] = utc_now) -> None:
        self._now = now

    @abstractmethod
    def _load(self, tenant_id: str, name: str) -> SecretState:
        """
        What is known of the secret; a state without versions if there is none.
        """

    @abstractmethod
    def _save(
        self,
        tenant_id: str,
        before: SecretState,
        after: SecretState,
        values: Mapping[int, bytes],
    ) -> bool:
        """
        Put *after* in the place of *before*, in one step; False if that is not there any more.

        *values* are those of new versions, packed.  The values of versions that
        are not in *after*, or are revoked there, are erased.
        """

    @abstractmethod
    def _value(self, tenant_id: str, name: str, version: int) -> bytes | None:
        """
        A version's value as it was packed, or None if there is none any more.
        """

    @abstractmethod
    def _names(self, tenant_id: str, prefix: str) -> list[str]:
        """
        The tenant's names that begin with *prefix*.
        """

    def _pack(self, secret: Secret, name: str, version: int) -> bytes:
        """
        A value as it is kept; by default as it is.
        """
        _ = name, version
        return secret.hidden()

    def _unpack(self, value: bytes, name: str, version: int) -> Secret:
        """
        The value of what `_pack` made.
        """
        _ = name, version
        return Secret(value)

    def put(
        self,
        name: str,
        secret: Secret,
        *,
        stage: Stage = Stage.CURRENT,
        expires_at: datetime | None = None,
        expected: int | None = None,
        overlap: float | None = None,
        policy: RotationPolicy | None = None,
    ) -> SecretVersion:
        """
        See `SecretStore.put`.
        """
        return self._change(
            "put",
            name,
            lambda state: add_version(
                state,
                now=self._now(),
                stage=stage,
                expires_at=expires_at,
                expected=expected,
                overlap=overlap,
                policy=policy,
            ),
            lambda state: state.newest,
            secret=secret,
        )

    def get(
        self, name: str, *, stage: Stage = Stage.CURRENT, version: int | None = None
    ) -> SecretValue:
        """
        See `SecretStore.get`.
        """
        tenant_id = require_owner().id
        valid_secret_name(name)
        try:
            found = self._get(tenant_id, name, stage, version)
        except Exception as error:
            announce_read(tenant_id, name, version, "store", code_of(error))
            raise
        announce_read(tenant_id, name, found.version.version, "store")
        return found

    def versions(self, name: str) -> list[SecretVersion]:
        """
        See `SecretStore.versions`.
        """
        return list(self.state(name).versions)

    def state(self, name: str) -> SecretState:
        """
        All that is known of the secret but its values; without versions if there is none.
        """
        return self._load(require_owner().id, valid_secret_name(name))

    def promote(self, name: str, *, overlap: float | None = None) -> SecretVersion:
        """
        See `SecretStore.promote`.
        """
        return self._change(
            "promoted",
            name,
            lambda state: promote_pending(state, now=self._now(), overlap=overlap),
            _current_number,
        )

    def roll_back(self, name: str, *, overlap: float | None = None) -> SecretVersion:
        """
        See `SecretStore.roll_back`.
        """
        return self._change(
            "rolled_back",
            name,
            lambda state: roll_back_current(state, now=self._now(), overlap=overlap),
            _current_number,
        )

    def revoke(self, name: str, version: int) -> SecretVersion:
        """
        See `SecretStore.revoke`.
        """
        return self._change(
            "revoked",
            name,
            lambda state: revoke_version(state, version, now=self._now()),
            lambda _: version,
        )

    def names(self, *, prefix: str = "") -> list[str]:
        """
        See `SecretStore.names`.
        """
        return sorted(self._names(require_owner().id, prefix))

    def policy(self, name: str) -> RotationPolicy | None:
        """
        See `SecretStore.policy`.
        """
        return self.state(name).policy

    def stored(self, name: str) -> dict[int, Secret]:
        """
        All values that are there, by version, usable or not: for a backup.
        """
        tenant_id = require_owner().id
        found = {}
        for one in self.state(name).versions:
            value = self._value(tenant_id, name, one.version)
            if value is not None:
                found[one.version] = self._unpack(value, name, one.version)
        return found

    def restore(self, state: SecretState, values: Mapping[int, Secret]) -> None:
        """
        Put a whole secret back as a backup has it; values that are not in *state* are left out.

        Raises:
            twh_platform.errors.SecretConflictError: If there is one of that name.
        """
        tenant_id, name = require_owner().id, valid_secret_name(state.name)
        with announcing_change(tenant_id, name, "restored") as done:
            packed = {
                version: self._pack(secret, name, version)
                for version, secret in values.items()
                if version in state.kept
            }
            if not self._save(tenant_id, SecretState(name=name), state, packed):
                raise SecretConflictError(f"secret {name!r} exists: it is not restored over it")
            done.append(state.newest)

    def _get(self, tenant_id: str, name: str, stage: Stage, version: int | None) -> SecretValue:
        for _ in range(_ATTEMPTS):
            state = self._load(tenant_id, name)
            chosen = choose_version(state, now=self._now(), stage=stage, version=version)
            value = self._value(tenant_id, name, chosen.version)
            if value is not None:
                return SecretValue(version=chosen, secret=self._unpack(value, name, chosen.version))
        # It was revoked between the two readings, again and again; or a value is lost.
        raise SecretNotFoundError(f"secret {name!r} has no value")

    def _change(
        self,
        action: str,
        name: str,
        decide: Callable[[SecretState], SecretState],
        number: Callable[[SecretState], int],
        *,
        secret: Secret | None = None,
    ) -> SecretVersion:
        tenant_id = require_owner().id
        valid_secret_name(name)
        with announcing_change(tenant_id, name, action) as done:
            after = self._decided(tenant_id, name, decide, secret)
            version = after.numbered(number(after))
            assert version is not None  # noqa: S101 -- every decision keeps its version
            done.append(version.version)
        return version

    def _decided(
        self,
        tenant_id: str,
        name: str,
        decide: Callable[[SecretState], SecretState],
        secret: Secret | None,
    ) -> SecretState:
        for _ in range(_ATTEMPTS):
            before = self._load(tenant_id, name)
            after = decide(before)
            if after == before:
                return after
            # Packed before the store's transaction begins: sealing may ask a key service.
            values = (
                {} if secret is None else {after.newest: self._pack(secret, name, after.newest)}
            )
            if self._save(tenant_id, before, after, values):
                return after
        raise SecretConflictError(f"secret {name!r} changes faster than it can be written")


def _current_number(state: SecretState) -> int:
    current = state.at(Stage.CURRENT)
    return current.version if current else 0


class MemorySecretStore(VersionedSecretStore):
    """
    Secrets in the memory of one process, unsealed: for tests and for trying things out.

        >>> from twh_platform.tenancy import Tenant, bind_tenant
        >>> store = MemorySecretStore()
        >>> with bind_tenant(Tenant(id="acme")):
        ...     store.put("smtp/password", Secret("s3cr3t")).version
        ...     store.get("smtp/password").secret.text()
        1
        's3cr3t'

    Args:
        now: The wall clock, with time zone.
    """

    def __init__(self, *, now: Callable[[], datetime] = utc_now) -> None:
        super().__init__(now=now)
        self._lock = threading.Lock()
        self._states: dict[tuple[str, str], SecretState] = {}
        self._values: dict[tuple[str, str, int], HiddenBytes] = {}

    def _load(self, tenant_id: str, name: str) -> SecretState:
        return self._states.get((tenant_id, name)) or SecretState(name=name)

    def _save(
        self,
        tenant_id: str,
        before: SecretState,
        after: SecretState,
        values: Mapping[int, bytes],
    ) -> bool:
        with self._lock:
            if self._load(tenant_id, after.name) != before:
                return False
            self._states[tenant_id, after.name] = after
            for one in before.versions:
                if one.version not in after.kept:
                    self._values.pop((tenant_id, after.name, one.version), None)
            for version, value in values.items():
                self._values[tenant_id, after.name, version] = HiddenBytes(value)
        return True

    def _value(self, tenant_id: str, name: str, version: int) -> bytes | None:
        return self._values.get((tenant_id, name, version))

    def _names(self, tenant_id: str, prefix: str) -> list[str]:
        with self._lock:
            return [
                name
                for owner, name in self._states
                if owner == tenant_id and name.startswith(prefix)
            ]
