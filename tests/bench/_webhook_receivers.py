"""
What receiving a webhook costs: a large one through the middleware, a usual one with its work.

The large one is 16 MiB in chunks of 64 KiB, given to `WebhookMiddleware` as a server
gives it; the reference takes in the same chunks in the same way, and only hashes them
(gate G7).  The usual one is 4 KiB, sent to uvicorn in a process of its own, whose
handler inserts it into PostgreSQL in one transaction; what counts is the CPU time of
that process, with verification and without (gate G8, SEC-10).
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import multiprocessing
import os
import random
import socket
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from twh_platform.webhooks import SignedRequest, Signer, StandardSecret, Verifier, WebhookMiddleware

from ._measure import Variant, measure
from ._rows import Row, paired_row
from ._webhook_peers import EVENT

__all__ = ["large_rows", "usual_rows"]

_CHUNK = 64 * 1024
_CHUNKS = 256
_LARGE = "16 MiB in chunks of 64 KiB"
_ROUNDS = 31
_SPOOL = 64 * 1024
_BEYOND = 64 * 1024
_OF_HASHING = 1.15

_USUAL_BYTES = 4096
_OF_THE_HANDLER = 1.02
_PATIENCE = 20.0

Deliver = Callable[[], Awaitable[None]]


# --- a large one


def large_rows(*, rounds: int = _ROUNDS) -> list[Row]:
    """
    Time it kept in a file and in memory, by an app that reads it and one that does not.
    """
    return asyncio.run(_large_rows(rounds))


async def _large_rows(rounds: int) -> list[Row]:
    secret = StandardSecret.generate()
    # One chunk, again and again: to make it is the server's part.
    chunk = b"x" * _CHUNK
    scope = _scope(Signer(secret).sign(chunk * _CHUNKS, event_id=EVENT))
    ways = {
        f"{kept}, {app.__name__.strip('_')} by the app": _through(app, scope, chunk, secret, spool)
        for kept, spool in (("in a file", _SPOOL), ("in memory", _CHUNK * _CHUNKS))
        for app in (_read, _not_read)
    }
    taken = await _side_by_side({"hashing": _hashing(chunk, bytes(secret._hidden)), **ways}, rounds)
    found = [
        paired_row(
            f"receive {way}".replace("_", " "),
            _LARGE,
            unit="us",
            ours=taken[way],
            reference=taken["hashing"],
            target=_OF_HASHING,
        )
        for way in ways
    ]
    peak = await _peak(_through(_read, scope, chunk, secret, _SPOOL))
    return [*found, _memory_row(peak)]


def _memory_row(peak: int) -> Row:
    return paired_row(
        "receive in a file, beyond the spool",
        _LARGE,
        unit="bytes",
        ours=[max(1, peak - _SPOOL)],
        reference=[_BEYOND],
        target=1.0,
    )


def _scope(request: SignedRequest) -> dict[str, Any]:
    headers = [(name.encode(), value.encode()) for name, value in request.headers.items()]
    headers.append((b"content-length", str(len(request.body)).encode()))
    return {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": headers}


def _receiving(chunk: bytes) -> Callable[[], Awaitable[dict[str, Any]]]:
    left = _CHUNKS

    async def receive() -> dict[str, Any]:
        nonlocal left
        left -= 1
        return {"type": "http.request", "body": chunk, "more_body": left > 0}

    return receive


def _hashing(chunk: bytes, key: bytes) -> Deliver:
    async def deliver() -> None:
        receive, running = _receiving(chunk), hmac.new(key, digestmod="sha256")
        more = True
        while more:
            message = await receive()
            running.update(message["body"])
            more = message["more_body"]
        running.digest()

    return deliver


async def _read(_scope: Any, receive: Any, send: Any) -> None:
    while (await receive())["more_body"]:
        pass
    await _not_read(_scope, receive, send)


async def _not_read(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def _through(
    app: Any, scope: dict[str, Any], chunk: bytes, secret: StandardSecret, spool: int
) -> Deliver:
    guarded = WebhookMiddleware(app, Verifier(secret), limit=_CHUNK * _CHUNKS, spool=spool)
    statuses: list[Any] = []

    async def send(message: Any) -> None:
        statuses.append(message.get("status"))

    async def deliver() -> None:
        statuses.clear()
        await guarded(dict(scope), _receiving(chunk), send)
        if statuses[0] != 204:
            raise AssertionError(statuses)

    return deliver


async def _side_by_side(ways: dict[str, Deliver], rounds: int) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {name: [] for name in ways}
    draw = random.Random(0)
    for _ in range(rounds):
        for name in draw.sample(list(ways), len(ways)):
            taken[name].append(min([await _timed(ways[name]) for _ in range(3)]))
    return taken


async def _timed(deliver: Deliver) -> float:
    began = time.perf_counter()
    await deliver()
    return (time.perf_counter() - began) * 1e6


async def _peak(deliver: Deliver) -> int:
    await deliver()
    tracemalloc.start()
    await deliver()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


# --- a usual one


def usual_rows(*, seconds: float) -> list[Row]:
    """
    CPU time of a receiver per event, beside the same one without verification.
    """
    # Only here, so that the other parts run without PostgreSQL.
    from twh_platform.testing import PostgresServer

    secret = StandardSecret.generate()
    with PostgresServer(settings={"autovacuum": "off"}) as server:
        database = server.create_database(f"twh_bench_{os.getpid()}")
        database.execute("CREATE TABLE events (id text, body bytea)")
        dsn = database.dsn(unix_socket=server.managed)
        try:
            with _serving(dsn, secret) as (pid, port), _connected(port) as connection:
                series = measure(
                    {
                        path: Variant(run=_sending(connection, path, secret), backends=[pid])
                        for path in _APPS
                    },
                    seconds=seconds,
                    block_seconds=0.01,
                )
        finally:
            database.drop()
    return [
        paired_row(
            f"receive and insert, {name}",
            "4 KiB, one transaction; the receiver's process",
            unit="us CPU",
            ours=series[path].server,
            reference=series["/plain"].server,
            target=_OF_THE_HANDLER if path in ("/verify", "/middleware") else None,
        )
        for path, name in _APPS.items()
        if name
    ]


# The second is the first once more: how far apart equal ones are measured.  The third
# is what no verification can do without.
_APPS = {
    "/plain": "",
    "/again": "no verification, again",
    "/raw": "raw HMAC",
    "/verify": "Verifier.verify",
    "/middleware": "WebhookMiddleware",
}


def _receiver(dsn: str, secret: StandardSecret) -> Any:
    import psycopg

    verifier, key, connections = Verifier(secret), bytes(secret._hidden), []

    async def insert(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        if scope["path"] == "/raw":
            hmac.digest(key, body, "sha256")
        if scope["path"] == "/verify":
            verifier.verify(body, scope["headers"])
        if not connections:
            connections.append(await psycopg.AsyncConnection.connect(dsn))
        async with connections[0].transaction():
            await connections[0].execute("INSERT INTO events VALUES (%s, %b)", (EVENT, body))
        await _not_read(scope, receive, send)

    guarded = WebhookMiddleware(insert, verifier)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (guarded if scope["path"] == "/middleware" else insert)(scope, receive, send)

    return app


def _serve(dsn: str, text: str, listening: socket.socket) -> None:
    import uvicorn

    app = _receiver(dsn, StandardSecret(text))
    config = uvicorn.Config(app, lifespan="off", log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listening])


@contextlib.contextmanager
def _serving(dsn: str, secret: StandardSecret) -> Iterator[tuple[int, int]]:
    context = multiprocessing.get_context("spawn")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        process = context.Process(target=_serve, args=(dsn, secret.reveal(), listening))
        process.start()
        try:
            yield process.pid or 0, listening.getsockname()[1]
        finally:
            process.terminate()
            process.join(_PATIENCE)


@contextlib.contextmanager
def _connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


def _sending(
    connection: socket.socket, path: str, secret: StandardSecret
) -> Callable[[int], Sequence[float]]:
    signer, body = Signer(secret), b'{"data":"' + b"x" * (_USUAL_BYTES - 11) + b'"}'

    def send(count: int) -> list[float]:
        headers = {"host": "receiver.example", "content-length": str(len(body))}
        headers |= {"user-agent": "sender/1.0", "content-type": "application/json"}
        headers |= signer.sign(body, event_id=EVENT).headers
        lines = [f"POST {path} HTTP/1.1", *(f"{one}: {text}" for one, text in headers.items())]
        request = "\r\n".join([*lines, "", ""]).encode() + body
        return [_answered(connection, request) for _ in range(count)]

    return send


def _answered(connection: socket.socket, request: bytes) -> float:
    began = time.perf_counter()
    connection.sendall(request)
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += connection.recv(65_536)
    if b" 204 " not in answer[:16]:
        raise AssertionError(answer)
    return time.perf_counter() - began
