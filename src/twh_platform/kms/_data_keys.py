"""
Data keys by reference: what a store keeps of them, and one store in memory.

What is sealed names its data key by id; the store has it wrapped.  So the
rotation of a master key touches the rows of this store and no sealed value.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Protocol, runtime_checkable

from ..errors import ConfigurationError, KeyDestroyedError, KeyServiceError
from ._clock import utc_now
from ._context import KeyContext
from ._service import WrappedKey

__all__ = [
    "DataKeyRecord",
    "DataKeyState",
    "DataKeyStore",
    "MemoryDataKeyStore",
    "current_of",
    "data_key_exists",
    "records_of",
    "tenant_shredded",
    "tombstone_of",
]

_PAGE = 500


class DataKeyState(StrEnum):
    """
    What a data key may still be used for.
    """

    ACTIVE = "active"
    """It seals and opens."""

    DECRYPT = "decrypt"
    """It opens what it has sealed."""

    DESTROYED = "destroyed"
    """Its wrapped form is overwritten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataKeyRecord:
    """
    A data key as a store keeps it.

    Args:
        tenant_id: Whose data it seals.

        data_key_id: Its id: 16 random bytes.

        purpose: What for; see `KeyContext`.

        wrapped: Its wrapped form; of a destroyed one only who wrapped it.

        state: What it may still be used for.

        shared: Whether many processes seal with it, or only the one that made it.

        created_at: When it was made, with time zone.

        not_after: From this moment (with time zone) on nothing is sealed with it.

        revision: Counts its changes, from 1 on.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``key_context_invalid`` or ``data_key_invalid``.
    """

    tenant_id: str
    data_key_id: bytes
    purpose: str
    wrapped: WrappedKey
    state: DataKeyState = DataKeyState.ACTIVE
    shared: bool = True
    created_at: datetime
    not_after: datetime | None = None
    revision: int = 1

    def __post_init__(self) -> None:
        _ = self.context
        for name in ("created_at", "not_after"):
            moment = getattr(self, name)
            if moment is not None and moment.tzinfo is None:
                message = f"data key {self.data_key_id.hex()}: {name} has no time zone"
                raise ConfigurationError(message, code="data_key_invalid")

    @property
    def context(self) -> KeyContext:
        """
        What its wrapped form is bound to.
        """
        return KeyContext(
            tenant_id=self.tenant_id, purpose=self.purpose, data_key_id=self.data_key_id
        )


@runtime_checkable
class DataKeyStore(Protocol):
    """
    Where wrapped data keys are kept, each under its tenant.

    All calls block and are safe to make from several threads.  A store raises
    `twh_platform.errors.KeyServiceUnavailableError` with code
    ``data_key_store_unavailable`` where it does not answer.  One that lies
    under row-level security answers for the current tenant only.
    """

    def add(self, record: DataKeyRecord) -> DataKeyRecord:
        """
        Keep a new data key, and return it.

        If it is shared and the tenant has a `current` one of that purpose,
        that one is returned and the new one is not kept: of any number of
        processes that add at once, all get the same one.

        Raises:
            twh_platform.errors.KeyDestroyedError: With code
                ``tenant_shredded``, if the tenant was shredded.

            twh_platform.errors.KeyServiceError: With code
                ``data_key_exists``, if the tenant has one of that id.
        """
        ...

    def get(self, tenant_id: str, data_key_id: bytes) -> DataKeyRecord | None:
        """
        The tenant's data key of that id, a destroyed one too, or None.
        """
        ...

    def current(self, tenant_id: str, purpose: str) -> DataKeyRecord | None:
        """
        The newest shared one that is active and whose `not_after` has not come.
        """
        ...

    def replace(self, record: DataKeyRecord, *, revision: int) -> bool:
        """
        Put *record* in the place of its predecessor, if that is in this *revision*.

        What is kept has ``revision + 1``, whatever *record* says.  A destroyed
        one is not replaced.

        Returns:
            Whether it was; if not, somebody else changed it first, or it is gone.
        """
        ...

    def page(
        self, tenant_id: str, *, after: bytes = b"", limit: int = 100, purpose: str | None = None
    ) -> list[DataKeyRecord]:
        """
        The tenant's data keys in the order of their ids, from *after* on (it is not among them).

        Destroyed ones are left out.

        Args:
            tenant_id: Whose.

            after: The last id of the page before.

            limit: How many at most.

            purpose: Only those of this purpose.
        """
        ...

    def tenants(self, *, after: str = "", limit: int = 100) -> list[str]:
        """
        The ids of tenants that have data keys, in the order of their bytes, from *after* on.

        A shredded tenant is among them for as long as it has tombstones.
        """
        ...

    def destroy(self, tenant_id: str) -> int:
        """
        Overwrite the tenant's wrapped keys and mark it as shredded for good.

        Returns:
            How many were overwritten; 0 if it is called again.
        """
        ...

    def shredded(self, tenant_id: str) -> bool:
        """
        Whether the tenant was destroyed here.
        """
        ...


def records_of(
    store: DataKeyStore, tenant_id: str, *, purpose: str | None = None
) -> Iterator[DataKeyRecord]:
    """
    All of a tenant's data keys but destroyed ones, a page of the store at a time.
    """
    after = b""
    while records := store.page(tenant_id, after=after, limit=_PAGE, purpose=purpose):
        yield from records
        after = records[-1].data_key_id


def tombstone_of(record: DataKeyRecord) -> DataKeyRecord:
    """
    What is left of a destroyed data key: all but its wrapped bytes.
    """
    wrapped = replace(record.wrapped, ciphertext=b"\x00")
    return replace(
        record, wrapped=wrapped, state=DataKeyState.DESTROYED, revision=record.revision + 1
    )


def current_of(
    records: Iterable[DataKeyRecord], purpose: str, now: datetime
) -> DataKeyRecord | None:
    """
    What `DataKeyStore.current` answers for a tenant that has these.
    """
    usable = [
        record
        for record in records
        if record.purpose == purpose
        and record.shared
        and record.state is DataKeyState.ACTIVE
        and (record.not_after is None or now < record.not_after)
    ]
    return max(usable, key=lambda record: (record.created_at, record.data_key_id), default=None)


def tenant_shredded(tenant_id: str) -> KeyDestroyedError:
    """
    The error for every use of a shredded tenant's keys.
    """
    return KeyDestroyedError(f"tenant {tenant_id!r} was shredded", code="tenant_shredded")


def data_key_exists(data_key_id: bytes) -> KeyServiceError:
    """
    The error for an id that is taken.
    """
    return KeyServiceError(f"data key {data_key_id.hex()} exists", code="data_key_exists")


class MemoryDataKeyStore:
    """
    Data keys in the memory of one process: for tests, they are lost with it.

        >>> MemoryDataKeyStore().tenants()
        []

    Args:
        now: The wall clock, for `current`.
    """

    def __init__(self, *, now: Callable[[], datetime] = utc_now) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._records: dict[str, dict[bytes, DataKeyRecord]] = {}
        self._shredded: set[str] = set()

    def add(self, record: DataKeyRecord) -> DataKeyRecord:
        """
        See `DataKeyStore.add`.
        """
        with self._lock:
            if record.tenant_id in self._shredded:
                raise tenant_shredded(record.tenant_id)
            records = self._records.setdefault(record.tenant_id, {})
            if record.data_key_id in records:
                raise data_key_exists(record.data_key_id)
            if record.shared and (
                found := current_of(records.values(), record.purpose, self._now())
            ):
                return found
            records[record.data_key_id] = record
            return record

    def get(self, tenant_id: str, data_key_id: bytes) -> DataKeyRecord | None:
        """
        See `DataKeyStore.get`.
        """
        with self._lock:
            return self._records.get(tenant_id, {}).get(data_key_id)

    def current(self, tenant_id: str, purpose: str) -> DataKeyRecord | None:
        """
        See `DataKeyStore.current`.
        """
        with self._lock:
            return current_of(self._records.get(tenant_id, {}).values(), purpose, self._now())

    def replace(self, record: DataKeyRecord, *, revision: int) -> bool:
        """
        See `DataKeyStore.replace`.
        """
        with self._lock:
            records = self._records.get(record.tenant_id, {})
            before = records.get(record.data_key_id)
            if before is None or before.revision != revision:
                return False
            if before.state is DataKeyState.DESTROYED:
                return False
            records[record.data_key_id] = replace(record, revision=revision + 1)
            return True

    def page(
        self, tenant_id: str, *, after: bytes = b"", limit: int = 100, purpose: str | None = None
    ) -> list[DataKeyRecord]:
        """
        See `DataKeyStore.page`.
        """
        with self._lock:
            records = sorted(self._records.get(tenant_id, {}).items())
        kept = (
            record
            for data_key_id, record in records
            if data_key_id > after
            and record.state is not DataKeyState.DESTROYED
            and purpose in {None, record.purpose}
        )
        return [record for record, _ in zip(kept, range(limit), strict=False)]

    def tenants(self, *, after: str = "", limit: int = 100) -> list[str]:
        """
        See `DataKeyStore.tenants`.
        """
        with self._lock:
            return sorted(one for one, kept in self._records.items() if kept and one > after)[
                :limit
            ]

    def destroy(self, tenant_id: str) -> int:
        """
        See `DataKeyStore.destroy`.
        """
        with self._lock:
            self._shredded.add(tenant_id)
            records = self._records.get(tenant_id, {})
            alive = [one for one in records.values() if one.state is not DataKeyState.DESTROYED]
            records.update({one.data_key_id: tombstone_of(one) for one in alive})
            return len(alive)

    def shredded(self, tenant_id: str) -> bool:
        """
        See `DataKeyStore.shredded`.
        """
        with self._lock:
            return tenant_id in self._shredded
