"""
Reading the catalog: one connection, one transaction that writes nothing.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from ...._extras import missing_extra
from ....errors import BackendUnavailableError, ConfigurationError
from ._catalog import MEMBERSHIPS_16, QUERIES, Catalog, build_catalog

try:
    import psycopg
    from psycopg import conninfo, pq
    from psycopg.rows import tuple_row
except ImportError as cause:
    raise missing_extra("psycopg", cause) from cause

__all__ = ["read_catalog"]

_OLDEST = 150_000
_FIRST_WITH_SET_OPTION = 160_000
_CONNECT_SECONDS = 10

# Deparsed names then have their schema, whoever looks and whatever his search_path is.
_PREPARE = "SELECT pg_catalog.set_config('search_path', 'pg_catalog', true)"


def read_catalog(source: str | psycopg.Connection[Any]) -> Catalog:
    """
    Take the snapshot.

    Args:
        source: A DSN, or a connection.  If the connection has a transaction
            open, what that has not yet committed is seen too, and it goes on
            as it was.

    Raises:
        twh_platform.errors.ConfigurationError: For a DSN that cannot be read, a
            server before 15, or a connection whose transaction has failed.
        twh_platform.errors.BackendUnavailableError: If the server cannot be
            reached or refuses.
    """
    try:
        with _connection(source) as connection:
            return _read(connection)
    except psycopg.Error as error:
        text = _without_password(str(error), source)
        # Not kept as the cause: its message is the one that was not redacted.
        raise BackendUnavailableError(
            f"the catalog cannot be read: {text}", code="lint_unavailable"
        ) from None


@contextlib.contextmanager
def _connection(source: str | psycopg.Connection[Any]) -> Iterator[psycopg.Connection[Any]]:
    if not isinstance(source, str):
        yield source
        return
    # Given to SQLAlchemy the same URL names a driver.
    dsn = re.sub(r"^(postgres(?:ql)?)\+\w+://", r"\1://", source)
    try:
        given = conninfo.conninfo_to_dict(dsn)
    except psycopg.Error:
        # The message would repeat what it could not read, the password with it.
        raise ConfigurationError("the DSN cannot be read", code="lint_dsn_invalid") from None
    ours: dict[str, Any] = {
        "application_name": "twh-platform tenancy lint",
        "connect_timeout": _CONNECT_SECONDS,
    }
    dsn = conninfo.make_conninfo(**{**ours, **given})
    with psycopg.connect(dsn) as connection:
        yield connection


def _read(connection: psycopg.Connection[Any]) -> Catalog:
    version = connection.info.server_version
    if version < _OLDEST:
        raise ConfigurationError(
            f"PostgreSQL 15 or newer is needed; this is {version // 10_000}",
            code="lint_server_too_old",
        )
    queries = dict(QUERIES)
    if version >= _FIRST_WITH_SET_OPTION:
        queries["memberships"] = MEMBERSHIPS_16
    with _transaction(connection):
        connection.execute(_PREPARE)
        # All are on their way before the first answer is waited for.
        with connection.pipeline():
            cursors = {
                name: psycopg.Cursor(connection, row_factory=tuple_row).execute(
                    query, prepare=False
                )
                for name, query in queries.items()
            }
        return build_catalog({name: cursor.fetchall() for name, cursor in cursors.items()})


@contextlib.contextmanager
def _transaction(connection: psycopg.Connection[Any]) -> Iterator[None]:
    status = connection.info.transaction_status
    if status == pq.TransactionStatus.INERROR:
        raise ConfigurationError(
            "the connection's transaction has failed: roll it back first",
            code="lint_transaction_failed",
        )
    with connection.transaction(force_rollback=True):
        if status == pq.TransactionStatus.IDLE:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


def _without_password(text: str, source: str | psycopg.Connection[Any]) -> str:
    if not isinstance(source, str):
        return text
    with contextlib.suppress(psycopg.Error):
        dsn = re.sub(r"^(postgres(?:ql)?)\+\w+://", r"\1://", source)
        password = conninfo.conninfo_to_dict(dsn).get("password")
        if password:
            return text.replace(str(password), "***")
    return text
