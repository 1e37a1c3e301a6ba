"""
The tenant follows the request everywhere, and stays nowhere (gate G3).

Where the naive way loses or leaks the tenant, the same test shows that it does.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.to_thread
import fastapi
import httpx
import pytest
import websockets
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute

from tests.support.serving import eventually, running
from twh_platform.tenancy import (
    HeaderResolver,
    MemoryTenantDirectory,
    Tenant,
    TenantExecutor,
    TenantMiddleware,
    TenantThread,
    bind_tenant,
    carry_tenant,
    create_clean_task,
    current_tenant,
    require_tenant,
    resolution_of,
    unbind_tenant,
)

NAMES = ["acme", "globex", "initech"]
ACME, GLOBEX = Tenant(id="acme"), Tenant(id="globex")

# The naive ways: a variable of the module, and one of the thread.
naive: dict[str, str | None] = {"tenant": None}


@pytest.fixture(autouse=True)
def _nothing_left() -> None:
    """What the naive way leaves behind is not passed on to the next test."""
    naive.clear()
    naive["tenant"] = None


def ours() -> str:
    """The id of the current tenant."""
    tenant = current_tenant()
    return tenant.id if tenant else "nobody"


def theirs() -> str:
    """What the module's variable says."""
    return naive["tenant"] or "nobody"


class NaiveMiddleware:
    """Keeps the tenant of the request in a variable of the module."""

    def __init__(self, app) -> None:
        self.app = app

    async def __call__(self, scope, receive, send) -> None:
        """Set it, and take it back."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        before = naive["tenant"]
        naive["tenant"] = resolution_of(scope).tenant.id
        try:
            await self.app(scope, receive, send)
        finally:
            naive["tenant"] = before


def guarded(app) -> TenantMiddleware:
    """The app behind both: ours and, inside, the naive one."""
    return TenantMiddleware(
        NaiveMiddleware(app),
        # Here the client is the gateway.
        resolver=HeaderResolver(decides=True),
        directory=MemoryTenantDirectory(Tenant(id=name) for name in NAMES),
    )


def serving(endpoint: Callable[..., Any]) -> TenantMiddleware:
    """An app with one endpoint."""
    return guarded(Starlette(routes=[Route("/", endpoint)]))


def client(app) -> httpx.AsyncClient:
    """A client that calls the app in process."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


async def ask(app, *names: str) -> list[str]:
    """Send one request for each tenant, at the same time; return the bodies."""
    async with client(app) as http:
        answers = await asyncio.gather(
            *(http.get("/", headers={"x-tenant-id": name}) for name in names)
        )
    return [answer.text for answer in answers]


class Meeting:
    """Waits until so many requests are in the same place."""

    def __init__(self, parties: int) -> None:
        self._missing = parties
        self._all = asyncio.Event()

    async def wait(self) -> None:
        """Return when all have come."""
        self._missing -= 1
        if self._missing == 0:
            self._all.set()
        await self._all.wait()


async def test_requests_that_overlap_keep_their_tenants():
    """Control: a variable of the module gives two of three the wrong one."""
    meeting = Meeting(3)

    async def endpoint(request):
        await meeting.wait()
        return PlainTextResponse(f"{ours()} {theirs()}")

    bodies = await ask(serving(endpoint), *NAMES)
    assert [body.split()[0] for body in bodies] == NAMES
    assert [body.split()[1] for body in bodies] != NAMES


async def test_a_task_that_outlives_its_request_keeps_its_tenant():
    """Control: the naive variable has moved on."""
    tasks, gate = [], asyncio.Event()

    async def later():
        await gate.wait()
        return ours(), theirs()

    async def endpoint(request):
        tasks.append(asyncio.create_task(later()))
        return PlainTextResponse("")

    app = serving(endpoint)
    await ask(app, "acme")
    await ask(app, "globex")
    gate.set()

    assert await asyncio.gather(*tasks) == [("acme", "nobody"), ("globex", "nobody")]
    assert current_tenant() is None


async def test_what_a_child_binds_its_parent_does_not_see():
    """Nor do its siblings."""

    async def child(tenant):
        with bind_tenant(tenant):
            await asyncio.sleep(0)
            return ours()

    with bind_tenant(ACME):
        assert await asyncio.gather(child(GLOBEX), child(None), child(ACME)) == [
            "globex",
            "nobody",
            "acme",
        ]
        assert ours() == "acme"


async def test_to_thread_and_anyio_carry_it():
    """Of asyncio and of anyio: threads, and task groups."""
    seen = []

    async def note():
        seen.append(ours())

    async def endpoint(request):
        seen.append(await asyncio.to_thread(ours))
        seen.append(await anyio.to_thread.run_sync(ours))
        async with anyio.create_task_group() as group:
            group.start_soon(note)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(note())
        return PlainTextResponse("")

    await ask(serving(endpoint), "acme")
    assert seen == ["acme"] * 4


async def test_plain_functions_as_endpoints_have_it():
    """Starlette runs them in a thread."""

    def endpoint(request):
        return PlainTextResponse(ours())

    assert await ask(serving(endpoint), *NAMES) == NAMES


async def test_executors_have_it_when_it_is_carried():
    """Control: a plain `run_in_executor` starts in an empty context."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as pool, bind_tenant(ACME):
        carrying = TenantExecutor(pool)
        plain = await loop.run_in_executor(pool, ours)
        carried = await loop.run_in_executor(pool, carry_tenant(ours))
        executed = await loop.run_in_executor(carrying, ours)
        mapped = list(carrying.map(lambda _: ours(), range(2)))
        after = await loop.run_in_executor(pool, ours)

    assert (plain, after) == ("nobody", "nobody")
    assert [carried, executed, *mapped] == ["acme"] * 4


def test_threads_have_it_when_it_is_carried():
    """Control: a plain thread starts in an empty context."""
    seen = {}
    with bind_tenant(ACME):
        threads = [
            threading.Thread(target=lambda: seen.update(plain=ours())),
            TenantThread(target=lambda: seen.update(ours=ours())),
        ]
    for thread in threads:
        thread.start()
        thread.join()

    # From Python 3.14 on a build may let threads inherit the context.
    inherits = getattr(sys.flags, "thread_inherit_context", 0)
    assert seen["ours"] == "acme"
    assert inherits or seen["plain"] == "nobody"


async def test_each_chunk_of_a_stream_has_it():
    """Over HTTP, with streams that overlap; control: the naive variable mixes them."""
    meetings = [Meeting(3) for _ in range(4)]

    async def chunks():
        for meeting in meetings:
            await meeting.wait()
            yield f"{ours()} {theirs()}\n"

    async def endpoint(request):
        return StreamingResponse(chunks())

    async with running(serving(endpoint)) as port, httpx.AsyncClient() as http:
        answers = await asyncio.gather(
            *(
                http.get(f"http://127.0.0.1:{port}/", headers={"x-tenant-id": name})
                for name in NAMES
            )
        )
    pairs = [line.split() for answer in answers for line in answer.text.splitlines()]
    assert [pair[0] for pair in pairs] == [name for name in NAMES for _ in meetings]
    assert any(pair[0] != pair[1] for pair in pairs)


async def test_background_tasks_have_it():
    """They run after the response; control: the naive variable is another's by then."""
    meeting, seen = Meeting(3), []

    async def background():
        await meeting.wait()
        seen.append((ours(), theirs()))

    async def endpoint(request):
        return PlainTextResponse("", background=BackgroundTask(background))

    await ask(serving(endpoint), *NAMES)
    assert sorted(pair[0] for pair in seen) == NAMES
    assert any(pair[0] != pair[1] for pair in seen)


async def test_websockets_and_their_tasks_have_it():
    """Over real sockets; control: `BaseHTTPMiddleware` does not see websockets."""
    meeting, skipped = Meeting(3), ContextVar("skipped", default="nobody")

    async def endpoint(websocket):
        await websocket.accept()
        async with asyncio.TaskGroup() as group:
            child = group.create_task(reply(websocket))
        await child
        await websocket.close()

    async def reply(websocket):
        for _ in range(3):
            text = await websocket.receive_text()
            await meeting.wait()
            await websocket.send_text(f"{text} {ours()} {skipped.get()}")

    async def dispatch(request, call_next):
        skipped.set("somebody")
        return await call_next(request)

    inner = BaseHTTPMiddleware(Starlette(routes=[WebSocketRoute("/", endpoint)]), dispatch=dispatch)

    async def talk(port, name):
        headers = {"x-tenant-id": name}
        async with websockets.connect(
            f"ws://127.0.0.1:{port}/", additional_headers=headers
        ) as socket:
            said = []
            for number in "123":
                await socket.send(number)
                said.append(await socket.recv())
            return said

    async with running(guarded(inner)) as port:
        said = await asyncio.gather(*(talk(port, name) for name in NAMES))
    assert said == [[f"{number} {name} nobody" for number in "123"] for name in NAMES]


async def test_a_refused_websocket_is_answered_over_the_wire():
    """The handshake gets the uniform problem, with its status."""
    app = guarded(Starlette())
    async with running(app) as port:
        with pytest.raises(websockets.InvalidStatus) as caught:
            async with websockets.connect(
                f"ws://127.0.0.1:{port}/", additional_headers={"x-tenant-id": "nobody"}
            ):
                pytest.fail("it was accepted")

    assert caught.value.response.status_code == 403
    assert b'"tenant_refused"' in caught.value.response.body


async def test_a_generator_may_read_but_not_bind():
    """What it reads is its caller's; control: what it binds leaks to its caller."""

    async def reads():
        while True:
            yield ours()

    async def binds():
        with bind_tenant(GLOBEX):
            yield ours()

    with bind_tenant(ACME):
        reader, binder = reads(), binds()
        assert await anext(reader) == "acme"
        assert await anext(binder) == "globex"
        assert ours() == "globex"  # the leak
        await binder.aclose()
        assert ours() == "acme"
        with bind_tenant(GLOBEX):
            assert await anext(reader) == "globex"
        await reader.aclose()


async def test_a_binding_left_in_another_task_takes_back_its_own():
    """Control: resetting a context variable there raises and leaves it set."""
    variable: ContextVar[str] = ContextVar("variable", default="nobody")

    async def binds():
        token = variable.set("globex")
        with bind_tenant(GLOBEX):
            yield
        variable.reset(token)

    with bind_tenant(ACME):
        binder = binds()
        await anext(binder)
        with pytest.raises(ValueError, match="different Context"):
            await asyncio.create_task(exhaust(binder))
    assert variable.get() == "globex"
    assert ours() == "nobody"


async def exhaust(generator: AsyncIterator[Any]) -> None:
    """Run a generator to its end."""
    async for _ in generator:
        pass


async def told() -> str:
    """The current tenant, as a task."""
    return ours()


@pytest.mark.parametrize("error", [RuntimeError, asyncio.CancelledError, GeneratorExit, SystemExit])
async def test_every_way_out_restores(error):
    """Control: a set without a `finally` stays."""
    variable: ContextVar[str] = ContextVar("variable", default="nobody")

    def fail():
        variable.set("globex")
        raise error

    with bind_tenant(ACME):
        with pytest.raises(error), bind_tenant(GLOBEX):
            fail()
        assert ours() == "acme"
    assert ours() == "nobody"
    assert variable.get() == "globex"


async def test_an_exception_in_the_app_leaves_nothing_behind():
    """The task that served the request is clean for the next one."""

    async def failing(scope, receive, send):
        naive["left"] = resolution_of(scope).tenant.id
        raise RuntimeError(ours())

    async def nothing(*_args):
        return {}

    scope = {"type": "http", "path": "/", "headers": [(b"x-tenant-id", b"acme")]}
    app = TenantMiddleware(
        failing, resolver=HeaderResolver(decides=True), directory=MemoryTenantDirectory([ACME])
    )
    for _ in range(2):
        with pytest.raises(RuntimeError, match="acme"):
            await app(dict(scope), nothing, nothing)
        assert current_tenant() is None
    assert naive.pop("left") == "acme"


async def test_a_cancelled_request_leaves_nothing_behind():
    """Cancelled at each await in turn; what runs next in the context is clean."""
    reached = []

    async def slow(scope, receive, send):
        for step in range(5):
            reached.append(step)
            await asyncio.sleep(0)

    async def serve(app, scope):
        try:
            await app(scope, None, None)
        finally:
            left.append(current_tenant())

    left: list[Tenant | None] = []
    app = TenantMiddleware(
        slow, resolver=HeaderResolver(decides=True), directory=MemoryTenantDirectory([ACME])
    )
    for steps in range(8):
        scope = {"type": "http", "path": "/", "headers": [(b"x-tenant-id", b"acme")]}
        task = asyncio.create_task(serve(app, scope))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait((task,))
    assert set(left) == {None}
    assert max(reached) == 4


async def test_a_client_that_goes_away_leaves_nothing_behind():
    """Over HTTP, in mid-stream; the next request on the server is another's."""
    entered, gone = asyncio.Event(), []

    async def endless():
        try:
            while True:
                entered.set()
                yield ours()
                await asyncio.sleep(0.001)
        finally:
            gone.append(ours())

    async def went():
        return bool(gone)

    async def endpoint(request):
        return (
            StreamingResponse(endless())
            if "s" in request.query_params
            else PlainTextResponse(ours())
        )

    async with running(serving(endpoint)) as port, httpx.AsyncClient() as http:
        url = f"http://127.0.0.1:{port}/"
        async with http.stream("GET", url, params={"s": 1}, headers={"x-tenant-id": "acme"}):
            await entered.wait()
        answer = await http.get(url, headers={"x-tenant-id": "globex"})
        await eventually(went)

    assert answer.text == "globex"
    assert set(gone) <= {"acme", "nobody"}


async def test_a_worker_started_by_a_request_belongs_to_nobody():
    """Control: a plain task keeps the first tenant for ever."""
    started: dict[str, Any] = {}

    async def worker(queue, seen):
        while (job := await queue.get()) is not None:
            with bind_tenant(job["tenant"]) if job["tenant"] else contextlib.nullcontext():
                seen.append(ours())

    def start(name, begin):
        queue, seen = asyncio.Queue(), []
        started[name] = (begin(worker(queue, seen)), queue, seen)

    for tenant in (ACME, GLOBEX, None):
        with bind_tenant(tenant):
            if not started:
                start("clean", create_clean_task)
                start("naive", asyncio.create_task)
            started["clean"][1].put_nowait({"tenant": tenant})
            started["naive"][1].put_nowait({"tenant": None})
    for task, queue, _seen in started.values():
        queue.put_nowait(None)
        await task

    assert started["clean"][2] == ["acme", "globex", "nobody"]
    assert started["naive"][2] == ["acme", "acme", "acme"]


async def test_nobody_can_change_the_value_that_others_see():
    """Control: a dictionary in a context variable is one for all."""
    shared: ContextVar[dict[str, str]] = ContextVar("shared")
    shared.set({"tenant": "acme"})

    async def child():
        shared.get()["tenant"] = "globex"
        with pytest.raises(AttributeError):
            require_tenant().id = "globex"  # type: ignore[misc]
        with pytest.raises(TypeError):
            require_tenant().attributes["plan"] = "free"  # type: ignore[index]

    with bind_tenant(ACME):
        await asyncio.create_task(child())
        assert require_tenant() == ACME
    assert shared.get() == {"tenant": "globex"}


async def test_nested_tenants_and_none():
    """Each leave restores the one outside."""
    seen = []
    with bind_tenant(ACME):
        with unbind_tenant():
            seen.append(ours())
            with bind_tenant(GLOBEX):
                seen.append(ours())
            seen.append(ours())
        seen.append(ours())

    assert seen == ["nobody", "globex", "nobody", "acme"]


async def test_what_lifespan_binds_reaches_no_request():
    """A tenant bound at start-up is not everybody's."""

    @contextlib.asynccontextmanager
    async def lifespan(app):
        with bind_tenant(GLOBEX):
            yield

    async def endpoint(request):
        return PlainTextResponse(ours())

    app = guarded(Starlette(routes=[Route("/", endpoint)], lifespan=lifespan))
    async with running(app, lifespan="on") as port, httpx.AsyncClient() as http:
        answer = await http.get(f"http://127.0.0.1:{port}/", headers={"x-tenant-id": "acme"})

    assert answer.text == "acme"


async def test_dependencies_have_it():
    """FastAPI's, plain and async; control: what a plain one sets its endpoint does not see."""
    variable: ContextVar[str] = ContextVar("variable", default="nobody")

    def sync_dependency():
        variable.set("set in a thread")
        yield ours()

    async def dependency():
        yield ours()

    app = fastapi.FastAPI()
    first, second = fastapi.Depends(sync_dependency), fastapi.Depends(dependency)

    @app.get("/")
    async def endpoint(one=first, two=second):
        return fastapi.Response(f"{one} {two} {ours()} {variable.get()}")

    endpoint.__annotations__.clear()
    assert await ask(guarded(app), "acme") == ["acme acme acme nobody"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are of Python 3.12")
async def test_eager_tasks_leak_nothing():
    """A task that starts at once still has a context of its own."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)

    async def binds():
        with bind_tenant(GLOBEX):
            await asyncio.sleep(0)
            return ours()

    try:
        with bind_tenant(ACME):
            task = asyncio.create_task(binds())
            assert ours() == "acme"
            assert await task == "globex"
        assert await create_clean_task(told()) == "nobody"
    finally:
        loop.set_task_factory(None)


async def test_callbacks_have_the_tenant_they_were_made_for():
    """`call_soon` copies the context; a callback made elsewhere is carried."""
    loop, seen = asyncio.get_running_loop(), []
    with bind_tenant(ACME):
        loop.call_soon(lambda: seen.append(ours()))
        carried = carry_tenant(functools.partial(ours))
    await asyncio.sleep(0)
    with bind_tenant(GLOBEX):
        seen.append(carried())

    assert seen == ["acme", "acme"]


class BindsAroundSend:
    """Binds what the header names around the app, and around the server's calls with it."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Bind, and take it back."""
        name = dict(scope["headers"]).get(b"x-tenant-id")
        with bind_tenant(Tenant(id=name.decode()) if name else current_tenant()):
            await self.app(scope, receive, send)


def seen_outside(app: Any, seen: list[str]) -> Callable[..., Any]:
    """Note the tenant that is bound before *app* is called."""

    async def outside(scope: Any, receive: Any, send: Any) -> None:
        seen.append(ours())
        await app(scope, receive, send)

    return outside


async def upload(request: Any) -> PlainTextResponse:
    """Read the body as it comes, with pauses; answer with the tenant."""
    async for _ in request.stream():
        await asyncio.sleep(0.001)
    return PlainTextResponse(ours())


def request_of(name: str, *, body_bytes: int = 0, last: bool = False) -> bytes:
    """A request of one tenant, as it is on the wire."""
    head = f"POST / HTTP/1.1\r\nhost: x\r\nx-tenant-id: {name}\r\ncontent-length: {body_bytes}\r\n"
    close = "connection: close\r\n" if last else ""
    return f"{head}{close}\r\n".encode() + b"a" * body_bytes


async def converse(port: int, parts: list[bytes]) -> None:
    """Send these parts one after the other on one connection, and read to its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in parts:
        writer.write(part)
        await writer.drain()
        if part is not parts[-1]:
            await reader.readuntil(b"\r\n\r\n")
    await reader.read()
    writer.close()


@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize("way", ["one after the other", "pipelined"])
async def test_the_next_request_of_a_connection_starts_with_nobody(http, way):
    """A server starts it from inside our calls; control: bound around them, it has the last."""
    large = request_of("acme", body_bytes=1_000_000)
    parts = [large, request_of("globex", last=True)]
    if way == "pipelined":
        parts = [request_of("acme") + request_of("globex", last=True)]
    seen: dict[bool, list[str]] = {True: [], False: []}
    app = Starlette(routes=[Route("/", upload, methods=["POST"])])
    for is_ours, inner in ((True, guarded(app)), (False, BindsAroundSend(app))):
        async with running(seen_outside(inner, seen[is_ours]), http=http) as port:
            await converse(port, parts)

    assert seen[True] == ["nobody", "nobody"]
    assert seen[False] == ["nobody", "acme"]
