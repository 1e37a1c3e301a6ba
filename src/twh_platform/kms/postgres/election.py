"""
One of many processes, chosen by a lock in PostgreSQL (extra: `psycopg`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from ..._extras import missing_extra
from ...errors import BackendUnavailableError
from ...tenancy.postgres._psycopg_directory import CONNECTION
from ._psycopg_ask import kind_of

try:
    import psycopg
except ImportError as error:
    raise missing_extra("psycopg", error) from error

__all__ = ["PostgresElection"]

_SETTINGS: dict[str, Any] = {**CONNECTION, "application_name": "twh-election"}


class PostgresElection:
    """
    An election among all processes of a database, by an advisory lock.

    The leader holds the lock on a connection of its own, in no transaction.  If
    the connection breaks, another process may begin before the round is over;
    what is elected for has to bear that, as a rotation does, which is a
    compare-and-set.

    It needs a direct connection: behind a pooler in transaction mode the lock
    would belong to a session that others use.  The login needs no privilege.

        RotationTask(store, PostgresElection(dsn))

    Args:
        conninfo: A DSN.

        name: What the election is about; those of another name do not meet.
    """

    def __init__(self, conninfo: str, *, name: str = "rotation") -> None:
        self._conninfo = conninfo
        digest = hashlib.sha256(b"twh.election.v1\0" + name.encode()).digest()
        self._key = int.from_bytes(digest[:8], "big", signed=True)

    @contextmanager
    def lead(self) -> Iterator[bool]:
        """
        Whether this process leads, for the time of the `with`; it does not wait.

        Raises:
            twh_platform.errors.BackendUnavailableError: With code
                ``election_unavailable``, if the database does not answer.
        """
        with closing(self._connected()) as connection:
            yield self._locked(connection)

    def _connected(self) -> psycopg.Connection[Any]:
        try:
            return psycopg.connect(self._conninfo, **_SETTINGS)
        except psycopg.Error as error:
            # Without a cause: the driver's complaint may quote the DSN.
            raise _unavailable(error) from None

    def _locked(self, connection: psycopg.Connection[Any]) -> bool:
        try:
            row = connection.execute("SELECT pg_try_advisory_lock(%s)", (self._key,)).fetchone()
        except psycopg.Error as error:
            raise _unavailable(error) from error
        return bool(row and row[0])


def _unavailable(error: psycopg.Error) -> BackendUnavailableError:
    message = f"no election can be held: {kind_of(error)}"
    return BackendUnavailableError(message, code="election_unavailable")
