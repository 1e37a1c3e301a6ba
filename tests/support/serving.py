"""
A real server in this event loop, and waiting for what it will do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from twh_platform.tenancy import create_clean_task

PATIENCE = 30.0  # what only a hang exceeds


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return when the condition holds; the limit is there for a hang alone."""
    async with asyncio.timeout(PATIENCE):
        while not await condition():  # noqa: ASYNC110 -- nobody announces it
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(app: Any, **options: Any) -> AsyncIterator[int]:
    """Serve the app with uvicorn on loopback; give its port."""
    options = {"lifespan": "off", "log_level": "warning", "ws": "websockets-sansio", **options}
    server = uvicorn.Server(uvicorn.Config(app, port=0, **options))

    async def started() -> bool:
        return server.started

    task = create_clean_task(server.serve())
    await eventually(started)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task
