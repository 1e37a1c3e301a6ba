"""
Files that are replaced whole: what is there when writing one fails midway.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

import pytest

from twh_platform._files import remove_left_over, replace_file, staged_file


def mode(path):
    """Who may do what with it."""
    return stat.S_IMODE(path.stat().st_mode)


def failing(*_):
    """What a full disk says."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def path(tmp_path):
    """A file that others may read."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o644)
    return path


@pytest.fixture
def synced(monkeypatch):
    """What is made durable, in order: the file's name then, or the folder's."""
    seen = []
    sync = os.fsync

    def noting(handle):
        seen.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        sync(handle)

    monkeypatch.setattr(os, "fsync", noting)
    return seen


def test_a_file_is_replaced_by_one_that_only_its_owner_reads(path):
    """Whatever the mode of the old one was, and the mask of the process."""
    before = os.umask(0)
    try:
        replace_file(path, b"new")
    finally:
        os.umask(before)

    assert path.read_bytes() == b"new"
    assert mode(path) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_was_not_there_is_made(tmp_path):
    """Nothing has to be replaced."""
    replace_file(tmp_path / "file", b"new")

    assert (tmp_path / "file").read_bytes() == b"new"


def test_it_can_be_like_the_old_one(path):
    """With its mode; its owner is the same for whoever may not give it away."""
    replace_file(path, b"new", like=path.stat())

    assert (path.read_bytes(), mode(path)) == (b"new", 0o644)
    assert path.stat().st_uid == os.getuid()


def test_an_owner_that_may_not_be_given_is_left(path, monkeypatch):
    """The process keeps what it wrote; the mode is taken over all the same."""

    def refused(*_):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "fchown", refused)
    replace_file(path, b"new", like=path.stat())

    assert (path.read_bytes(), mode(path)) == (b"new", 0o644)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names are read from /proc")
def test_the_file_is_durable_before_its_name_is(path, synced):
    """And its name before the call returns."""
    replace_file(path, b"new")

    assert [name.endswith(".tmp") for name in synced] == [True, False]
    assert synced[1] == path.parent.name


@pytest.mark.parametrize("step", ["fsync", "fchmod", "replace"])
def test_a_failure_leaves_the_old_file_and_no_litter(step, path, monkeypatch):
    """Whichever step it is that fails."""
    status = path.stat()
    monkeypatch.setattr(type(path) if step == "replace" else os, step, failing)
    with pytest.raises(OSError, match="No space"):
        replace_file(path, b"new", like=status)

    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_writing_in_place_loses_the_old_file(path):
    """Control: a writer in place that fails midway has emptied it."""
    with contextlib.suppress(OSError), path.open("wb") as file:
        file.write(b"n")
        failing()

    assert path.read_bytes() == b"n"


def test_the_body_decides_whether_it_is_put_in_place(path):
    """What raises in the `with` leaves the old one; so does doing nothing."""
    with pytest.raises(ValueError, match="no"), staged_file(path, b"new"):
        raise ValueError("no")
    with staged_file(path, b"new") as staged:
        assert (staged.parent, mode(staged)) == (path.parent, 0o600)

    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_a_new_name_can_be_given_only_if_there_is_none(path):
    """By a link, which does not write over what is there."""
    with pytest.raises(FileExistsError), staged_file(path, b"new") as staged:
        os.link(staged, path)
    other = path.with_name("other")
    with staged_file(other, b"new") as staged:
        os.link(staged, other)

    assert (path.read_bytes(), other.read_bytes()) == (b"old", b"new")
    assert sorted(path.parent.iterdir()) == [path, other]


def test_a_link_is_replaced_and_a_resolved_one_stays(path, tmp_path):
    """Which of the two is meant is the caller's to say."""
    link = tmp_path / "link"
    link.symlink_to(path)
    replace_file(link.resolve(), b"new")
    stayed = link.is_symlink()
    replace_file(link, b"newer")

    assert (stayed, link.is_symlink()) == (True, False)
    assert (path.read_bytes(), link.read_bytes()) == (b"new", b"newer")


def test_a_folder_is_not_replaced(tmp_path):
    """It is an error of its own class, and nothing is left beside it."""
    with pytest.raises(IsADirectoryError):
        replace_file(tmp_path, b"new")

    assert [one for one in tmp_path.parent.iterdir() if one.name.endswith(".tmp")] == []


@pytest.mark.parametrize("place", ["missing/file", "file/file"])
def test_where_no_folder_is_nothing_can_be_written(place, path):
    """The system's own error says why."""
    with pytest.raises((FileNotFoundError, NotADirectoryError)):
        replace_file(path.parent / place, b"new")


@pytest.mark.parametrize(("code", "passes"), [(errno.EINVAL, True), (errno.EIO, False)])
def test_a_file_system_that_syncs_no_folders_will_do(code, passes, path, monkeypatch):
    """A disk that fails is told."""

    def sync(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", sync)
    with contextlib.nullcontext() if passes else pytest.raises(OSError, match=os.strerror(code)):
        replace_file(path, b"new")

    assert path.read_bytes() == b"new"


def test_what_was_left_over_is_removed(tmp_path):
    """Of this file and no other, also where its name would be a pattern."""
    target = tmp_path / "a[b]"
    for name in (".a[b].0123456789abcdef.tmp", ".ab.0123456789abcdef.tmp", "a[b]"):
        (tmp_path / name).touch()
    remove_left_over(target)

    assert sorted(one.name for one in tmp_path.iterdir()) == [".ab.0123456789abcdef.tmp", "a[b]"]


def test_what_is_staged_is_what_would_be_removed(path):
    """Both know the same names."""
    with staged_file(path, b"new") as staged:
        remove_left_over(path)

        assert not staged.exists()


def test_no_descriptor_is_left_open(path, monkeypatch):
    """Neither of the file nor of the folder, also after a failure."""
    before = len([*Path("/dev/fd").iterdir()])
    replace_file(path, b"new")
    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="No space"):
        replace_file(path, b"newer")

    assert len([*Path("/dev/fd").iterdir()]) == before
