"""
Sealed secrets in PostgreSQL, each tenant's own (extra: `psycopg`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

from ..._extras import missing_extra
from ...errors import BackendUnavailableError, SecretError
from .._clock import utc_now
from .._secret import Secret
from ..secrets._sqlite import Sealer, open_secret, seal_secret
from ..secrets._store import VersionedSecretStore
from ..secrets._versions import (
    TIMES,
    SecretState,
    SecretVersion,
    Stage,
    read_policy,
    write_policy,
)
from ._psycopg_ask import NOT_ALLOWED, Ask, Connect, Row, ensure_current, kind_of, opened

try:
    import psycopg
except ImportError as error:
    raise missing_extra("psycopg", error) from error

__all__ = ["PostgresSecretStore"]

_TIMES_SQL = ", ".join(TIMES)

# A row for the policy also where a secret has no version, none where it is unknown.
_LOAD = f"""\
SELECT policy, version, stage, {_TIMES_SQL}
FROM twh.secrets LEFT JOIN twh.secret_versions USING (tenant_id, name)
WHERE tenant_id = %s AND name = %s ORDER BY version"""  # noqa: S608 -- only our own words, as below
_VALUE = """\
SELECT sealed FROM twh.secret_versions
WHERE tenant_id = %s AND name = %s AND version = %s AND sealed IS NOT NULL"""
_NAMES = "SELECT name FROM twh.secrets WHERE tenant_id = %s AND starts_with(name, %s)"
_MAKE = "INSERT INTO twh.secrets (tenant_id, name) VALUES (%s, %s) ON CONFLICT DO NOTHING"
_LOCK = "SELECT 1 FROM twh.secrets WHERE tenant_id = %s AND name = %s FOR NO KEY UPDATE"
_POLICY = "UPDATE twh.secrets SET policy = %s::jsonb WHERE tenant_id = %s AND name = %s"
# Apart from the update, because no two versions may have one stage, for a moment either.
_UNSTAGE = """\
UPDATE twh.secret_versions SET stage = NULL
WHERE tenant_id = %s AND name = %s AND version = ANY(%s) AND stage IS NOT NULL"""
_UPDATE = """\
UPDATE twh.secret_versions SET
    stage = %(stage)s, expires_at = %(expires_at)s, current_since = %(current_since)s,
    retires_at = %(retires_at)s, revoked_at = %(revoked_at)s,
    sealed = CASE WHEN %(revoked_at)s::timestamptz IS NULL THEN sealed END
WHERE tenant_id = %(tenant_id)s AND name = %(name)s AND version = %(version)s"""
_DELETE = """\
DELETE FROM twh.secret_versions WHERE tenant_id = %s AND name = %s AND version = ANY(%s)"""
_INSERT = f"""\
INSERT INTO twh.secret_versions (tenant_id, name, version, stage, sealed, {_TIMES_SQL}) VALUES (
    %(tenant_id)s, %(name)s, %(version)s, %(stage)s, %(sealed)s, %(created_at)s,
    %(expires_at)s, %(current_since)s, %(retires_at)s, %(revoked_at)s
)"""  # noqa: S608


class PostgresSecretStore(VersionedSecretStore):
    """
    Keep secrets in the tables that `keys_sql` makes, sealed by the tenant's cipher.

    Each call is a transaction of its own, or two.  Two processes that change a
    secret at the same time do so one after the other; the second one decides
    anew.

    Args:
        connect: Gives tenant connections; see
            `twh_platform.kms.postgres.data_keys.PostgresDataKeyStore`, and share
            its pool.

        cipher: A `TenantCipher`; best one with a purpose of its own, ``secrets``.

        now: The wall clock, with time zone.
    """

    def __init__(
        self, connect: Connect, cipher: Sealer, *, now: Callable[[], datetime] = utc_now
    ) -> None:
        super().__init__(now=now)
        self._connect = connect
        self._cipher = cipher

    def _load(self, tenant_id: str, name: str) -> SecretState:
        with self._transaction(tenant_id) as ask:
            return _read(ask, tenant_id, name)

    def _save(
        self,
        tenant_id: str,
        before: SecretState,
        after: SecretState,
        values: Mapping[int, bytes],
    ) -> bool:
        key = (tenant_id, after.name)
        with self._transaction(tenant_id) as ask:
            ask(_MAKE, key)
            ask(_LOCK, key)
            if _read(ask, *key) != before:
                return False
            _write(ask, tenant_id, before, after, values)
        return True

    def _value(self, tenant_id: str, name: str, version: int) -> bytes | None:
        with self._transaction(tenant_id) as ask:
            rows = ask(_VALUE, (tenant_id, name, version))
        return bytes(rows[0][0]) if rows else None

    def _names(self, tenant_id: str, prefix: str) -> list[str]:
        with self._transaction(tenant_id) as ask:
            return [name for (name,) in ask(_NAMES, (tenant_id, prefix))]

    def _pack(self, secret: Secret, name: str, version: int) -> bytes:
        return seal_secret(self._cipher, secret, name, version)

    def _unpack(self, value: bytes, name: str, version: int) -> Secret:
        return open_secret(self._cipher, value, name, version)

    def _transaction(self, tenant_id: str) -> AbstractContextManager[Ask]:
        ensure_current(tenant_id)
        return opened(self._connect, _told)


def _told(error: psycopg.Error) -> SecretError | BackendUnavailableError:
    if error.sqlstate == NOT_ALLOWED:
        message = f"this login may not do that with secrets: {kind_of(error)}"
        return SecretError(message, code="secret_store_denied")
    message = f"the secret store does not answer: {kind_of(error)}"
    return BackendUnavailableError(message, code="secret_store_unavailable")


def _read(ask: Ask, tenant_id: str, name: str) -> SecretState:
    rows = ask(_LOAD, (tenant_id, name))
    if not rows:
        return SecretState(name=name)
    versions = tuple(_version(name, row[1:]) for row in rows if row[1] is not None)
    return SecretState(name=name, versions=versions, policy=read_policy(rows[0][0]))


def _version(name: str, row: Row) -> SecretVersion:
    number, stage, *times = row
    moments: dict[str, Any] = {
        key: moment and moment.astimezone(UTC) for key, moment in zip(TIMES, times, strict=True)
    }
    return SecretVersion(name=name, version=number, stage=stage and Stage(stage), **moments)


def _write(
    ask: Ask, tenant_id: str, before: SecretState, after: SecretState, values: Mapping[int, bytes]
) -> None:
    key = (tenant_id, after.name)
    known = {one.version: one for one in before.versions}
    changed = [one for one in after.versions if one.version in known and one not in before.versions]
    gone = known.keys() - {one.version for one in after.versions}
    if after.policy != before.policy:
        policy = write_policy(after.policy)
        ask(_POLICY, (policy and json.dumps(policy), *key))
    if gone:
        ask(_DELETE, (*key, sorted(gone)))
    if changed:
        ask(_UNSTAGE, (*key, [one.version for one in changed]))
    for one in changed:
        ask(_UPDATE, _values(tenant_id, one))
    for one in after.versions:
        if one.version not in known:
            ask(_INSERT, {**_values(tenant_id, one), "sealed": values.get(one.version)})


def _values(tenant_id: str, one: SecretVersion) -> dict[str, object]:
    return {
        "tenant_id": tenant_id,
        "name": one.name,
        "version": one.version,
        "stage": one.stage and one.stage.value,
        **{time: getattr(one, time) for time in TIMES},
    }
