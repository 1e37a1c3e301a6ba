"""
A column of a PostgreSQL table whose secrets are to be moved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from ..._extras import missing_extra
from ...errors import BackendUnavailableError
from .._secret import LONGEST_SECRET_BYTES, HiddenBytes, Secret
from ._migrate import REFERENCE, ReadableRow, Sighting, find_in_rows, refuse_long

try:
    import psycopg
    from psycopg import sql
except ImportError as error:
    raise missing_extra("psycopg", error) from error

__all__ = ["PostgresColumn"]

T = TypeVar("T")


class PostgresColumn:
    """
    A column of a table in PostgreSQL, of type text, varchar or bytea.

    The login has to see all rows: under row-level security it is the table's
    owner without FORCE, or has BYPASSRLS.  The search goes over all columns of
    the table; what VACUUM has not cleared, the write-ahead log and backups it
    cannot see.

    Args:
        dsn: The database.

        table: The table, with its schema if that is not on the search path.

        column: The column with the secrets.

        key: The column that names the row.

        owner: The column with the tenant's id, if there is one.

    Raises:
        twh_platform.errors.BackendUnavailableError: From every call, with code
            ``migration_source_unavailable``, if the server cannot be reached or
            refuses.
    """

    def __init__(
        self,
        dsn: str,
        table: str,
        column: str,
        *,
        key: str = "id",
        owner: str | None = None,
    ) -> None:
        self._dsn = dsn
        self._names: dict[str, sql.Composable] = {
            "t": sql.Identifier(*table.split(".")),
            "c": sql.Identifier(column),
            "k": sql.Identifier(key),
            "o": sql.Identifier(owner) if owner else sql.SQL("NULL"),
        }
        self._column = column

    def rows(self) -> Iterator[ReadableRow]:
        """
        See `ColumnSource.rows`.
        """
        yield from self._run(self._rows)

    def moved(self) -> int:
        """
        See `ColumnSource.moved`.
        """
        return self._run(self._moved)

    def replace(self, row: ReadableRow, reference: str) -> bool:
        """
        See `ColumnSource.replace`.
        """
        return self._run(lambda cursor: self._replace(cursor, row, reference))

    def search(self, secrets: Mapping[str, Secret]) -> tuple[Sighting, ...]:
        """
        See `ColumnSource.search`.
        """
        return self._run(lambda cursor: self._search(cursor, secrets))

    def _rows(self, cursor: psycopg.Cursor[Any]) -> list[ReadableRow]:
        self._ask(cursor, "SELECT count(*) FROM {t} WHERE length({v}) > %s", LONGEST_SECRET_BYTES)
        refuse_long(self._column, _number(cursor))
        self._ask(
            cursor,
            "SELECT {k}::text, {o}::text, {v} FROM {t}"
            " WHERE length({v}) > 0 AND substr({v}, 1, %s) <> %s ORDER BY {k}",
            len(REFERENCE),
            REFERENCE.encode(),
        )
        return [
            ReadableRow(key=one[0], owner=one[1], value=Secret(bytes(one[2]))) for one in cursor
        ]

    def _moved(self, cursor: psycopg.Cursor[Any]) -> int:
        query = "SELECT count(*) FROM {t} WHERE substr({v}, 1, %s) = %s"
        self._ask(cursor, query, len(REFERENCE), REFERENCE.encode())
        return _number(cursor)

    def _replace(self, cursor: psycopg.Cursor[Any], row: ReadableRow, reference: str) -> bool:
        # As bytes that are not shown, also by the driver's own variables.
        old, new = row.value.hidden(), reference.encode()
        query = "UPDATE {t} SET {c} = {n} WHERE {k}::text = %s AND {v} = %s"
        self._ask(cursor, query, new, row.key, old)
        return cursor.rowcount == 1

    def _search(
        self, cursor: psycopg.Cursor[Any], secrets: Mapping[str, Secret]
    ) -> tuple[Sighting, ...]:
        self._ask(cursor, "VACUUM {t}")
        self._ask(cursor, "SELECT {k}::text, convert_to(t::text, 'UTF8') FROM {t} AS t")
        return find_in_rows(secrets, ((f"row {one[0]}", HiddenBytes(one[1])) for one in cursor))

    def _ask(self, cursor: psycopg.Cursor[Any], text: str, *values: object) -> None:
        cursor.execute(sql.SQL(text).format(**self._names), values or None)

    def _learn_type(self, cursor: psycopg.Cursor[Any]) -> None:
        # What the column holds, as bytes: text by its characters in UTF-8.
        self._ask(cursor, "SELECT pg_typeof((SELECT {c} FROM {t} LIMIT 0))::text")
        found = cursor.fetchone()
        binary = found is not None and found[0] == "bytea"
        self._names["n"] = sql.SQL("%s" if binary else "convert_from(%s, 'UTF8')")
        as_bytes = "{c}" if binary else "convert_to({c}, 'UTF8')"
        self._names["v"] = sql.SQL(as_bytes).format(c=self._names["c"])

    def _run(self, work: Callable[[psycopg.Cursor[Any]], T]) -> T:
        try:
            with (
                psycopg.connect(self._dsn, autocommit=True, connect_timeout=10) as connection,
                connection.cursor() as cursor,
            ):
                self._learn_type(cursor)
                return work(cursor)
        except psycopg.Error as error:
            failed = error.sqlstate or "no answer"
        # Outside of the handler: the server's text may quote the row, and is not to come along.
        message = f"the column {self._column!r} cannot be read or changed: {failed}"
        raise BackendUnavailableError(message, code="migration_source_unavailable")


def _number(cursor: psycopg.Cursor[Any]) -> int:
    found = cursor.fetchone()
    return int(found[0]) if found else 0
