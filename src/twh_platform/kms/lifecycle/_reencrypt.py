"""
Sealing values again by another data key: the work that rewrapping spares.

It is needed when a data key itself has to go: it may be known to others, or a
suite is to be left.  Values are opened and sealed here, and written back by
compare-and-set, so that whoever writes at the same time is not overwritten.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from dataclasses import replace as changed
from typing import Protocol

from ...errors import DecryptionError, KeyServiceError
from .._data_keys import DataKeyState, DataKeyStore, records_of
from .._envelope import Suite, from_text, parse, to_text
from .._owner import as_owner
from ._jobs import JobProgress, Pace, ends_run

__all__ = ["ReencryptReport", "SealedRow", "reencrypt", "retire_data_keys"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedRow:
    """
    A sealed value and where it is.

    Args:
        tenant_id: Whose.

        key: Names its place, to go on after it: text in the order of the rows.

        sealed: The value, as bytes or as text; it is written back likewise.

        context: What it was sealed with.
    """

    tenant_id: str
    key: str
    sealed: bytes | str = field(repr=False)
    context: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReencryptReport:
    """
    What a run of `reencrypt` did.

    Attributes:
        looked: How many values it looked at.

        sealed: Of these, how many are sealed anew.

        current: How many did not need it.

        raced: How many somebody else changed meanwhile; they were left alone, and
            a run from the start looks at them again.

        failed: How many could not be opened or sealed, by the code of the error.

        cursor: The `key` of the last value that it has finished with; None if
            there was none, or the end was reached.

        stopped: Why it ended early: the code of the error of a key service that
            does not answer, or ``stopped`` if it was asked to; None if it did not.
    """

    looked: int
    sealed: int
    current: int
    raced: int
    failed: Mapping[str, int] = field(default_factory=dict)
    cursor: str | None = None
    stopped: str | None = None

    @property
    def complete(self) -> bool:
        """
        The end was reached, and nothing failed or was changed meanwhile.
        """
        return self.stopped is None and not self.failed and not self.raced


class _Cipher(Protocol):
    def open(self, sealed: bytes, context: Mapping[str, str], /) -> bytes: ...

    def seal(self, plaintext: bytes, context: Mapping[str, str], /, *, suite: Suite) -> bytes: ...


def retire_data_keys(
    store: DataKeyStore, tenant_id: str, *, data_key_ids: Iterable[bytes] | None = None
) -> int:
    """
    Let data keys open and no longer seal; the next value gets a new one.

    A process that has one in its cache goes on sealing with it until its cache
    looks again, so run `reencrypt` after that.

    Args:
        store: Where they are.

        tenant_id: Whose.

        data_key_ids: Which; all of the tenant's if None.

    Returns:
        How many there were that still sealed.
    """
    chosen = None if data_key_ids is None else set(data_key_ids)
    with as_owner(tenant_id):
        return sum(
            _retire(store, tenant_id, one.data_key_id)
            for one in records_of(store, tenant_id)
            if chosen is None or one.data_key_id in chosen
        )


def _retire(store: DataKeyStore, tenant_id: str, data_key_id: bytes) -> bool:
    while True:
        record = store.get(tenant_id, data_key_id)
        if record is None or record.state is not DataKeyState.ACTIVE:
            return False
        # Whoever changed it first has changed something else: look again.
        if store.replace(changed(record, state=DataKeyState.DECRYPT), revision=record.revision):
            return True


def reencrypt(
    rows: Iterable[SealedRow],
    cipher: _Cipher,
    store: DataKeyStore,
    write: Callable[[SealedRow, bytes | str], bool],
    *,
    suite: Suite | None = None,
    rate: float | None = None,
    progress: Callable[[JobProgress], None] | None = None,
    every: int = 100,
    stop: Callable[[], bool] = lambda: False,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> ReencryptReport:
    """
    Seal anew what was sealed by data keys that no longer seal.

    Say with `retire_data_keys` which these are.  Values of data keys that still
    seal are left alone, so a second run is cheap, and one that was killed goes
    on where its cursor was, or from the start.

    Args:
        rows: The values, after the cursor of an earlier run, in its order.

        cipher: A `TenantCipher` that opens and seals them.

        store: Where the data keys are.

        write: Writes the second in the place of the first, if that is still
            there (``UPDATE ... WHERE id = ... AND sealed = ...``), and returns
            whether it was.  The row's tenant is bound.

        suite: Seal by this one, also what is sealed by another; None to keep it.

        rate: Values per second; None for as fast as it goes.

        progress: Called after so many values as *every* says.

        every: See *progress*.

        stop: Asked before each value; the run ends when it says True.

        sleep: Waits for so many seconds.

        clock: Seconds that never go back.
    """
    work = _Reencrypt(
        cipher=cipher,
        store=store,
        write=write,
        suite=suite,
        pace=Pace(rate, sleep=sleep, clock=clock),
        progress=progress,
        every=every,
        stop=stop,
    )
    return work.run(rows)


@dataclass(kw_only=True)
class _Reencrypt:
    # One run: what it was asked for, and how far it is.
    cipher: _Cipher
    store: DataKeyStore
    write: Callable[[SealedRow, bytes | str], bool]
    suite: Suite | None
    pace: Pace
    progress: Callable[[JobProgress], None] | None
    every: int
    stop: Callable[[], bool]

    def __post_init__(self) -> None:
        self._retired: dict[tuple[str, bytes], bool] = {}
        self._counts: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._cursor: str | None = None

    def run(self, rows: Iterable[SealedRow]) -> ReencryptReport:
        for row in rows:
            if self.stop():
                return self._report("stopped")
            try:
                self._row(row)
            except KeyServiceError as error:
                return self._report(error.code)
            self._tell(row)
        return self._report(None)

    def _row(self, row: SealedRow) -> None:
        if self._needs(row):
            self.pace.take(1)
            self._seal_anew(row)
        else:
            self._counts["current"] += 1
        self._counts["looked"] += 1
        self._cursor = row.key

    def _needs(self, row: SealedRow) -> bool:
        try:
            parsed = parse(_bytes(row.sealed))
        except DecryptionError:
            return True  # it is counted as failed there
        if parsed.inline or self.suite not in {None, parsed.suite}:
            return True
        return self._is_retired(row.tenant_id, parsed.data_key_id)

    def _is_retired(self, tenant_id: str, data_key_id: bytes) -> bool:
        key = (tenant_id, data_key_id)
        if key not in self._retired:
            with as_owner(tenant_id):
                record = self.store.get(tenant_id, data_key_id)
            self._retired[key] = record is None or record.state is not DataKeyState.ACTIVE
        return self._retired[key]

    def _seal_anew(self, row: SealedRow) -> None:
        try:
            with as_owner(row.tenant_id):
                outcome = "sealed" if self.write(row, self._anew(row)) else "raced"
        except KeyServiceError as error:
            if ends_run(error):
                raise
            self._failed[error.code] += 1
        else:
            self._counts[outcome] += 1

    def _anew(self, row: SealedRow) -> bytes | str:
        sealed = _bytes(row.sealed)
        suite = self.suite or parse(sealed).suite
        plaintext = self.cipher.open(sealed, row.context)
        anew = self.cipher.seal(plaintext, row.context, suite=suite)
        return to_text(anew) if isinstance(row.sealed, str) else anew

    def _tell(self, row: SealedRow) -> None:
        if self.progress is None or self._counts["looked"] % self.every:
            return
        progress = JobProgress(
            tenant_id=row.tenant_id,
            looked=self._counts["looked"],
            changed=self._counts["sealed"],
            failed=self._failed.total() + self._counts["raced"],
            cursor=self._cursor,
        )
        self.progress(progress)

    def _report(self, stopped: str | None) -> ReencryptReport:
        return ReencryptReport(
            looked=self._counts["looked"],
            sealed=self._counts["sealed"],
            current=self._counts["current"],
            raced=self._counts["raced"],
            failed=dict(self._failed),
            cursor=None if stopped is None else self._cursor,
            stopped=stopped,
        )


def _bytes(sealed: bytes | str) -> bytes:
    return from_text(sealed) if isinstance(sealed, str) else sealed
