"""
Rewrapping data keys by the newest version of their master keys.

No sealed value is touched: envelopes name their data key, and only its wrapped
form changes.  The job may be killed at any moment and started again.  Each data
key is replaced by compare-and-set, so whoever seals, rotates or rewraps at the
same time loses nothing.
"""

from __future__ import annotations

import hmac
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as changed

from ..._signals import announce, has_listeners
from ...errors import ConfigurationError, KeyServiceError
from .._announcements import DataKeysRewrapped
from .._context import DATA_KEY_ID_BYTES, KeyContext
from .._data_keys import DataKeyRecord, DataKeyState, DataKeyStore
from .._owner import as_owner
from .._service import Capability, KeyInfo, KeyService, Result, WrappedKey
from ._inventory import remaining, tenants_of
from ._jobs import JobProgress, Pace, ends_run

__all__ = ["RewrapReport", "rewrap"]

_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RewrapReport:
    """
    What a run of `rewrap` did.

    Attributes:
        tenants: How many tenants it looked at.

        looked: How many data keys.

        rewrapped: Of these, how many have a new wrapped form.

        current: How many had the newest one already, or got it from somebody else.

        gone: How many were destroyed meanwhile.

        failed: How many could not be rewrapped, by the code of the error, or
            ``rewrap_conflict`` for those that others change all the time; they
            are as they were, and a run from the start tries them again.

        cursor: Where to go on; None if the end was reached, or nothing was done.

        stopped: Why it ended early: the code of the error of a key service that
            does not answer, or ``stopped`` if it was asked to; None if it did not.
    """

    tenants: int
    looked: int
    rewrapped: int
    current: int
    gone: int
    failed: Mapping[str, int] = field(default_factory=dict)
    cursor: str | None = None
    stopped: str | None = None

    @property
    def complete(self) -> bool:
        """
        The end was reached and nothing failed.
        """
        return self.stopped is None and self.cursor is None and not self.failed


def rewrap(
    service: KeyService,
    store: DataKeyStore,
    *,
    tenants: Iterable[str] | None = None,
    after: str | None = None,
    origin: KeyService | None = None,
    check: bool = False,
    limit: int = 100,
    rate: float | None = None,
    progress: Callable[[JobProgress], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> RewrapReport:
    """
    Have data keys wrapped by the newest version of their tenant's master key.

    Rotate first, then rewrap; then ask `ensure_retirable` before a version is
    retired.  What is wrapped by the newest version is left alone, so a second
    run is cheap.  Where services go on meanwhile, ask `remaining` whether it is
    needed: a data key that was wrapped just before the rotation may be stored
    behind the place where the run is.

    A key service that does not answer ends the run where it is, with nothing of
    the page lost; other errors count for the data keys that they concern, and
    the run goes on.

    Args:
        service: It wraps from now on.

        store: Where the data keys are.

        tenants: Whose; all of the store if None.

        after: The `cursor` of an earlier run, of its report or its progress.

        origin: The key service that wrapped what *service* did not: to move to
            another provider, or to other master keys.  These data keys come out
            of the one and go into the other within this process.

        check: Whether each new wrapped form is opened, and compared, before it
            is stored.  The data keys come out for that.

        limit: Data keys at once.

        rate: Data keys per second; None for as fast as it goes.

        progress: Called after each page.

        stop: Asked before each page; the run ends when it says True.

        sleep: Waits for so many seconds.

        clock: Seconds that never go back.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``job_cursor_invalid``, for a cursor that is none.
    """
    pace = Pace(rate, sleep=sleep, clock=clock)
    work = _Rewrap(
        service=service,
        store=store,
        origin=origin,
        check=check,
        pace=pace,
        limit=pace.page(limit),
        progress=progress,
        stop=stop,
    )
    return work.run(tenants, after)


class _Stop(Exception):  # noqa: N818 -- it ends a run, and is no error of it
    def __init__(self, code: str) -> None:
        self.code = code


@dataclass(kw_only=True)
class _Rewrap:
    # One run: what it was asked for, and how far it is.
    service: KeyService
    store: DataKeyStore
    origin: KeyService | None
    check: bool
    pace: Pace
    limit: int
    progress: Callable[[JobProgress], None] | None
    stop: Callable[[], bool]

    def __post_init__(self) -> None:
        self._versions = Capability.VERSIONS in self.service.capabilities
        self._counts: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._cursor: str | None = None

    def run(self, tenants: Iterable[str] | None, after: str | None) -> RewrapReport:
        first, start = _read_cursor(after) if after else ("", b"")
        self._cursor = after
        stopped = None
        try:
            for tenant_id in self._tenants(tenants, first):
                self._tenant(tenant_id, start if tenant_id == first else b"")
            self._cursor = None
        except _Stop as reason:
            stopped = reason.code
        return self._report(stopped)

    def _tenants(self, tenants: Iterable[str] | None, first: str) -> Iterator[str]:
        if tenants is not None:
            yield from (one for one in sorted(set(tenants)) if one >= first)
            return
        if first:
            yield first
        yield from tenants_of(self.store, after=first)

    def _tenant(self, tenant_id: str, after: bytes) -> None:
        self._counts["tenants"] += 1
        rewrapped, failed = self._counts["rewrapped"], self._failed.total()
        with as_owner(tenant_id):
            while records := self._next(tenant_id, after):
                self._page(tenant_id, records)
                after = records[-1].data_key_id
                self._tell(tenant_id, _write_cursor(tenant_id, after))
        done = self._counts["rewrapped"] - rewrapped
        if has_listeners(DataKeysRewrapped):
            self._announce(tenant_id, done, self._failed.total() - failed)

    def _announce(self, tenant_id: str, done: int, failed: int) -> None:
        if not done and not failed:
            return
        try:
            left = remaining(self.service, self.store, tenant_id)
        except KeyServiceError:
            left = failed
        signal = DataKeysRewrapped(
            tenant_id=tenant_id, rewrapped=done, failed=failed, remaining=left
        )
        announce(signal)

    def _next(self, tenant_id: str, after: bytes) -> list[DataKeyRecord]:
        if self.stop():
            raise _Stop("stopped")
        return self.store.page(tenant_id, after=after, limit=self.limit)

    def _page(self, tenant_id: str, records: Sequence[DataKeyRecord]) -> None:
        try:
            info = self.service.describe(tenant_id)
            todo = [one for one in records if not self._is_current(one, info)]
            self.pace.take(len(todo))
            results = self._wrapped(todo, info)
        except KeyServiceError as error:
            if ends_run(error):
                raise _Stop(error.code) from error
            self._counts["looked"] += len(records)
            self._failed[error.code] += len(records)
            return
        self._counts["looked"] += len(records)
        self._counts["current"] += len(records) - len(todo)
        for record, result in zip(todo, results, strict=True):
            self._settle(record, result, info)

    def _is_current(self, record: DataKeyRecord, info: KeyInfo) -> bool:
        # A service that does not tell versions has all of them wrapped again.
        return (
            self._versions
            and self._is_own(record, info)
            and record.wrapped.key_version == info.version
        )

    def _is_own(self, record: DataKeyRecord, info: KeyInfo) -> bool:
        wrapped = record.wrapped
        return wrapped.provider == self.service.name and wrapped.key_ref == info.key_ref

    def _wrapped(self, records: Sequence[DataKeyRecord], info: KeyInfo) -> list[Result[WrappedKey]]:
        if self.origin is None:
            results = self.service.rewrap(_pairs(records)) if records else []
        else:
            results = self._moved(self.origin, records, info)
        return self._checked(records, results, info) if self.check else results

    def _moved(
        self, origin: KeyService, records: Sequence[DataKeyRecord], info: KeyInfo
    ) -> list[Result[WrappedKey]]:
        own = [one for one in records if self._is_own(one, info)]
        foreign = [one for one in records if not self._is_own(one, info)]
        found: dict[bytes, Result[WrappedKey]] = {}
        if own:
            found |= _by_id(own, self.service.rewrap(_pairs(own)))
        if foreign:
            found |= _carry_over(origin, self.service, foreign)
        return [found[one.data_key_id] for one in records]

    def _checked(
        self,
        records: Sequence[DataKeyRecord],
        results: list[Result[WrappedKey]],
        info: KeyInfo,
    ) -> list[Result[WrappedKey]]:
        return [
            self._same_key(record, result, info) if isinstance(result, WrappedKey) else result
            for record, result in zip(records, results, strict=True)
        ]

    def _same_key(
        self, record: DataKeyRecord, new: WrappedKey, info: KeyInfo
    ) -> Result[WrappedKey]:
        own = self.origin is None or self._is_own(record, info)
        reader = self.service if own or self.origin is None else self.origin
        (before,) = reader.unwrap([(record.wrapped, record.context)])
        (after,) = self.service.unwrap([(new, record.context)])
        if isinstance(before, KeyServiceError):
            return before
        if isinstance(after, KeyServiceError):
            return after
        if hmac.compare_digest(before, after):
            return new
        return KeyServiceError("the rewrapped key is another key", code="rewrap_mismatch")

    def _settle(self, record: DataKeyRecord, result: Result[WrappedKey], info: KeyInfo) -> None:
        if isinstance(result, KeyServiceError):
            self._failed[result.code] += 1
            return
        if result == record.wrapped:
            self._counts["current"] += 1
            return
        outcome = self._store_it(record, result, info)
        if outcome == "conflict":
            self._failed["rewrap_conflict"] += 1
        else:
            self._counts[outcome] += 1

    def _store_it(self, record: DataKeyRecord, new: WrappedKey, info: KeyInfo) -> str:
        old = record.wrapped
        for _ in range(_ATTEMPTS):
            if self.store.replace(changed(record, wrapped=new), revision=record.revision):
                return "rewrapped"
            fresh = self.store.get(record.tenant_id, record.data_key_id)
            if fresh is None or fresh.state is DataKeyState.DESTROYED:
                return "gone"
            if fresh.wrapped != old:
                # Somebody else rewrapped it: by the newest, or before a rotation.
                return "current" if self._is_current(fresh, info) else "conflict"
            record = fresh
        return "conflict"

    def _tell(self, tenant_id: str, cursor: str) -> None:
        self._cursor = cursor
        if self.progress is not None:
            progress = JobProgress(
                tenant_id=tenant_id,
                looked=self._counts["looked"],
                changed=self._counts["rewrapped"],
                failed=self._failed.total(),
                cursor=cursor,
            )
            self.progress(progress)

    def _report(self, stopped: str | None) -> RewrapReport:
        counts = self._counts
        return RewrapReport(
            tenants=counts["tenants"],
            looked=counts["looked"],
            rewrapped=counts["rewrapped"],
            current=counts["current"],
            gone=counts["gone"],
            failed=dict(self._failed),
            cursor=self._cursor,
            stopped=stopped,
        )


def _pairs(records: Sequence[DataKeyRecord]) -> list[tuple[WrappedKey, KeyContext]]:
    return [(one.wrapped, one.context) for one in records]


def _by_id(
    records: Sequence[DataKeyRecord], results: Sequence[Result[WrappedKey]]
) -> dict[bytes, Result[WrappedKey]]:
    pairs = zip(records, results, strict=True)
    return {record.data_key_id: result for record, result in pairs}


def _carry_over(
    origin: KeyService, service: KeyService, records: Sequence[DataKeyRecord]
) -> dict[bytes, Result[WrappedKey]]:
    found: dict[bytes, Result[WrappedKey]] = {}
    opened: list[tuple[bytes, KeyContext]] = []
    for record, key in zip(records, origin.unwrap(_pairs(records)), strict=True):
        if isinstance(key, KeyServiceError):
            found[record.data_key_id] = key
        else:
            opened.append((key, record.context))
    wrapped = service.wrap(opened) if opened else []
    for (_, context), result in zip(opened, wrapped, strict=True):
        found[context.data_key_id] = result
    return found


def _write_cursor(tenant_id: str, data_key_id: bytes) -> str:
    return f"{tenant_id}:{data_key_id.hex()}"


def _read_cursor(text: str) -> tuple[str, bytes]:
    tenant_id, _, name = text.partition(":")
    try:
        data_key_id = bytes.fromhex(name)
    except ValueError:
        data_key_id = b""
    if len(data_key_id) != DATA_KEY_ID_BYTES or not tenant_id:
        message = f"cursor {text[:120]!r} is not of a run of rewrap"
        raise ConfigurationError(message, code="job_cursor_invalid")
    return tenant_id, data_key_id
