"""
What the file of data keys does beyond the contract of stores.
"""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

pytest.importorskip("cryptography")

from twh_platform.errors import ConfigurationError, KeyServiceUnavailableError
from twh_platform.kms import DataKeyRecord, SqliteDataKeyStore, WrappedKey


def made(**fields: object) -> DataKeyRecord:
    """A new record."""
    wrapped = WrappedKey(
        provider="local", key_ref="acme", key_version=1, ciphertext=os.urandom(200)
    )
    usual = {
        "tenant_id": "acme",
        "data_key_id": os.urandom(16),
        "purpose": "data",
        "wrapped": wrapped,
        "created_at": datetime.now(UTC),
    }
    return DataKeyRecord(**{**usual, **fields})


def _add(path: str, start: object, found: object) -> None:
    store = SqliteDataKeyStore(path)
    start.wait(20)
    for _ in range(10):
        store.add(made(shared=False))
    found.put(store.add(made()).data_key_id)


def test_processes_share_one_data_key(tmp_path):
    """Of processes that add at once, all get the same one, and what each adds is kept."""
    path = str(tmp_path / "keys.sqlite")
    context = multiprocessing.get_context("spawn")
    start, found = context.Barrier(3), context.Queue()
    processes = [context.Process(target=_add, args=(path, start, found)) for _ in range(3)]
    for process in processes:
        process.start()
    ids = {found.get(timeout=60) for _ in processes}
    for process in processes:
        process.join(30)

    assert len(ids) == 1
    assert len(SqliteDataKeyStore(path).page("acme")) == 31


def test_nobody_else_can_read_the_file(tmp_path):
    """The file, and the log beside it, are for the owner alone."""
    store = SqliteDataKeyStore(tmp_path / "keys.sqlite")
    store.add(made())

    modes = {stat.S_IMODE(one.stat().st_mode) for one in tmp_path.iterdir()}
    assert modes == {0o600}


def test_destroyed_bytes_are_not_in_any_file(tmp_path):
    """After a destruction neither the file nor its log has the wrapped key any more."""
    store = SqliteDataKeyStore(tmp_path / "keys.sqlite")
    record = store.add(made())
    before = b"".join(one.read_bytes() for one in tmp_path.iterdir())
    store.destroy("acme")
    after = b"".join(one.read_bytes() for one in tmp_path.iterdir())

    assert record.wrapped.ciphertext in before
    assert record.wrapped.ciphertext not in after


def test_a_locked_file_is_unavailable(tmp_path):
    """A writer that does not end is reported as what it is, and nothing is half done."""
    path = tmp_path / "keys.sqlite"
    store = SqliteDataKeyStore(path, timeout=0.05)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("begin immediate")

    with pytest.raises(KeyServiceUnavailableError) as refused:
        store.add(made())
    other.close()

    assert refused.value.code == "data_key_store_unavailable"
    assert store.page("acme") == []
    assert store.add(made())


def test_another_file_is_refused(tmp_path):
    """A file that is no database is not taken for an empty one."""
    path: Path = tmp_path / "keys.sqlite"
    path.write_bytes(b"something else entirely, and long enough to look at" * 10)

    with pytest.raises(ConfigurationError) as refused:
        SqliteDataKeyStore(path)

    assert refused.value.code == "data_key_store_invalid"


def test_a_later_version_is_refused(tmp_path):
    """A file of a version that is not known is left alone."""
    path = tmp_path / "keys.sqlite"
    SqliteDataKeyStore(path).close()
    other = sqlite3.connect(path)
    other.execute("pragma user_version = 9")
    other.close()

    with pytest.raises(ConfigurationError):
        SqliteDataKeyStore(path)


def test_a_missing_folder_is_unavailable(tmp_path):
    """Where no file can be made, the error says so."""
    with pytest.raises(KeyServiceUnavailableError):
        SqliteDataKeyStore(tmp_path / "missing" / "keys.sqlite")
