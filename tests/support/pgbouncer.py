"""
Debian's PgBouncer in front of a test server, in transaction mode.

In a temporary folder, which only PgBouncer's account may enter::

    pgbouncer.ini  the settings
    users.txt      the roles that may pass, with their passwords
    pgbouncer.log  what it said
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit, urlunsplit

from twh_platform.errors import ConfigurationError
from twh_platform.testing import PostgresServer, require_part
from twh_platform.testing._process import Account, OrphanGuard

__all__ = ["PgBouncer", "find_pgbouncer", "require_pgbouncer"]

_HOST = "127.0.0.1"
_START_SECONDS = 20.0
_STOP_SECONDS = 10.0


def find_pgbouncer() -> Path | None:
    """
    Return the program, or None.
    """
    # Debian puts it where only root's PATH leads.
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    found = shutil.which("pgbouncer", path=path)
    return Path(found) if found else None


def require_pgbouncer() -> Path:
    """
    Return the program, or skip the running test.
    """
    return require_part("pgbouncer", find_pgbouncer(), hint="apt-get install pgbouncer")


class PgBouncer:
    """
    A pooler that lends a few server sessions to any number of clients.

    It listens on loopback, on a free port, and ends with the `with`.

    Args:
        server: The server behind it.

        users: The roles that may pass.

        pool_size: Server sessions per role and database.

        settings: Its settings, over ours.
    """

    def __init__(
        self,
        server: PostgresServer,
        *,
        users: Sequence[str],
        pool_size: int = 1,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._program = require_pgbouncer()
        self._server = server
        self._users = users
        self._settings = {"default_pool_size": str(pool_size), **(settings or {})}
        self._folder = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: OrphanGuard | None = None
        self.port = 0

    def __enter__(self) -> Self:
        account = Account.choose()
        self._folder = account.temporary_folder()
        try:
            # Between asking for a free port and taking it, another may have.
            for _ in range(3):
                self.port = _free_port()
                if self._launch(account):
                    return self
        except BaseException:
            self._stop()
            raise
        message = f"PgBouncer did not start; its log ends with:\n{self.log[-2000:]}"
        self._stop()
        raise ConfigurationError(message, code="test_pgbouncer_failed")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    @property
    def log(self) -> str:
        """
        What it has written so far.
        """
        path = self._folder / "pgbouncer.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def pid(self) -> int:
        """
        Its process.
        """
        assert self._process is not None
        return self._process.pid

    def dsn(self, dbname: str, *, user: str, scheme: str = "postgresql") -> str:
        """
        Return a URL of *dbname* that leads through the pooler.
        """
        parts = urlsplit(self._server.dsn(dbname, user=user, scheme=scheme))
        login = parts.netloc.rpartition("@")[0]
        return urlunsplit((*parts[:1], f"{login}@{_HOST}:{self.port}", parts.path, "", ""))

    def _launch(self, account: Account) -> bool:
        for name, content in (("pgbouncer.ini", self._ini()), ("users.txt", self._user_list())):
            path = self._folder / name
            path.touch(mode=0o600)
            path.write_text(content)
            account.own(path)
        command = [str(self._program), str(self._folder / "pgbouncer.ini")]
        log = self._folder / "pgbouncer.log"
        self._process = process = account.spawn(command, log=log)
        self._guard = OrphanGuard(process.pid, remove=self._folder)
        deadline = time.monotonic() + _START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection((_HOST, self.port), 1):
                return True
            time.sleep(0.02)
        self._end_process()
        return False

    def _ini(self) -> str:
        settings = {
            "listen_addr": _HOST,
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": str(self._folder / "users.txt"),
            "pool_mode": "transaction",
            "max_client_conn": "200",
            **self._settings,
        }
        lines = [f"{name} = {value}" for name, value in settings.items()]
        behind = f"* = host={self._server.host} port={self._server.port}"
        return "\n".join(["[databases]", behind, "[pgbouncer]", *lines, ""])

    def _user_list(self) -> str:
        # The passwords themselves: with these it logs in at the server too.
        passwords = {user: urlsplit(self._server.dsn(user=user)).password for user in self._users}
        return "".join(f'"{user}" "{unquote(word or "")}"\n' for user, word in passwords.items())

    def _end_process(self) -> None:
        process, self._process = self._process, None
        guard, self._guard = self._guard, None
        if process is not None and process.poll() is None:
            process.terminate()  # at once; on SIGINT it would wait for its clients
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if guard is not None:
            guard.dismiss()

    def _stop(self) -> None:
        self._end_process()
        shutil.rmtree(self._folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])
