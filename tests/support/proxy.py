"""
A loopback TCP proxy that counts turns and can add latency.

A *turn* is one change of direction towards the server: the client speaks
after the server spoke last.  For a protocol of questions and answers that is
one round trip, however many packets or statements it has.  A client that
pipelines speaks while the answer is under way: give the proxy some delay, so
that what it sends without waiting is one turn.

It runs in threads, one per connection, so it serves sync and async clients alike.  A benchmark
that measures time should give it a process of its own::

    python -m tests.support.proxy 127.0.0.1 5432 --round-trip 0.00065

which prints the port and serves until its standard input ends.
"""

from __future__ import annotations

import argparse
import contextlib
import select
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

__all__ = ["CountingProxy", "Turns", "proxy_process"]

_CHUNK_BYTES = 1 << 16


@dataclass(slots=True)
class Turns:
    """
    What `CountingProxy.counting` saw.

    Attributes:
        client: How often the client spoke up after the server.

        client_bytes: How many bytes it sent.
    """

    client: int = 0
    client_bytes: int = 0


class _Link:
    """
    One client's connection and ours to the server, carried by one thread.
    """

    def __init__(self, proxy: CountingProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._other = {client: server, server: client}
        self._queues: dict[socket.socket, deque[tuple[float, bytes]]] = {}
        self._client_spoke = False
        self._closed = False
        for one in self._other:
            one.settimeout(0)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._queues[one] = deque()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """
        Cut both sides; the thread sees it and ends.
        """
        self._closed = True
        for one in self._other:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while self._carry():
                pass
        self.close()
        for one in self._other:
            one.close()

    def _carry(self) -> bool:
        """
        Wait for something to do and do it; False once a side has left.
        """
        waiting = {one: queue[0][0] for one, queue in self._queues.items() if queue}
        now = time.monotonic()
        due = [one for one, moment in waiting.items() if moment <= now]
        later = [moment - now for one, moment in waiting.items() if one not in due]
        readable, writable, _ = select.select(self._other, due, (), min(later, default=None))
        for target in writable:
            self._send(target)
        for source in readable:
            if not self._receive(source):
                return False
        return not self._closed

    def _receive(self, source: socket.socket) -> bool:
        data = source.recv(_CHUNK_BYTES)
        self._note(up=source is self._client, size=len(data))
        if data:
            self._queues[self._other[source]].append((time.monotonic() + self._proxy.delay, data))
            if not self._proxy.delay:
                self._send(self._other[source])
        return bool(data)

    def _send(self, target: socket.socket) -> None:
        queue = self._queues[target]
        due, data = queue.popleft()
        try:
            sent = target.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            queue.appendleft((due, data[sent:]))

    def _note(self, *, up: bool, size: int) -> None:
        with self._proxy.lock:
            if up and size:
                self._proxy.turns += not self._client_spoke
                self._proxy.client_bytes += size
            self._client_spoke = up


class CountingProxy:
    """
    A proxy to one server, on a free loopback port, within a `with`.

    Args:
        host: The server's address.

        port: Its port.

        round_trip: Seconds added to each round trip, half in each direction.

    Attributes:
        port: The port that it listens on.

        turns: Turns of all connections so far, those of connecting included.
    """

    host = "127.0.0.1"

    def __init__(self, host: str, port: int, *, round_trip: float = 0.0) -> None:
        self.delay = round_trip / 2
        self.turns = 0
        self.client_bytes = 0
        self.lock = threading.Lock()
        self._target = (host, port)
        self._links: list[_Link] = []
        self._listener = socket.create_server((self.host, 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def counting(self) -> Iterator[Turns]:
        """
        Count what happens within a `with`; read the result after it.
        """
        seen = Turns()
        with self.lock:
            turns, size = self.turns, self.client_bytes
        yield seen
        with self.lock:
            seen.client, seen.client_bytes = self.turns - turns, self.client_bytes - size

    def cut(self) -> None:
        """
        Cut all connections, as a network fault would.
        """
        links, self._links = self._links, []
        for link in links:
            link.close()

    def close(self) -> None:
        """
        Stop listening and cut all connections.
        """
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(self._target)
                except OSError:
                    client.close()
                else:
                    self._links.append(_Link(self, client, server))


@contextlib.contextmanager
def proxy_process(host: str, port: int, *, round_trip: float) -> Iterator[int]:
    """
    Run a proxy in a process of its own, so that its work is not the caller's.

    Yields:
        The port that it listens on.
    """
    command = [sys.executable, "-m", "tests.support.proxy", host, str(port)]
    with subprocess.Popen(
        [*command, "--round-trip", str(round_trip)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--round-trip", type=float, default=0.0, help="seconds")
    options = parser.parse_args()
    with CountingProxy(options.host, options.port, round_trip=options.round_trip) as proxy:
        print(proxy.port, flush=True)  # noqa: T201 -- the caller reads it
        sys.stdin.read()


if __name__ == "__main__":
    _main()
