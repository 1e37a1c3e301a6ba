"""
What telemetry takes of a real server: requests a second, and CPU time beside a transaction.

Throughput is uvicorn on the first processor and wrk on the second, in turns of a
second; each app has a process of its own, and waits while others are asked.
The same requests are also put in relation to the server's CPU time.
CPU time is that of one uvicorn whose handler does one transaction in PostgreSQL
with psycopg, in short blocks that alternate with those of the same handler
without telemetry.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ._measure import Variant, backend_cpu_seconds, measure
from ._rows import Row, paired_row
from ._telemetry_apps import behind_ours, starlette_apps

__all__ = ["server_rows", "transaction_rows"]

_PATIENCE = 20.0
_RATIO = 0.01
_TURN_SECONDS = 1
_SERVED = {
    "bare": None,
    "bare, again": None,
    "ours, metrics": 0.88,
    "ours, metrics, 1 % sampled": 0.85,
    "ours, metrics, tenants, 1 % sampled": None,
    "ours, metrics, sampled": None,
    "OpenTelemetry, metrics, unsampled": None,
    "OpenTelemetry, metrics, sampled": None,
    "instrumentator, metrics": None,
    "starlette_exporter, metrics": None,
}
_OF_THE_HANDLER = 1.05


# --- requests a second


def server_rows(*, rounds: int) -> list[Row]:
    """
    A server and its client, each on a processor of its own.
    """
    wrk = shutil.which("wrk")
    if wrk is None or (os.cpu_count() or 1) < 2:
        sys.stderr.write("no wrk, or one processor alone: no rows of a server\n")
        return []
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(_serving(_serve_one, name)) for name in _known()}
        rates, shares = _in_turns(wrk, servers, rounds)
    return [
        *_server_rows("server", "requests/s", rates),
        *_server_rows("server's time", "requests/CPU s", shares),
    ]


def _in_turns(
    wrk: str, servers: Mapping[str, tuple[int, int]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    rates: dict[str, list[float]] = {name: [] for name in servers}
    shares: dict[str, list[float]] = {name: [] for name in servers}
    draw = random.Random(0)
    for each in range(rounds + 1):
        for name in draw.sample(list(servers), len(servers)):
            rate, share = _turn(wrk, *servers[name])
            if each:  # the first round warms up
                rates[name].append(rate)
                shares[name].append(share)
    return rates, shares


def _server_rows(part: str, unit: str, taken: Mapping[str, list[float]]) -> list[Row]:
    return [
        paired_row(
            f"{part}: {name}",
            "an empty handler, 32 connections; against the bare app",
            unit=unit,
            ours=series,
            reference=taken["bare"],
            target=_SERVED[name],
            direction=">=",
        )
        for name, series in taken.items()
        if name != "bare"
    ]


def _known() -> list[str]:
    known = {*starlette_apps(), "bare, again"}
    return [name for name in _SERVED if "%" in name or name in known]


def _one_of(name: str) -> Any:
    known = starlette_apps()
    if "%" in name:
        return behind_ours(known["bare"]().app, ratio=_RATIO, tenants="tenants" in name).app
    return known[name.partition(", again")[0]]().app


def _serve_one(name: str, listening: socket.socket) -> None:
    os.sched_setaffinity(0, {0})
    _serve(_one_of(name), listening)


def _turn(wrk: str, pid: int, port: int) -> tuple[float, float]:
    # Of a process that is never idle both are the same, but for what else the machine does.
    command = [wrk, "-t1", "-c32", f"-d{_TURN_SECONDS}s", f"http://127.0.0.1:{port}/items/7"]
    before = backend_cpu_seconds(pid)
    said = subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {1}),
    ).stdout
    taken = backend_cpu_seconds(pid) - before
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    count = re.search(r"(\d+) requests in", said)
    if rate is None or count is None or "Non-2xx" in said:
        raise AssertionError(said)
    return float(rate[1]), int(count[1]) / taken


# --- beside a transaction


def transaction_rows(*, seconds: float) -> list[Row]:
    """
    CPU time of the server's process for each request.
    """
    # Only here, so that the other parts run without PostgreSQL.
    from twh_platform.testing import PostgresServer

    with PostgresServer(settings={"autovacuum": "off"}) as server:
        database = server.create_database(f"twh_bench_{os.getpid()}")
        database.execute("CREATE TABLE events (id bigint, body text)")
        dsn = database.dsn(unix_socket=server.managed)
        try:
            with _serving(_serve_ways, dsn) as (pid, port), _connected(port) as connection:
                series = measure(
                    {
                        way: Variant(run=_asking(connection, f"/{way}/7"), backends=[pid])
                        for way in _WAYS
                    },
                    seconds=seconds,
                    block_seconds=0.01,
                )
        finally:
            database.drop()
    return [
        paired_row(
            f"transaction: {name}",
            "one INSERT in a transaction; against no telemetry; the server's process",
            unit="us CPU",
            ours=series[way].server,
            reference=series["plain"].server,
            target=target,
        )
        for way, (name, target, _) in _WAYS.items()
        if name
    ]


def _unwatched(app: Any) -> Any:
    return app


def _metrics(app: Any) -> Any:
    return behind_ours(app).app


def _usual(app: Any) -> Any:
    return behind_ours(app, ratio=_RATIO, tenants=True).app


def _sampled(app: Any) -> Any:
    return behind_ours(app, ratio=1.0, tenants=True).app


# The second is the first once more: how far apart equal ones are measured.
_WAYS: Mapping[str, tuple[str, float | None, Callable[[Any], Any]]] = {
    "plain": ("", None, _unwatched),
    "again": ("no telemetry, again", None, _unwatched),
    "metrics": ("metrics", None, _metrics),
    "usual": ("metrics, tenants, 1 % sampled", _OF_THE_HANDLER, _usual),
    "sampled": ("metrics, tenants, sampled", None, _sampled),
}


def _serve_ways(dsn: str, listening: socket.socket) -> None:
    connections: list[Any] = []

    async def insert(_request: Request) -> Response:
        import psycopg

        if not connections:
            connections.append(await psycopg.AsyncConnection.connect(dsn))
        async with connections[0].transaction():
            await connections[0].execute("INSERT INTO events VALUES (%s, %s)", (7, "body"))
        return Response(status_code=204)

    ways = {
        way: make(Starlette(routes=[Route(f"/{way}/{{id}}", insert)]))
        for way, (_, _, make) in _WAYS.items()
    }

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await ways[scope["path"].split("/")[1]](scope, receive, send)

    _serve(app, listening)


def _asking(connection: socket.socket, path: str) -> Callable[[int], Sequence[float]]:
    lines = [f"GET {path} HTTP/1.1", "host: api.example.com", "user-agent: bench", "", ""]
    request = "\r\n".join(lines).encode()

    def ask(count: int) -> list[float]:
        return [_answered(connection, request) for _ in range(count)]

    return ask


def _answered(connection: socket.socket, request: bytes) -> float:
    began = time.perf_counter()
    connection.sendall(request)
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += connection.recv(65_536)
    if b" 204 " not in answer[:16]:
        raise AssertionError(answer)
    return time.perf_counter() - began


# --- both


def _serve(app: Any, listening: socket.socket) -> None:
    import uvicorn

    config = uvicorn.Config(app, lifespan="off", log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listening])


@contextlib.contextmanager
def _serving(serve: Callable[..., None], what: str) -> Iterator[tuple[int, int]]:
    context = multiprocessing.get_context("spawn")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        process = context.Process(target=serve, args=(what, listening))
        process.start()
        port = listening.getsockname()[1]
        try:
            yield process.pid or 0, port
        finally:
            process.terminate()
            process.join(_PATIENCE)


@contextlib.contextmanager
def _connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection
