"""
Attacks 5, 7 and 8: over HTTP, who is counted and under what name.
"""

from __future__ import annotations

import contextlib

import httpx
import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tests.support.quotas import ACME, limiter_of
from twh_platform import bind_tenant
from twh_platform.quotas import ClientAddress, MemoryQuotaStore, QuotaMiddleware, Rate

PROXY = ("10.0.0.1", 443)


async def item(_request):
    """Answer anything."""
    return PlainTextResponse("here it is")


def routes():
    """One template, of many URLs."""
    return [Route("/items/{number}", item)]


def client_of(app, peer="192.0.2.1"):
    """Whoever asks."""
    transport = httpx.ASGITransport(app, client=(peer, 4711))
    return httpx.AsyncClient(transport=transport, base_url="http://shop.test")


def bound(app):
    """As `TenantMiddleware` does it."""

    async def bind(scope, receive, send):
        with bind_tenant(ACME):
            await app(scope, receive, send)

    return bind


SPELLINGS = {
    "numbers": [f"/items/{number}" for number in range(50)],
    "queries": [f"/items/1?page={number}" for number in range(50)],
    "escapes": [f"/items/%{number:02x}" for number in range(0x30, 0x62)],
    "methods": [("HEAD", f"/items/{number}") for number in range(50)],
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("scope", ["route", "client"])
async def test_05_spells_an_address_anew_each_time(scope, spelling, slowapi, twh_attack):
    """What is counted is the template of the route."""
    attack = twh_attack(
        number=5, title="asks for another URL each time", form=f"{spelling}, by {scope}"
    )
    naive = slowapi.Limiter(key_func=slowapi.util.get_remote_address)
    limited = naive.limit("5/minute")(_item_of_slowapi)
    app = Starlette(routes=[Route("/items/{number}", limited)])
    app.state.limiter = naive
    app.add_exception_handler(
        slowapi.errors.RateLimitExceeded, slowapi._rate_limit_exceeded_handler
    )
    attack.control(await served(client_of(app), SPELLINGS["numbers"]) - 5)

    rule = Rate(name="x", limit=5, per=86_400, scope=scope, routes=("/items/{number}",))
    ours = QuotaMiddleware(
        Starlette(routes=routes()),
        limiter=limiter_of(MemoryQuotaStore(), rule),
        client_address=ClientAddress(),
    )
    attack.ours(await served(client_of(bound(ours)), SPELLINGS[spelling]) - 5)


async def _item_of_slowapi(request: Request):
    return PlainTextResponse("here it is")


async def served(client, paths, headers=None):
    """How many of these requests were served."""
    count = 0
    async with client:
        for path in paths:
            method, path = path if isinstance(path, tuple) else ("GET", path)  # noqa: PLW2901
            answer = await client.request(method, path, headers=headers)
            count += answer.status_code == httpx.codes.OK
    return count


def ours_by_address(**options):
    """Two requests a minute for each address."""
    rule = Rate(name="x", limit=2, per=60, scope="client")
    return QuotaMiddleware(
        Starlette(routes=routes()),
        limiter=limiter_of(MemoryQuotaStore(), rule),
        client_address=ClientAddress(**options),
    )


async def test_07_uses_up_what_is_of_all(fastapi_limiter, pyrate_limiter, twh_attack):
    """Each client has its own; and whoever is refused is told when to come again."""
    attack = twh_attack(number=7, title="uses up what all clients share")
    naive = app_of_fastapi_limiter(fastapi_limiter, pyrate_limiter)
    others = [f"203.0.113.{number}" for number in range(10)]
    refused = []
    for app in (naive, ours_by_address()):
        await served(client_of(app, "1.1.1.1"), ["/items/1"] * 3)
        got = [await served(client_of(app, one), ["/items/1"]) for one in others]
        refused.append(got.count(0))

        async with client_of(app, "1.1.1.1") as client:
            answer = await client.get("/items/1")
        assert answer.status_code == httpx.codes.TOO_MANY_REQUESTS

    attack.control(refused[0])
    attack.ours(refused[1])
    assert int(answer.headers["retry-after"]) >= 1


def app_of_fastapi_limiter(fastapi_limiter, pyrate_limiter):
    """The example of its README."""
    rate = pyrate_limiter.Rate(2, pyrate_limiter.Duration.MINUTE)
    limiter = fastapi_limiter.depends.RateLimiter(limiter=pyrate_limiter.Limiter(rate))
    app = FastAPI()

    @app.get("/items/{number}", dependencies=[Depends(limiter)])
    async def item(number: int):
        return number

    return app


FORWARDED = {
    "from anywhere": ({}, "192.0.2.1", "x-forwarded-for", "{}"),
    "before our proxy's own": (
        {"trusted_proxies": ["10.0.0.0/8"]},
        PROXY[0],
        "x-forwarded-for",
        "{}, 192.0.2.1",
    ),
    "as another proxy of ours": (
        {"trusted_proxies": ["10.0.0.0/8"]},
        PROXY[0],
        "x-forwarded-for",
        "{}, 10.0.0.9x, 192.0.2.1",
    ),
    "in the other header": (
        {"trusted_proxies": ["10.0.0.0/8"]},
        PROXY[0],
        "forwarded",
        "for={}",
    ),
    "as addresses of one network": (
        {"trusted_proxies": ["10.0.0.0/8"]},
        PROXY[0],
        "x-forwarded-for",
        "2001:db8:1:2::{}",
    ),
    "with ports": (
        {"trusted_proxies": ["10.0.0.0/8"]},
        PROXY[0],
        "x-forwarded-for",
        "192.0.2.1:1{}",
    ),
}


def naive_by_forwarded(limit):
    """As in the README of fastapi-limiter: by the first element, whoever wrote it."""
    counts = {}

    async def app(scope, receive, send):
        request = Request(scope)
        names = request.headers.get("x-forwarded-for") or request.headers.get("forwarded")
        name = names.split(",")[0]
        counts[name] = counts.get(name, 0) + 1
        status = 200 if counts[name] <= limit else 429
        await PlainTextResponse("", status_code=status)(scope, receive, send)

    return app


@pytest.mark.parametrize("form", FORWARDED)
async def test_07_calls_itself_another_each_time(form, twh_attack):
    """A forwarded header is believed as far as a listed proxy wrote it."""
    attack = twh_attack(number=7, title="calls itself another address each time", form=form)
    options, peer, header, template = FORWARDED[form]
    got = []
    for app in (naive_by_forwarded(2), ours_by_address(**options)):
        count = 0
        for number in range(20):
            headers = {header: template.format(number + 1)}
            count += await served(client_of(app, peer), ["/items/1"], headers)
        got.append(count - 2)

    attack.control(got[0])
    attack.ours(got[1])


async def test_08_writes_a_header_that_no_proxy_sends(slowapi, twh_attack):
    """A name with an underscore is not read, nor accepted as an option."""
    attack = twh_attack(number=8, title="writes a header that no proxy sends")
    address = ClientAddress(trusted_proxies=["10.0.0.0/8"])
    theirs, ours = set(), set()
    for number in range(20):
        raw = [(b"x_forwarded_for", f"198.51.100.{number}".encode())]
        for peer in ("192.0.2.1", "10.0.0.1"):
            scope = {"type": "http", "client": (peer, 4711), "headers": raw}
            theirs.add(slowapi.util.get_ipaddr(Request(scope)))
            ours.add(address(scope))

    attack.control(len(theirs) - 2)
    with contextlib.suppress(ValueError):
        ClientAddress(header="x_forwarded_for")
        ours.add("an option")
    attack.ours(ours - {"192.0.2.1", "10.0.0.1"})
