"""
Attacks 40 to 47: the tenant of one request in the work of another.

The control is the way that is found in most services: a variable of the module
or of the thread, a context variable that is set and not taken back.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import asyncpg
import fastapi
import httpx
import psycopg
import psycopg_pool
import pytest
import websockets
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute

from tests.attacks._shop import APP, A, B, secrets
from tests.integration.tenancy import test_context as contexts
from tests.support.serving import running
from tests.support.tenancy import exchange, http_scope, name_tenant
from twh_platform.errors import EnvelopeError, TenantSuspendedError
from twh_platform.tenancy import (
    HeaderResolver,
    MemoryTenantDirectory,
    Tenant,
    TenantEnvelopes,
    TenantExecutor,
    TenantMiddleware,
    bind_tenant,
    carry_tenant,
    create_clean_task,
    current_tenant,
    renew_lease,
)
from twh_platform.tenancy import _context as leases
from twh_platform.tenancy.postgres import asyncpg as tenant_asyncpg
from twh_platform.tenancy.postgres import psycopg as tenant_psycopg
from twh_platform.testing import ManualClock

C = Tenant(id="c")
JOBS = [A, B, C]


def who() -> str:
    """The id of the current tenant."""
    tenant = current_tenant()
    return tenant.id if tenant else "nobody"


def strangers(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Of pairs of who asked and as whom it ran, those where another tenant's was used."""
    return [(asked, ran) for asked, ran in pairs if ran not in {asked, "nobody"}]


Start = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


@pytest.mark.parametrize("form", ["jobs bind", "jobs bind nothing"])
async def test_40_starts_the_worker_that_all_share(twh_attack, form):
    """A task keeps the context of whoever starts it, and this one is started by a."""
    attack = twh_attack(number=40, title="starts the worker that then works for all", form=form)
    envelopes = TenantEnvelopes(SECRET)

    async def worker(queue: asyncio.Queue[Any], ran: list[Any], *, sealed: bool) -> None:
        while (job := await queue.get()) is not None:
            asked, token = job
            with envelopes.open(token, audience="jobs") if sealed else contextlib.nullcontext():
                ran.append((asked, who()))

    async def work(start: Start, *, sealed: bool) -> list[tuple[str, str]]:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        ran: list[tuple[str, str]] = []
        task = None
        for tenant in JOBS:
            with bind_tenant(tenant):
                task = task or start(worker(queue, ran, sealed=sealed))
                queue.put_nowait((tenant.id, envelopes.seal(audience="jobs")))
        queue.put_nowait(None)
        assert task is not None
        await task
        return ran

    attack.control(strangers(await work(asyncio.create_task, sealed=False)))
    ran = await work(create_clean_task, sealed=form == "jobs bind")
    attack.ours(strangers(ran))
    assert {one for _, one in ran} == ({"a", "b", "c"} if form == "jobs bind" else {"nobody"})


SECRET = b"a secret of the service, thirty-two bytes"


@pytest.mark.parametrize("form", ["written", "edited", "other key", "other audience"])
def test_40_writes_a_job_for_another_tenant(twh_attack, form):
    """Whoever can write to the queue can name a tenant, and cannot sign for it."""
    attack = twh_attack(number=40, title="writes a job that names another tenant", form=form)
    envelopes, strange = TenantEnvelopes(SECRET), TenantEnvelopes(b"\0" * 32)
    with bind_tenant(A):
        edited = envelopes.seal(audience="jobs")
    with bind_tenant(B):
        other_key, elsewhere = strange.seal(audience="jobs"), envelopes.seal(audience="mails")
    half = len(edited) // 2
    flipped = edited[:half] + ("A" if edited[half] != "A" else "B") + edited[half + 1 :]
    tokens = {
        "written": "b",
        "edited": flipped,
        "other key": other_key,
        "other audience": elsewhere,
    }

    def run_job(job: str) -> int:
        with contextlib.suppress(EnvelopeError), envelopes.open(job, audience="jobs"):
            return 1
        return 0

    def run_naive_job(job: dict[str, str]) -> int:
        with bind_tenant(Tenant(id=job["tenant_id"])):
            return who() == "b"

    attack.control(run_naive_job({"tenant_id": "b"}))
    attack.ours(run_job(tokens[form]))


@pytest.mark.parametrize("form", ["task", "thread", "nested bind"])
async def test_41_works_on_after_its_suspension(twh_attack, form):
    """A task that outlives its request has the tenant until the lease is over."""
    attack = twh_attack(number=41, title="works on in a task after it was suspended", form=form)
    clock, gate, tasks = ManualClock(), asyncio.Event(), []

    async def later() -> int:
        await gate.wait()
        with contextlib.suppress(TenantSuspendedError):
            if form == "thread":
                return await asyncio.to_thread(who) == "b"
            with bind_tenant(B) if form == "nested bind" else contextlib.nullcontext():
                return who() == "b"
        return 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        tasks.append(asyncio.create_task(later()))
        await name_tenant(scope, receive, send)

    for lease in (None, 60.0):
        directory = MemoryTenantDirectory([B])
        options = {"resolver": HeaderResolver(decides=True), "directory": directory, "lease": lease}
        served = TenantMiddleware(app, lease_clock=clock.monotonic, **options)
        answer = await exchange(served, http_scope("/", ("x-tenant-id", "b")))
        assert answer.body == b"b"
        directory.put(Tenant(id="b", status="suspended"))
    clock.advance(61)
    gate.set()
    naive, ours = await asyncio.gather(*tasks)
    attack.control(naive)
    attack.ours(ours)


class SlowDirectory:
    """A directory that answers each question when it is told to."""

    def __init__(self) -> None:
        self.questions: list[asyncio.Future[Tenant]] = []

    async def get(self, tenant_id: str) -> Tenant:
        """Ask, and wait."""
        self.questions.append(asyncio.get_running_loop().create_future())
        return await self.questions[-1]


def naive_end(lease: leases.Lease) -> None:
    """The control: the lease does not remember that it was ended."""
    lease.ends_at = lease.renew_at = float("-inf")


@pytest.mark.parametrize("form", ["seconds later", "at the same moment"])
async def test_41_is_revived_by_an_answer_that_is_late(twh_attack, form, monkeypatch):
    """Two ask whether b is served; the older question is answered after the refusal."""
    attack = twh_attack(number=41, title="has an old answer revive it after its end", form=form)
    step = 1 if form == "seconds later" else 0

    async def served() -> int:
        directory, clock, asked = SlowDirectory(), ManualClock(), []
        with bind_tenant(B, lease=60.0, clock=clock.monotonic):
            for _ in range(2):
                asked.append(asyncio.create_task(renew_lease(directory)))
                await asyncio.sleep(0)
                clock.advance(step)
            directory.questions[1].set_result(Tenant(id="b", status="suspended"))
            await asyncio.wait(asked[1:])
            directory.questions[0].set_result(B)
            await asyncio.gather(*asked, return_exceptions=True)
            with contextlib.suppress(TenantSuspendedError):
                return who() == "b"
        return 0

    attack.ours(await served())
    monkeypatch.setattr(leases.Lease, "end", naive_end)
    attack.control(await served())


def setting() -> str:
    """The statement that binds a session, as it is found in many a pool's callback."""
    return f"SELECT set_config('app.tenant_id', '{who()}', false)"


@contextlib.asynccontextmanager
async def psycopg_pool_of(dsn: str, *, bound: bool, callback: str) -> Any:
    """A pool that binds in a callback."""

    async def bind(connection: Any) -> None:
        await connection.execute(setting())
        await connection.commit()

    kind: Any = tenant_psycopg.AsyncTenantConnection if bound else psycopg.AsyncConnection
    options = {callback: bind, "connection_class": kind, "open": False}
    async with psycopg_pool.AsyncConnectionPool(dsn, min_size=1, max_size=1, **options) as pool:

        async def read(sql: str) -> list[Any]:
            async with pool.connection() as connection:
                return await (await connection.execute(sql)).fetchall()

        yield read


@contextlib.asynccontextmanager
async def asyncpg_pool_of(dsn: str, *, bound: bool, callback: str) -> Any:
    """The same with asyncpg, which resets nothing."""

    async def bind(connection: Any) -> None:
        await connection.execute(setting())

    async def reset(_connection: Any) -> None:
        pass

    kind = tenant_asyncpg.TenantConnection if bound else asyncpg.Connection
    options = {callback: bind, "connection_class": kind, "reset": reset}
    async with asyncpg.create_pool(dsn, min_size=1, max_size=1, **options) as pool:

        async def read(sql: str) -> list[Any]:
            async with pool.acquire() as connection, connection.transaction():
                return await connection.fetch(sql)

        yield read


CALLBACKS = {
    "psycopg_pool configure": (psycopg_pool_of, "configure"),
    "psycopg_pool reset": (psycopg_pool_of, "reset"),
    "asyncpg init": (asyncpg_pool_of, "init"),
}


@pytest.mark.parametrize("form", CALLBACKS)
async def test_42_opens_the_pool_whose_callback_binds(shop, twh_attack, form):
    """Callbacks of a pool run as whoever opened it, here b; then come a and nobody."""
    attack = twh_attack(number=42, title="opens the pool whose callback binds", form=form)
    make, callback = CALLBACKS[form]
    shop.plant_naive()

    async def stolen(table: str, *, bound: bool) -> int:
        count = 0
        async with contextlib.AsyncExitStack() as stack:
            with bind_tenant(B):
                pool = make(shop.database.dsn(user=APP), bound=bound, callback=callback)
                read = await stack.enter_async_context(pool)
                await read("SELECT 1")
            for tenant in (A, None):
                with bind_tenant(tenant), contextlib.suppress(psycopg.Error, asyncpg.PostgresError):
                    count += secrets(map(tuple, await read(f"SELECT body FROM {table}")))
        return count

    attack.control(await stolen("naive", bound=False))
    attack.ours(await stolen("orders", bound=True))


@pytest.mark.parametrize("form", ["submit", "run_in_executor"])
async def test_43_leaves_its_tenant_in_a_thread(twh_attack, form):
    """A thread of a pool serves many; what one leaves in it the next one finds."""
    attack = twh_attack(number=43, title="leaves its tenant in a thread of a pool", form=form)
    local, loop = threading.local(), asyncio.get_running_loop()

    def naive(tenant: str | None) -> str:
        if tenant:  # jobs without a tenant do not take it back
            local.tenant = tenant
        return getattr(local, "tenant", "nobody")

    with ThreadPoolExecutor(1) as pool:
        ours = TenantExecutor(pool)
        control, seen = [], []
        for tenant in (B, None, A, None):
            with bind_tenant(tenant):
                name = who()
                control.append((name, pool.submit(naive, tenant and tenant.id).result()))
                if form == "submit":
                    seen.append((name, ours.submit(who).result()))
                else:
                    seen.append((name, await loop.run_in_executor(pool, carry_tenant(who))))

    attack.control(strangers(control))
    attack.ours(strangers(seen))
    assert [ran for _, ran in seen] == ["b", "nobody", "a", "nobody"]


def test_43_starts_the_thread_that_all_share(twh_attack):
    """A thread may inherit the context of whoever starts it (free-threaded Python 3.14)."""
    attack = twh_attack(number=43, title="starts the thread that then works for all")
    inherit = bind_tenant(B).__enter__  # what such a thread begins with, for ever

    with ThreadPoolExecutor(1, initializer=inherit) as pool:
        ours, control, seen = TenantExecutor(pool), [], []
        for tenant in (A, C, None):
            with bind_tenant(tenant):
                control.append((who(), pool.submit(who).result()))
                seen.append((who(), ours.submit(who).result()))

    attack.control(strangers(control))
    attack.ours(strangers(seen))


@pytest.mark.skipif(
    bool(getattr(sys.flags, "thread_inherit_context", 0)), reason="threads of this Python inherit"
)
async def test_43_finds_a_tenant_in_a_plain_thread(twh_attack):
    """Executors and threads start without a context: nothing is carried by accident."""
    attack = twh_attack(number=43, title="finds a tenant in a plain thread", kind="fact")
    loop, seen = asyncio.get_running_loop(), []
    with bind_tenant(B), ThreadPoolExecutor(1) as pool:
        seen.append(await loop.run_in_executor(pool, who))
        thread = threading.Thread(target=lambda: seen.append(who()))
        thread.start()
        thread.join()

    attack.ours([one for one in seen if one != "nobody"])


async def test_44_ends_a_generator_in_another_task(twh_attack):
    """A context variable cannot be reset there, so the control goes on as b."""
    attack = twh_attack(number=44, title="ends a generator in another task than it began in")
    variable: ContextVar[str] = ContextVar("variable", default="nobody")

    async def naive() -> Any:
        token = variable.set("b")
        yield
        variable.reset(token)

    async def ours() -> Any:
        with bind_tenant(B):
            yield

    async def end(generator: Any) -> tuple[str, str]:
        with contextlib.suppress(ValueError):
            async for _ in generator:
                pass
        return variable.get(), who()

    async def begin(generator: Any) -> tuple[str, str]:
        await anext(generator)
        return await asyncio.create_task(end(generator))

    attack.control(strangers([("a", (await asyncio.create_task(begin(naive())))[0])]))
    attack.ours(strangers([("a", (await asyncio.create_task(begin(ours())))[1])]))


async def test_44_yields_while_it_is_bound(twh_attack):
    """What a generator binds its caller sees, until it goes on: bind around the loop."""
    attack = twh_attack(number=44, title="yields to its caller while it is bound", kind="residual")

    async def rows() -> Any:
        with bind_tenant(B):
            yield

    with bind_tenant(A):
        generator = rows()
        await anext(generator)
        attack.ours(strangers([("a", who())]))
        await generator.aclose()


async def test_44_is_served_without_its_tenant_by_a_dependency(twh_attack):
    """What a plain dependency sets in its thread the endpoint does not see."""
    attack = twh_attack(number=44, title="is served unbound where a sync dependency binds")
    variable: ContextVar[str] = ContextVar("variable", default="nobody")

    def dependency() -> Any:
        variable.set("a")
        yield

    app = fastapi.FastAPI(dependencies=[fastapi.Depends(dependency)])

    @app.get("/")
    async def endpoint() -> Any:
        return fastapi.Response(f"{variable.get()} {who()}")

    [answer] = await contexts.ask(contexts.guarded(app), "acme")
    naive, ours = answer.split()
    attack.control([one for one in (naive,) if one == "nobody"])
    attack.ours([one for one in (ours,) if one != "acme"])


async def test_45_changes_the_value_that_others_see(twh_attack):
    """A child task has a context of its own, and the same objects in it."""
    attack = twh_attack(number=45, title="changes the tenant that its parent task sees")
    shared: ContextVar[dict[str, str]] = ContextVar("shared")
    shared.set({"id": "a"})

    async def child() -> None:
        shared.get()["id"] = "b"
        tenant: Any = current_tenant()
        for change in (
            lambda: setattr(tenant, "id", "b"),
            lambda: tenant.attributes.update(id="b"),
            lambda: tenant.__dict__.update(id="b"),
        ):
            with contextlib.suppress(AttributeError, TypeError):
                change()
        bind_tenant(B).__enter__()

    with bind_tenant(A):
        await asyncio.create_task(child())
        attack.control(strangers([("a", shared.get()["id"])]))
        attack.ours(strangers([("a", who())]))
        assert not A.attributes


async def test_46_binds_at_start_up(twh_attack):
    """What lifespan binds reaches no request; the module's variable reaches all."""
    attack = twh_attack(number=46, title="has what start-up binds served to requests")
    naive = {"tenant": "nobody"}

    @contextlib.asynccontextmanager
    async def lifespan(_app: Any) -> Any:
        naive["tenant"] = "globex"
        with bind_tenant(contexts.GLOBEX):
            yield

    async def endpoint(_request: Any) -> PlainTextResponse:
        return PlainTextResponse(f"{naive['tenant']} {who()}")

    app = Starlette(routes=[Route("/", endpoint)], lifespan=lifespan)
    async with running(contexts.guarded(app), lifespan="on") as port, httpx.AsyncClient() as http:
        headers = {"x-tenant-id": "acme"}
        answer = await http.get(f"http://127.0.0.1:{port}/", headers=headers)
    seen = answer.text.split()
    attack.control(strangers([("acme", seen[0])]))
    attack.ours(strangers([("acme", seen[1])]))


async def test_46_comes_by_websocket(twh_attack):
    """`BaseHTTPMiddleware` passes websockets on unseen, so its guard is not asked."""
    attack = twh_attack(number=46, title="comes by websocket, past middleware that guards http")

    async def endpoint(websocket: Any) -> None:
        await websocket.accept()
        await websocket.send_text("in")
        await websocket.close()

    async def refuse(_request: Any, _call_next: Any) -> PlainTextResponse:
        return PlainTextResponse("refused", status_code=403)

    async def entered(app: Any) -> int:
        async with running(app) as port:
            headers = {"x-tenant-id": "nobody-knows"}
            url = f"ws://127.0.0.1:{port}/"
            with contextlib.suppress(websockets.InvalidStatus):
                async with websockets.connect(url, additional_headers=headers) as socket:
                    return await socket.recv() == "in"
        return 0

    app = Starlette(routes=[WebSocketRoute("/", endpoint)])
    attack.control(await entered(BaseHTTPMiddleware(app, dispatch=refuse)))
    attack.ours(await entered(contexts.guarded(app)))


@pytest.mark.parametrize("form", ["stream", "background task", "child task"])
async def test_46_overlaps_with_requests_of_others(twh_attack, form):
    """Three tenants in the same place at the same time; the control mixes them up."""
    attack = twh_attack(number=46, title="overlaps with requests of others", form=form)
    meeting, seen = contexts.Meeting(3), []
    contexts.naive["tenant"] = None

    async def note(name: str) -> None:
        await meeting.wait()
        seen.append((name, contexts.theirs(), who()))

    async def chunks(name: str) -> Any:
        await note(name)
        yield ""

    async def endpoint(request: Any) -> Any:
        name = request.headers["x-tenant-id"]
        if form == "stream":
            return StreamingResponse(chunks(name))
        if form == "background task":
            return PlainTextResponse("", background=BackgroundTask(note, name))
        await asyncio.create_task(note(name))
        return PlainTextResponse("")

    await contexts.ask(contexts.serving(endpoint), *contexts.NAMES)
    attack.control(strangers([(name, naive) for name, naive, _ in seen]))
    attack.ours([(name, ours) for name, _, ours in seen if ours != name])
    assert len(seen) == 3


WAYS_OUT = [RuntimeError, asyncio.CancelledError, GeneratorExit, SystemExit, KeyboardInterrupt]


def test_47_leaves_by_an_exception(twh_attack):
    """Set without a `finally`, the tenant stays for whoever comes next."""
    attack = twh_attack(number=47, title="leaves its tenant behind by an exception")
    variable: ContextVar[str] = ContextVar("variable", default="nobody")
    control, seen = [], []

    def serve(error: type[BaseException]) -> None:
        variable.set("b")
        with bind_tenant(B):
            raise error

    for error in WAYS_OUT:
        with contextlib.suppress(error):
            serve(error)
        control.append(("nobody", variable.get()))
        seen.append(("nobody", who()))
    attack.control(strangers(control))
    attack.ours(strangers(seen))


def test_47_comes_back_from_a_nested_tenant(twh_attack):
    """Work for another tenant within a request; the control sets nobody afterwards, or it."""
    attack = twh_attack(number=47, title="goes on as the tenant that was nested")
    variable: ContextVar[str] = ContextVar("variable", default="nobody")
    control, seen = [], []

    def nested(name: str) -> None:
        variable.set(name)

    variable.set("a")
    with bind_tenant(A):
        for inner in (B, C):
            nested(inner.id)
            with bind_tenant(inner), bind_tenant(None), bind_tenant(inner):
                pass
            control.append(("a", variable.get()))
            seen.append(("a", who()))
    attack.control(strangers(control))
    attack.ours(strangers(seen))
    assert [ran for _, ran in seen] == ["a", "a"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are of Python 3.12")
async def test_47_starts_eagerly(twh_attack):
    """A task that runs at once, on its caller's stack, still has a context of its own."""
    attack = twh_attack(number=47, title="binds in an eager task", kind="fact")
    loop, variable = asyncio.get_running_loop(), ContextVar("variable", default="nobody")

    async def binds() -> None:
        variable.set("b")
        with bind_tenant(B):
            await asyncio.sleep(0)

    loop.set_task_factory(asyncio.eager_task_factory)
    try:
        with bind_tenant(A):
            task = asyncio.create_task(binds())
            attack.ours(strangers([("a", who()), ("nobody", variable.get())]))
            await task
    finally:
        loop.set_task_factory(None)
