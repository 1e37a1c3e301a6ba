"""
The demo: `python -m examples.warehouse [--check] [--port PORT]`.

It starts a PostgreSQL, fills it, serves the warehouse on loopback and prints a
tour.  With `--check` it takes the tour itself, and exits with 0 only if every
answer was right.  Quotas are counted in a Redis if there is a `redis-server`,
else in memory.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from types import FrameType

import uvicorn

from twh_platform.testing import PostgresServer, RedisServer, find_redis

from .app import create_app
from .auth import Role
from .database import temporary_warehouse
from .passwords import hash_password
from .seed import MAIN, email, seed
from .settings import Settings
from .telemetry import REQUEST_LOGS, json_logs
from .tour import Seen, Tour, tours
from .tour.check import drive
from .tour.collector import HAS_OPENTELEMETRY, Collector, collecting
from .tour.shell import shell_lines

_USUAL_PORTS = range(8080, 8100)

Planner = Callable[[Settings, str], list[Tour]]


def main(arguments: Sequence[str] | None = None, *, planner: Planner | None = None) -> int:
    """
    Run the demo.

    Args:
        arguments: The command line.

        planner: Makes the tours that `--check` takes; the whole of it without.

    Returns:
        The exit status.
    """
    options = _options(arguments)
    signal.signal(signal.SIGTERM, _interrupt)  # so that everything is cleaned up
    password = secrets.token_urlsafe(12)
    try:
        digest = asyncio.run(hash_password(password))
        with (
            PostgresServer() as server,
            temporary_warehouse(server, administrator_password_hash=digest) as made,
            _counting(options.memory) as redis_url,
        ):
            settings = replace(made, redis_url=redis_url)
            print(f"PostgreSQL {_release(server.version)} ({server.source})", flush=True)
            if options.check:
                return _checked(settings, password, options.port, planner)
            traced = replace(settings, otel={"OTEL_TRACES_SAMPLER": "always_on", **os.environ})
            return asyncio.run(_serve(traced, password, options.port, as_json=options.json))
    except KeyboardInterrupt:
        print("\nstopped", flush=True)
        return 1 if options.check else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.warehouse", description=__doc__)
    parser.add_argument("--check", action="store_true", help="take the tour and exit")
    parser.add_argument("--memory", action="store_true", help="count quotas without a Redis")
    parser.add_argument("--json", action="store_true", help="log JSON lines, with ids")
    parser.add_argument("--port", type=int, default=None, help="instead of 8080 or the next free")
    return parser.parse_args(arguments)


@contextlib.contextmanager
def _counting(memory: bool) -> Iterator[str | None]:  # noqa: FBT001 -- an option of the command line
    """
    Start a Redis for the quotas if there is one, and say which; None for none.
    """
    if memory or find_redis() is None:
        why = "as asked" if memory else "there is no redis-server"
        print(f"quotas are counted in memory: {why}", flush=True)
        yield None
        return
    with RedisServer() as server:
        print(f"quotas are counted in Redis {_release(server.version)}", flush=True)
        yield server.url


def _release(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    # As Ctrl-C, which asyncio turns into a cancellation of what runs.
    signal.raise_signal(signal.SIGINT)


def _checked(settings: Settings, password: str, port: int | None, planner: Planner | None) -> int:
    log = settings.keyset_file.with_name("warehouse.log")
    with _collecting() as collector, json_logs(logging.FileHandler(log), *REQUEST_LOGS):
        otel = {}
        if collector is not None:
            otel = {
                "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
                "OTEL_TRACES_SAMPLER": "always_on",
                "OTEL_BSP_SCHEDULE_DELAY": "200",
            }
        planner = planner or partial(tours, seen=Seen(log=log, collector=collector))
        return asyncio.run(_check(replace(settings, otel=otel), password, port, planner))


def _collecting() -> contextlib.AbstractContextManager[Collector | None]:
    if HAS_OPENTELEMETRY:
        return collecting()
    print("no spans are looked for: the extra otel is not installed", flush=True)
    return contextlib.nullcontext()


async def _check(settings: Settings, password: str, port: int | None, planner: Planner) -> int:
    logging.getLogger("twh_platform").addHandler(logging.NullHandler())
    async with _running(settings, password, port or 0, access_log=False) as (url, _):
        print(f"the warehouse is at {url}", flush=True)
        right = await drive(url, planner(settings, password))
    return 0 if right else 1


async def _serve(settings: Settings, password: str, port: int | None, *, as_json: bool) -> int:
    # One line for each request: uvicorn's to read, or ours with the ids.
    lines = json_logs(logging.StreamHandler(), "") if as_json else contextlib.nullcontext()
    with lines:
        async with _running(settings, password, port, access_log=not as_json) as (url, stopped):
            _print_tour(settings, url, password)
            await stopped
    return 0


@contextlib.asynccontextmanager
async def _running(
    settings: Settings, password: str, port: int | None, *, access_log: bool = True
) -> AsyncIterator[tuple[str, asyncio.Task[None]]]:
    """
    Serve the seeded warehouse within a `with`.
    """
    app = create_app(settings)
    await seed(app.state.services, password=password)
    with _socket(port) as listener:
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                lifespan="on",
                access_log=access_log,
                log_level="warning",
                proxy_headers=False,  # the app itself knows whom to believe
            )
        )
        if access_log:
            logging.getLogger("uvicorn.access").setLevel(logging.INFO)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started and not task.done():  # noqa: ASYNC110 -- uvicorn has no event
            await asyncio.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", task
        finally:
            server.should_exit = True
            await task


def _socket(port: int | None) -> socket.socket:
    wanted = [port] if port is not None else [*_USUAL_PORTS, 0]
    for number in wanted:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", number))
            return listener
        listener.close()
    sys.exit(f"port {port} is taken")


def _print_tour(settings: Settings, url: str, password: str) -> None:
    tenant, other = MAIN
    # One is the day's work once more, as the other tenant.
    shown = [one for one in tours(settings, password) if one.name != other]
    print(f"""
The warehouse   {url}
What it can do  {url}/openapi.json
Who may log in  {email("ROLE", "TENANT")}, password {password}
                roles {", ".join(Role)} in {tenant} and {other}

The tour, to copy into another shell; the status to expect is behind each title:
""")
    print("\n".join(shell_lines(url, ((one.steps, one.variables) for one in shown))))
    print("\nCtrl-C ends it and leaves nothing behind.", flush=True)


if __name__ == "__main__":
    sys.exit(main())
