"""
The data keys that a process holds open: found, made, checked, counted.

Suites 2 and 3 seal with data keys that many processes share.  Suite 1 draws
nonces of 12 bytes, so that the uses of its keys have to be counted, and each
process makes its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from hmac import compare_digest
from itertools import count
from typing import Any

from ..errors import (
    ConfigurationError,
    DecryptionError,
    KeyDestroyedError,
    KeyServiceError,
    KeyUnsupportedError,
)
from ..tenancy._tenant import Tenant
from ._cache import DataKeyCache, Steps
from ._cache_entry import Entry
from ._clock import utc_now
from ._context import DATA_KEY_ID_BYTES, KeyContext
from ._data_keys import DataKeyRecord, DataKeyState, DataKeyStore, records_of, tenant_shredded
from ._envelope import Parsed, Suite
from ._service import KeyService, WrappedKey, require_result
from ._suites import Keys
from ._tails import quick_tail, tail_prefix

__all__ = ["HARD_STOP", "CipherKeys", "KeyEntry", "Member", "RingEntry", "SealLimits"]

HARD_STOP = 2**32
_FIELD = Suite.FIELD
_MORE_WHILE_DOWN = 2**20
_MORE_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SealLimits:
    """
    After how much another data key is made to seal with.

    Args:
        shared_seconds: The age of a data key that processes share.

        field_seconds: The age of a data key of suite 1.

        field_messages: How many values are sealed with a data key of suite 1;
            beyond 2**32 nothing is, whatever this says.

        field_bytes: How many bytes are.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``seal_limits_invalid``.
    """

    shared_seconds: float = 30 * 86_400.0
    field_seconds: float = 86_400.0
    field_messages: int = 2**28
    field_bytes: int = 64 * 2**30

    def __post_init__(self) -> None:
        positive = min(self.shared_seconds, self.field_seconds, self.field_bytes) > 0
        if not positive or not 0 < self.field_messages <= HARD_STOP:
            message = f"{self!r}: each is above zero, field_messages at most 2**32"
            raise ConfigurationError(message, code="seal_limits_invalid")


class KeyEntry(Entry):
    """
    An open data key.

    Attributes:
        record: What the store keeps of it.

        purpose: What for.

        keys: What is derived of it.

        take: Gives how many values were sealed before, each number once.

        sealers: What seals, by the number of the suite; see `Keys.sealer`.

        roll_at: From this number on another data key is to be had.

        bytes_left: How many bytes it is still to seal.
    """

    __slots__ = (
        "bytes_left",
        "data_key",
        "keys",
        "purpose",
        "record",
        "roll_at",
        "sealers",
        "take",
    )

    def __init__(
        self, key: bytes, record: DataKeyRecord, data_key: bytes, limits: SealLimits
    ) -> None:
        super().__init__(key)
        self.record, self.data_key = record, data_key
        self.purpose = record.purpose
        self.keys = Keys(data_key, tenant_id=record.tenant_id, data_key_id=record.data_key_id)
        # By the number of the suite; there is none with number 0.
        self.sealers: tuple[Any, ...] = (None, *[self.keys.sealer(suite) for suite in Suite])
        # next() of a count is one step to all threads: no number comes twice.
        self.take: Callable[[], int] = count().__next__
        self.roll_at = limits.field_messages
        self.bytes_left = limits.field_bytes

    def worn(self, taken: int) -> bool:
        """
        Whether suite 1 has sealed enough with it.
        """
        return taken >= self.roll_at or self.bytes_left < 0

    def go_on(self, now: float) -> bool:
        """
        Seal with it for a while longer, if it may be, since no other is to be had.
        """
        if self.record.state is not DataKeyState.ACTIVE or not self.alive(now):
            return False
        self.roll_at = min(self.roll_at + _MORE_WHILE_DOWN, HARD_STOP)
        self.bytes_left = max(self.bytes_left, _MORE_WHILE_DOWN)
        self.seal_until = now + _MORE_SECONDS
        self.seal_fresh_until = min(self.fresh_until, self.seal_until)
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """
    One data key of a ring.
    """

    record: DataKeyRecord
    data_key: bytes = field(repr=False)


class RingEntry(Entry):
    """
    All data keys of one purpose that are not destroyed, the newest first.
    """

    __slots__ = ("derived", "members")

    def __init__(self, key: tuple[str, str], members: tuple[Member, ...]) -> None:
        super().__init__(key)
        self.members = members
        self.derived: dict[bytes, bytes] = {}


class CipherKeys:
    """
    Ways to open data keys, as steps for `DataKeyCache`.

    Args:
        cache: Where they are kept.

        services: Key services; the first wraps what is made.

        store: Where wrapped data keys are.

        purpose: What for.

        limits: When another is made to seal with.

        now: The wall clock, for what is stored.

        random: Where ids come from.
    """

    def __init__(
        self,
        cache: DataKeyCache,
        services: Sequence[KeyService],
        store: DataKeyStore,
        *,
        purpose: str,
        limits: SealLimits,
        now: Callable[[], datetime] = utc_now,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.cache, self.store, self.purpose, self.limits = cache, store, purpose, limits
        self.now, self._random = now, random
        self._tenants, self._clock = cache.tenants, cache.clock
        self._service = services[0]
        self._services = {service.name: service for service in services}
        deterministic = f"{purpose}.det"
        # Said now, not when the first value is sealed.
        KeyContext(tenant_id="_", purpose=deterministic, data_key_id=bytes(DATA_KEY_ID_BYTES))
        # By the number of the suite: the hash of an enumeration's member is slow.
        self._purposes = ("", purpose, purpose, deterministic)

    def ready(self, tenant_id: str, suite: Suite, size: int) -> KeyEntry | None:
        """
        A data key to seal *size* bytes with, if one is at hand.

        Nothing here waits, locks or makes an object: it is on the way of each seal.
        """
        held = self._tenants.get(tenant_id)
        if held is None:
            return None
        entry: KeyEntry | None = held.sealing[suite]
        if entry is None or not entry.validated_at <= self._clock() < entry.seal_fresh_until:
            return None
        # Not by identity: a plain number may come, and what it seals is counted too.
        if suite == _FIELD:
            entry.bytes_left -= size
            if entry.take() >= entry.roll_at or entry.bytes_left < 0:
                return None
        return entry

    def known(self, tenant_id: str, parsed: Parsed) -> KeyEntry | None:
        """
        The data key that an envelope names, if it is at hand.
        """
        suite, data_key_id, inline, _, _ = parsed
        held = self._tenants.get(tenant_id)
        if held is None or inline:
            return None
        # Under 16 bytes there is never anything but a data key.
        entry: Any = held.entries.get(data_key_id)
        if entry is None or not entry.validated_at <= self._clock() < entry.fresh_until:
            return None
        found: KeyEntry | None = entry if entry.purpose == self._purposes[suite] else None
        return found

    def tail(self, tenant_id: str, context: Mapping[str, str]) -> bytes:
        """
        What seals of this tenant in this context are bound to.
        """
        held = self._tenants.get(tenant_id)
        prefix = tail_prefix(tenant_id) if held is None else held.prefix
        return quick_tail(prefix, context)

    def opening(self, tenant: Tenant, parsed: Parsed) -> Steps[KeyEntry]:
        """
        The data key that an envelope names.

        Raises:
            twh_platform.errors.DecryptionError: If the tenant has no such one.

            twh_platform.errors.KeyServiceError: If it cannot be used.
        """
        if parsed.inline:
            return self._inline(tenant, parsed)
        return self._by_id(tenant, parsed.data_key_id, self._purposes[parsed.suite])

    def to_seal(self, tenant: Tenant, suite: Suite, size: int) -> Steps[KeyEntry]:
        """
        A data key to seal *size* bytes with.

        Raises:
            twh_platform.errors.KeyServiceError: With code
                ``data_key_exhausted``, if no other can be had after 2**32 values.
        """
        entry = yield from self.sealing(tenant, suite)
        # Not counted: others were quicker, and it is worn by now.
        while suite == _FIELD and not _counted(entry, size):
            entry = yield from self.sealing(tenant, suite)
        return entry

    def sealing(self, tenant: Tenant, suite: Suite) -> Steps[KeyEntry]:
        """
        A data key to seal with, not counted yet.
        """
        held = self.cache.tenants.get(tenant.id)
        entry = held.sealing[suite] if held is not None else None
        purpose = self._purposes[suite]
        if isinstance(entry, KeyEntry):
            try:
                entry = yield from self._by_id(tenant, entry.record.data_key_id, purpose)
            except (KeyDestroyedError, DecryptionError):
                entry = None  # this one is gone; whether the tenant may have another is asked now
            if entry is not None and self._seals(entry):
                return entry
        try:
            made = yield from self.cache.steps(
                tenant,
                (purpose, suite),
                lambda _: self._load_to_seal(tenant.id, suite),
                slot=suite,
                instead_of=entry,
            )
        except KeyServiceError as error:
            if error.retryable and isinstance(entry, KeyEntry) and entry.go_on(self.cache.clock()):
                return entry
            raise
        return _as_key(made)

    def ring(self, tenant: Tenant, purpose: str) -> Steps[RingEntry]:
        """
        All data keys of a purpose; one is made if there is none to write with.

        Raises:
            twh_platform.errors.KeyServiceError: If one of them cannot be had.
        """
        entry = yield from self.cache.steps(
            tenant,
            ("ring", purpose),
            lambda before: self._load_ring(tenant.id, purpose, before),
        )
        if not isinstance(entry, RingEntry):  # pragma: no cover - it is under a key of its own
            raise TypeError
        return entry

    def known_ring(self, tenant_id: str, purpose: str) -> RingEntry | None:
        """
        All data keys of a purpose, if they are at hand.
        """
        held = self._tenants.get(tenant_id)
        entry = None if held is None else held.entries.get(("ring", purpose))
        if entry is None or not entry.validated_at <= self._clock() < entry.fresh_until:
            return None
        return entry if isinstance(entry, RingEntry) else None

    def records(self, tenant_id: str, purpose: str) -> list[DataKeyRecord]:
        """
        What the store keeps of a purpose, without what is destroyed.
        """
        return list(records_of(self.store, tenant_id, purpose=purpose))

    def make(
        self, tenant_id: str, purpose: str, *, shared: bool, seconds: float | None
    ) -> tuple[DataKeyRecord, bytes]:
        """
        A new data key, kept in the store; or the shared one that somebody made before.

        Raises:
            twh_platform.errors.KeyDestroyedError: With code
                ``tenant_shredded``, if the tenant was shredded.

            twh_platform.errors.KeyServiceError: If none can be had.
        """
        # Asked first: a key service that makes missing master keys would make one.
        if self.store.shredded(tenant_id):
            raise tenant_shredded(tenant_id)
        context = KeyContext(
            tenant_id=tenant_id, purpose=purpose, data_key_id=self._random(DATA_KEY_ID_BYTES)
        )
        (made,) = self._service.generate([context])
        data_key = require_result(made)
        now = self.now()
        record = DataKeyRecord(
            tenant_id=tenant_id,
            data_key_id=context.data_key_id,
            purpose=purpose,
            wrapped=data_key.wrapped,
            shared=shared,
            created_at=now,
            not_after=None if seconds is None else now + timedelta(seconds=seconds),
        )
        kept = self.store.add(record)
        if kept.data_key_id == record.data_key_id:
            return kept, data_key.plaintext
        return kept, self._unwrap(kept)

    def _seals(self, entry: KeyEntry) -> bool:
        if entry.record.state is not DataKeyState.ACTIVE:
            return False
        # The number that is looked at here is not used: a call or two are nothing.
        if not entry.record.shared and entry.worn(entry.take()):
            return False
        return self.cache.clock() < entry.seal_until

    def _by_id(self, tenant: Tenant, data_key_id: bytes, purpose: str) -> Steps[KeyEntry]:
        entry = yield from self.cache.steps(
            tenant,
            data_key_id,
            lambda before: self._load(tenant.id, data_key_id, before),
        )
        found = _as_key(entry)
        if found.record.purpose != purpose:
            raise DecryptionError
        return found

    def _load(self, tenant_id: str, data_key_id: bytes, before: Entry | None) -> KeyEntry:
        record = self.store.get(tenant_id, data_key_id)
        if record is None or record.tenant_id != tenant_id:
            raise DecryptionError
        if record.state is DataKeyState.DESTROYED:
            raise _destroyed(record)
        data_key = self._unwrap(record)
        if not isinstance(before, KeyEntry):
            return self._entry(record, data_key)
        if not compare_digest(before.data_key, data_key):
            raise DecryptionError  # a data key does not change: somebody has put another there
        before.record = record
        self._limit(before)
        return before

    def _load_to_seal(self, tenant_id: str, suite: Suite) -> KeyEntry:
        purpose = self._purposes[suite]
        if suite == _FIELD:
            seconds: float | None = self.limits.field_seconds
            return self._entry(*self.make(tenant_id, purpose, shared=False, seconds=seconds))
        record = self.store.current(tenant_id, purpose)
        if record is not None:
            return self._entry(record, self._unwrap(record))
        # Values of a deterministic key are compared with old ones: it does not age.
        seconds = None if suite == Suite.DETERMINISTIC else self.limits.shared_seconds
        return self._entry(*self.make(tenant_id, purpose, shared=True, seconds=seconds))

    def _load_ring(self, tenant_id: str, purpose: str, before: Entry | None) -> RingEntry:
        records = self.records(tenant_id, purpose)
        members = [Member(record=one, data_key=self._unwrap(one)) for one in records]
        if not any(record.state is DataKeyState.ACTIVE for record in records):
            record, data_key = self.make(tenant_id, purpose, shared=True, seconds=None)
            members.append(Member(record=record, data_key=data_key))
        members.sort(key=_newest_first, reverse=True)
        ring = RingEntry(("ring", purpose), tuple(members))
        if isinstance(before, RingEntry):
            ring.derived = before.derived
        return ring

    def _inline(self, tenant: Tenant, parsed: Parsed) -> Steps[KeyEntry]:
        # Under a key that names the wrapped keys as well: what somebody brings
        # along must not take the place of what the store has.
        marks = [
            f"{one.provider}\n{one.key_ref}\n{one.key_version}\n".encode() + one.ciphertext
            for one in parsed.inline
        ]
        key = parsed.data_key_id + b"".join([sha256(mark).digest() for mark in marks])
        entry = yield from self.cache.steps(
            tenant, key, lambda _: self._load_inline(tenant.id, parsed, key)
        )
        return _as_key(entry)

    def _load_inline(self, tenant_id: str, parsed: Parsed, key: bytes) -> KeyEntry:
        if self.store.shredded(tenant_id):
            raise tenant_shredded(tenant_id)
        kept = self.store.get(tenant_id, parsed.data_key_id)
        if kept is not None and kept.state is DataKeyState.DESTROYED:
            raise _destroyed(kept)
        context = KeyContext(
            tenant_id=tenant_id,
            purpose=self._purposes[parsed.suite],
            data_key_id=parsed.data_key_id,
        )
        wrapped, data_key = self._first_that_unwraps(parsed.inline, context)
        record = DataKeyRecord(
            tenant_id=tenant_id,
            data_key_id=parsed.data_key_id,
            purpose=context.purpose,
            wrapped=wrapped,
            state=DataKeyState.DECRYPT,
            created_at=self.now(),
        )
        return KeyEntry(key, record, data_key, self.limits)

    def _first_that_unwraps(
        self, inline: Sequence[WrappedKey], context: KeyContext
    ) -> tuple[WrappedKey, bytes]:
        errors: list[KeyServiceError] = []
        for wrapped in inline:
            try:
                return wrapped, self._unwrap_one(wrapped, context)
            except KeyServiceError as error:
                errors.append(error)
        # One that may answer later says more than one that refused.
        raise next((error for error in errors if error.retryable), errors[0])

    def _unwrap(self, record: DataKeyRecord) -> bytes:
        return self._unwrap_one(record.wrapped, record.context)

    def _unwrap_one(self, wrapped: WrappedKey, context: KeyContext) -> bytes:
        service = self._services.get(wrapped.provider)
        if service is None:
            message = f"no key service {wrapped.provider!r} is here to unwrap a data key"
            raise KeyUnsupportedError(message, code="key_service_unknown")
        (result,) = service.unwrap([(wrapped, context)])
        return require_result(result)

    def _entry(self, record: DataKeyRecord, data_key: bytes) -> KeyEntry:
        entry = KeyEntry(record.data_key_id, record, data_key, self.limits)
        self._limit(entry)
        return entry

    def _limit(self, entry: KeyEntry) -> None:
        # The wall clock is read once: afterwards only elapsed time counts.
        record = entry.record
        if record.state is not DataKeyState.ACTIVE:
            entry.stop_sealing(float("-inf"))
        elif record.not_after is not None:
            left = (record.not_after - self.now()).total_seconds()
            entry.stop_sealing(self.cache.clock() + left)


def _counted(entry: KeyEntry, size: int) -> bool:
    taken = entry.take()
    if taken >= HARD_STOP:
        message = f"data key {entry.record.data_key_id.hex()} has sealed 2**32 values"
        raise KeyServiceError(message, code="data_key_exhausted")
    entry.bytes_left -= size
    return taken < entry.roll_at


def _newest_first(member: Member) -> tuple[datetime, bool, bytes]:
    record = member.record
    # In a rotation the one that is active is the newer one, also within one moment.
    return record.created_at, record.state is DataKeyState.ACTIVE, record.data_key_id


def _destroyed(record: DataKeyRecord) -> KeyDestroyedError:
    message = f"data key {record.data_key_id.hex()} of tenant {record.tenant_id!r} is destroyed"
    return KeyDestroyedError(message, code="data_key_destroyed")


def _as_key(entry: Entry) -> KeyEntry:
    if not isinstance(entry, KeyEntry):  # pragma: no cover - ids and rings do not mix
        raise DecryptionError
    return entry
