"""
Hostile requests over a real socket: a stable refusal, never another tenant (gate G7).

The bytes are sent as they are, because a client library would mend them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest

from tests.support.serving import running
from tests.support.tenancy import AUDIENCE, ISSUER, SECRET, heard, name_tenant, payload
from twh_platform.tenancy import (
    Agreement,
    HeaderResolver,
    HostResolver,
    MemoryTenantDirectory,
    PathResolver,
    Tenant,
    TenantMiddleware,
    TenantRefused,
)
from twh_platform.tenancy.jwt import JWTResolver

APP = TenantMiddleware(
    name_tenant,
    resolver=Agreement(
        JWTResolver(keys=SECRET, algorithms=["HS256"], audience=AUDIENCE, issuer=ISSUER),
        HeaderResolver(),
        HostResolver("{tenant}.example.com"),
        PathResolver("/t/{tenant}"),
        member=lambda user_id, tenant_id: (user_id, tenant_id) == ("user-1", "acme"),
    ),
    directory=MemoryTenantDirectory(
        [Tenant(id="acme"), Tenant(id="globex"), Tenant(id="held", status="suspended")]
    ),
    public_paths=["/healthz", "/docs/*"],
)


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """The app on a real server."""
    async with running(APP, log_level="critical", http="h11") as number:
        yield number


def bearer(**changes: Any) -> bytes:
    """An Authorization header with a good token, but for the changes."""
    return b"Authorization: Bearer " + jwt.encode(payload(**changes), SECRET, "HS256").encode()


async def send(
    port: int, target: bytes, *headers: bytes, host=b"localhost"
) -> tuple[int, str, str]:
    """Send one request; return status, content type and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [b"GET " + target + b" HTTP/1.1", b"Host: " + host, *headers, b"Connection: close"]
    writer.write(b"\r\n".join(lines) + b"\r\n\r\n")
    async with asyncio.timeout(10):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    kind = "problem" if b"application/problem+json" in head else ""
    return int(head.split()[1]), kind, body.decode()


async def test_the_good_request_is_served(port):
    """Control for all that follow: every source agrees."""
    served = await send(
        port, b"/t/acme/items?x=1", bearer(), b"X-Tenant-ID: acme", host=b"ACME.example.com:80"
    )

    assert served == (200, "", "acme")


REFUSED = {
    "no credentials": (b"/items", [], 401, "credentials_missing"),
    "a bare header": (b"/items", [b"X-Tenant-ID: acme"], 401, "tenant_undecided"),
    "a bare path": (b"/t/acme/items", [], 401, "tenant_undecided"),
    "another header": (
        b"/items",
        [bearer(), b"X-Tenant-ID: globex"],
        403,
        "tenant_sources_disagree",
    ),
    "another path": (b"/t/globex/items", [bearer()], 403, "tenant_sources_disagree"),
    "a header twice": (
        b"/items",
        [bearer(), b"X-Tenant-ID: acme", b"X-Tenant-ID: globex"],
        403,
        "tenant_header_repeated",
    ),
    "a header twice in case": (
        b"/items",
        [bearer(), b"X-Tenant-ID: acme", b"x-tenant-id: acme"],
        403,
        "tenant_header_repeated",
    ),
    "a list in a header": (
        b"/items",
        [bearer(), b"X-Tenant-ID: acme, globex"],
        403,
        "tenant_id_invalid",
    ),
    "an over-long id": (
        b"/items",
        [bearer(), b"X-Tenant-ID: " + b"a" * 65],
        403,
        "tenant_id_invalid",
    ),
    "a huge id": (
        b"/items",
        [bearer(), b"X-Tenant-ID: " + b"a" * 30_000],
        403,
        "tenant_id_invalid",
    ),
    "a Cyrillic id": (
        b"/items",
        [bearer(), b"X-Tenant-ID: " + "\u0430cme".encode()],
        403,
        "tenant_id_invalid",
    ),
    "a Latin-1 id": (b"/items", [bearer(), b"X-Tenant-ID: acm\xe9"], 403, "tenant_id_invalid"),
    "two tokens": (b"/items", [bearer(), bearer()], 401, "token_repeated"),
    "an expired token": (b"/items", [bearer(exp=1)], 401, "token_expired"),
    "another audience": (b"/items", [bearer(aud="billing")], 401, "token_audience"),
    "a stranger's membership": (b"/items", [bearer(sub="user-2")], 403, "tenant_not_member"),
    "a foreign tenant": (b"/items", [bearer(tenant_id="globex")], 403, "tenant_not_member"),
    "an encoded slash": (b"/t/acme%2fglobex", [bearer()], 403, "tenant_path_invalid"),
    "an encoded tenant": (b"/t/%61cme/x", [bearer()], 403, "tenant_path_invalid"),
    "an encoded NUL": (b"/t/acme%00/x", [bearer()], 403, "tenant_id_invalid"),
    "dots in the path": (b"/t/acme/../globex/x", [bearer()], 403, "tenant_path_invalid"),
    "encoded dots": (b"/t/acme/%2e%2e/globex", [bearer()], 403, "tenant_path_invalid"),
    "an empty segment": (b"/t//acme", [bearer()], 403, "tenant_id_invalid"),
    "a path that looks public": (b"/healthz-secret", [], 401, "credentials_missing"),
    "a doubled slash": (b"//healthz", [], 401, "credentials_missing"),
    "an encoded public path": (b"/%68ealthz", [], 401, "credentials_missing"),
    "out of a public subtree": (b"/docs/../items", [], 401, "credentials_missing"),
    "out of it, encoded": (b"/docs/%2e%2e%2fitems", [], 401, "credentials_missing"),
    "an absolute target": (b"http://x/healthz", [], 401, "credentials_missing"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_hostile_requests_are_refused(name, port):
    """With the uniform answer for its kind, and a stable code for us."""
    target, headers, status, code = REFUSED[name]
    with heard(TenantRefused) as signals:
        got, kind, body = await send(port, target, *headers)

    assert (got, kind) == (status, "problem")
    assert json.loads(body)["code"] == {401: "credentials_invalid", 403: "tenant_refused"}[status]
    assert [signal.code for signal in signals] == [code]


@pytest.mark.parametrize(
    ("host", "code"),
    [
        (b"globex.example.com", "tenant_sources_disagree"),
        (b"xn--cme-7na.example.com", "tenant_host_invalid"),
        (b"acme.example.com@evil", "tenant_host_invalid"),
        (b"acme.example.com:80:81", "tenant_host_invalid"),
    ],
)
async def test_hostile_hosts_are_refused(host, code, port):
    """The token alone would have been served."""
    with heard(TenantRefused) as signals:
        status, kind, _body = await send(port, b"/items", bearer(), host=host)

    assert (status, kind) == (403, "problem")
    assert [signal.code for signal in signals] == [code]


@pytest.mark.parametrize(
    "header", [b"X-Tenant-ID: ac\x00me", b"X-Tenant-ID: ac\rme", b"X-Tenant\x00: acme"]
)
async def test_what_the_server_refuses_does_not_reach_us(header, port):
    """NUL and bare CR in a header are refused before the app."""
    with heard(TenantRefused) as signals:
        status, _kind, body = await send(port, b"/items", bearer(), header)

    assert status == 400
    assert "acme" not in body
    assert signals == []


async def test_public_paths_are_open(port):
    """Control: what the lookalikes imitate is served, without a tenant."""
    assert await send(port, b"/healthz") == (200, "", "nobody")
    assert await send(port, b"/docs/index.html", b"X-Tenant-ID: acme") == (200, "", "nobody")
