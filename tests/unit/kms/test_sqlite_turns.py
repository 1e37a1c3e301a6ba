"""
In which order those write who share a SQLite file.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from twh_platform.kms._sqlite_files import make_for_owner
from twh_platform.kms._sqlite_turns import Writers, writers_of

LONG = 30.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """
    Where a database can be.
    """
    return tmp_path / "keys.sqlite"


@contextmanager
def waiting_elsewhere(path: Path):
    """Another process that wants to write: its lock is its own, as if it were one."""
    file = os.open(f"{path}.turn", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(file)


def in_line(writers: Writers, length: int) -> bool:
    """Wait until so many stand in line."""
    ends_at = time.monotonic() + LONG
    while len(writers._line) < length and time.monotonic() < ends_at:
        time.sleep(0.001)
    return len(writers._line) == length


def test_who_comes_first_writes_first(path):
    """Each of many threads gets its turn in the order in which it came, one at a time."""
    writers, order = writers_of(path), []

    def write(number: int) -> None:
        with writers.turn(LONG):
            order.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(20)]
    with writers.turn(LONG):
        for number, thread in enumerate(threads):
            thread.start()
            assert in_line(writers, number + 2)
        assert order == []
    for thread in threads:
        thread.join(LONG)

    assert order == list(range(20))


def test_who_waited_too_long_leaves_the_line(path):
    """He is told, and those behind him are not kept from their turn."""
    writers, written = writers_of(path), []

    def write() -> None:
        with writers.turn(LONG):
            written.append(True)

    with writers.turn(LONG):
        with pytest.raises(TimeoutError), writers.turn(0.01):
            written.append(False)
        behind = threading.Thread(target=write)
        behind.start()
        assert in_line(writers, 2)
    behind.join(LONG)

    assert written == [True]


def test_who_has_written_is_not_next(path):
    """Control: the file is free, but another process waits for it and comes first."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        with writers_of(path).turn(LONG) as begin:
            begin(connection)
            connection.execute("commit")
        with waiting_elsewhere(path):
            connection.execute("begin immediate")
            connection.execute("commit")
            with pytest.raises(TimeoutError), writers_of(path).turn(0.05) as begin:
                begin(connection)
        with writers_of(path).turn(LONG) as begin:
            begin(connection)
            assert connection.in_transaction


def test_others_can_wait_while_one_writes(path):
    """The lock beside the file is for who is next: who writes has it no more."""
    with (
        closing(sqlite3.connect(path, isolation_level=None)) as connection,
        writers_of(path).turn(LONG) as begin,
    ):
        begin(connection)
        with waiting_elsewhere(path):
            connection.execute("create table written (n integer)")
            connection.execute("commit")


def test_a_lock_of_another_user_stops_nobody(path):
    """Where it cannot be opened they write all the same."""
    Path(f"{path}.turn").mkdir()

    with (
        closing(sqlite3.connect(path, isolation_level=None)) as connection,
        writers_of(path).turn(LONG) as begin,
    ):
        begin(connection)
        assert connection.in_transaction


def test_all_names_of_a_file_have_one_line(path, tmp_path, monkeypatch):
    """A link and a relative name are that file too."""
    path.touch()
    (tmp_path / "link").symlink_to(path)
    monkeypatch.chdir(tmp_path)

    writers = writers_of(path)

    assert writers_of(tmp_path / "link") is writers
    assert writers_of(Path("keys.sqlite")) is writers


def test_a_file_is_made_once_and_for_the_owner(path):
    """Many make it at once; what is written in it then is not touched."""
    ready = threading.Barrier(8)

    def make() -> None:
        ready.wait(LONG)
        make_for_owner(path)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    path.write_bytes(b"something")
    make_for_owner(path)

    assert path.read_bytes() == b"something"
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
