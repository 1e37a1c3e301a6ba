"""
Gate G7: receiving behind a real server: large bodies, disconnects, lying lengths.
"""

from __future__ import annotations

import asyncio
import gc
import gzip
import threading
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256

import pytest

pytest.importorskip("uvicorn")

from tests.support.serving import PATIENCE, eventually, running
from tests.support.tenancy import heard, http_scope
from tests.support.webhooks import BODY, SECRET, App, deliver, signed_headers
from twh_platform.webhooks import (
    MemoryReplayStore,
    Verifier,
    WebhookMiddleware,
    WebhookRefused,
    WebhookVerified,
)

CHUNK = 65_536
LARGE = 256 * CHUNK


class Hashing:
    """An app that keeps nothing but the hash of what it is given."""

    def __init__(self) -> None:
        self.digests: list[str] = []

    async def __call__(self, scope, receive, send) -> None:
        """Read, hash and answer."""
        digest, more = sha256(), True
        while more:
            message = await receive()
            digest.update(message.get("body", b""))
            more = message.get("more_body", False)
            del message
        self.digests.append(digest.hexdigest())
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})


def large_body() -> AsyncIterator[bytes]:
    """16 MiB, a chunk at a time."""
    return (bytes([at % 251]) * CHUNK for at in range(256))


@pytest.fixture(scope="module")
def large() -> tuple[bytes, str]:
    """The whole of it, and its hash."""
    body = b"".join(large_body())
    return body, sha256(body).hexdigest()


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to the server."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield reader, writer
        finally:
            writer.close()


def head(*more: str, signed: bytes = BODY) -> bytes:
    """A request line and headers."""
    lines = ["POST /hooks/orders HTTP/1.1", "host: localhost", "connection: close", *more]
    lines += [f"{name}: {value}" for name, value in signed_headers(signed)]
    return "\r\n".join([*lines, "", ""]).encode()


async def status_of(reader: asyncio.StreamReader) -> int:
    """The status of the answer."""
    return int((await reader.readline()).split()[1])


async def test_sixteen_mebibytes_in_chunks(large):
    """They arrive whole and unchanged, from a chunked body."""
    body, digest = large
    app = Hashing()
    guarded = WebhookMiddleware(app, SECRET, limit=LARGE, replay=MemoryReplayStore())
    async with running(guarded) as port, connected(port) as (reader, writer):
        writer.write(head("transfer-encoding: chunked", signed=body))
        for piece in large_body():
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        status = await status_of(reader)

    assert (status, app.digests) == (204, [digest])


@pytest.mark.parametrize("spool", [16_384, CHUNK])
async def test_the_memory_is_the_spool_and_little_more(large, spool):
    """At most 64 KiB beyond the spool, and the chunk that the server has just made."""
    body, digest = large
    app = Hashing()
    guarded = WebhookMiddleware(app, Verifier(SECRET), limit=LARGE, spool=spool)
    headers = signed_headers(body)

    async def deliver_large() -> None:
        pieces = large_body()
        left = 256

        async def receive():
            nonlocal left
            left -= 1
            return {"type": "http.request", "body": next(pieces), "more_body": left > 0}

        await guarded(http_scope("/", *headers), receive, ignore)

    await deliver_large()
    gc.collect()
    tracemalloc.start()
    await deliver_large()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert app.digests == [digest, digest]
    assert peak <= spool + 65_536 + CHUNK


async def ignore(message) -> None:
    """A client that does not listen."""


async def test_a_body_over_the_limit_is_cut_off():
    """It is refused while it comes: the sender never gets to send all of it."""
    app = App()
    async with (
        running(WebhookMiddleware(app, SECRET, limit=CHUNK)) as port,
        connected(port) as (reader, writer),
    ):
        writer.write(head("transfer-encoding: chunked"))
        for _ in range(3):
            writer.write(b"%x\r\n%b\r\n" % (CHUNK, bytes(CHUNK)))
        status = await status_of(reader)

    assert (status, app.scopes) == (413, [])


async def test_a_declared_length_over_the_limit_is_refused_before_the_body():
    """The answer is there though nothing of the body was sent."""
    app = App()
    async with (
        running(WebhookMiddleware(app, SECRET, limit=CHUNK)) as port,
        connected(port) as (reader, writer),
    ):
        writer.write(head(f"content-length: {CHUNK + 1}"))
        status = await status_of(reader)

    assert (status, app.scopes) == (413, [])


@pytest.mark.parametrize("good", [True, False], ids=["good", "unsigned"])
@pytest.mark.parametrize("line", ["expect: 100-continue", "x-none: 1"], ids=["asks", "does not"])
async def test_wrong_headers_are_refused_before_the_body(good, line):
    """Nothing of it was sent, and who asked for leave gets it only with good headers."""
    app = App()
    lines = head(line, f"content-length: {len(BODY)}")
    if not good:
        lines = lines.replace(b"webhook-signature", b"x-signature")
    async with running(WebhookMiddleware(app, SECRET)) as port, connected(port) as (reader, writer):
        writer.write(lines)
        if good and line.startswith("x"):
            writer.write(BODY)
        status = await status_of(reader)
        if status == 100:
            await reader.readline()
            writer.write(BODY)
            status = await status_of(reader)

    assert (status, app.bodies) == ((200, [BODY]) if good else (401, []))


@pytest.mark.parametrize("sent", [5, len(BODY)])
async def test_a_sender_that_leaves_in_mid_body(sent):
    """A length that promises more than comes: the app is not called, nothing is claimed."""
    app, store = App(), MemoryReplayStore()
    ended = threading.Event()
    guarded = WebhookMiddleware(app, SECRET, replay=store)

    async def noted(scope, receive, send) -> None:
        await guarded(scope, receive, send)
        ended.set()

    async with running(noted) as port:
        async with connected(port) as (_, writer):
            writer.write(head(f"content-length: {len(BODY) + 1}") + BODY[:sent])
            await writer.drain()
            await asyncio.sleep(0.2)
        await eventually(is_set(ended))

    assert (app.scopes, len(store)) == ([], 0)


def is_set(event: threading.Event):
    """Whether it has happened, as a question to wait for."""

    async def asked() -> bool:
        return event.is_set()

    return asked


async def test_a_length_that_promises_less_than_comes():
    """A part is never verified as the whole."""
    app = App()
    async with running(WebhookMiddleware(app, SECRET)) as port, connected(port) as (reader, writer):
        writer.write(head(f"content-length: {len(BODY) - 1}") + BODY)
        status = await status_of(reader)

    assert (status, app.scopes) == (401, [])


async def test_gzip_stays_as_it_was_sent():
    """What was signed is what was sent, and that is what the app gets."""
    app, packed = App(), gzip.compress(BODY * 100)
    lines = f"content-length: {len(packed)}", "content-encoding: gzip"
    async with running(WebhookMiddleware(app, SECRET)) as port, connected(port) as (reader, writer):
        writer.write(head(*lines, signed=packed) + packed)
        status = await status_of(reader)

    assert (status, app.bodies) == (200, [packed])


async def test_many_senders_at_once():
    """Each gets its own answer, forgers among them."""
    with heard(WebhookRefused, WebhookVerified) as signals:
        async with running(WebhookMiddleware(App(), SECRET, spool=4)) as port:

            async def send(number: int) -> int:
                body = BODY if number % 2 else BODY[::-1]
                async with connected(port) as (reader, writer):
                    writer.write(head(f"content-length: {len(BODY)}") + body)
                    return await status_of(reader)

            statuses = await asyncio.gather(*map(send, range(20)))

    assert statuses == [401, 200] * 10
    assert len(signals) == 20


async def test_a_file_that_cannot_be_written(monkeypatch, tmp_path):
    """The sender is asked to come again, and the app is not called."""
    app = App()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    answer = await deliver(WebhookMiddleware(app, SECRET, spool=4))

    assert (answer.status, app.scopes) == (503, [])
