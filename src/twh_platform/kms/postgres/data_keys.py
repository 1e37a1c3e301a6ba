"""
Wrapped data keys in PostgreSQL, each tenant's own (extra: `psycopg`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import partial

from ..._extras import missing_extra
from ...errors import KeyAccessDeniedError, KeyServiceError, KeyServiceUnavailableError
from .._clock import utc_now
from .._data_keys import (
    DataKeyRecord,
    DataKeyState,
    data_key_exists,
    tenant_shredded,
)
from .._service import WrappedKey
from ._keys_sql import SHREDDED_SQLSTATE
from ._psycopg_ask import NOT_ALLOWED, Ask, Connect, Row, Values, ensure_current, kind_of, opened

try:
    import psycopg
except ImportError as error:
    raise missing_extra("psycopg", error) from error

__all__ = ["PostgresDataKeyStore"]

_COLUMNS = (
    "tenant_id, data_key_id, purpose, provider, key_ref, key_version, wrapped, state, shared, "
    "created_at, not_after, revision"
)

# Each names its tenant, so that an index is used, and so that a connection that
# policies do not hold answers for one tenant too.
_LOCK = "SELECT twh.lock_data_keys()"
_INSERT = f"""\
INSERT INTO twh.data_keys ({_COLUMNS}) VALUES (
    %(tenant_id)s, %(data_key_id)s, %(purpose)s, %(provider)s, %(key_ref)s, %(key_version)s,
    %(wrapped)s, %(state)s, %(shared)s, %(created_at)s, %(not_after)s, %(revision)s
)"""  # noqa: S608 -- only our own words, here and below
_GET = f"SELECT {_COLUMNS} FROM twh.data_keys WHERE tenant_id = %s AND data_key_id = %s"  # noqa: S608
_CURRENT = f"""\
SELECT {_COLUMNS} FROM twh.data_keys
WHERE tenant_id = %s AND purpose = %s AND state = 'active' AND shared
    AND (not_after IS NULL OR not_after > %s)
ORDER BY created_at DESC, data_key_id DESC LIMIT 1"""  # noqa: S608
_REPLACE = """\
UPDATE twh.data_keys SET
    provider = %(provider)s, key_ref = %(key_ref)s, key_version = %(key_version)s,
    wrapped = %(wrapped)s, state = %(state)s, not_after = %(not_after)s, revision = revision + 1
WHERE tenant_id = %(tenant_id)s AND data_key_id = %(data_key_id)s
    AND revision = %(expected)s AND state <> 'destroyed'"""
_PAGE = f"""\
SELECT {_COLUMNS} FROM twh.data_keys
WHERE tenant_id = %(tenant_id)s AND data_key_id > %(after)s AND state <> 'destroyed'
    AND (%(purpose)s::text IS NULL OR purpose = %(purpose)s)
ORDER BY data_key_id LIMIT %(limit)s"""  # noqa: S608
# One whom policies hold would be shown one tenant, or none.
_HELD = "SELECT row_security_active('twh.key_tenants')"
_TENANTS = """\
SELECT tenant_id FROM twh.key_tenants WHERE tenant_id > %s AND since IS NOT NULL
ORDER BY tenant_id LIMIT %s"""
_DESTROY = "SELECT twh.shred_tenant()"
_SHREDDED = "SELECT twh.tenant_shredded()"


class PostgresDataKeyStore:
    """
    Keep wrapped data keys in the tables that `keys_sql` makes.

    Each call is a transaction of its own on a connection of its own, so a data
    key is there before anything that it seals is, and stays if that is rolled
    back.  Give it a pool that nothing else takes from: whoever holds the last
    connection of a shared one and has to load a key would wait for himself.

        >>> from psycopg_pool import ConnectionPool
        >>> from twh_platform.tenancy.postgres.psycopg import TenantConnection
        >>> pool = ConnectionPool(
        ...     dsn, connection_class=TenantConnection, min_size=1, timeout=2.0, open=True
        ... )  # doctest: +SKIP
        >>> store = PostgresDataKeyStore(pool.connection)  # doctest: +SKIP

    Every call but `tenants` is about the current tenant; another one's id is
    refused before anything is sent.

    Args:
        connect: Gives tenant connections, such as the method `connection` of a
            `psycopg_pool.ConnectionPool` of
            `twh_platform.tenancy.postgres.psycopg.TenantConnection`.
            How long a call waits is up to them: set the pool's *timeout* and,
            in the DSN, ``connect_timeout`` and ``statement_timeout``.

        auditors: Gives connections of one of the auditors of `keys_sql`, for
            `tenants` alone; a service needs none.

        now: The wall clock, for `current`.
    """

    def __init__(
        self,
        connect: Connect,
        *,
        auditors: Connect | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._connect = connect
        self._auditors = auditors
        self._now = now

    def add(self, record: DataKeyRecord) -> DataKeyRecord:
        """
        Keep a new data key, or return the shared one that is there; see `DataKeyStore.add`.

        Raises:
            twh_platform.errors.KeyDestroyedError: With code
                ``tenant_shredded``.

            twh_platform.errors.KeyServiceError: With code
                ``data_key_exists``.

            twh_platform.errors.TenantMismatchError: If it is not the current
                tenant's.
        """
        with self._transaction(record.tenant_id) as ask:
            ((open_for_keys,),) = ask(_LOCK, ())
            if not open_for_keys:
                raise tenant_shredded(record.tenant_id)
            if record.shared and (rows := ask(_CURRENT, self._asked(record))):
                return _record(rows[0])
            try:
                ask(_INSERT, _values(record))
            except psycopg.errors.UniqueViolation as error:
                raise data_key_exists(record.data_key_id) from error
        return record

    def get(self, tenant_id: str, data_key_id: bytes) -> DataKeyRecord | None:
        """
        See `DataKeyStore.get`.
        """
        with self._transaction(tenant_id) as ask:
            rows = ask(_GET, (tenant_id, data_key_id))
        return _record(rows[0]) if rows else None

    def current(self, tenant_id: str, purpose: str) -> DataKeyRecord | None:
        """
        See `DataKeyStore.current`.
        """
        with self._transaction(tenant_id) as ask:
            rows = ask(_CURRENT, (tenant_id, purpose, self._now()))
        return _record(rows[0]) if rows else None

    def replace(self, record: DataKeyRecord, *, revision: int) -> bool:
        """
        See `DataKeyStore.replace`.

        What a data key is for, whether it is shared and when it was made stay
        as they were added.
        """
        with self._transaction(record.tenant_id) as ask:
            sql = f"{_REPLACE} RETURNING true"
            return bool(ask(sql, {**_values(record), "expected": revision}))

    def page(
        self, tenant_id: str, *, after: bytes = b"", limit: int = 100, purpose: str | None = None
    ) -> list[DataKeyRecord]:
        """
        See `DataKeyStore.page`.
        """
        values = {"tenant_id": tenant_id, "after": after, "limit": limit, "purpose": purpose}
        with self._transaction(tenant_id) as ask:
            return [_record(row) for row in ask(_PAGE, values)]

    def tenants(self, *, after: str = "", limit: int = 100) -> list[str]:
        """
        See `DataKeyStore.tenants`.

        Raises:
            twh_platform.errors.KeyAccessDeniedError: With code
                ``data_key_store_denied``, without *auditors*, or if policies
                hold their login.
        """
        if self._auditors is None:
            raise _denied("tenants are listed for auditors alone")
        with opened(self._auditors, partial(_told, "")) as ask:
            ((held,),) = ask(_HELD, ())
            if held:
                raise _denied("policies hold this login, so it does not see all tenants")
            return [tenant_id for (tenant_id,) in ask(_TENANTS, (after, limit))]

    def destroy(self, tenant_id: str) -> int:
        """
        See `DataKeyStore.destroy`; for the administrators of `keys_sql`.

        Raises:
            twh_platform.errors.KeyAccessDeniedError: As `tenants`.
        """
        with self._transaction(tenant_id) as ask:
            ((destroyed,),) = ask(_DESTROY, ())
        return int(destroyed)

    def shredded(self, tenant_id: str) -> bool:
        """
        See `DataKeyStore.shredded`.
        """
        with self._transaction(tenant_id) as ask:
            ((shredded,),) = ask(_SHREDDED, ())
        return bool(shredded)

    def _asked(self, record: DataKeyRecord) -> Values:
        return record.tenant_id, record.purpose, self._now()

    def _transaction(self, tenant_id: str) -> AbstractContextManager[Ask]:
        ensure_current(tenant_id)
        return opened(self._connect, partial(_told, tenant_id))


def _told(tenant_id: str, error: psycopg.Error) -> KeyServiceError:
    if error.sqlstate == SHREDDED_SQLSTATE:
        return tenant_shredded(tenant_id)
    if error.sqlstate == NOT_ALLOWED:
        return _denied(kind_of(error))
    message = f"the store of data keys does not answer: {kind_of(error)}"
    return KeyServiceUnavailableError(message, code="data_key_store_unavailable")


def _denied(why: str) -> KeyAccessDeniedError:
    message = f"this login may not do that with data keys: {why}"
    return KeyAccessDeniedError(message, code="data_key_store_denied")


def _values(record: DataKeyRecord) -> dict[str, object]:
    return {
        "tenant_id": record.tenant_id,
        "data_key_id": record.data_key_id,
        "purpose": record.purpose,
        "provider": record.wrapped.provider,
        "key_ref": record.wrapped.key_ref,
        "key_version": record.wrapped.key_version,
        "wrapped": record.wrapped.ciphertext,
        "state": record.state.value,
        "shared": record.shared,
        "created_at": record.created_at,
        "not_after": record.not_after,
        "revision": record.revision,
    }


def _record(row: Row) -> DataKeyRecord:
    (tenant_id, data_key_id, purpose, provider, key_ref, key_version, *rest) = row
    (wrapped, state, shared, created_at, not_after, revision) = rest
    return DataKeyRecord(
        tenant_id=tenant_id,
        data_key_id=bytes(data_key_id),
        purpose=purpose,
        wrapped=WrappedKey(
            provider=provider,
            key_ref=key_ref,
            key_version=key_version,
            ciphertext=bytes(wrapped),
        ),
        state=DataKeyState(state),
        shared=shared,
        created_at=created_at.astimezone(UTC),
        not_after=not_after and not_after.astimezone(UTC),
        revision=revision,
    )
