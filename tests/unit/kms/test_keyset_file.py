"""
A keyset's file: who may read it, how it is replaced, and several processes at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import shutil
import stat
import threading

import pytest

pytest.importorskip("cryptography")

from twh_platform import _files
from twh_platform.errors import ConfigurationError, KeyServiceUnavailableError
from twh_platform.kms import Keyset, KeyState, LocalKeyService, create_keyset
from twh_platform.kms import _keyset_file as files
from twh_platform.kms._deadline import deadline
from twh_platform.kms._keyset_document import Passphrase, encode_keyset
from twh_platform.kms._keyset_file import KeysetFile

# From Python 3.12 on; that a fork among threads does no harm is what is tested.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def path(tmp_path):
    """A keyset with one tenant."""
    path = tmp_path / "keyset.json"
    create_keyset(path, tenants=("acme",))
    return path


@contextlib.contextmanager
def forked(work):
    """A child that does some work; its exit status is looked at when it ends."""
    child = FORK.Process(target=work)
    child.start()
    yield child
    child.join(30)
    assert child.exitcode is not None


def refusal(path):
    """The code that a file is refused with."""
    with pytest.raises(ConfigurationError) as caught:
        LocalKeyService(path)
    return caught.value.code


def outage(call):
    """The code of the outage that a running service makes of it."""
    with pytest.raises(KeyServiceUnavailableError) as caught:
        call()
    return caught.value.code


def beside(path):
    """The names of all that is in the keyset's folder."""
    return sorted(one.name for one in path.parent.iterdir())


def backdated(path):
    """The file as it looks when it has lain there for an hour."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - 3600 * 10**9))


def test_a_new_keyset_is_its_owners(path):
    """Whatever the umask, nobody else reads it, and nothing is left beside it."""
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert beside(path) == [path.name]


def test_a_keyset_is_never_made_over_another(path):
    """To make what is there is an error, and leaves it as it was."""
    before = path.read_bytes()
    with pytest.raises(ConfigurationError) as caught:
        create_keyset(path)

    assert caught.value.code == "keyset_exists"
    assert path.read_bytes() == before
    assert beside(path) == [path.name]


def test_a_keyset_that_is_missing_is_not_made_up(tmp_path):
    """A service whose volume is not mounted does not begin with fresh keys."""
    assert refusal(tmp_path / "keyset.json") == "keyset_missing"
    assert beside(tmp_path / "keyset.json") == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610, 0o601])
def test_wider_modes_are_refused(mode, path):
    """A file that anybody else could read or write is not used."""
    path.chmod(mode)

    assert refusal(path) == "keyset_mode_too_wide"


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_narrow_modes_are_fine(mode, path):
    """The owner's own reading is all that is needed to read."""
    path.chmod(mode)

    assert LocalKeyService(path).describe("acme").version == 1


def test_a_mode_that_is_widened_later_is_noticed(path):
    """A running service refuses too, and says why."""
    service = LocalKeyService(path)
    path.chmod(0o644)

    assert outage(lambda: service.describe("acme")) == "keyset_mode_too_wide"
    assert service.health().code == "keyset_mode_too_wide"
    path.chmod(0o600)
    assert service.health().ok


def test_a_folder_that_others_write_is_refused(path):
    """Who may replace the file has as good as written it; a sticky folder is fine."""
    path.parent.chmod(0o777)
    assert refusal(path) == "keyset_mode_too_wide"
    path.parent.chmod(0o1777)

    assert LocalKeyService(path).describe("acme").version == 1


def test_a_file_of_another_user_is_refused(path, monkeypatch):
    """Its owner could change it at any time."""
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)

    assert refusal(path) == "keyset_owner_wrong"


def test_what_is_no_file_is_refused(tmp_path):
    """A folder, and a FIFO that would hold the process for ever."""
    os.mkfifo(tmp_path / "fifo", 0o600)

    assert refusal(tmp_path / "fifo") == "keyset_unreadable"
    assert refusal(tmp_path) == "keyset_unreadable"


def test_a_file_of_any_size_is_not_read(path):
    """A sparse file does not fill the memory."""
    with path.open("r+b") as file:
        file.truncate(2**30)

    assert refusal(path) == "keyset_unreadable"


def test_a_link_is_followed_and_stays_one(path, tmp_path):
    """A change through a link reaches the file that it leads to."""
    link = tmp_path / "link.json"
    link.symlink_to(path)
    LocalKeyService(link).rotate("acme")

    assert link.is_symlink()
    assert LocalKeyService(path).describe("acme").version == 2


def test_a_change_keeps_the_mode(path):
    """What replaces the file is as narrow as what it replaces."""
    before = path.stat().st_ino
    LocalKeyService(path).rotate("acme")

    assert path.stat().st_ino != before
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert beside(path) == [path.name, f"{path.name}.lock"]


def test_another_process_notices_a_change_at_its_next_call(path):
    """Also when the file looks as it did, but for its time."""
    mine, theirs = LocalKeyService(path), LocalKeyService(path)
    backdated(path)
    assert mine.describe("acme").version == 1
    theirs.rotate("acme")
    assert mine.describe("acme").version == 2
    theirs.destroy("acme")

    assert mine.describe("acme").state is KeyState.DESTROYED


def test_two_changes_within_the_clocks_grain_are_both_noticed(path, monkeypatch):
    """A file that is too fresh to be told by its time is read again each time."""
    monkeypatch.setattr(files, "_stamp", lambda _: (0,))
    mine, theirs = KeysetFile(path), KeysetFile(path)
    versions = []
    for _ in range(3):
        theirs.change(lambda keyset: keyset.rotated("acme"))
        versions.append(mine.current().key("acme").version)

    assert versions == [2, 3, 4]


def test_a_file_that_has_lain_is_read_once(path, monkeypatch):
    """While nothing changes, a call costs one look at the file's times."""
    backdated(path)
    file = KeysetFile(path)
    monkeypatch.setattr(files, "_read_checked", None)

    assert file.current() is file.current()


def test_a_process_killed_before_it_replaced_leaves_the_old_keyset(path, monkeypatch):
    """What it had staged is swept away by the next change."""

    def work():
        monkeypatch.setattr(type(path), "replace", lambda *_: os._exit(9))
        LocalKeyService(path).rotate("acme")

    with forked(work) as child:
        pass
    left = [name for name in beside(path) if name.endswith(".tmp")]
    service = LocalKeyService(path)
    before = service.describe("acme").version
    after = service.rotate("acme").version

    assert child.exitcode == 9
    assert len(left) == 1
    assert (before, after) == (1, 2)
    assert [name for name in beside(path) if name.endswith(".tmp")] == []


def test_a_process_killed_after_it_replaced_leaves_the_new_keyset(path, monkeypatch):
    """And no lock that others would wait for."""

    def work():
        monkeypatch.setattr(_files, "_sync", lambda *_: os._exit(9))
        LocalKeyService(path).rotate("acme")

    with forked(work) as child:
        pass

    assert child.exitcode == 9
    assert LocalKeyService(path).rotate("acme").version == 3


def test_writing_in_place_would_lose_the_keyset(path):
    """Control: a writer in place, killed midway, leaves what no process can read."""
    document = path.read_bytes()

    def work():
        with path.open("wb") as file:
            file.write(document[: len(document) // 2])
            file.flush()
            os._exit(9)

    with forked(work):
        pass

    assert refusal(path) == "keyset_damaged"


def test_processes_that_rotate_at_once_agree(path):
    """Of four that saw version 1, one makes version 2, and the others take it over."""
    barrier, versions = FORK.Barrier(4), FORK.Queue()
    services = [LocalKeyService(path) for _ in range(4)]
    real = files._locked

    def work(service):
        @contextlib.contextmanager
        def together(target):
            # All have read version 1 before any holds the lock.
            barrier.wait(20)
            with real(target):
                yield

        files._locked = together
        versions.put(service.rotate("acme").version)

    children = [FORK.Process(target=work, args=(service,)) for service in services]
    for child in children:
        child.start()
    seen = [versions.get(timeout=30) for _ in children]
    for child in children:
        child.join(30)

    assert seen == [2, 2, 2, 2]
    assert LocalKeyService(path).describe("acme").versions == (1, 2)


def test_changes_of_several_processes_are_all_kept(path):
    """Forty tenants made by four processes are forty tenants."""

    def work(number):
        service = LocalKeyService(path)
        for one in range(10):
            service.create(f"t{number}-{one}")

    children = [FORK.Process(target=work, args=(number,)) for number in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)

    assert [child.exitcode for child in children] == [0, 0, 0, 0]
    assert len(KeysetFile(path).current().keys) == 41


def test_a_lock_that_is_held_is_waited_for_until_the_deadline(path):
    """Then it is an outage, which may be tried again; reading goes on meanwhile."""
    service = LocalKeyService(path)
    service.rotate("acme")
    with path.with_name(f"{path.name}.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with deadline(0.05):
            assert outage(lambda: service.rotate("acme")) == "keyset_locked"
        assert service.describe("acme").version == 2

    assert service.rotate("acme").version == 3


def test_a_child_forked_while_the_lock_is_held_does_not_keep_it(path, monkeypatch):
    """A change is over when it is over, whoever inherited its descriptors."""
    entered, leave = threading.Event(), threading.Event()
    real = files._replace

    def slow(*arguments):
        entered.set()
        assert leave.wait(30)
        real(*arguments)

    monkeypatch.setattr(files, "_replace", slow)
    service = LocalKeyService(path)
    thread = threading.Thread(target=service.rotate, args=("acme",))
    thread.start()
    assert entered.wait(30)
    stop = FORK.Event()
    with forked(lambda: stop.wait(30)):
        leave.set()
        thread.join(30)
        with deadline(5):
            assert service.rotate("acme").version == 3
        stop.set()


def test_a_keyset_in_memory_works_in_a_forked_child():
    """A lock that another thread held at the fork is not waited for."""
    service = LocalKeyService(Keyset.new())
    with service._source._lock, forked(lambda: service.create("acme")) as child:
        pass

    assert child.exitcode == 0


def test_an_older_file_is_refused_while_the_service_runs(path, tmp_path):
    """A backup from before a destruction does not bring the key back."""
    service = LocalKeyService(path)
    shutil.copy2(path, tmp_path / "backup")
    service.destroy("acme")
    shutil.copy2(tmp_path / "backup", path)

    assert outage(lambda: service.describe("acme")) == "keyset_rolled_back"
    assert outage(lambda: service.create("globex")) == "keyset_rolled_back"
    assert not service.health().ok


def test_another_keyset_in_its_place_is_refused(path):
    """Keys do not change by a file that is laid over."""
    service = LocalKeyService(path)
    path.write_bytes(encode_keyset(Keyset.new().created(*"abcdefgh").rotated("a")))

    assert outage(lambda: service.describe("acme")) == "keyset_rolled_back"


def test_a_file_that_is_taken_away_is_an_outage(path):
    """What was read before is not used on: nobody would notice."""
    service = LocalKeyService(path)
    path.unlink()

    assert outage(lambda: service.describe("acme")) == "keyset_missing"


def test_a_change_that_cannot_be_written_is_an_outage(path, monkeypatch):
    """A full disk leaves the old keyset, and says so."""

    def full(*_):
        raise OSError(28, "No space left on device")

    service = LocalKeyService(path)
    monkeypatch.setattr(os, "fsync", full)

    assert outage(lambda: service.rotate("acme")) == "keyset_unwritable"
    monkeypatch.undo()
    assert service.describe("acme").version == 1
    assert beside(path) == [path.name, f"{path.name}.lock"]


def test_a_passphrase_is_kept_through_changes(tmp_path, monkeypatch):
    """A change seals the keyset under the passphrase that it was opened with."""
    monkeypatch.setattr("twh_platform.kms._keyset_document.SCRYPT_N", 2**10)
    path = tmp_path / "keyset.json"
    create_keyset(path, passphrase="correct horse battery staple")
    LocalKeyService(path, passphrase="correct horse battery staple").create("acme")

    assert b"acme" not in path.read_bytes()
    assert KeysetFile(path, passphrase=Passphrase("correct horse battery staple")).current()
    assert refusal(path) == "keyset_passphrase_missing"
