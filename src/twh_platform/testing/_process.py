"""
Processes: whose name they run under, freezing them, and never leaving them behind.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError

__all__ = ["Account", "OrphanGuard", "freeze", "thaw"]

_PROC = Path("/proc")

# A socket's path has 104 bytes on macOS, and here 31 of them come after the parent.
_SHORT = 70

# Waits for its standard input to close, which happens when its parent dies.
_GUARD = """
gone() {
    for _ in 1 2 3 4 5 6 7 8; do kill -0 "$1" 2>/dev/null || return 0; sleep 1; done
    return 1
}
read _
kill -CONT "$1" 2>/dev/null
kill -INT "$1" 2>/dev/null
gone "$1" || { kill -QUIT "$1"; gone "$1"; } || kill -KILL "$1"
rm -rf -- "$2"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """
    The system user that a server runs as; PostgreSQL refuses to be root.

    Args:
        name: The user's name, for messages.

        uid: The user's number; None for our own.

        gid: The group's number; None for our own.
    """

    name: str
    uid: int | None = None
    gid: int | None = None

    @classmethod
    def choose(cls) -> Account:
        """
        Return our own account, or for root `postgres` if it exists, else `nobody`.
        """
        if os.geteuid() != 0:
            return cls(name="the current user")
        import pwd  # Windows has none, and pytest imports this file there too

        for name in ("postgres", "nobody"):
            with contextlib.suppress(KeyError):
                entry = pwd.getpwnam(name)
                return cls(name=name, uid=entry.pw_uid, gid=entry.pw_gid)
        message = "PostgreSQL refuses to run as root and there is no user postgres or nobody"
        raise ConfigurationError(message, code="test_postgres_missing")

    def own(self, path: Path) -> None:
        """
        Give *path* to this account.
        """
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def can_enter(self, path: Path) -> bool:
        """
        Tell whether this account can reach the folder *path*.
        """
        return self.run(["/bin/sh", "-c", 'cd "$1"', "sh", str(path)]).returncode == 0

    def can_run(self, program: Path) -> bool:
        """
        Tell whether this account can execute *program*.
        """
        try:
            return self.run([str(program), "--version"]).returncode == 0
        except OSError:
            return False

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """
        Run *command* to its end under this account, its two outputs as one text.
        """
        return subprocess.run(
            command,
            **self._as_account(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def spawn(self, command: list[str], *, log: Path) -> subprocess.Popen[bytes]:
        """
        Start *command* under this account, in its own session, writing to *log*.

        Its own session keeps a Ctrl-C in the terminal from reaching it: the one
        who started it stops it.
        """
        with log.open("ab") as output:
            return subprocess.Popen(
                command,
                **self._as_account(),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _as_account(self) -> dict[str, Any]:
        return {
            "user": self.uid,
            "group": self.gid,
            "extra_groups": None if self.uid is None else [],
            "cwd": "/",
            "stdin": subprocess.DEVNULL,
        }

    def temporary_folder(self) -> Path:
        """
        Make a folder that belongs to this account and that it can reach.

        Its name is short enough for a Unix socket to lie in it.
        """
        # mkdtemp() makes a name of its own there that nobody else can enter.
        for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp"):  # noqa: S108  # nosec B108
            if len(os.fsencode(parent)) <= _SHORT and self.can_enter(Path(parent)):
                folder = Path(tempfile.mkdtemp(prefix="twh-pg-", dir=parent))
                self.own(folder)
                return folder
        message = f"{self.name} can reach no temporary folder: set TMPDIR to a short one"
        raise ConfigurationError(message, code="test_postgres_missing")


class OrphanGuard:
    """
    A shell that stops a process when this one dies, however it dies.

    Args:
        pid: The process to stop.

        remove: A folder to delete after it.
    """

    def __init__(self, pid: int, *, remove: Path) -> None:
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "sh", str(pid), str(remove)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def dismiss(self) -> None:
        """
        End the guard without stopping anything.
        """
        # Killed before its input closes, or it would do its work.
        self._shell.kill()
        self._shell.wait()
        if self._shell.stdin is not None:
            self._shell.stdin.close()


def freeze(pid: int) -> None:
    """
    Stop the process *pid* and all its descendants without ending them.
    """
    os.kill(pid, signal.SIGSTOP)
    frozen = {pid}
    # A fork that was under way when its parent stopped shows up a moment later.
    while new := _descendants(pid) - frozen:
        _signal_all(new, signal.SIGSTOP)
        frozen |= new


def thaw(pid: int) -> None:
    """
    Let the process *pid* and all its descendants go on.
    """
    _signal_all(_descendants(pid) | {pid}, signal.SIGCONT)


def _signal_all(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _descendants(root: int) -> set[int]:
    parents = _parents()
    found: set[int] = set()
    fringe = {root}
    while fringe:
        fringe = {pid for pid, parent in parents.items() if parent in fringe} - found
        found |= fringe
    return found


def _parents() -> dict[int, int]:
    """
    Map every process to its parent.

    `/proc` is read where there is one: a small Debian has no `ps`.
    """
    if not (_PROC / "self" / "stat").exists():
        listing = subprocess.check_output(["/bin/ps", "-A", "-o", "pid=,ppid="], text=True)
        return {int(pid): int(parent) for pid, parent in map(str.split, listing.splitlines())}
    parents = {}
    for entry in _PROC.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The second field is a name in parentheses and may hold anything.
            fields = entry.read_text(errors="replace").rpartition(")")[2].split()
            parents[int(entry.parent.name)] = int(fields[1])
    return parents
