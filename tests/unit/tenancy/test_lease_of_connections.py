"""
What the middleware's lease does to requests, streams, websockets and what outlives them.
"""

from __future__ import annotations

import asyncio
import logging

import pytest

from tests.support.tenancy import Says, exchange, heard, http_scope, respond, websocket_scope
from twh_platform.errors import (
    BackendUnavailableError,
    ConfigurationError,
    TenantSuspendedError,
)
from twh_platform.tenancy import (
    MemoryTenantDirectory,
    Tenant,
    TenantMiddleware,
    TenantRefused,
    bind_tenant,
    current_tenant,
    renew_lease,
    require_tenant,
)
from twh_platform.testing import ManualClock

ACME, SUSPENDED = Tenant(id="acme"), Tenant(id="acme", status="suspended")
LEASE = 60


class Directory(MemoryTenantDirectory):
    """Counts the questions, and may be away."""

    asked = 0
    down = False

    async def get(self, tenant_id):
        """Answer."""
        self.asked += 1
        if self.down:
            raise BackendUnavailableError("away")
        return await super().get(tenant_id)


@pytest.fixture
def clock() -> ManualClock:
    """The clock of the leases."""
    return ManualClock()


@pytest.fixture
def directory() -> Directory:
    """Where acme is served, until a test suspends it."""
    return Directory([ACME])


@pytest.fixture
def serve(clock, directory):
    """Call an app behind the middleware once."""

    async def serve(app, scope=None, *incoming, **options):
        middleware = TenantMiddleware(
            app,
            resolver=Says("acme"),
            directory=directory,
            **{"lease": LEASE, "lease_clock": clock.monotonic, **options},
        )
        return await exchange(middleware, scope or http_scope(), *incoming)

    return serve


def served() -> bool:
    """Whether the tenant can be had."""
    try:
        return current_tenant() is not None
    except TenantSuspendedError:
        return False


def websocket(*texts: str) -> tuple:
    """What a websocket client sends."""
    return (
        {"type": "websocket.connect"},
        *({"type": "websocket.receive", "text": text} for text in texts),
        {"type": "websocket.disconnect", "code": 1000},
    )


@pytest.mark.parametrize(("lease", "outlives"), [(None, True), (LEASE, False)])
async def test_a_task_that_outlives_its_request_loses_its_tenant(clock, serve, lease, outlives):
    """Control: without a lease it has it for ever, suspended or not."""
    go, tasks = asyncio.Event(), []

    async def outlast() -> bool:
        await go.wait()
        return served()

    async def app(scope, receive, send):
        tasks.append(asyncio.create_task(outlast()))
        await respond(send, "started")

    await serve(app, lease=lease)
    clock.advance(LEASE)
    go.set()

    assert await tasks[0] is outlives


async def test_a_short_request_asks_the_directory_once(directory, serve):
    """The lease costs it no second look-up."""

    async def app(scope, receive, send):
        await receive()
        await respond(send, require_tenant().id)

    answer = await serve(app)

    assert (answer.body, directory.asked) == (b"acme", 1)


@pytest.mark.parametrize("silent_for", [LEASE / 2 - 1, LEASE / 2, LEASE * 10])
async def test_a_websocket_that_talks_keeps_its_tenant(clock, directory, serve, silent_for):
    """From half of the lease on a message asks again, also long after its end."""
    seen = []

    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        clock.advance(silent_for)
        await receive()
        seen.append(served())

    await serve(app, websocket_scope(), *websocket("hello"))

    assert seen == [True]
    assert directory.asked == (1 if silent_for < LEASE / 2 else 2)


async def test_a_websocket_of_a_suspended_tenant_is_closed(clock, directory, serve):
    """The app gets none of its messages, and the client learns no reason."""

    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        clock.advance(LEASE)
        directory.put(SUSPENDED)
        await receive()
        pytest.fail("the app was given a message")

    with heard(TenantRefused) as refused:
        answer = await serve(app, websocket_scope(), *websocket("hello"))

    assert answer.messages[1:] == [{"type": "websocket.close", "code": 1008}]
    assert [signal.code for signal in refused] == ["tenant_suspended"]


async def test_a_websocket_that_is_not_accepted_yet_is_refused(clock, directory, serve):
    """Though the app has received its connect already."""

    async def app(scope, receive, send):
        await receive()
        clock.advance(LEASE)
        directory.put(SUSPENDED)
        await send({"type": "websocket.accept"})

    answer = await serve(app, websocket_scope())

    assert [message["type"] for message in answer.messages] == ["websocket.close"]


async def test_a_disconnect_reaches_the_app(clock, directory, serve):
    """Whatever the directory says: it is there to tidy up."""
    seen = []

    async def app(scope, receive, send):
        await receive()
        clock.advance(LEASE)
        directory.put(SUSPENDED)
        seen.append((await receive())["type"])

    await serve(app, websocket_scope(), *websocket())

    assert seen == ["websocket.disconnect"]


async def test_a_stream_of_a_suspended_tenant_breaks_off(clock, directory, serve, caplog):
    """The error reaches the server, which cuts the connection: no end that looks like one."""
    caplog.set_level(logging.INFO, "twh_platform.tenancy")
    bodies = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(5):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            bodies.append(number)
            clock.advance(LEASE / 4)
            if number == 2:
                directory.put(SUSPENDED)

    with pytest.raises(TenantSuspendedError):
        await serve(app)

    assert bodies == [0, 1, 2, 3]
    assert "tenant_suspended" in caplog.text


async def test_an_answer_that_has_not_begun_is_a_refusal(clock, directory, serve):
    """The same as if the request had come now, whatever the app made of the error."""

    async def app(scope, receive, send):
        clock.advance(LEASE)
        directory.put(SUSPENDED)
        try:
            await respond(send, "the rows of a suspended tenant")
        except TenantSuspendedError as error:
            raise ExceptionGroup("of a framework", [error]) from error

    answer = await serve(app)

    assert (answer.status, answer.json["code"]) == (403, "tenant_refused")


@pytest.mark.parametrize(("silent_for", "status"), [(LEASE / 2, 200), (LEASE, 503)])
async def test_a_directory_that_is_down_is_waited_for(clock, directory, serve, silent_for, status):
    """Until the lease is over; then nobody knows, and the answer says so."""

    async def app(scope, receive, send):
        directory.down = True
        clock.advance(silent_for)
        await respond(send, "done")

    answer = await serve(app)

    assert answer.status == status
    assert directory.asked == 2, "it is asked once, not for every message"


async def test_an_error_of_the_app_is_the_app_s(serve):
    """Only what ends the lease is answered here."""

    async def app(scope, receive, send):
        raise TenantSuspendedError("of the app's own")

    with pytest.raises(TenantSuspendedError, match="own"):
        await serve(app)


async def test_silent_work_renews_its_lease_itself(clock, directory, serve):
    """A request that computes for longer than its lease asks for itself."""
    seen = []

    async def app(scope, receive, send):
        clock.advance(LEASE)
        seen.append(served())
        await renew_lease(directory)
        seen.append(served())
        await respond(send, "done")

    assert (await serve(app)).status == 200
    assert seen == [False, True]


async def test_the_server_does_not_see_the_tenant(clock, directory, serve):
    """What it starts from inside `receive` and `send` keeps what is bound outside."""
    seen = []

    async def app(scope, receive, send):
        await respond(send, "done")

    middleware = TenantMiddleware(app, resolver=Says("acme"), directory=directory)

    async def send(message):
        seen.append(current_tenant())

    with bind_tenant(ACME):
        await middleware(http_scope(), None, send)
    await middleware(http_scope(), None, send)

    assert seen == [ACME, ACME, None, None]


@pytest.mark.parametrize("lease", [0, -1, float("nan")])
def test_a_lease_is_above_zero(lease):
    """Said at the start, not at the first request."""
    with pytest.raises(ConfigurationError, match="lease="):
        TenantMiddleware(None, resolver=Says(None), directory=MemoryTenantDirectory(), lease=lease)
