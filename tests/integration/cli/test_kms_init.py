"""
`twh-platform kms init`: a keyset that only its owner reads.
"""

from __future__ import annotations

import io
import stat

import pytest

pytest.importorskip("cryptography")

from twh_platform.cli import main
from twh_platform.kms import LocalKeyService

PHRASE = "a marked passphrase of the tests"


@pytest.fixture(autouse=True)
def _cheap(monkeypatch):
    monkeypatch.setattr("twh_platform.kms._keyset_document.SCRYPT_N", 2**10)


@pytest.fixture
def path(tmp_path):
    """Where the keyset is to be."""
    return tmp_path / "keyset.json"


@pytest.fixture
def phrase_file(tmp_path):
    """A passphrase that only its owner reads."""
    file = tmp_path / "passphrase"
    file.write_text(f"{PHRASE}\nand a second line\n")
    file.chmod(0o600)
    return file


def test_it_writes_a_keyset_that_a_service_uses(path, capsys):
    """With mode 600, and with the tenants that were asked for."""
    assert main(["kms", "init", str(path), "--tenant", "acme", "--tenant", "globex"]) == 0
    service = LocalKeyService(path, create_missing=False)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert service.describe("acme").version == service.describe("globex").version == 1
    assert "readable by whoever reads the file" in capsys.readouterr().out


def test_a_passphrase_is_the_first_line_of_a_file(path, phrase_file, capsys):
    """It seals the keyset and is not shown."""
    assert main(["kms", "init", str(path), "--passphrase-file", str(phrase_file)]) == 0
    out = "".join(capsys.readouterr())

    assert LocalKeyService(path, passphrase=PHRASE).health().ok
    assert "under a passphrase" in out
    assert PHRASE not in out


def test_a_passphrase_may_come_through_a_pipe(path, monkeypatch):
    """`-` is standard input."""
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PHRASE}\n"))

    assert main(["kms", "init", str(path), "--passphrase-file", "-"]) == 0
    assert LocalKeyService(path, passphrase=PHRASE).health().ok


def test_it_never_writes_over_a_keyset(path, capsys):
    """The keys that are there stay."""
    main(["kms", "init", str(path)])
    before = path.read_bytes()

    assert main(["kms", "init", str(path)]) == 2
    assert path.read_bytes() == before
    assert "already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (PHRASE, 0o644, "chmod 600"),
        ("", 0o600, "line is empty"),
        ("\n" + PHRASE, 0o600, "line is empty"),
        ("short", 0o600, "12 characters"),
        (b"\xff" * 20, 0o600, "UTF-8"),
    ],
    ids=["mode", "empty", "first-line", "short", "binary"],
)
def test_a_passphrase_that_is_none_makes_no_keyset(content, mode, says, phrase_file, capsys):
    """What is wrong is told without what is in the file."""
    phrase_file.write_bytes(content if isinstance(content, bytes) else content.encode())
    phrase_file.chmod(mode)
    path = phrase_file.with_name("keyset.json")
    status = main(["kms", "init", str(path), "--passphrase-file", str(phrase_file)])
    shown = "".join(capsys.readouterr())

    assert (status, path.exists()) == (2, False)
    assert says in shown
    assert PHRASE not in shown


def test_a_passphrase_file_that_is_missing_makes_no_keyset(path, tmp_path):
    """A typing error does not lead to a keyset without a passphrase."""
    assert main(["kms", "init", str(path), "--passphrase-file", str(tmp_path / "none")]) == 2
    assert not path.exists()


def test_a_folder_that_is_missing_is_said(path, capsys):
    """Nothing is made on the way."""
    assert main(["kms", "init", str(path.parent / "none" / "keyset.json")]) == 2
    assert "cannot write the keyset" in capsys.readouterr().err


def test_a_tenant_id_is_checked(path):
    """What is no tenant id makes no keyset."""
    assert main(["kms", "init", str(path), "--tenant", "a/b"]) == 2
    assert not path.exists()
