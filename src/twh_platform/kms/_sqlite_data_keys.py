"""
Data keys in a SQLite file: for one machine, any number of threads and processes.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Self

from .._forks import reset_after_fork
from ..errors import ConfigurationError, KeyServiceUnavailableError, PlatformError
from ._clock import utc_now
from ._data_keys import (
    DataKeyRecord,
    DataKeyState,
    data_key_exists,
    tenant_shredded,
    tombstone_of,
)
from ._service import WrappedKey
from ._sqlite_files import make_for_owner
from ._sqlite_forks import close_before_fork, using_sqlite
from ._sqlite_turns import writers_of

__all__ = ["SqliteDataKeyStore"]

_VERSION: Final = 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_TABLES = """
create table if not exists twh_data_keys (
    tenant_id text not null,
    data_key_id blob not null check (length(data_key_id) = 16),
    purpose text not null,
    provider text not null,
    key_ref text not null,
    key_version integer not null,
    wrapped blob not null,
    state text not null check (state in ('active', 'decrypt', 'destroyed')),
    shared integer not null,
    created_at integer not null,
    not_after integer,
    revision integer not null,
    primary key (tenant_id, data_key_id)
) without rowid;
create table if not exists twh_shredded_tenants (
    tenant_id text primary key,
    shredded_at integer not null
) without rowid;
create index if not exists twh_data_keys_current
    on twh_data_keys (tenant_id, purpose, created_at) where shared and state = 'active';
"""
_COLUMNS = (
    "tenant_id, data_key_id, purpose, provider, key_ref, key_version, wrapped, state, shared, "
    "created_at, not_after, revision"
)
_CURRENT = f"""
select {_COLUMNS} from twh_data_keys
where tenant_id = ? and purpose = ? and shared and state = 'active'
    and (not_after is null or not_after > ?)
order by created_at desc, data_key_id desc limit 1
"""  # noqa: S608 - the columns are ours
_GET = f"select {_COLUMNS} from twh_data_keys where tenant_id = ? and data_key_id = ?"  # noqa: S608 - as above
_PAGE = f"""
select {_COLUMNS} from twh_data_keys
where tenant_id = ? and data_key_id > ? and state <> 'destroyed' and (? is null or purpose = ?)
order by data_key_id limit ?
"""  # noqa: S608 - as above
_INSERT = f"insert into twh_data_keys ({_COLUMNS}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - as above
_UPDATE = """
update twh_data_keys set purpose = ?, provider = ?, key_ref = ?, key_version = ?, wrapped = ?,
    state = ?, shared = ?, created_at = ?, not_after = ?, revision = ?
where tenant_id = ? and data_key_id = ? and revision = ? and state <> 'destroyed'
"""
_SHREDDED = "select 1 from twh_shredded_tenants where tenant_id = ?"


class SqliteDataKeyStore:
    """
    Data keys in a file, which is made with mode 0600 if it is missing.

    Calls that run at once have a connection each, writers take turns in the
    order in which they come, and a forked child opens its own.  What is
    overwritten by `destroy` is overwritten in the file too (``secure_delete``),
    and the write-ahead log is emptied.

    Leave the file to SQLite: a process that opens and closes it itself, to copy
    it for instance, loses its locks of it, and what it commits afterwards can
    be lost (https://www.sqlite.org/howtocorrupt.html, 2.2).

    Args:
        path: The file; it lies on a local disk.  Beside it are SQLite's own
            and ``NAME.turn``, which is empty.

        timeout: Seconds that a call waits for other writers.

        now: The wall clock, for `current`.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``data_key_store_invalid``, if the file is another's.

        twh_platform.errors.KeyServiceUnavailableError: With code
            ``data_key_store_unavailable``, if it cannot be opened.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        timeout: float = 5.0,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._path, self._timeout, self._now = Path(path), timeout, now
        self._writers = writers_of(self._path)
        self.after_fork()
        reset_after_fork(self)
        close_before_fork(self)
        self._prepare()

    def after_fork(self) -> None:
        """
        Let go of connections without closing them: a child must not touch its parent's.
        """
        # Kept, so that they are not closed by the way: SQLite forbids even that.
        self._inherited = [*getattr(self, "_inherited", ()), *getattr(self, "_idle", ())]
        self._lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []

    def add(self, record: DataKeyRecord) -> DataKeyRecord:
        """
        See `DataKeyStore.add`.
        """
        with self._transaction() as connection:
            if connection.execute(_SHREDDED, (record.tenant_id,)).fetchone():
                raise tenant_shredded(record.tenant_id)
            key = (record.tenant_id, record.data_key_id)
            if connection.execute(_GET, key).fetchone():
                raise data_key_exists(record.data_key_id)
            if record.shared and (
                found := self._current(connection, record.tenant_id, record.purpose)
            ):
                return found
            connection.execute(_INSERT, _row(record))
            return record

    def get(self, tenant_id: str, data_key_id: bytes) -> DataKeyRecord | None:
        """
        See `DataKeyStore.get`.
        """
        with self._reading() as connection:
            row = connection.execute(_GET, (tenant_id, data_key_id)).fetchone()
        return None if row is None else _record(row)

    def current(self, tenant_id: str, purpose: str) -> DataKeyRecord | None:
        """
        See `DataKeyStore.current`.
        """
        with self._reading() as connection:
            return self._current(connection, tenant_id, purpose)

    def replace(self, record: DataKeyRecord, *, revision: int) -> bool:
        """
        See `DataKeyStore.replace`.
        """
        tenant_id, data_key_id, *values = _row(record)
        values[-1] = revision + 1
        with self._transaction() as connection:
            done = connection.execute(_UPDATE, (*values, tenant_id, data_key_id, revision))
            return done.rowcount == 1

    def page(
        self, tenant_id: str, *, after: bytes = b"", limit: int = 100, purpose: str | None = None
    ) -> list[DataKeyRecord]:
        """
        See `DataKeyStore.page`.
        """
        with self._reading() as connection:
            rows = connection.execute(_PAGE, (tenant_id, after, purpose, purpose, limit)).fetchall()
        return [_record(row) for row in rows]

    def tenants(self, *, after: str = "", limit: int = 100) -> list[str]:
        """
        See `DataKeyStore.tenants`.
        """
        asked = (
            "select distinct tenant_id from twh_data_keys where tenant_id > ? order by 1 limit ?"
        )
        with self._reading() as connection:
            rows = connection.execute(asked, (after, limit)).fetchall()
        return [tenant_id for (tenant_id,) in rows]

    def destroy(self, tenant_id: str) -> int:
        """
        See `DataKeyStore.destroy`.
        """
        with self._transaction() as connection:
            mark = "insert into twh_shredded_tenants values (?, ?) on conflict do nothing"
            connection.execute(mark, (tenant_id, _micros(self._now())))
            found = connection.execute(_PAGE, (tenant_id, b"", None, None, -1)).fetchall()
            for record in map(_record, found):
                _, _, *values = _row(tombstone_of(record))
                connection.execute(
                    _UPDATE, (*values, tenant_id, record.data_key_id, record.revision)
                )
        with self._reading() as connection:
            # The log still has what was overwritten; if it is in use, the next one empties it.
            connection.execute("pragma wal_checkpoint(truncate)")
        return len(found)

    def shredded(self, tenant_id: str) -> bool:
        """
        See `DataKeyStore.shredded`.
        """
        with self._reading() as connection:
            return connection.execute(_SHREDDED, (tenant_id,)).fetchone() is not None

    def close(self) -> None:
        """
        Close the connections that nobody is using.
        """
        with self._lock:
            connections, self._idle = self._idle, []
        for connection in connections:
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self) -> None:
        with self._failing_clearly():
            make_for_owner(self._path)
        with self._transaction() as connection:
            (version,) = connection.execute("pragma user_version").fetchone()
            if version not in {0, _VERSION}:
                message = f"{self._path} holds data keys of version {version}, not {_VERSION}"
                raise ConfigurationError(message, code="data_key_store_invalid")
            for statement in _TABLES.split(";"):
                connection.execute(statement)
            connection.execute(f"pragma user_version = {_VERSION}")

    def _current(
        self, connection: sqlite3.Connection, tenant_id: str, purpose: str
    ) -> DataKeyRecord | None:
        asked = (tenant_id, purpose, _micros(self._now()))
        row = connection.execute(_CURRENT, asked).fetchone()
        return None if row is None else _record(row)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._failing_clearly(), using_sqlite():
            connection = self._taken()
            sound = False
            try:
                yield connection
                sound = True
            except PlatformError:
                sound = True  # a refusal of ours, after its transaction has ended
                raise
            finally:
                # What failed may have a lock still, and would keep everybody out.
                if sound:
                    self._give_back(connection)
                else:
                    connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        # In line first: the gate of forks is for those who do something.
        with (
            self._failing_clearly(),
            self._writers.turn(self._timeout) as begin,
            self._reading() as connection,
        ):
            try:
                begin(connection)
                yield connection
                connection.execute("commit")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("rollback")
                raise

    @contextmanager
    def _failing_clearly(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.OperationalError, OSError) as error:
            message = f"the data keys in {self._path} cannot be reached"
            raise KeyServiceUnavailableError(message, code="data_key_store_unavailable") from error
        except sqlite3.DatabaseError as error:
            message = f"{self._path} is no file of data keys"
            raise ConfigurationError(message, code="data_key_store_invalid") from error

    def _taken(self) -> sqlite3.Connection:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        # One caller at a time uses it, but not always the same thread.
        connection = sqlite3.connect(
            self._path, timeout=self._timeout, isolation_level=None, check_same_thread=False
        )
        try:
            for setting in ("journal_mode = wal", "synchronous = full", "secure_delete = on"):
                connection.execute(f"pragma {setting}").fetchone()
        except BaseException:
            connection.close()
            raise
        return connection

    def _give_back(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            self._idle.append(connection)


def _row(record: DataKeyRecord) -> tuple[Any, ...]:
    return (
        record.tenant_id,
        record.data_key_id,
        record.purpose,
        record.wrapped.provider,
        record.wrapped.key_ref,
        record.wrapped.key_version,
        record.wrapped.ciphertext,
        record.state.value,
        int(record.shared),
        _micros(record.created_at),
        None if record.not_after is None else _micros(record.not_after),
        record.revision,
    )


def _record(row: tuple[Any, ...]) -> DataKeyRecord:
    tenant_id, data_key_id, purpose, provider, key_ref, version, ciphertext, *rest = row
    state, shared, created_at, not_after, revision = rest
    return DataKeyRecord(
        tenant_id=tenant_id,
        data_key_id=data_key_id,
        purpose=purpose,
        wrapped=WrappedKey(
            provider=provider, key_ref=key_ref, key_version=version, ciphertext=ciphertext
        ),
        state=DataKeyState(state),
        shared=bool(shared),
        created_at=_moment(created_at),
        not_after=None if not_after is None else _moment(not_after),
        revision=revision,
    )


def _micros(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _moment(micros: int) -> datetime:
    return _EPOCH + micros * _MICROSECOND
