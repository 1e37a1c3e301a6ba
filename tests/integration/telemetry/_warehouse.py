"""
The warehouse behind uvicorn in a thread, a day's work for it, and a day on which much fails.

What it does not have by itself is added here: an event stream, a websocket, and a
receiver of the webhooks that it sends, in the same process.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
import logging
import secrets
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import httpx
import sqlalchemy
import uvicorn
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.sync.client import connect as connect_websocket

from examples.warehouse.app import create_app
from examples.warehouse.database import temporary_warehouse
from examples.warehouse.passwords import hash_password
from examples.warehouse.seed import MAIN, email, seed
from examples.warehouse.services import Services
from examples.warehouse.settings import Settings
from examples.warehouse.telemetry import REQUEST_LOGS, json_logs
from examples.warehouse.tour.keys import accounts
from examples.warehouse.vault import TOKENS
from tests.support.otlp import OtlpReceiver
from tests.support.warehouse import PASSWORD, somewhere
from twh_platform import Tenant, bind_tenant
from twh_platform.errors import PlatformError
from twh_platform.testing import PostgresServer, RedisServer
from twh_platform.webhooks import StandardSecret, WebhookMiddleware
from twh_platform.webhooks.redis import RedisReplayStore

__all__ = ["Day", "Trouble", "Watched", "watched_warehouse"]

_MONTH = {"limits": {"month": 20}, "reason": "what is met by twenty requests"}
_ROOM = {"limits": {"minute": 50_000, "hour": 50_000}, "reason": "a day in half a minute"}


@dataclass
class Watched:
    """
    A running warehouse, and what is around it.

    Attributes:
        url: Where it is.

        app: The app, in the same process.

        loop: What it runs in.

        log: The file of its JSON lines.

        redis: Where quotas are counted.

        postgres: The server of its database.

        database: The name of that.

        hears: What receives webhooks, once its secret is known.

        receiver: Where it is.
    """

    app: Starlette
    log: Path
    redis: RedisServer
    postgres: PostgresServer
    database: str
    hears: Any = None
    loop: asyncio.AbstractEventLoop | None = None
    url: str = ""
    receiver: str = ""
    listening: threading.Event = field(default_factory=threading.Event)
    ending: bool = False

    @property
    def port(self) -> int:
        """Where its page is."""
        return int(self.url.rpartition(":")[2])

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Do something in its event loop."""
        assert self.loop is not None
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def execute(self, statement: str) -> None:
        """Change its database, as a superuser."""
        self.postgres.execute(statement, dbname=self.database)

    def hear(self, secret: StandardSecret) -> None:
        """Receive what is signed with this."""
        options: Any = {"paths": ["/webhooks"], "limit": 64 * 1024, "replay": self.store}
        app = Starlette(routes=[Route("/webhooks", _take, methods=["POST"])])
        self.hears = WebhookMiddleware(app, secret, **options)

    async def _receive(self, scope: Any, receive: Any, send: Any) -> None:
        await self.hears(scope, receive, send)

    async def serve(self) -> None:
        """Serve it, and the receiver, until it ends."""
        self.loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            self.store = RedisReplayStore(lambda: Redis.from_url(self.redis.url))
            stack.push_async_callback(self.store.aclose)
            self.receiver = await stack.enter_async_context(_serving(self._receive, "off"))
            self.url = await stack.enter_async_context(_serving(self.app, "on"))
            self.listening.set()
            while not self.ending:  # noqa: ASYNC110 -- set by another thread
                await asyncio.sleep(0.05)


@contextmanager
def watched_warehouse(
    folder: Path, server: PostgresServer, collector: OtlpReceiver
) -> Iterator[Watched]:
    """
    Serve a seeded warehouse within a `with`: half of its requests are sampled.
    """
    otel = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.5",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    digest = asyncio.run(hash_password(PASSWORD))
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        made = stack.enter_context(temporary_warehouse(server, administrator_password_hash=digest))
        settings = replace(made, redis_url=redis.url, otel=otel)
        log = folder / "warehouse.log"
        stack.enter_context(json_logs(logging.FileHandler(log), *REQUEST_LOGS))
        app = _app(settings)
        watched = Watched(
            app=app, log=log, redis=redis, postgres=server, database=_database_of(settings)
        )
        thread = threading.Thread(target=lambda: asyncio.run(watched.serve()))
        thread.start()
        try:
            assert watched.listening.wait(60), "it did not start"
            yield watched
        finally:
            watched.ending = True
            thread.join(60)


def _app(settings: Settings) -> Starlette:
    app = create_app(settings)
    asyncio.run(seed(app.state.services, password=PASSWORD))
    app.router.routes += [
        Route("/admin/events", _events),
        WebSocketRoute("/admin/echo", _echo),
    ]
    return app


def _database_of(settings: Settings) -> str:
    return str(sqlalchemy.make_url(settings.app_dsn).database)


class _serving:  # noqa: N801 -- as a function
    def __init__(self, app: Any, lifespan: Any) -> None:
        options = {"port": 0, "log_level": "warning", "ws": "websockets-sansio"}
        self._server = uvicorn.Server(
            uvicorn.Config(
                app, lifespan=lifespan, interface="asgi3", proxy_headers=False, **options
            )
        )

    async def __aenter__(self) -> str:
        self._task = asyncio.create_task(self._server.serve())
        while not self._server.started and not self._task.done():  # noqa: ASYNC110 -- as above
            await asyncio.sleep(0.01)
        return f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self._server.should_exit = True
        await self._task


async def _take(_request: object) -> Response:
    return Response(status_code=204)


async def _events(_request: object) -> Response:
    async def parts() -> AsyncIterator[str]:
        for number in itertools.count():
            yield f"data: {number}\n\n"
            await asyncio.sleep(0.1)

    return StreamingResponse(parts(), media_type="text/event-stream")


async def _echo(websocket: WebSocket) -> None:
    await websocket.accept()
    with suppress(WebSocketDisconnect):
        while True:
            await websocket.send_text(await websocket.receive_text())


class Day:
    """
    Users of several tenants at work, again and again, within a `with`.

    Attributes:
        answered: How often which status was answered.

        faults: What went wrong with the work itself.
    """

    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        self.answered: collections.Counter[int] = collections.Counter()
        self.faults: list[Exception] = []
        self._over = threading.Event()
        self._account = accounts()["account"]
        self._clients: list[httpx.Client] = []
        self._anyone = self._client()
        token = watched.call(_token(watched.app.state.services))
        self.administrator = self._client(f"Bearer {token}")
        self.users = {one: self._log_in(one, "admin") for one in (*MAIN, "initech", "umbrella")}
        self.webhook = self._subscribe()
        for one in MAIN:
            self.administrator.put(f"/admin/quotas/{one}", json=_ROOM)
        self.administrator.put("/admin/quotas/initech", json=_MONTH)
        self.administrator.post(f"/admin/secrets/{TOKENS}/rotate")
        self._threads = [
            threading.Thread(target=self._again, args=(work,))
            for work in (self._administrate, self.leave, self._listen, self._talk)
        ]
        self._threads += [
            threading.Thread(target=self._again, args=(self._work, one)) for one in MAIN
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)
        for client in self._clients:
            client.close()

    def _client(self, authorization: str = "") -> httpx.Client:
        headers = {"Authorization": authorization} if authorization else {}
        hooks: Any = {"response": [lambda answer: self.answered.update([answer.status_code])]}
        client = httpx.Client(
            base_url=self.watched.url, headers=headers, event_hooks=hooks, timeout=30
        )
        self._clients.append(client)
        return client

    def _log_in(self, tenant: str, role: str) -> httpx.Client:
        return self._log_in_as(tenant, email(role, tenant))

    def _log_in_as(self, tenant: str, address: str) -> httpx.Client:
        said = {"tenant": tenant, "email": address, "password": PASSWORD}
        answer = self._anyone.post("/auth/login", json=said, headers=somewhere())
        return self._client(f"Bearer {answer.json()['access_token']}")

    def _subscribe(self) -> str:
        body = {"url": f"{self.watched.receiver}/webhooks", "events": ["stock.low"]}
        made = self.users["acme"].post("/webhooks", json=body).json()
        self.watched.hear(StandardSecret(made["secret"]))
        return str(made["id"])

    def _again(self, work: Any, *arguments: Any) -> None:
        while not self._over.is_set():
            try:
                work(*arguments)
            except Exception as error:  # noqa: BLE001 -- the test looks at it
                self.faults.append(error)
            self._over.wait(0.2)

    def _work(self, tenant: str) -> None:
        """What a user does all day."""
        user = self.users[tenant]
        code = secrets.token_hex(4)
        item = user.post("/items", json={"sku": code, "name": "Bolt", "unit_price_minor": 1})
        place = user.get("/locations").json()["data"][0]["id"]
        line = {"item_id": item.json()["id"], "quantity": 5}
        user.post("/stock/adjust", json={**line, "location_id": place, "reason": "counted"})
        order = {"customer": "Coyote", "location_id": place, "lines": [_priced(line)]}
        sold = user.post("/sales_orders", json=order).json()["id"]
        user.post(f"/sales_orders/{sold}/ship")
        user.post("/stock/adjust", json={**line, "location_id": place, "quantity": -99})
        made = {"name": f"Bolts {code}", "bank_account": self._account}
        supplier = user.post("/suppliers", json=made).json()["id"]
        for path in (f"/suppliers/{supplier}", "/items", "/quotas", f"/nothing-{code}"):
            user.get(path)
        user.get("/reports/low_stock")
        self.users["umbrella"].get("/items")  # ten a minute
        self.users["initech"].get("/items")

    def _administrate(self) -> None:
        """What the others do: the administrator, the load balancer, strangers."""
        self.administrator.get("/admin/usage?from=2026-01-01&to=2100-01-01")
        self.administrator.get("/admin/secrets")
        self._anyone.get("/items")
        self._anyone.get("/healthz")
        self.users["acme"].post(f"/webhooks/{self.webhook}/test")
        httpx.post(f"{self.watched.receiver}/webhooks", content=b"{}")  # not signed
        self._over.wait(1)

    def leave(self) -> tuple[httpx.Client, str]:
        """A tenant comes, and leaves: its user, and the path of what cannot be read any more."""
        name, address = f"leaver-{secrets.token_hex(4)}", "first@example.com"
        user = {"email": address, "name": "First", "password": PASSWORD}
        self.administrator.post("/tenants", json={"id": name, "tier": "GROWTH", "user": user})
        client = self._log_in_as(name, address)
        made = {"name": "Bolts", "bank_account": self._account}
        path = f"/suppliers/{client.post('/suppliers', json=made).json()['id']}"
        client.get(path)
        self.administrator.post(f"/admin/keys/{name}/rotate")
        order = {"reason": "they have left", "confirm": name}
        self.administrator.post(f"/admin/keys/{name}/shred", json=order)
        self._over.wait(2)
        return client, path

    def _listen(self) -> None:
        with self._anyone.stream("GET", "/admin/events") as answer:
            until = time.monotonic() + 5
            for _ in answer.iter_bytes():
                if self._over.is_set() or time.monotonic() > until:
                    break

    def _talk(self) -> None:
        with connect_websocket(self.watched.url.replace("http", "ws") + "/admin/echo") as opened:
            for _ in range(20):
                opened.send("hello")
                opened.recv(10)
                self._over.wait(0.2)


class Trouble:
    """
    Much that fails, and gets well again.

    Args:
        day: Who works meanwhile.

        collector: Where spans are sent.
    """

    def __init__(self, day: Day, collector: OtlpReceiver) -> None:
        self._day, self._watched, self._collector = day, day.watched, collector
        self._services: Services = day.watched.app.state.services

    def happen(self) -> None:
        """All of it."""
        self._lose_spans()
        self._lose_redis()
        self._use_up_a_pool()
        self._watched.call(self._forget_the_tenant())
        self._miscount()
        self._hide_the_overrides()
        user, path = self._day.leave()
        user.get(path)

    def _lose_spans(self) -> None:
        self._collector.status = 400  # which is not tried again
        time.sleep(2)
        self._collector.status = 200

    def _lose_redis(self) -> None:
        self._watched.redis.kill()
        self._day.users["acme"].post(f"/webhooks/{self._day.webhook}/test")
        time.sleep(3)
        self._watched.redis.start()

    def _use_up_a_pool(self) -> None:
        async def hold() -> int:
            async with AsyncExitStack() as stack:
                for _ in range(2):
                    db = await stack.enter_async_context(self._services.administrator())
                    await db.connection()
                answer = await asyncio.to_thread(self._day.administrator.get, "/tenants")
                return answer.status_code

        assert self._watched.call(hold()) == 503

    async def _forget_the_tenant(self) -> None:
        with suppress(PlatformError, sqlalchemy.exc.DBAPIError):
            async with self._services.app.begin() as db:
                await db.execute(sqlalchemy.text("SELECT FROM items"))

    def _miscount(self) -> None:
        self._watched.execute("UPDATE twh.quota_levels SET level = level + 7 WHERE rule = 'items'")
        self._watched.call(self._count_again())

    async def _count_again(self) -> None:
        async def items(_work: object) -> int:
            return 1

        with bind_tenant(Tenant(id="globex", tier=MAIN["globex"])):
            async with self._services.app.begin() as db:
                found = self._services.quotas.capacity
                await found.reconcile(db, {"items": items}, correct=False)

    def _hide_the_overrides(self) -> None:
        self._watched.execute("ALTER TABLE twh.quota_overrides RENAME TO hidden")
        time.sleep(2)
        self._watched.execute("ALTER TABLE twh.hidden RENAME TO quota_overrides")


def _priced(line: dict[str, Any]) -> dict[str, Any]:
    return {**line, "unit_price_minor": 1}


async def _token(services: Any) -> str:
    await services.tokens.ready()
    token: str = services.tokens.for_administrator()
    return token
