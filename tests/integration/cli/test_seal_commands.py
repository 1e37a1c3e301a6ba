"""
`twh-platform tenancy seal`, as an operator calls it, on a real database.
"""

from __future__ import annotations

import psycopg
import pytest

from twh_platform import Tenant, bind_tenant
from twh_platform.cli import main
from twh_platform.errors import ConfigurationError
from twh_platform.tenancy.postgres import (
    INVALID_SEAL_SQLSTATE,
    Seal,
    TenantTable,
    install_sql,
    read_seal_key,
    tenant_sql,
)
from twh_platform.tenancy.postgres.psycopg import TenantConnection
from twh_platform.tenancy.postgres.seal import retire_seal_keys

ITEMS = TenantTable(name="items")


@pytest.fixture
def database(twh_database):
    """A database with one table of tenants, and no seal."""
    twh_database.execute(
        install_sql()
        + "CREATE TABLE items (tenant_id text, name text);"
        + tenant_sql([ITEMS], role="twh_test_app"),
        user="twh_test_owner",
    )
    yield twh_database
    twh_database.execute("DROP SCHEMA twh CASCADE; DROP TABLE items", user="twh_test_owner")


@pytest.fixture
def run(database, monkeypatch):
    """Call a command of the seal as the owner."""
    monkeypatch.setenv("TWH_OWNER_DSN", database.dsn(user="twh_test_owner"))
    return lambda *words: main(["tenancy", "seal", *map(str, words)])


def work(database, seal=None) -> None:
    """Write and read one row as a tenant."""
    kind = TenantConnection.using(seal=seal)
    with (
        bind_tenant(Tenant(id="acme")),
        kind.connect(database.dsn(user="twh_test_app")) as connection,
    ):
        connection.execute("INSERT INTO items (name) VALUES ('a')")
        assert connection.execute("SELECT DISTINCT tenant_id FROM items").fetchall() == [("acme",)]


def refused(database, seal=None) -> bool:
    """Whether the database refuses the tenant for want of a seal."""
    with pytest.raises(psycopg.Error) as caught:
        work(database, seal)
    return caught.value.sqlstate == INVALID_SEAL_SQLSTATE


def test_init_seals_the_database(run, database, tmp_path):
    """The key in the file is believed, a tenant without a seal no longer."""
    work(database)

    assert run("init", tmp_path / "seal.key") == 0

    work(database, Seal.from_file(tmp_path / "seal.key"))
    assert refused(database)


def test_a_running_service_is_changed_over(run, database, tmp_path):
    """Both kinds are believed until the seal is enforced."""
    run("init", tmp_path / "seal.key", "--allow-unsealed")
    seal = Seal.from_file(tmp_path / "seal.key")
    work(database)
    work(database, seal)

    assert run("enforce") == 0

    work(database, seal)
    assert refused(database)


def test_rotate_lets_the_old_key_live_on(run, database, tmp_path, capsys):
    """In the overlap both keys are believed, and status tells of both."""
    run("init", tmp_path / "seal.key")
    old = read_seal_key(tmp_path / "seal.key")

    assert run("rotate", tmp_path / "seal.key", "--overlap", 600) == 0

    new = read_seal_key(tmp_path / "seal.key")
    work(database, Seal(old))
    work(database, Seal(new))
    capsys.readouterr()
    assert run("status") == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line[:4] for line in listed] == [old.id, new.id]
    assert "until withdrawn" in listed[1]


def test_a_rotation_without_overlap_ends_the_old_key(run, database, tmp_path):
    """What was believed a moment ago is refused."""
    run("init", tmp_path / "seal.key")
    old = Seal.from_file(tmp_path / "seal.key")
    work(database, old)

    run("rotate", tmp_path / "other.key", "--overlap", 0)

    assert refused(database, old)
    work(database, Seal.from_file(tmp_path / "other.key"))


def test_withdraw_ends_a_key_at_once(run, database, tmp_path):
    """The old key is refused, the new one is not."""
    run("init", tmp_path / "seal.key")
    old = read_seal_key(tmp_path / "seal.key")
    run("rotate", tmp_path / "seal.key")

    assert run("withdraw", old.id) == 0

    assert refused(database, Seal(old))
    work(database, Seal.from_file(tmp_path / "seal.key"))


def test_the_last_key_is_not_withdrawn_by_accident(run, database, tmp_path, capsys):
    """It takes --force, after which every tenant is refused."""
    run("init", tmp_path / "seal.key")
    seal = Seal.from_file(tmp_path / "seal.key")

    assert run("withdraw", seal.key.id) == 2
    work(database, seal)
    assert run("withdraw", seal.key.id, "--force") == 0

    assert refused(database, seal)
    assert run("status") == 1


def test_init_runs_once(run, database, tmp_path, capsys):
    """A second init changes neither keys nor file."""
    run("init", tmp_path / "seal.key")
    before = (tmp_path / "seal.key").read_bytes()

    assert run("init", tmp_path / "seal.key") == 2

    assert "seal rotate" in capsys.readouterr().err
    assert (tmp_path / "seal.key").read_bytes() == before


@pytest.mark.parametrize(
    "words", [("rotate", "x"), ("enforce",), ("status",), ("withdraw", "aaaa")]
)
def test_without_init_there_is_nothing_to_do(words, run, capsys):
    """The answer says that the seal is missing."""
    assert run(*words) == 2

    assert "not installed" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_seals_nothing(run, database, tmp_path, capsys):
    """A key that nobody has would lock the service out, so the database stays as it was."""
    assert run("init", tmp_path / "no" / "such" / "folder") == 2

    assert "cannot write key" in capsys.readouterr().err
    work(database)


def test_a_rotation_whose_file_cannot_be_written_ends_no_key(run, database, tmp_path, capsys):
    """The key that the service has is believed on, and no other: nobody has it."""
    run("init", tmp_path / "seal.key")
    seal = Seal.from_file(tmp_path / "seal.key")
    capsys.readouterr()
    run("status")
    before = capsys.readouterr().out

    assert run("rotate", tmp_path / "no" / "such" / "folder", "--overlap", 0) == 2

    assert "cannot write" in capsys.readouterr().err
    work(database, seal)
    run("status")
    assert capsys.readouterr().out == before


def test_a_rotation_into_a_folder_ends_no_key(run, database, tmp_path, capsys):
    """The same where a folder has the name of the file, which is seen only at the last step."""
    run("init", tmp_path / "seal.key")
    seal = Seal.from_file(tmp_path / "seal.key")
    (tmp_path / "other.key").mkdir()

    assert run("rotate", tmp_path / "other.key", "--overlap", 0) == 2

    assert "cannot write" in capsys.readouterr().err
    work(database, seal)


def test_the_application_may_not_seal(run, database, tmp_path, monkeypatch, capsys):
    """Its login is refused by the database, and told so."""
    monkeypatch.setenv("TWH_OWNER_DSN", database.dsn(user="twh_test_app"))

    assert run("init", tmp_path / "seal.key") == 2

    assert "this login may not do it" in capsys.readouterr().err


def test_a_dsn_is_asked_for(run, monkeypatch, tmp_path, capsys):
    """Neither argument nor variable: the message names both."""
    monkeypatch.delenv("TWH_OWNER_DSN")

    assert run("status") == 2

    assert "--dsn" in capsys.readouterr().err


def test_a_password_is_not_shown(run, capsys):
    """A server that cannot be reached is named without what the DSN holds."""
    dsn = "postgresql://o:hunter2@127.0.0.1:1/x"

    assert run("status", "--dsn", dsn) == 2

    assert "hunter2" not in capsys.readouterr().err


def test_no_key_ends_for_one_that_does_not_exist(run, database, tmp_path):
    """To keep a key that is not there would end them all."""
    run("init", tmp_path / "seal.key")

    with (
        psycopg.connect(database.dsn(user="twh_test_owner")) as owner,
        pytest.raises(ConfigurationError, match="no seal key"),
    ):
        retire_seal_keys(owner, keep="ffff", overlap=0)

    work(database, Seal.from_file(tmp_path / "seal.key"))


def test_a_database_is_not_sealed_into_a_folder(run, database, tmp_path, capsys):
    """The file that was meant is a folder: nothing is sealed, and nothing is left."""
    assert run("init", tmp_path) == 2

    assert "cannot write key" in capsys.readouterr().err
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}.*"))
    work(database)
