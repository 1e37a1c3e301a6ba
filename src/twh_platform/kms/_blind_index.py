"""
A blind index: finds sealed values by equality, without opening them.

    value = the first bits of HMAC-SHA256(key, normalised text)
    key   = HKDF-Expand-SHA512(data key, LP("twh/bidx/v1", data key id, tenant, column), 32)

Each tenant and column has a data key of its own, so that values of two tenants
or columns cannot be compared.  Whoever reads the values learns which rows are
equal, and no more; fewer bits make strangers equal too, so that even this is
uncertain, and a search has to open what it finds and compare.
"""

from __future__ import annotations

import asyncio
import hmac
import unicodedata
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from ..errors import ConfigurationError, KeyServiceUnavailableError
from ..tenancy._tenant import Tenant
from ._cipher import TenantCipher
from ._cipher_keys import Member, RingEntry
from ._context import length_prefixed
from ._data_keys import DataKeyRecord, DataKeyState, tombstone_of
from ._owner import require_owner
from ._suites import expand

__all__ = ["AsyncBlindIndex", "BlindIndex", "normalised"]

_LABEL = b"twh/bidx/v1"
_FEWEST_BITS, _MOST_BITS = 8, 256
_ATTEMPTS = 5
# By how much the clocks of two processes may differ, in seconds.
_SKEW = 60.0


def normalised(text: str) -> str:
    """
    Text as people compare it: in Unicode's form NFKC, case folded, without outer spaces.

        >>> normalised("  Straße ") == normalised("STRASSE")
        True
    """
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).strip()


class BlindIndex:
    """
    The blind index of one column, for the current tenant; calls block while keys are loaded.

        emails = BlindIndex(cipher, "customers.email")
        row.email_index = emails.value("ada@example.com")
        select(...).where(Customer.email_index.in_(emails.candidates("ada@example.com")))

    Args:
        cipher: Whose key service, store and cache are used.

        column: The column's name, 1 to 200 characters; another name is another index.

        bits: How many bits a value has, 8 to 256, a multiple of 8.

        normalise: What makes texts equal that are to be found by each other.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``blind_index_invalid``.
    """

    def __init__(
        self,
        cipher: TenantCipher,
        column: str,
        *,
        bits: int = 64,
        normalise: Callable[[str], str] = normalised,
    ) -> None:
        if bits % 8 or not _FEWEST_BITS <= bits <= _MOST_BITS:
            raise _invalid(f"bits={bits!r} is not a multiple of 8 from 8 to 256")
        if not 0 < len(column) <= 200:  # noqa: PLR2004 - said in the message
            raise _invalid("column has not 1 to 200 characters")
        self._keys = cipher.data_keys
        self._column = column.encode()
        self._size, self._normalise = bits // 8, normalise
        # A purpose is short and of few characters; a column's name need not be.
        self.purpose = f"index.{sha256(self._column).hexdigest()[:24]}"

    def value(self, text: str) -> bytes:
        """
        What to store beside a sealed *text*.

        Raises:
            twh_platform.errors.NoCurrentTenantError: If no tenant is bound.

            twh_platform.errors.KeyServiceError: If its keys cannot be had.
        """
        tenant = require_owner()
        return self._value(tenant, self._ring(tenant), text)

    def candidates(self, text: str) -> tuple[bytes, ...]:
        """
        What to search for: one value, or one for each key while the index is rotated.

        Raises:
            twh_platform.errors.PlatformError: As `value`.
        """
        tenant = require_owner()
        return self._candidates(tenant, self._ring(tenant), text)

    def begin_rotation(self) -> datetime:
        """
        Make a new key for the current tenant, and search by both from now on.

        The old key goes on to be written with until every process has learned
        of the new one, which takes `CachePolicy.stale_if_error` (the same in
        all processes) and a minute for clocks that differ.  To begin again
        what has begun changes nothing.

        Returns:
            The moment from which all write by the new key.  Then write the
            values of all rows anew, and call `end_rotation`.

        Raises:
            twh_platform.errors.KeyServiceUnavailableError: With code
                ``data_keys_busy``, if others change the keys all the time.
        """
        tenant = require_owner()
        for _ in range(_ATTEMPTS):
            records = self._records(tenant)
            active = [one for one in records if one.state is DataKeyState.ACTIVE]
            if len(records) > 1 and active:
                return self._settled_at(max(active, key=_age))
            for record in active:
                self._keys.store.replace(
                    replace(record, state=DataKeyState.DECRYPT), revision=record.revision
                )
            self._keys.make(tenant.id, self.purpose, shared=True, seconds=None)
            self._keys.cache.evict(tenant.id)
        message = f"the blind index of tenant {tenant.id!r} changes all the time"
        raise KeyServiceUnavailableError(message, code="data_keys_busy")

    def end_rotation(self) -> int:
        """
        Destroy the old keys of the current tenant: what was indexed with them is found no more.

        Returns:
            How many were destroyed.

        Raises:
            twh_platform.errors.ConfigurationError: With code
                ``rotation_not_settled``, before the moment that
                `begin_rotation` gave.
        """
        tenant = require_owner()
        records = self._records(tenant)
        old = [one for one in records if one.state is DataKeyState.DECRYPT]
        if not old:
            return 0
        active = [one for one in records if one.state is DataKeyState.ACTIVE]
        if not active or self._keys.now() < self._settled_at(max(active, key=_age)):
            message = f"tenant {tenant.id!r}: some may still write by the old key of this index"
            raise ConfigurationError(message, code="rotation_not_settled")
        done = [self._keys.store.replace(tombstone_of(one), revision=one.revision) for one in old]
        self._keys.cache.evict(tenant.id)
        return sum(done)

    def _ring(self, tenant: Tenant) -> RingEntry:
        return self._known(tenant) or self._keys.cache.run(self._keys.ring(tenant, self.purpose))

    async def _ring_async(self, tenant: Tenant) -> RingEntry:
        known = self._known(tenant)
        if known is not None:
            return known
        return await self._keys.cache.run_async(self._keys.ring(tenant, self.purpose))

    def _known(self, tenant: Tenant) -> RingEntry | None:
        return self._keys.known_ring(tenant.id, self.purpose)

    def _value(self, tenant: Tenant, ring: RingEntry, text: str) -> bytes:
        return self._tag(tenant, ring, self._writer(ring), text)

    def _candidates(self, tenant: Tenant, ring: RingEntry, text: str) -> tuple[bytes, ...]:
        return tuple([self._tag(tenant, ring, member, text) for member in ring.members])

    def _writer(self, ring: RingEntry) -> Member:
        # The newest that everybody knows; the oldest, if that is true of none.
        now = self._keys.now()
        settled = (one for one in ring.members if self._settled_at(one.record) <= now)
        return next(settled, ring.members[-1])

    def _settled_at(self, record: DataKeyRecord) -> datetime:
        # Nobody uses keys that were loaded longer ago, whatever is unavailable.
        seconds = self._keys.cache.policy.stale_if_error + _SKEW
        return record.created_at + timedelta(seconds=seconds)

    def _records(self, tenant: Tenant) -> list[DataKeyRecord]:
        return self._keys.records(tenant.id, self.purpose)

    def _tag(self, tenant: Tenant, ring: RingEntry, member: Member, text: str) -> bytes:
        key = ring.derived.get(member.record.data_key_id)
        if key is None:
            parts = (_LABEL, member.record.data_key_id, tenant.id.encode(), self._column)
            key = expand(member.data_key, length_prefixed(*parts), 32)
            ring.derived[member.record.data_key_id] = key
        return hmac.digest(key, self._normalise(text).encode(), "sha256")[: self._size]


class AsyncBlindIndex:
    """
    The twin of a `BlindIndex` for a running event loop.

    Args:
        index: The blocking one.
    """

    def __init__(self, index: BlindIndex) -> None:
        self._index = index

    def value(self, text: str) -> Coroutine[Any, Any, bytes]:
        """
        See `BlindIndex.value`; for the tenant that is bound now, whoever awaits it.
        """
        return self._value(require_owner(), text)

    def candidates(self, text: str) -> Coroutine[Any, Any, tuple[bytes, ...]]:
        """
        See `BlindIndex.candidates`; for the tenant that is bound now, whoever awaits it.
        """
        return self._candidates(require_owner(), text)

    async def begin_rotation(self) -> datetime:
        """
        See `BlindIndex.begin_rotation`, in a thread; cancelled, it may have begun all the same.
        """
        return await asyncio.to_thread(self._index.begin_rotation)

    async def end_rotation(self) -> int:
        """
        See `BlindIndex.end_rotation`, in a thread; cancelled, it may have ended all the same.
        """
        return await asyncio.to_thread(self._index.end_rotation)

    async def _value(self, tenant: Tenant, text: str) -> bytes:
        ring = await self._index._ring_async(tenant)  # noqa: SLF001 - its twin
        return self._index._value(tenant, ring, text)  # noqa: SLF001 - its twin

    async def _candidates(self, tenant: Tenant, text: str) -> tuple[bytes, ...]:
        ring = await self._index._ring_async(tenant)  # noqa: SLF001 - its twin
        return self._index._candidates(tenant, ring, text)  # noqa: SLF001 - its twin


def _age(record: DataKeyRecord) -> tuple[datetime, bytes]:
    return record.created_at.astimezone(UTC), record.data_key_id


def _invalid(what: str) -> ConfigurationError:
    return ConfigurationError(f"a blind index: {what}", code="blind_index_invalid")
