"""
Whose name a server runs under, and which processes are its own.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path

import pytest

from twh_platform.errors import ConfigurationError
from twh_platform.testing import _process, require_part
from twh_platform.testing._process import Account


def forget(monkeypatch, *names):
    """
    Let the system have no user of these names.
    """
    real = pwd.getpwnam

    def getpwnam(name):
        if name in names:
            raise KeyError(name)
        return real(name)

    monkeypatch.setattr(pwd, "getpwnam", getpwnam)


def test_everybody_but_root_runs_as_themselves(monkeypatch):
    """Without root there is nobody else to be."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    assert Account.choose() == Account(name="the current user")


def test_root_becomes_nobody_where_there_is_no_postgres(monkeypatch):
    """Root is never the one who runs the server."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    forget(monkeypatch, "postgres")

    account = Account.choose()
    assert (account.name, account.uid) == ("nobody", pwd.getpwnam("nobody").pw_uid)


def test_root_alone_is_told_why(monkeypatch):
    """Where there is no other user the message says what PostgreSQL refuses."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    forget(monkeypatch, "postgres", "nobody")

    with pytest.raises(ConfigurationError, match="refuses to run as root"):
        Account.choose()


def test_a_folder_is_made_where_it_can_be_reached(monkeypatch):
    """A TMPDIR that the account cannot enter is passed over."""
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/nowhere")
    folder = Account(name="me").temporary_folder()
    folder.rmdir()

    assert folder.parent == Path("/tmp")


def test_a_folder_has_a_short_name(monkeypatch):
    """A TMPDIR that leaves no room for the path of a socket is passed over."""
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/tmp" + 70 * "/.")
    folder = Account(name="me").temporary_folder()
    folder.rmdir()

    assert folder.parent == Path("/tmp")
    assert len(f"{folder}/.s.PGSQL.65535") < 104


def test_no_reachable_folder_is_an_error(monkeypatch):
    """The message names the setting that helps."""
    monkeypatch.setattr(Account, "can_enter", lambda *_: False)

    with pytest.raises(ConfigurationError, match="set TMPDIR"):
        Account(name="me").temporary_folder()


def test_a_program_that_is_not_there_cannot_be_run(tmp_path):
    """A missing program is an answer and not an exception."""
    assert not Account(name="me").can_run(tmp_path / "postgres")


def test_ps_and_proc_agree(monkeypatch):
    """The two ways to learn who is whose child give the same answer."""
    require_part("ps", shutil.which("ps"), hint="apt-get install procps")
    child = subprocess.Popen(["sleep", "60"])
    try:
        from_proc = _process._parents()
        monkeypatch.setattr(_process, "_PROC", Path("/nowhere"))
        from_ps = _process._parents()
    finally:
        child.kill()
        child.wait()

    assert from_proc[child.pid] == from_ps[child.pid] == os.getpid()
