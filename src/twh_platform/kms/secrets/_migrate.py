"""
Readable secrets moved into a store: from env files, and from columns of tables.

A value is put into the store, read back and compared; only then is it replaced
in its source, by a reference: ``secret:<name>``.  At the end the source is
searched for every value that was moved, in the forms that people and programs
write one.  A run that was broken off is simply run again.

The search proves the source and what lies beside it, not backups, file-system
snapshots or logs: what was readable anywhere is best rotated after the move.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol, cast
from urllib.parse import quote

from ..._files import replace_file
from ...errors import (
    BackendUnavailableError,
    ConfigurationError,
    SecretConflictError,
    SecretNotFoundError,
)
from .._owner import as_owner
from .._secret import LONGEST_SECRET_BYTES, HiddenBytes, Secret
from ._store import SecretStore
from ._versions import valid_secret_name

__all__ = [
    "REFERENCE",
    "ColumnSource",
    "MigrationReport",
    "ReadableRow",
    "Sighting",
    "SqliteColumn",
    "find_in_rows",
    "find_readable",
    "migrate_column",
    "migrate_env_file",
    "refuse_long",
]

REFERENCE: Final = "secret:"
"""What stands in the place of a value that was moved, before the secret's name."""

_CHUNK = 1 << 20
_LEAST_ALIGNED = 6  # bytes from which a part of a base64 text is told from chance


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """
    A value that is still readable after its move.

    Attributes:
        name: The secret's name.

        where: A file, or a row of a table.

        form: ``plain``, ``base64``, ``hex``, ``percent``, ``json`` or ``utf-16``.
    """

    name: str
    where: str
    form: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationReport:
    """
    What was moved, and what the search found afterwards.

    Attributes:
        moved: The names of the secrets, each once.

        before: How many values had been moved by an earlier run.

        left: What is still readable; empty is the proof.
    """

    moved: tuple[str, ...] = ()
    before: int = 0
    left: tuple[Sighting, ...] = ()


def find_readable(
    secrets: Mapping[str, Secret], files: Iterable[str | os.PathLike[str]]
) -> tuple[Sighting, ...]:
    """
    Search files for secrets: as they are, in base64, hex, percent-encoding, JSON and UTF-16.

    Leave a SQLite file that this process has open to `SqliteColumn`.  Here it is
    opened and closed, and with that goes what SQLite has locked of it, for all of
    the process (https://www.sqlite.org/howtocorrupt.html, 2.2).

    Args:
        secrets: Values by name.

        files: The files, of any size.

    Raises:
        twh_platform.errors.BackendUnavailableError: With code
            ``migration_source_unavailable``, if one cannot be read.
    """
    needles = _needles(secrets)
    found: dict[Sighting, None] = {}
    for file in files:
        with _reading(file), Path(file).open("rb") as opened:
            found.update(dict.fromkeys(_search_stream(opened, needles, str(Path(file)))))
    return tuple(found)


def find_in_rows(
    secrets: Mapping[str, Secret], rows: Iterable[tuple[str, HiddenBytes]]
) -> tuple[Sighting, ...]:
    """
    Search rows, given as where they are and what they hold, as `find_readable` does files.
    """
    needles = _needles(secrets)
    found = {one: None for where, text in rows for one in _search(text, needles, where)}
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Needle:
    name: str
    form: str
    text: HiddenBytes


def _needles(secrets: Mapping[str, Secret]) -> list[_Needle]:
    # Most forms of most values are the same text: the first of them tells.
    needles: dict[tuple[str, HiddenBytes], _Needle] = {}
    for name, secret in secrets.items():
        for form, text in _forms(secret.hidden()):
            needles.setdefault((name, text), _Needle(name, form, text))
    return list(needles.values())


def _forms(value: HiddenBytes) -> Iterator[tuple[str, HiddenBytes]]:
    yield "plain", value
    yield "hex", HiddenBytes(value.hex().encode())
    yield "hex", HiddenBytes(value.hex().upper().encode())
    for aligned in _aligned(value):
        yield "base64", aligned
        yield "base64", HiddenBytes(aligned.translate(bytes.maketrans(b"+/", b"-_")))
    for safe in ("", "/"):
        yield "percent", HiddenBytes(quote(bytes(value), safe=safe).encode())
    with suppress(UnicodeDecodeError):
        yield "json", HiddenBytes(json.dumps(value.decode())[1:-1].encode())
        yield "utf-16", HiddenBytes(value.decode().encode("utf-16-le"))
        yield "utf-16", HiddenBytes(value.decode().encode("utf-16-be"))


def _aligned(value: HiddenBytes) -> Iterator[HiddenBytes]:
    """
    What base64 makes of *value* wherever it stands in a longer text, without its edges.
    """
    yield HiddenBytes(base64.b64encode(value).rstrip(b"="))
    if len(value) < _LEAST_ALIGNED:
        return
    for before in (1, 2):
        encoded = base64.b64encode(bytes(before) + value)
        # The first and the last group hold bits of what is around.
        yield HiddenBytes(encoded[4 : len(encoded) - 4])
    yield HiddenBytes(base64.b64encode(value)[: len(value) // 3 * 4])


def _search_stream(file: BinaryIO, needles: list[_Needle], where: str) -> Iterator[Sighting]:
    overlap = max((len(one.text) for one in needles), default=1) - 1
    window = HiddenBytes()
    while True:
        # Each window begins with the end of the one before: a value may span them.
        kept = window[-overlap:] if overlap else b""
        window = HiddenBytes(kept + (file.read(_CHUNK)))
        yield from _search(window, needles, where)
        if len(window) <= overlap or len(window) - len(kept) < _CHUNK:
            return


# What this process searches, that one only reads: no secret leaves this one.
_COPY: Final = """
import errno, shutil, sys
try:
    with open(sys.argv[1], "rb") as file:
        shutil.copyfileobj(file, sys.stdout.buffer)
    sys.stdout.flush()
except OSError as error:
    sys.exit(error.errno or errno.EIO)
"""


def _search_apart(path: Path, needles: list[_Needle]) -> list[Sighting]:
    """
    Search a file without opening it in this process.

    Raises:
        OSError: If it cannot be read, with the reason, or not to its end.
    """
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    command = [sys.executable, "-I", "-S", "-c", _COPY, os.fspath(path)]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        found = list(_search_stream(cast("BinaryIO", child.stdout), needles, str(path)))
    if child.returncode:
        code = max(child.returncode, 0) or errno.EIO  # below zero it was killed
        raise OSError(code, os.strerror(code))
    return found


def _search(text: bytes, needles: list[_Needle], where: str) -> Iterator[Sighting]:
    for one in needles:
        if text.find(one.text) >= 0:
            yield Sighting(name=one.name, where=where, form=one.form)


@contextmanager
def _reading(file: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"{os.fspath(file)!r}: {error.strerror}"
        raise BackendUnavailableError(message, code="migration_source_unavailable") from error


def _move(store: SecretStore, name: str, secret: Secret) -> None:
    """
    Put a value into the store and read it back; one that is there already is left there.
    """
    try:
        kept = store.get(name).secret
    except SecretNotFoundError:
        store.put(name, secret, expected=0)
        kept = store.get(name).secret
    if kept != secret:
        raise SecretConflictError(f"secret {name!r} is in the store with another value")


# --- env files ---

_ASSIGNMENT = re.compile(
    rb"""^[ \t]*(?:export[ \t]+)?(?P<key>[A-Za-z_][A-Za-z0-9_.]*)[ \t]*=[ \t]*
    (?P<value>"(?:\\.|[^"\\])*"|'[^']*'|(?:(?![ \t]\#)[^\r\n])*)""",
    re.MULTILINE | re.VERBOSE | re.DOTALL,
)
_ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}


@dataclass(frozen=True, slots=True)
class _Assignment:
    key: str
    start: int
    end: int
    value: HiddenBytes


def _assignments(text: HiddenBytes) -> list[_Assignment]:
    return [
        _Assignment(one["key"].decode(), *one.span("value"), _unquoted(one["value"]))
        for one in _ASSIGNMENT.finditer(text)
    ]


def _unquoted(value: bytes) -> HiddenBytes:
    value = value.strip(b" \t")
    if len(value) > 1 and value[:1] == value[-1:] == b'"':
        return HiddenBytes(re.sub(rb"(?s)\\(.)", _unescaped, value[1:-1]))
    if len(value) > 1 and value[:1] == value[-1:] == b"'":
        return HiddenBytes(value[1:-1])
    return HiddenBytes(value)


def _unescaped(match: re.Match[bytes]) -> bytes:
    return _ESCAPES.get(match[1], match[1])


def migrate_env_file(
    path: str | os.PathLike[str],
    store: SecretStore,
    names: Mapping[str, str],
    *,
    also: Iterable[str | os.PathLike[str]] = (),
) -> MigrationReport:
    """
    Move variables of an env file into the store, as the owner who is bound here.

    The file is replaced in one step, with its mode; what the old one held is
    overwritten.  The search covers it and the files beside it whose names begin
    with its name, as editors and tools leave them.

    Args:
        path: The file: ``KEY=value``, ``export KEY="value"``, quoted values over
            several lines.

        store: Where the values go.

        names: The secret's name, by variable.

        also: Further files to search, such as what an image was built from.
            Each has to be there before anything is moved.

    Raises:
        twh_platform.errors.ConfigurationError: With code
            ``migration_source_invalid``: a variable is missing, empty, or there
            twice, or a file of *also* cannot be read.  Nothing was moved.

        twh_platform.errors.SecretConflictError: If the store has another value
            of that name, or somebody changed the file meanwhile.  The file is
            left as it is.
    """
    path = Path(path)
    for name in names.values():
        valid_secret_name(name)
    with _reading(path):
        text = HiddenBytes(path.read_bytes())
    found = _wanted(path, text, names)
    searched = [_readable(Path(one)) for one in also]
    values: dict[str, Secret] = {}
    for variable, one in found.items():
        if one.value != f"{REFERENCE}{names[variable]}".encode():
            values[names[variable]] = Secret(one.value)
            _move(store, names[variable], values[names[variable]])
    if values:
        with _reading(path):
            _replace(path, text, _rewritten(text, found, names))
    secrets = {name: values.get(name) or store.get(name).secret for name in names.values()}
    left = find_readable(secrets, [*_beside(path), *searched])
    return MigrationReport(moved=tuple(values), before=len(names) - len(values), left=left)


def _readable(path: Path) -> Path:
    try:
        with path.open("rb"):
            return path
    except OSError as error:
        raise _invalid(f"{str(path)!r} cannot be searched: {error.strerror}") from error


def _wanted(path: Path, text: HiddenBytes, names: Mapping[str, str]) -> dict[str, _Assignment]:
    found: dict[str, _Assignment] = {}
    for one in _assignments(text):
        if one.key not in names:
            continue
        fault = "is there twice" if one.key in found else _value_fault(one.value)
        if fault:
            raise _invalid(f"{str(path)!r}: {one.key} {fault}")
        found[one.key] = one
    missing = sorted(names.keys() - found.keys())
    if missing:
        raise _invalid(f"{str(path)!r} has no {', '.join(missing)}")
    return found


def _value_fault(value: HiddenBytes) -> str:
    if not value:
        return "is empty"
    return "is too long" if len(value) > LONGEST_SECRET_BYTES else ""


def _invalid(what: str) -> ConfigurationError:
    return ConfigurationError(what, code="migration_source_invalid")


def _rewritten(
    text: HiddenBytes, found: Mapping[str, _Assignment], names: Mapping[str, str]
) -> HiddenBytes:
    pieces, at = [], 0
    for one in sorted(found.values(), key=lambda one: one.start):
        pieces += [text[at : one.start], f"{REFERENCE}{names[one.key]}".encode()]
        at = one.end
    return HiddenBytes(b"".join([*pieces, text[at:]]))


def _replace(path: Path, before: HiddenBytes, after: HiddenBytes) -> None:
    path = path.resolve()  # a link stays a link
    with path.open("r+b") as old:
        status = os.fstat(old.fileno())
        if HiddenBytes(old.read()) != before:
            raise SecretConflictError(f"{str(path)!r} changed while it was moved: run it again")
        replace_file(path, after, like=status)
        # Nobody finds the old file by its name; other names of it are emptied with it.
        old.seek(0)
        old.write(bytes(status.st_size))
        old.flush()
        os.fsync(old.fileno())


def _beside(path: Path) -> list[Path]:
    path = path.resolve()
    near = [one for one in path.parent.iterdir() if path.name.strip(".") in one.name]
    return sorted(one for one in near if one.is_file())


# --- columns ---


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadableRow:
    """
    A value in a column that is still to be moved.

    Attributes:
        key: The row's key, as text; it becomes a part of the secret's name.

        owner: The id of the tenant whose row it is; None if the table does not say.

        value: The value.
    """

    key: str
    owner: str | None
    value: Secret


class ColumnSource(Protocol):
    """
    A column of a table with readable secrets.
    """

    def rows(self) -> Iterator[ReadableRow]:
        """
        The values that are not yet references; null and empty ones are left out.
        """
        ...

    def moved(self) -> int:
        """
        How many rows hold references.
        """
        ...

    def replace(self, row: ReadableRow, reference: str) -> bool:
        """
        Put the reference in the value's place, if the value is still the same.
        """
        ...

    def search(self, secrets: Mapping[str, Secret]) -> tuple[Sighting, ...]:
        """
        Clear what the database keeps of old rows, as far as it can, and search for the values.
        """
        ...


def migrate_column(source: ColumnSource, store: SecretStore, *, prefix: str) -> MigrationReport:
    """
    Move a column's values into the store: each becomes the secret ``<prefix>/<key>``.

    With an owner column each value goes to its tenant; else to the owner who is
    bound here.

    Args:
        source: The column.

        store: Where the values go.

        prefix: How the names begin.

    Raises:
        twh_platform.errors.SecretConflictError: If the store has another value
            of a name, or a row changed while it was moved.

        twh_platform.errors.ConfigurationError: With code ``secret_name_invalid``,
            if a key cannot be a part of a name.  Rows before it are moved.
    """
    before = source.moved()
    values: dict[str, Secret] = {}
    for row in source.rows():
        name = valid_secret_name(f"{prefix}/{row.key.lower()}")
        with nullcontext() if row.owner is None else as_owner(row.owner):
            _move(store, name, row.value)
        if not source.replace(row, REFERENCE + name):
            raise SecretConflictError(f"the row of secret {name!r} changed while it was moved")
        values[name if row.owner is None else f"{row.owner}:{name}"] = row.value
    left = source.search(values)
    return MigrationReport(moved=tuple(values), before=before, left=left)


class SqliteColumn:
    """
    A column of a SQLite file.

    Its search goes over the bytes of the file and of its journals, after what was
    replaced has been overwritten and the file rebuilt.  They are read by a process
    of their own: what this one has locked of the file through SQLite, it keeps.

    Args:
        path: The file.

        table: The table.

        column: The column with the secrets: text or blobs.

        key: The column that names the row.

        owner: The column with the tenant's id, if there is one.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        table: str,
        column: str,
        *,
        key: str = "id",
        owner: str | None = None,
    ) -> None:
        self._path = Path(path)
        self._table, self._column, self._key = map(_identifier, (table, column, key))
        self._owner = _identifier(owner) if owner else "NULL"

    def rows(self) -> Iterator[ReadableRow]:
        """
        See `ColumnSource.rows`.
        """
        query = (
            f"SELECT {self._key}, {self._owner}, CAST({self._column} AS BLOB)"  # noqa: S608 -- identifiers, quoted
            f" FROM {self._table} WHERE length({self._column}) > 0"
            f" AND substr({self._column}, 1, ?) <> ? ORDER BY {self._key}"
        )
        long = f"SELECT count(*) FROM {self._table} WHERE length(CAST({self._column} AS BLOB)) > ?"  # noqa: S608 -- identifiers, quoted
        with self._connection() as connection:
            counted = connection.execute(long, (LONGEST_SECRET_BYTES,)).fetchone()
            refuse_long(self._column, counted[0])
            cursor = connection.execute(query, (len(REFERENCE), REFERENCE))
            found = [
                ReadableRow(key=str(key), owner=owner, value=Secret(value))
                for key, owner, value in cursor
            ]
        yield from found

    def moved(self) -> int:
        """
        See `ColumnSource.moved`.
        """
        query = f"SELECT count(*) FROM {self._table} WHERE substr({self._column}, 1, ?) = ?"  # noqa: S608 -- identifiers, quoted
        with self._connection() as connection:
            counted = connection.execute(query, (len(REFERENCE), REFERENCE)).fetchone()
        return int(counted[0])

    def replace(self, row: ReadableRow, reference: str) -> bool:
        """
        See `ColumnSource.replace`.
        """
        query = (
            f"UPDATE {self._table} SET {self._column} = ?"  # noqa: S608 -- identifiers, quoted
            f" WHERE CAST({self._key} AS TEXT) = ? AND CAST({self._column} AS BLOB) = ?"
        )
        with self._connection() as connection:
            changed = connection.execute(query, (reference, row.key, row.value.hidden()))
            return changed.rowcount == 1

    def search(self, secrets: Mapping[str, Secret]) -> tuple[Sighting, ...]:
        """
        See `ColumnSource.search`.
        """
        with self._connection() as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        needles = _needles(secrets)
        with _reading(self._path):
            found = dict.fromkeys(_search_apart(self._path, needles))
        for end in ("-wal", "-journal", "-shm"):
            beside = Path(f"{self._path}{end}")
            # SQLite removes these as it goes.
            with _reading(beside), suppress(FileNotFoundError):
                found.update(dict.fromkeys(_search_apart(beside, needles)))
        return tuple(found)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        if not self._path.exists():
            message = f"{str(self._path)!r}: no such file"
            raise BackendUnavailableError(message, code="migration_source_unavailable")
        try:
            with closing(sqlite3.connect(self._path, isolation_level=None)) as connection:
                connection.execute("PRAGMA secure_delete = ON")
                yield connection
        except sqlite3.Error as error:
            message = f"{str(self._path)!r}: {error}"
            raise BackendUnavailableError(message, code="migration_source_unavailable") from error


def refuse_long(column: str, count: int) -> None:
    """
    Raise if a column has values that are longer than a secret may be.
    """
    if count:
        values = "1 value" if count == 1 else f"{count} values"
        raise _invalid(f"{column} has {values} of more than {LONGEST_SECRET_BYTES} bytes")


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
