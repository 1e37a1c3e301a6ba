"""
Secrets in a SQLite file, sealed: for one machine, and for development.

Values are sealed by the tenant's cipher and bound to the secret's name and
version; what is known of them (names, stages, times) is readable.  A value that
is revoked or forgotten is overwritten in the file.

    twh_secrets_v1        tenant_id, name, state (see `write_state`, as JSON)
    twh_secret_values_v1  tenant_id, name, version, sealed
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Protocol

from ...errors import BackendUnavailableError, ConfigurationError
from .._clock import utc_now
from .._secret import Secret
from .._sqlite_files import make_for_owner
from .._sqlite_forks import using_sqlite
from .._sqlite_turns import writers_of
from ._store import VersionedSecretStore
from ._versions import SecretState, read_state, write_state

__all__ = ["Sealer", "SqliteSecretStore", "open_secret", "seal_secret"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS twh_secrets_v1 (
  tenant_id TEXT NOT NULL, name TEXT NOT NULL, state TEXT NOT NULL,
  PRIMARY KEY (tenant_id, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS twh_secret_values_v1 (
  tenant_id TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, sealed BLOB NOT NULL,
  PRIMARY KEY (tenant_id, name, version)) WITHOUT ROWID;
"""


class Sealer(Protocol):
    """
    What seals values for the current tenant: a `TenantCipher`.
    """

    def seal(self, plaintext: bytes, context: Mapping[str, str]) -> bytes:
        """
        Seal for the current tenant and this context.
        """
        ...

    def open(self, sealed: bytes, context: Mapping[str, str]) -> bytes:
        """
        Open what was sealed for the current tenant and this context.
        """
        ...


def seal_secret(cipher: Sealer, secret: Secret, name: str, version: int) -> bytes:
    """
    Seal one version, bound to its name and number.
    """
    return cipher.seal(secret.hidden(), _context(name, version))


def open_secret(cipher: Sealer, sealed: bytes, name: str, version: int) -> Secret:
    """
    Open what `seal_secret` sealed.

    Raises:
        twh_platform.errors.DecryptionError: If it is of another name, version
            or tenant, or was changed.
    """
    return Secret(cipher.open(sealed, _context(name, version)))


def _context(name: str, version: int) -> dict[str, str]:
    return {"secret": name, "version": str(version)}


class SqliteSecretStore(VersionedSecretStore):
    """
    Secrets in a SQLite file, sealed by a tenant's cipher.

    Several processes of one machine may share the file; it is opened for each
    call, so a fork is no matter.  It is made with mode 600.  Writers take turns
    in the order in which they come.

    Leave the file to SQLite: a process that opens and closes it itself, to copy
    it for instance, loses its locks of it, and the file can be damaged
    (https://www.sqlite.org/howtocorrupt.html, 2.2).

    Args:
        path: The file; made if it is missing.  Beside it is ``NAME.turn``, which
            is empty.

        cipher: A `TenantCipher`; best one with a purpose of its own, ``secrets``.

        timeout: Seconds to wait for others that write.

        now: The wall clock, with time zone.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``secret_store_invalid``, if it is no SQLite file.

        twh_platform.errors.BackendUnavailableError: With code
            ``secret_store_unavailable``, if it cannot be opened or is locked.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        cipher: Sealer,
        *,
        timeout: float = 5.0,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        super().__init__(now=now)
        self._path = Path(path)
        self._cipher = cipher
        self._timeout = timeout
        self._writers = writers_of(self._path)
        with _refusing(self._path):
            make_for_owner(self._path)
        with self._connection() as connection:
            connection.executescript(_SCHEMA)

    def tenants(self) -> list[str]:
        """
        The ids of all who have secrets here, the platform's own among them.
        """
        with self._connection() as connection:
            rows = connection.execute(
                "SELECT DISTINCT tenant_id FROM twh_secrets_v1 ORDER BY tenant_id"
            )
            return [row[0] for row in rows]

    def _load(self, tenant_id: str, name: str) -> SecretState:
        with self._connection() as connection:
            return _read(connection, tenant_id, name)

    def _save(
        self,
        tenant_id: str,
        before: SecretState,
        after: SecretState,
        values: Mapping[int, bytes],
    ) -> bool:
        key = (tenant_id, after.name)
        with self._transaction() as connection:
            if _read(connection, *key) != before:
                return False
            connection.execute(
                "INSERT OR REPLACE INTO twh_secrets_v1 VALUES (?, ?, ?)", (*key, _written(after))
            )
            connection.executemany(
                "DELETE FROM twh_secret_values_v1 WHERE tenant_id = ? AND name = ? AND version = ?",
                [(*key, one.version) for one in before.versions if one.version not in after.kept],
            )
            connection.executemany(
                "INSERT INTO twh_secret_values_v1 VALUES (?, ?, ?, ?)",
                [(*key, version, value) for version, value in values.items()],
            )
        return True

    def _value(self, tenant_id: str, name: str, version: int) -> bytes | None:
        with self._connection() as connection:
            row = connection.execute(
                "SELECT sealed FROM twh_secret_values_v1"
                " WHERE tenant_id = ? AND name = ? AND version = ?",
                (tenant_id, name, version),
            ).fetchone()
        return None if row is None else row[0]

    def _names(self, tenant_id: str, prefix: str) -> list[str]:
        with self._connection() as connection:
            rows = connection.execute(
                "SELECT name FROM twh_secrets_v1 WHERE tenant_id = ?", (tenant_id,)
            )
            return [row[0] for row in rows if row[0].startswith(prefix)]

    def _pack(self, secret: Secret, name: str, version: int) -> bytes:
        return seal_secret(self._cipher, secret, name, version)

    def _unpack(self, value: bytes, name: str, version: int) -> Secret:
        return open_secret(self._cipher, value, name, version)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with (
            _refusing(self._path),
            using_sqlite(),
            closing(
                sqlite3.connect(self._path, timeout=self._timeout, isolation_level=None)
            ) as connection,
        ):
            # What is deleted is overwritten with zeros.
            connection.execute("PRAGMA secure_delete = ON")
            yield connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        # In line first: the gate of forks is for those who do something.
        with (
            _refusing(self._path),
            self._writers.turn(self._timeout) as begin,
            self._connection() as connection,
        ):
            begin(connection)
            yield connection
            connection.execute("COMMIT")


def _read(connection: sqlite3.Connection, tenant_id: str, name: str) -> SecretState:
    row = connection.execute(
        "SELECT state FROM twh_secrets_v1 WHERE tenant_id = ? AND name = ?", (tenant_id, name)
    ).fetchone()
    if row is None:
        return SecretState(name=name)
    try:
        return read_state(json.loads(row[0]))
    except (KeyError, TypeError, ValueError) as error:
        message = f"what the store knows of secret {name!r} cannot be read"
        raise ConfigurationError(message, code="secret_store_invalid") from error


def _written(state: SecretState) -> str:
    return json.dumps(write_state(state), separators=(",", ":"))


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"the secret store {str(path)!r} cannot be opened: {error.strerror or error}"
        raise BackendUnavailableError(message, code="secret_store_unavailable") from error
    except sqlite3.OperationalError as error:
        message = f"the secret store {str(path)!r} does not answer: {error}"
        raise BackendUnavailableError(message, code="secret_store_unavailable") from error
    except sqlite3.DatabaseError as error:
        message = f"{str(path)!r} is no secret store: {error}"
        raise ConfigurationError(message, code="secret_store_invalid") from error
