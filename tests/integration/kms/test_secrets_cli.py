"""
`twh-platform secrets ...` as an operator types it, in processes of its own and in this one.
"""

from __future__ import annotations

import io
import os
import pty
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("cryptography")

from twh_platform import Tenant, bind_tenant
from twh_platform.cli import main
from twh_platform.kms import LocalKeyService, SqliteDataKeyStore, TenantCipher, create_keyset


class Shell:
    """Runs commands on one store, with values on standard input."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], patch) -> None:
        self.folder, self.capsys, self.patch = folder, capsys, patch
        create_keyset(folder / "keyset.json", tenants=("_platform", "acme", "globex"))
        patch.setenv("TWH_KEYSET", str(folder / "keyset.json"))
        patch.setenv("TWH_SECRETS", str(folder / "secrets.sqlite"))

    def __call__(self, *words: object, value: bytes = b"") -> tuple[int, str, str]:
        """The status, what was written, and what was complained."""
        stdin = io.TextIOWrapper(io.BytesIO(value))
        self.patch.setattr("sys.stdin", stdin)
        status = main(["secrets", *map(str, words)])
        written = self.capsys.readouterr()
        return status, written.out, written.err


@pytest.fixture
def shell(tmp_path, capsys, monkeypatch) -> Shell:
    """An operator with a keyset and an empty store."""
    return Shell(tmp_path, capsys, monkeypatch)


def test_a_value_goes_in_by_standard_input_and_out_by_a_pipe(shell):
    """Without the line break of `echo`; what is written otherwise has no value."""
    status, out, err = shell("put", "smtp/password", value=b"marked\n")

    assert (status, err) == (0, "")
    assert out.startswith("smtp/password version 1, current, created ")
    assert "marked" not in out
    assert shell("get", "smtp/password")[:2] == (0, "marked")


def test_a_value_from_a_file_is_kept_byte_for_byte(shell):
    """With `--exact`, its line break too; and a file that gets one has mode 600."""
    (shell.folder / "in").write_bytes(b"\0\xffmarked\n")
    shell("put", "a", "--from", shell.folder / "in", "--exact")
    status, out, _ = shell("get", "a", "--output", shell.folder / "out")

    assert (status, out) == (0, "")
    assert (shell.folder / "out").read_bytes() == b"\0\xffmarked\n"
    assert (shell.folder / "out").stat().st_mode & 0o777 == 0o600


def test_no_option_takes_a_value(shell):
    """It would be seen by every process of the machine."""
    with pytest.raises(SystemExit) as caught:
        shell("put", "a", "marked")

    assert caught.value.code == 2


def test_a_terminal_is_refused_unless_it_is_meant(shell):
    """In a process that has one: nothing is shown without `--reveal`."""
    shell("put", "a", value=b"marked")

    def shown(*options: str) -> tuple[int, bytes]:
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "twh_platform.cli", "secrets", "get", "a", *options]
        done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, check=False)
        os.close(theirs)
        try:
            return done.returncode, os.read(ours, 1000)
        except OSError:  # nothing was written, and nobody writes any more
            return done.returncode, done.stderr
        finally:
            os.close(ours)

    refused, said = shown()
    assert refused == 2
    assert b"--reveal" in said
    assert b"marked" not in said
    assert shown("--reveal") == (0, b"marked\r\n")


def test_a_rotation_and_its_way_back(shell):
    """Put, rotate, roll back, revoke; each says what is current now."""
    shell("put", "a", "--every", "1000", "--overlap", "100", "--form", "hex", value=b"one")
    assert shell("rotate", "a")[1].startswith("a version 2, current")
    assert len(shell("get", "a")[1]) == 64
    assert shell("get", "a", "--stage", "previous")[1] == "one"
    assert shell("rollback", "a")[1].startswith("a version 1, current")
    assert shell("get", "a")[1] == "one"
    assert ", revoked 20" in shell("revoke", "a", 2)[1]

    status, out, err = shell("get", "a", "--version", 2)
    assert (status, out) == (2, "")
    assert "version 2 of secret 'a' was revoked" in err


def test_rotating_what_is_due_covers_all_owners(shell):
    """For a timer: a line for each, and the status says if one was not rotated."""
    for number, owner in enumerate([(), ("--tenant", "acme")]):
        policy = ("--every", "0.001", "--overlap", "0")
        shell("put", f"due{number}", *owner, *policy, value=b"one")
    shell("put", "never", value=b"one")
    status, out, _ = shell("rotate", "--due")

    assert status == 0
    assert [line.split(",")[0] for line in out.splitlines()] == [
        "_platform due0 version 2",
        "acme due1 version 2",
    ]
    for wrong in ((), ("a", "--due")):
        assert shell("rotate", *wrong)[0] == 2


def test_a_pending_value_is_kept_for_the_next_rotation(shell):
    """And a value can be made in place of one that is given."""
    shell("put", "a", "--random", "--form", "whsec")
    assert shell("get", "a")[1].startswith("whsec_")
    shell("put", "a", "--pending", value=b"next")
    assert shell("rotate", "a")[1].startswith("a version 2, current")

    assert shell("get", "a")[1] == "next"


def test_conditions_and_times(shell):
    """`--expected` is a compare-and-set; `--expires-in` an end."""
    assert shell("put", "a", "--expected", 0, value=b"one")[0] == 0
    assert shell("put", "a", "--expected", 0, value=b"two")[0] == 2
    shell("put", "a", "--expires-in", "-1", value=b"three")
    status, _, err = shell("get", "a")

    assert status == 2
    assert "is over" in err
    assert shell("put", "a", "--every", "10", value=b"x")[0] == 2


def test_a_list_has_names_and_times_and_no_values(shell):
    """Of one owner, by prefix."""
    for name in ("a/one", "a/two", "b"):
        shell("put", name, value=b"marked")
    shell("put", "a/theirs", "--tenant", "acme", value=b"marked")
    _, out, _ = shell("list", "a/")

    assert [line.split(",")[0] for line in out.splitlines()] == [
        "a/one version 1",
        "a/two version 1",
    ]
    assert "marked" not in shell("list")[1]
    assert shell("list", "--tenant", "acme")[1].startswith("a/theirs version 1, current")


def test_backup_and_restore(shell, monkeypatch):
    """Everybody's secrets, in a private file, into an empty store; a tampered one is refused."""
    shell("put", "a", value=b"marked")
    shell("put", "a", "--tenant", "acme", value=b"marked too")
    backup = shell.folder / "backup"
    assert shell("backup", backup)[1] == "2 secrets of 2 owners, sealed\n"
    assert backup.stat().st_mode & 0o777 == 0o600
    shell("put", "a", value=b"newer")
    assert shell("restore", backup)[0] == 2
    monkeypatch.setenv("TWH_SECRETS", str(shell.folder / "other.sqlite"))
    whole = backup.read_bytes()
    backup.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert shell("restore", backup)[0] == 2
    assert shell("list")[1] == ""
    backup.write_bytes(whole)

    assert shell("restore", backup)[1].startswith("2 secrets of 2 owners, as of 20")
    assert shell("get", "a", "--tenant", "acme")[1] == "marked too"
    assert shell("restore", shell.folder / "none")[0] == 2


def test_a_restore_tells_whose_keys_are_destroyed(shell, monkeypatch):
    """By its status too; the others come back."""
    shell("put", "a", value=b"marked")
    shell("put", "a", "--tenant", "acme", value=b"marked too")
    shell("backup", shell.folder / "backup")
    LocalKeyService(shell.folder / "keyset.json").destroy("acme")
    monkeypatch.setenv("TWH_SECRETS", str(shell.folder / "other.sqlite"))
    status, out, _ = shell("restore", shell.folder / "backup")

    assert status == 1
    assert "acme: its keys are destroyed" in out
    assert shell("get", "a")[1] == "marked"


def test_who_was_shredded_keeps_nobody_from_backup_and_rotation(shell):
    """It is passed over and told; by name a backup of it has status 1."""
    for owner in ((), ("--tenant", "acme")):
        shell("put", "due", *owner, "--every", "0.001", "--overlap", "0", value=b"marked")
    keyset, store = shell.folder / "keyset.json", shell.folder / "secrets.sqlite"
    words = ["--receipts", str(shell.folder / "r"), "--keyset", str(keyset)]
    assert main(["kms", "shred", "acme", "--yes", *words, "--data-keys", str(store)]) == 0
    shell.capsys.readouterr()

    assert shell("backup", shell.folder / "backup") == (
        0,
        "1 secret of 1 owner, sealed\n",
        "acme: passed over, its keys are destroyed\n",
    )
    assert shell("backup", shell.folder / "backup", "--tenant", "acme")[0] == 1
    status, out, _ = shell("rotate", "--due")
    assert (status, out.splitlines()[1]) == (0, "acme: shredded, 1 secret not rotated")


def test_stores_of_one_tenant_are_shredded_with_one_receipt(shell):
    """The file of data keys first, then that of secrets, with the same folder."""
    keyset = shell.folder / "keyset.json"
    cipher = TenantCipher(LocalKeyService(keyset), SqliteDataKeyStore(shell.folder / "keys.sqlite"))
    with bind_tenant(Tenant(id="acme")):
        cipher.seal(b"x", {})
    shell("put", "a", "--tenant", "acme", value=b"marked")
    words = ["shred", "acme", "--yes", "--keyset", str(keyset)]
    words += ["--receipts", str(shell.folder / "r"), "--data-keys"]

    for number, file in enumerate(["keys.sqlite", "secrets.sqlite"], start=1):
        assert main(["kms", *words, str(shell.folder / file)]) == 0
        assert f"data keys overwritten: {number}\n" in shell.capsys.readouterr().out

    assert SqliteDataKeyStore(shell.folder / "secrets.sqlite").shredded("acme")


def test_an_env_file_is_migrated(shell):
    """And the status says whether something readable is left."""
    env = shell.folder / "app.env"
    env.write_text("A=1\nTOKEN=marked-value\n")
    status, out, _ = shell("migrate", "--env", env, "--variable", "TOKEN=app/token")
    assert (status, out) == (0, "moved app/token\n1 moved; nothing readable left\n")
    assert env.read_text() == "A=1\nTOKEN=secret:app/token\n"
    assert shell("get", "app/token")[1] == "marked-value"
    (shell.folder / "app.env.old").write_text("TOKEN=marked-value\n")
    status, out, _ = shell("migrate", "--env", env, "--variable", "TOKEN=app/token")

    assert status == 1
    assert out.splitlines()[0].startswith("still readable: app/token in ")
    assert out.splitlines()[-1] == "0 moved, 1 before; 1 readable"
    assert "marked" not in out
    assert shell("migrate", "--env", env, "--variable", "TOKENmarked")[0] == 2


def test_a_column_of_sqlite_is_migrated(shell):
    """Each row to its tenant."""
    path = shell.folder / "app.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE suppliers (id, tenant, iban)")
        connection.execute("INSERT INTO suppliers VALUES (7, 'acme', 'marked-iban')")
    connection.close()
    words = ("migrate", "--sqlite", path, "--column", "suppliers.iban", "--owner", "tenant")
    status, out, err = shell(*words)

    assert (status, out, err) == (0, "moved acme:iban/7\n1 moved; nothing readable left\n", "")
    assert shell("get", "iban/7", "--tenant", "acme")[1] == "marked-iban"
    assert shell("migrate", "--sqlite", path, "--column", "iban")[0] == 2


def test_without_a_store_it_says_what_to_give(shell, monkeypatch):
    """By the name of the option and of the variable."""
    monkeypatch.delenv("TWH_SECRETS")

    assert "give --store or --dsn, or set TWH_SECRETS" in shell("list")[2]


def test_a_tenant_without_a_master_key_gets_none_by_a_slip(shell):
    """A wrong name makes no tenant."""
    status, _, err = shell("put", "a", "--tenant", "acmee", value=b"marked")

    assert status == 2
    assert "acmee" in err
    assert "marked" not in err


def test_files_that_cannot_be_used_are_told(shell):
    """Where a value should come from, and where it should go."""
    assert shell("put", "a", "--from", shell.folder / "none")[0] == 2
    shell("put", "a", value=b"marked")
    status, _, err = shell("get", "a", "--output", shell.folder / "none" / "out")

    assert status == 2
    assert "No such file" in err


def test_a_database_keeps_them_too(shell, request):
    """The same commands on PostgreSQL; whose secrets are due has to be said there."""
    pytest.importorskip("psycopg")
    from tests.support.postgres_keys import APP, keys_database

    dsn = ("--dsn", keys_database(request).dsn(user=APP))
    policy = ("--every", "0.001", "--overlap", "0")
    assert shell("put", "a", *dsn, *policy, "--tenant", "acme", value=b"marked")[0] == 0
    assert shell("get", "a", *dsn, "--tenant", "acme")[:2] == (0, "marked")
    assert shell("list", *dsn)[:2] == (0, "")
    due = shell("rotate", "--due", *dsn, "--tenant", "acme")
    assert (due[0], due[1].split(",")[0]) == (0, "acme a version 2")

    status, _, err = shell("backup", shell.folder / "backup", *dsn)
    assert status == 2
    assert "give --tenant" in err
    assert shell("backup", shell.folder / "backup", *dsn, "--tenant", "acme")[0] == 0


def test_only_a_file_gives_way_to_a_value(shell):
    """A pipe or a link, as /dev/stdout is one, would be gone from its place."""
    shell("put", "a", value=b"marked")
    os.mkfifo(shell.folder / "pipe")
    (shell.folder / "link").symlink_to("/proc/self/fd/1")

    for name in ("pipe", "link"):
        status, out, err = shell("get", "a", "--output", shell.folder / name)
        assert (status, out) == (2, "")
        assert "marked" not in err
        assert not (shell.folder / name).is_file() or (shell.folder / name).is_symlink()


@pytest.mark.parametrize("seconds", ["nan", "inf", "1e300"])
def test_times_beyond_all_dates_are_told(shell, seconds):
    """Neither does a secret come of it that is never rotated."""
    told = [
        shell("put", "a", "--expires-in", seconds, value=b"x"),
        shell("put", "b", "--every", seconds, "--overlap", "1", value=b"x"),
    ]

    assert [status for status, _, _ in told] == [2, 2]
