"""
A keyset: the master keys of tenants as a value, and what may become of each.

::

    (none) --- create ---> enabled <--- disable, enable ---> disabled
                              |                                  |
                              +------------ destroy -------------+---> destroyed

A destroyed key leaves a tombstone without material, so that no new key ever
takes its name.  Each change makes a new keyset with the next revision.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import NoReturn, Self

from ..errors import KeyDestroyedError, KeyDisabledError, KeyNotFoundError
from ._secret import HiddenBytes
from ._service import KeyInfo, KeyState

__all__ = ["KEYSET_ID_BYTES", "MASTER_KEY_BYTES", "Keyset", "MasterKey"]

MASTER_KEY_BYTES = 32
KEYSET_ID_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterKey:
    """
    One tenant's master key with all its versions.

    Attributes:
        versions: The material of each version; empty once it is destroyed.

        version: The newest, which wraps.

        state: Where it is in its life.

        created_at: When it was made.

        destroyed_at: When it was destroyed.
    """

    versions: Mapping[int, bytes] = field(repr=False)
    version: int
    state: KeyState
    created_at: datetime
    destroyed_at: datetime | None = None

    @classmethod
    def new(cls, now: datetime, random: Callable[[int], bytes] = os.urandom) -> Self:
        """
        A key in its first version.
        """
        material = MappingProxyType({1: HiddenBytes(random(MASTER_KEY_BYTES))})
        return cls(versions=material, version=1, state=KeyState.ENABLED, created_at=now)

    def __reduce__(self) -> NoReturn:
        message = "a master key is not pickled: it stays in its keyset"
        raise TypeError(message)

    def rotated(self, random: Callable[[int], bytes] = os.urandom) -> Self:
        """
        The same key with one more version, which wraps from now on.
        """
        version = self.version + 1
        material = MappingProxyType(
            {**self.versions, version: HiddenBytes(random(MASTER_KEY_BYTES))}
        )
        return replace(self, versions=material, version=version)

    def destroyed(self, now: datetime) -> Self:
        """
        The tombstone of the key.
        """
        return replace(
            self, versions=MappingProxyType({}), state=KeyState.DESTROYED, destroyed_at=now
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyset:
    """
    The master keys of all tenants, as an immutable value.

        >>> Keyset.new()
        Keyset(revision=1)

    Attributes:
        id: What tells keysets apart: 16 hexadecimal digits.

        revision: It rises with each change.

        root: What the platform's own MAC keys are derived from.

        keys: The master key of each tenant.
    """

    id: str = field(repr=False)
    revision: int
    root: bytes = field(repr=False)
    keys: Mapping[str, MasterKey] = field(repr=False)

    @classmethod
    def new(cls, random: Callable[[int], bytes] = os.urandom) -> Self:
        """
        A keyset without any tenant.
        """
        return cls(
            id=random(KEYSET_ID_BYTES).hex(),
            revision=1,
            root=HiddenBytes(random(MASTER_KEY_BYTES)),
            keys=MappingProxyType({}),
        )

    def __reduce__(self) -> NoReturn:
        message = "a keyset is not pickled: write it to its file"
        raise TypeError(message)

    def ref(self, tenant_id: str) -> str:
        """
        What `WrappedKey.key_ref` says for the tenant's master key.
        """
        return f"{self.id}:{tenant_id}"

    def key(self, tenant_id: str) -> MasterKey:
        """
        The tenant's master key, in whatever state.

        Raises:
            twh_platform.errors.KeyNotFoundError: If there never was one.
        """
        found = self.keys.get(tenant_id)
        if found is None:
            raise KeyNotFoundError(f"the keyset has no master key of tenant {tenant_id!r}")
        return found

    def usable(self, tenant_id: str) -> MasterKey:
        """
        The tenant's master key, if it may be used.

        Raises:
            twh_platform.errors.KeyServiceError: If it may not: not found,
                disabled or destroyed.
        """
        found = self.remaining(tenant_id)
        if found.state is KeyState.DISABLED:
            raise KeyDisabledError(f"the master key of tenant {tenant_id!r} is disabled")
        return found

    def remaining(self, tenant_id: str) -> MasterKey:
        """
        The tenant's master key, if it is not destroyed.

        Raises:
            twh_platform.errors.KeyNotFoundError: If there never was one.

            twh_platform.errors.KeyDestroyedError: If it is.
        """
        found = self.key(tenant_id)
        if found.state is KeyState.DESTROYED:
            raise KeyDestroyedError(f"the master key of tenant {tenant_id!r} is destroyed")
        return found

    def info(self, tenant_id: str) -> KeyInfo:
        """
        The tenant's master key as the protocol describes it.
        """
        found = self.key(tenant_id)
        return KeyInfo(
            key_ref=self.ref(tenant_id),
            state=found.state,
            version=found.version,
            versions=tuple(sorted(found.versions)),
            destroyed_at=found.destroyed_at,
        )

    def having(self, keys: Mapping[str, MasterKey]) -> Self:
        """
        The next revision, with these keys in place of what there is.
        """
        changed = MappingProxyType({**self.keys, **keys})
        return replace(self, revision=self.revision + 1, keys=changed)

    def created(self, *tenant_ids: str, now: datetime | None = None) -> Self:
        """
        With a master key for each tenant that has none; itself if all have one.
        """
        at = now or datetime.now(UTC)
        missing = {one: MasterKey.new(at) for one in tenant_ids if one not in self.keys}
        return self.having(missing) if missing else self

    def rotated(self, tenant_id: str, *, seen: int | None = None) -> Self:
        """
        With one more version; itself if another has rotated it beyond *seen* already.
        """
        found = self.usable(tenant_id)
        if seen is not None and found.version > seen:
            return self
        return self.having({tenant_id: found.rotated()})

    def turned(self, tenant_id: str, state: KeyState) -> Self:
        """
        Enabled or disabled; itself if it is so.
        """
        found = self.remaining(tenant_id)
        if found.state is state:
            return self
        return self.having({tenant_id: replace(found, state=state)})

    def destroyed(self, tenant_id: str, *, now: datetime | None = None) -> Self:
        """
        With a tombstone in place of the key; itself if there is one.
        """
        found = self.key(tenant_id)
        if found.state is KeyState.DESTROYED:
            return self
        return self.having({tenant_id: found.destroyed(now or datetime.now(UTC))})
