"""
What the file of data keys does beyond the contract of stores.
"""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

pytest.importorskip("cryptography")

from twh_platform.errors import ConfigurationError, KeyServiceUnavailableError
from twh_platform.kms import (
    DataKeyRecord,
    SqliteDataKeyStore,
    WrappedKey,
    create_keyset,
    parse,
)


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


def test_a_link_that_leads_nowhere_is_followed(tmp_path):
    """The file is made where the link says, for the owner alone."""
    (tmp_path / "folder").mkdir()
    link = tmp_path / "keys.sqlite"
    link.symlink_to(tmp_path / "folder" / "there.sqlite")

    SqliteDataKeyStore(link).add(made())

    assert link.is_symlink()
    modes = {stat.S_IMODE(one.stat().st_mode) for one in (tmp_path / "folder").iterdir()}
    assert modes == {0o600}


def test_a_call_that_is_interrupted_keeps_nobody_out(tmp_path):
    """What it had locked is not locked any more, in this process or another."""
    store = SqliteDataKeyStore(tmp_path / "keys.sqlite", timeout=0.2)

    def interrupted() -> None:
        with store._reading() as connection:
            connection.execute("begin immediate")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    assert store.add(made(shared=False))
    assert SqliteDataKeyStore(tmp_path / "keys.sqlite", timeout=0.2).add(made(shared=False))


OPENED_AGAIN = """
import os, subprocess, sys
from datetime import UTC, datetime
from twh_platform.kms import DataKeyRecord, LocalKeyService, SqliteDataKeyStore, TenantCipher
from twh_platform.kms import WrappedKey
from twh_platform.kms.secrets import SqliteSecretStore

folder, again = sys.argv[1:]
path = folder + "/keys"
store = SqliteDataKeyStore(path)
if again == "data keys":
    SqliteDataKeyStore(path)
elif again == "secrets":
    SqliteSecretStore(path, TenantCipher(LocalKeyService(folder + "/keyset"), store))
elif again == "control":
    os.close(os.open(path, os.O_RDWR))
look = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('select * from twh_data_keys')"
subprocess.run([sys.executable, "-c", look, path], check=True)
wrapped = WrappedKey(provider="local", key_ref="acme", key_version=1, ciphertext=bytes(200))
store.add(
    DataKeyRecord(
        tenant_id="acme",
        data_key_id=bytes(16),
        purpose="data",
        wrapped=wrapped,
        created_at=datetime.now(UTC),
    )
)
os._exit(0)
"""


@pytest.mark.parametrize("again", ["data keys", "secrets", "control"])
def test_a_file_that_is_opened_again_keeps_its_locks(again, tmp_path):
    """Control: where a descriptor of the file is closed, the next key is lost."""
    create_keyset(tmp_path / "keyset")
    command = [sys.executable, "-c", OPENED_AGAIN, str(tmp_path), again]
    subprocess.run(command, timeout=60, check=True)

    kept = SqliteDataKeyStore(tmp_path / "keys").get("acme", bytes(16))

    assert (kept is None) == (again == "control")


DAEMON = """
import os, sqlite3, subprocess, sys
from twh_platform.kms import LocalKeyService, SqliteDataKeyStore, TenantCipher, _sqlite_forks
from twh_platform.tenancy import Tenant, bind_tenant

folder, control = sys.argv[1:]
cipher = TenantCipher(LocalKeyService(folder + "/keyset"), SqliteDataKeyStore(folder + "/keys"))
if control == "control":
    _sqlite_forks._gate.closing.clear()

def seal(tenant):
    with bind_tenant(Tenant(id=tenant)):
        return cipher.seal(b"x")

seal("acme")
gone, left = os.pipe()
if os.fork():
    os._exit(0)
os.close(left)
os.read(gone, 1)  # until the one that began it has ended
seal("acme")
look = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('select * from twh_data_keys')"
subprocess.run([sys.executable, "-c", look, folder + "/keys"], check=True)
sealed = seal("globex")
print(sealed.hex(), flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("mode", ["", "control"])
def test_a_daemon_whose_parent_ended_loses_no_key(mode, tmp_path):
    """Control: with a connection that is open while it forks, SQLite loses what it commits."""
    create_keyset(tmp_path / "keyset")
    command = [sys.executable, "-c", DAEMON, str(tmp_path), mode]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    store = SqliteDataKeyStore(tmp_path / "keys")

    kept = store.get("globex", parse(bytes.fromhex(done.stdout)).data_key_id)

    assert (kept is None) == (mode == "control")


FORKING = """
import os, signal, sys, threading
from twh_platform.kms import LocalKeyService, SqliteDataKeyStore, TenantCipher
from twh_platform.tenancy import Tenant, bind_tenant

folder = sys.argv[1]
cipher = TenantCipher(LocalKeyService(folder + "/keyset"), SqliteDataKeyStore(folder + "/keys"))

def seal(tenant):
    with bind_tenant(Tenant(id=tenant)):
        cipher.evict(tenant)
        cipher.seal(b"x")

def go_on(tenant):
    while True:
        seal(tenant)

for tenant in ("acme", "globex", "initech"):
    threading.Thread(target=go_on, args=(tenant,), daemon=True).start()
for _ in range(20):
    child = os.fork()
    if not child:
        signal.alarm(30)
        seal("umbrella")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
os._exit(0)
"""


def test_a_child_that_is_forked_in_the_middle_of_calls_goes_on(tmp_path):
    """Neither does it wait for a lock that is the parent's, nor is the file locked for it."""
    create_keyset(tmp_path / "keyset")

    command = [sys.executable, "-W", "ignore", "-c", FORKING, str(tmp_path)]
    # Coverage has a lock of its own, which a fork in the middle may leave locked in the child.
    unwatched = {name: value for name, value in os.environ.items() if "COVERAGE" not in name}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=unwatched
    )

    assert (done.returncode, done.stderr) == (0, "")
