"""
Readable secrets are moved, and a search proves that nothing readable is left.
"""

from __future__ import annotations

import base64
import sqlite3
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

pytest.importorskip("cryptography")

from twh_platform.errors import (
    BackendUnavailableError,
    ConfigurationError,
    SecretConflictError,
)
from twh_platform.kms import platform_owner
from twh_platform.kms.secrets import (
    MemorySecretStore,
    Secret,
    SqliteColumn,
    find_readable,
    migrate_column,
    migrate_env_file,
)
from twh_platform.tenancy import Tenant, bind_tenant

ENV = """\
# marked-comment
DEBUG=1
export DB_PASSWORD='mark db#1'
SMTP = mark-smtp # for mails
KEY="mark-line-1
mark \\"line\\" 2"
URL=postgresql://app@db/x
"""
NAMES = {"DB_PASSWORD": "db/password", "SMTP": "smtp/password", "KEY": "jwt/key"}


@pytest.fixture
def store():
    """An empty store, as the platform."""
    with platform_owner():
        yield MemorySecretStore()


@pytest.fixture
def env(tmp_path: Path) -> Path:
    """An env file with a mode of its own."""
    path = tmp_path / ".env"
    path.write_text(ENV)
    path.chmod(0o640)
    return path


def test_variables_move_and_the_rest_stays(env, store):
    """Quotes, escapes, comments and several lines are read as a shell would."""
    report = migrate_env_file(env, store, NAMES)

    assert (set(report.moved), report.left) == (set(NAMES.values()), ())
    values = [store.get(name).secret.text() for name in NAMES.values()]
    assert values == ["mark db#1", "mark-smtp", 'mark-line-1\nmark "line" 2']
    assert env.read_text() == (
        "# marked-comment\nDEBUG=1\nexport DB_PASSWORD=secret:db/password\n"
        "SMTP = secret:smtp/password # for mails\nKEY=secret:jwt/key\nURL=postgresql://app@db/x\n"
    )
    assert env.stat().st_mode & 0o777 == 0o640


def test_a_run_that_was_broken_off_is_run_again(env, store):
    """What is in the store already is compared; what is moved already is counted."""
    store.put("db/password", Secret("mark db#1"))
    first = migrate_env_file(env, store, NAMES)
    again = migrate_env_file(env, store, NAMES)

    assert len(first.moved) == 3
    assert (again.moved, again.before, again.left) == ((), 3, ())
    assert store.get("db/password").version.version == 1


def test_another_value_in_the_store_is_not_overwritten(env, store):
    """And the file is left as it is."""
    store.put("smtp/password", Secret("another"))
    with pytest.raises(SecretConflictError):
        migrate_env_file(env, store, NAMES)

    assert env.read_text() == ENV
    assert store.get("smtp/password").secret == Secret("another")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("A=1\n", "has no SMTP"),
        ("SMTP=mark\nSMTP=mark\n", "is there twice"),
        ("SMTP=\n", "is empty"),
        ('SMTP=""\n', "is empty"),
        (f"SMTP={'m' * 65_537}\n", "is too long"),
        ("# SMTP=mark\n", "has no SMTP"),
    ],
)
def test_what_cannot_be_moved_is_refused_before_anything_is(text, fault, env, store):
    """By the variable's name, without its value."""
    env.write_text(text)
    with pytest.raises(ConfigurationError, match=fault) as caught:
        migrate_env_file(env, store, {"SMTP": "smtp/password"})

    assert caught.value.code == "migration_source_invalid"
    assert "mark" not in str(caught.value)
    assert store.names() == []


@pytest.mark.parametrize("missing", ["Dockerfile", "."])
def test_a_file_that_cannot_be_searched_is_told_before_anything_is_moved(
    missing, env, store, tmp_path
):
    """Not there, or a folder: nothing is in the store, and the file is as it was."""
    with pytest.raises(ConfigurationError, match="cannot be searched") as caught:
        migrate_env_file(env, store, NAMES, also=[tmp_path / missing])

    assert caught.value.code == "migration_source_invalid"
    assert store.names() == []
    assert env.read_text() == ENV


def test_copies_beside_the_file_are_found(env, store, tmp_path):
    """What an editor, a tool or a person left there, and what the caller names."""
    (tmp_path / ".env.bak").write_text(ENV)
    (tmp_path / "Dockerfile").write_text("ENV SMTP mark-smtp")
    (tmp_path / "unrelated").write_text("mark-smtp")
    report = migrate_env_file(env, store, NAMES, also=[tmp_path / "Dockerfile"])

    found = {(one.name, Path(one.where).name) for one in report.left}
    assert found == {
        ("db/password", ".env.bak"),
        ("smtp/password", ".env.bak"),
        ("smtp/password", "Dockerfile"),
    }


@pytest.mark.parametrize(
    ("form", "write"),
    [
        ("plain", lambda value: value),
        ("hex", lambda value: value.hex().encode()),
        ("hex", lambda value: value.hex().upper().encode()),
        ("base64", base64.b64encode),
        ("base64", lambda value: base64.b64encode(b"user:" + value)),
        ("base64", lambda value: base64.urlsafe_b64encode(b"u:" + value + b"rest")),
        ("percent", lambda value: quote(value, safe="").encode()),
        ("json", lambda value: value.decode().replace('"', '\\"').encode()),
        ("utf-16", lambda value: value.decode().encode("utf-16")),
    ],
)
@pytest.mark.parametrize("before", [0, 1, (1 << 20) - 5])
def test_a_value_is_found_in_every_form(form, write, before, tmp_path):
    """Wherever it stands, also where two reads of the file meet."""
    value = b'mark"?>~/two'
    (tmp_path / "file").write_bytes(b"." * before + write(value) + b"." * 7)

    found = find_readable({"key": Secret(value)}, [tmp_path / "file"])

    assert form in {one.form for one in found}
    assert find_readable({"key": Secret(b"another")}, [tmp_path / "file"]) == ()


def _database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE suppliers (id, tenant, iban TEXT, note TEXT)")
        connection.executemany(
            "INSERT INTO suppliers VALUES (?, ?, ?, ?)",
            [
                (1, "acme", "mark-GB29", ""),
                (2, "globex", "mark-DE89", ""),
                (3, "acme", None, ""),
                (4, "acme", "", ""),
            ],
        )
    connection.close()


def test_a_column_moves_to_the_tenants_of_its_rows(tmp_path):
    """Each value is its tenant's secret; the file's bytes have none of them any more."""
    path, store = tmp_path / "app.sqlite", MemorySecretStore()
    _database(path)
    assert b"mark-GB29" in path.read_bytes()
    source = SqliteColumn(path, "suppliers", "iban", owner="tenant")
    report = migrate_column(source, store, prefix="suppliers/iban")

    assert report.moved == ("acme:suppliers/iban/1", "globex:suppliers/iban/2")
    assert report.left == ()
    with bind_tenant(Tenant(id="globex")):
        assert store.get("suppliers/iban/2").secret == Secret("mark-DE89")
        assert store.names() == ["suppliers/iban/2"]
    assert b"mark" not in path.read_bytes()
    again = migrate_column(source, store, prefix="suppliers/iban")
    assert (again.moved, again.before) == ((), 2)


def test_a_copy_in_another_column_is_found(tmp_path, store):
    """Control: the search looks at the file, not at the column that was moved."""
    path = tmp_path / "app.sqlite"
    _database(path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE suppliers SET note = 'paid to mark-GB29' WHERE id = 1")
    connection.close()
    report = migrate_column(SqliteColumn(path, "suppliers", "iban"), store, prefix="iban")

    assert [(one.name, one.form) for one in report.left] == [("iban/1", "plain")]


SEARCHED = """
import os, sqlite3, subprocess, sys
from twh_platform.kms.secrets import Secret, SqliteColumn, find_readable

path, how = sys.argv[1:]
ours = sqlite3.connect(path, isolation_level=None)
ours.execute("PRAGMA journal_mode = WAL")
ours.execute("UPDATE suppliers SET note = 'before' WHERE id = 1")
secrets = {"iban": Secret("mark-GB29")}
if how == "search":
    left = SqliteColumn(path, "suppliers", "iban").search(secrets)
else:
    left = find_readable(secrets, [path])
assert {one.form for one in left} == {"plain"}
look = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT * FROM suppliers')"
subprocess.run([sys.executable, "-c", look, path], check=True)
ours.execute("UPDATE suppliers SET note = 'after' WHERE id = 1")
os._exit(0)
"""


@pytest.mark.parametrize("how", ["search", "control"])
def test_a_search_takes_no_locks_from_who_has_the_file_open(how, tmp_path):
    """Control: where the file is opened and closed here, what is committed next is lost."""
    path = tmp_path / "app.sqlite"
    _database(path)
    subprocess.run([sys.executable, "-c", SEARCHED, str(path), how], timeout=60, check=True)

    connection = sqlite3.connect(path)
    (note,) = connection.execute("SELECT note FROM suppliers WHERE id = 1").fetchone()
    connection.close()

    assert note == ("before" if how == "control" else "after")


def test_what_a_reader_keeps_in_the_file_is_found(tmp_path, store):
    """Control: SQL has only the new row, and the file still has the old one for the reader."""
    path = tmp_path / "app.sqlite"
    _database(path)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("PRAGMA journal_mode = WAL")
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM suppliers").fetchall()
    source = SqliteColumn(path, "suppliers", "iban")
    report = migrate_column(source, store, prefix="iban")
    reader.close()

    assert (source.moved(), list(source.rows())) == (2, [])
    assert {(one.name, Path(one.where).name) for one in report.left} >= {("iban/1", path.name)}


@pytest.mark.parametrize("executable", ["", "/bin/false"])
def test_a_file_that_no_process_reads_is_told(executable, tmp_path, monkeypatch):
    """A search that was not done does not say that nothing is readable."""
    path = tmp_path / "app.sqlite"
    _database(path)
    monkeypatch.setattr(sys, "executable", executable)

    with pytest.raises(BackendUnavailableError) as caught:
        SqliteColumn(path, "suppliers", "iban").search({})

    assert caught.value.code == "migration_source_unavailable"


def test_a_row_that_changes_meanwhile_is_not_overwritten(tmp_path, store):
    """What somebody has just written stays; the run says so and can be repeated."""
    path = tmp_path / "app.sqlite"
    _database(path)
    source = SqliteColumn(path, "suppliers", "iban")
    (row, _) = source.rows()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE suppliers SET iban = 'new' WHERE id = 1")
    connection.close()

    assert not source.replace(row, "secret:iban/1")
    with sqlite3.connect(path) as connection:
        (kept,) = connection.execute("SELECT iban FROM suppliers WHERE id = 1").fetchone()
    connection.close()
    assert kept == "new"


def test_a_source_that_is_not_there_or_wrong_is_told(tmp_path, store):
    """With one code, and without what was in it."""
    _database(tmp_path / "app.sqlite")
    for wrong in (
        lambda: migrate_env_file(tmp_path / "none", store, NAMES),
        lambda: migrate_column(SqliteColumn(tmp_path / "none", "t", "c"), store, prefix="x"),
        lambda: migrate_column(
            SqliteColumn(tmp_path / "app.sqlite", "none", "c"), store, prefix="x"
        ),
    ):
        with pytest.raises(BackendUnavailableError) as caught:
            wrong()
        assert caught.value.code == "migration_source_unavailable"


def test_a_value_that_is_too_long_is_refused_before_anything_is_moved(tmp_path, store):
    """By how many there are."""
    path = tmp_path / "app.sqlite"
    _database(path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE suppliers SET iban = ? WHERE id = 2", ("mark" * 20_000,))
    connection.close()

    with pytest.raises(ConfigurationError, match="1 value of more") as caught:
        migrate_column(SqliteColumn(path, "suppliers", "iban"), store, prefix="x")
    assert caught.value.code == "migration_source_invalid"
    assert store.names() == []


def test_a_line_that_is_added_meanwhile_is_not_lost(env):
    """The file is left to whoever changed it; run again, nothing is lost."""

    class Slow(MemorySecretStore):
        def put(self, name, secret, **options):
            if name == "jwt/key":
                env.write_text(env.read_text() + "ADDED=1\n")
            return super().put(name, secret, **options)

    with platform_owner():
        store = Slow()
        with pytest.raises(SecretConflictError) as caught:
            migrate_env_file(env, store, NAMES)
        assert "mark-" not in str(caught.value)

        assert not migrate_env_file(env, store, NAMES).left
    assert env.read_text().endswith("ADDED=1\n")
