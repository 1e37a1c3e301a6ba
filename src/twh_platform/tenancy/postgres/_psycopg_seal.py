"""
The keys of a sealed database, managed as the owner of the schema ``twh``.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..._extras import missing_extra
from ...errors import BackendUnavailableError, ConfigurationError
from ._seal import SealKey
from ._seal_sql import seal_sql

try:
    import psycopg
    from psycopg.rows import class_row, tuple_row
except ImportError as cause:
    raise missing_extra("psycopg", cause) from cause

__all__ = [
    "SealKeyStatus",
    "add_seal_key",
    "enforce_seal",
    "owner_transaction",
    "retire_seal_keys",
    "seal_key_statuses",
    "withdraw_seal_key",
]

_CONNECT_SECONDS = 10

# The server draws the secret: as a parameter it would stand in its log.
_ADD = """\
WITH drawn AS MATERIALIZED (
    SELECT '1' || left(md5(gen_random_uuid()::text), 4) AS key_id,
        sha256(
            uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
            || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
        ) AS secret
), added AS (
    INSERT INTO twh.seal_keys (key_id, inner_pad, outer_pad)
    SELECT key_id,
        -- HMAC pads the key with zeros to 64 bytes, then XOR with 0x36 and 0x5c.
        (SELECT decode(string_agg(lpad(to_hex(byte # 54), 2, '0'), '' ORDER BY i), 'hex')
            FROM (SELECT i, get_byte(secret || decode(repeat('00', 32), 'hex'), i) AS byte
                FROM generate_series(0, 63) AS i) AS bytes),
        (SELECT decode(string_agg(lpad(to_hex(byte # 92), 2, '0'), '' ORDER BY i), 'hex')
            FROM (SELECT i, get_byte(secret || decode(repeat('00', 32), 'hex'), i) AS byte
                FROM generate_series(0, 63) AS i) AS bytes)
    FROM drawn
    ON CONFLICT DO NOTHING
    RETURNING key_id
)
SELECT substr(key_id, 2), secret FROM added JOIN drawn USING (key_id)
"""
_RETIRE = """\
UPDATE twh.seal_keys SET not_after = clock_timestamp() + make_interval(secs => %s)
WHERE key_id <> '1' || %s AND not_after > clock_timestamp() + make_interval(secs => %s)
RETURNING substr(key_id, 2)
"""
_STATUSES = """\
SELECT substr(key_id, 2) AS id, added_at, nullif(not_after, 'infinity') AS not_after
FROM twh.seal_keys WHERE not_after > clock_timestamp() ORDER BY added_at, key_id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealKeyStatus:
    """
    A key that the database believes.

    Attributes:
        id: 4 hex digits.

        added_at: Since when.

        not_after: Until when, or None.
    """

    id: str
    added_at: datetime
    not_after: datetime | None


@contextlib.contextmanager
def owner_transaction(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """
    Connect for one transaction, committed at the end of the `with`.

    Raises:
        twh_platform.errors.ConfigurationError: With code ``owner_refused``,
            for a login that may not do this.

        twh_platform.errors.BackendUnavailableError: If the server cannot be
            reached, or fails.
    """
    # Given to SQLAlchemy the same URL names a driver.
    dsn = re.sub(r"^(postgres(?:ql)?)\+\w+://", r"\1://", dsn)
    try:
        with psycopg.connect(dsn, connect_timeout=_CONNECT_SECONDS) as connection:
            yield connection
    except psycopg.errors.InsufficientPrivilege as error:
        message = f"this login may not do it: {error.diag.message_primary}"
        raise ConfigurationError(message, code="owner_refused") from error
    except psycopg.Error as error:
        # A message of libpq about a DSN quotes it, password included.
        text = error.diag.message_primary or type(error).__name__
        raise BackendUnavailableError(f"the database did not do it: {text}") from None


def enforce_seal(connection: psycopg.Connection[Any], *, allow_unsealed: bool = False) -> None:
    """
    Make the database demand a seal; see `twh_platform.tenancy.postgres.seal_sql`.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``seal_not_installed``, where `install_sql` has not been run.
    """
    _run(connection, seal_sql(allow_unsealed=allow_unsealed))


def add_seal_key(connection: psycopg.Connection[Any]) -> SealKey:
    """
    Draw a new key; the database believes it from the commit on.

    Args:
        connection: As the owner of the schema ``twh``.

    Returns:
        The key.  It cannot be read again.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``seal_not_installed``, where `seal_sql` has not been run.
    """
    while True:  # ids are few: one that is taken is drawn again
        row = _run(connection, _ADD).fetchone()
        if row is not None:
            return SealKey(id=row[0], secret=bytes(row[1]))


def retire_seal_keys(
    connection: psycopg.Connection[Any], *, keep: str, overlap: float
) -> tuple[str, ...]:
    """
    Let every key but one end after a while.

    Args:
        connection: As the owner of the schema ``twh``.

        keep: The id of the key that stays.

        overlap: Seconds for which the others are still believed: more than
            the service needs to take up the new key, and the life of a token.

    Returns:
        The ids of the keys that end.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``seal_key_unknown``, if there is no such key to keep, or
            ``seal_not_installed``, where `seal_sql` has not been run.
    """
    if keep not in {one.id for one in seal_key_statuses(connection)}:
        message = f"the database has no seal key {keep!r} to keep"
        raise ConfigurationError(message, code="seal_key_unknown")
    rows = _run(connection, _RETIRE, (overlap, keep, overlap)).fetchall()
    # Keys that ended are of no use to anyone.
    _run(connection, "DELETE FROM twh.seal_keys WHERE not_after <= clock_timestamp()")
    return tuple(row[0] for row in rows)


def withdraw_seal_key(connection: psycopg.Connection[Any], key_id: str) -> None:
    """
    Believe a key no more, from the commit on.

    A statement that began before it ends as it began; so does a transaction
    in REPEATABLE READ or SERIALIZABLE, which sees the keys of its snapshot.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``seal_key_unknown``, or ``seal_not_installed`` where `seal_sql`
            has not been run.
    """
    delete = "DELETE FROM twh.seal_keys WHERE key_id = '1' || %s"
    if not _run(connection, delete, (key_id,)).rowcount:
        raise ConfigurationError(
            f"the database has no seal key {key_id!r}", code="seal_key_unknown"
        )


def seal_key_statuses(connection: psycopg.Connection[Any]) -> tuple[SealKeyStatus, ...]:
    """
    The keys that the database believes, oldest first.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``seal_not_installed``, where `seal_sql` has not been run.
    """
    with connection.cursor(row_factory=class_row(SealKeyStatus)) as cursor:
        return tuple(_run(connection, _STATUSES, cursor=cursor).fetchall())


def _run(
    connection: psycopg.Connection[Any],
    sql: str,
    parameters: tuple[Any, ...] | None = None,
    *,
    cursor: psycopg.Cursor[Any] | None = None,
) -> psycopg.Cursor[Any]:
    cursor = cursor or connection.cursor(row_factory=tuple_row)
    try:
        return cursor.execute(sql.encode(), parameters)
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
        raise ConfigurationError(
            "the seal is not installed in this database", code="seal_not_installed"
        ) from error
