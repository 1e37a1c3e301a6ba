"""
Webhooks of the warehouse: subscriptions, their secrets, and what is sent with them.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError
from starlette.applications import Starlette

from examples.warehouse.app import create_app
from examples.warehouse.auth import Role
from examples.warehouse.models import TenantRecord, Tier, Webhook, WebhookSecret
from examples.warehouse.problems import Refusal
from examples.warehouse.provisioning import NewUser, provision
from examples.warehouse.webhook_urls import webhook_url
from tests.support.warehouse import PASSWORD, Client, connect
from twh_platform import Tenant, bind_tenant
from twh_platform.errors import WebhookError
from twh_platform.testing import PostgresServer
from twh_platform.webhooks import PROFILES, StandardSecret, Verified, verify

NewTenant = Callable[..., Awaitable[Client]]

NOWHERE = "http://127.0.0.1:9/hooks"
HOOK: dict[str, Any] = {"url": NOWHERE, "events": ["stock.low"]}


@pytest.fixture
def new_tenant(app: Starlette) -> NewTenant:
    """
    A function that returns a client who may do everything in a tenant of its own.
    """

    async def new_tenant(tier: Tier = Tier.ENTERPRISE) -> Client:
        tenant_id = f"hooks-{secrets.token_hex(6)}"
        user = NewUser(email="a@b.example", name="A", password=PASSWORD)
        await provision(app.state.services, TenantRecord(id=tenant_id, tier=tier), [user])
        tokens = app.state.services.tokens
        token = tokens.for_user(tenant_id=tenant_id, user_id=UUID(int=1), role=Role.ADMIN)
        client = connect(app, token)
        client.headers["x-tenant-id"] = tenant_id
        return client

    return new_tenant


async def counted(app: Starlette, user: Client) -> tuple[int, int, int]:
    """
    How many subscriptions and secrets there are, and how many subscriptions were taken.
    """
    services = app.state.services
    with bind_tenant(Tenant(id=user.headers["x-tenant-id"])):
        async with services.app.begin() as db:
            rows = [
                await db.scalar(select(func.count()).select_from(kind))
                for kind in (Webhook, WebhookSecret)
            ]
            levels = await services.quotas.capacity.levels(db)
    return rows[0], rows[1], levels.get("webhooks", 0)


async def subscribed(user: Client, **more: Any) -> dict[str, Any]:
    """
    Add a subscription and return the answer.
    """
    answer = await user.post("/webhooks", json={**HOOK, **more})
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def tried(user: Client, hook: dict[str, Any]) -> dict[str, Any]:
    """
    Have the test event sent and return the answer.
    """
    answer = await user.post(f"/webhooks/{hook['id']}/test")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def checked(sent: dict[str, Any], secret: str, profile: str = "standard") -> Verified:
    """
    Verify what was sent, as a receiver does.
    """
    body, headers = sent["sent"]["body"].encode(), headers_of(sent)
    return verify(body, headers, StandardSecret(secret), profile=PROFILES[profile])


def headers_of(sent: dict[str, Any]) -> dict[str, str]:
    """
    The headers that were sent, by name.
    """
    return {one["name"]: one["value"] for one in sent["sent"]["headers"]}


def told(body: dict[str, Any]) -> list[tuple[str, str]]:
    """
    The fingerprints and states of its secrets.
    """
    return [(one["fingerprint"], one["state"]) for one in body["secrets"]]


# --- subscriptions


async def test_a_secret_is_shown_once(new_tenant: NewTenant) -> None:
    """
    Afterwards its fingerprint is, in the list, by id and in the answer to a change.
    """
    user = await new_tenant()
    hook = await subscribed(user)
    path, change = f"/webhooks/{hook['id']}", {"events": ["stock.low", "item.changed"]}
    later = [
        (await user.get("/webhooks")).json()["data"][0],
        (await user.get(path)).json(),
        (await user.patch(path, json=change, headers={"If-Match": '"1"'})).json(),
    ]

    secret = StandardSecret(hook["secret"])
    assert all("secret" not in one for one in later)
    assert all(told(one) == [(secret.fingerprint, "active")] for one in later)
    assert later[-1]["events"] == ["item.changed", "stock.low"]


async def test_a_secret_is_nowhere_to_be_read(
    app: Starlette, new_tenant: NewTenant, warehouse: Any, twh_postgres: PostgresServer
) -> None:
    """
    No table has it, as text or as bytes; what is not sealed is found by the same look.
    """
    user = await new_tenant()
    mark = secrets.token_hex(12)
    hook = await subscribed(user, url=f"{NOWHERE}/{mark}")
    rotated = await user.post(f"/webhooks/{hook['id']}/rotate", json={})

    def found(needle: str) -> int:
        return _found(twh_postgres, warehouse, needle)

    assert found(mark) == 1
    for secret in (hook["secret"], rotated.json()["secret"]):
        value = secret.removeprefix("whsec_")
        assert [found(value), found(value.encode().hex())] == [0, 0]
        assert found(StandardSecret(secret)._hidden.hex()) == 0


_TABLES = """
SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
WHERE schemaname NOT IN ('pg_catalog', 'information_schema')
"""


def _found(server: PostgresServer, warehouse: Any, needle: str) -> int:
    database = warehouse.app_dsn.rpartition("/")[2].partition("?")[0]
    with psycopg.connect(server.dsn(database)) as everything:
        tables = [name for (name,) in everything.execute(_TABLES)]
        return sum(
            everything.execute(
                f"SELECT count(*) FROM {table} AS t WHERE strpos(t::text, %s) > 0", (needle,)
            ).fetchone()[0]
            for table in tables
        )


async def test_the_second_of_the_tier_free(app: Starlette, new_tenant: NewTenant) -> None:
    """
    Of five at once one is there; when it is given up there is room for another.
    """
    user = await new_tenant(Tier.FREE)
    answers = await asyncio.gather(*(user.post("/webhooks", json=HOOK) for _ in range(5)))
    [hook] = [one.json() for one in answers if one.status_code == 201]
    refused = [one.json() for one in answers if one.status_code != 201]
    full = await counted(app, user)
    gone = await user.delete(f"/webhooks/{hook['id']}")
    empty = await counted(app, user)
    another = await user.post("/webhooks", json=HOOK)

    assert {tuple(one["violated-policies"]) for one in refused} == {("webhooks",)}
    assert (full, gone.status_code, empty, another.status_code) == ((1, 1, 1), 200, (0, 0, 0), 201)


async def test_it_is_given_up_once(app: Starlette, new_tenant: NewTenant) -> None:
    """
    Of many who give one up at once, one does, and the capacity comes back once.
    """
    user = await new_tenant()
    hook, _ = await subscribed(user), await subscribed(user)
    path = f"/webhooks/{hook['id']}"
    answers = await asyncio.gather(*(user.delete(path) for _ in range(8)))

    assert Counter(one.status_code for one in answers) == {200: 1, 404: 7}
    assert await counted(app, user) == (1, 1, 1)


async def test_what_is_refused_takes_nothing(app: Starlette, new_tenant: NewTenant) -> None:
    """
    A URL that is none of a receiver, an event that there is not: nothing is taken or changed.
    """
    user = await new_tenant()
    hook = await subscribed(user)
    bad = [{"url": "https://10.0.0.1/"}, {"events": ["everything"]}, {"events": []}]
    answers = [await user.post("/webhooks", json={**HOOK, **one}) for one in bad]
    path = f"/webhooks/{hook['id']}"
    changed = await user.patch(path, json=bad[0], headers={"If-Match": "*"})

    codes = [one.json()["code"] for one in (*answers, changed)]
    assert codes == ["url_refused", "validation_failed", "validation_failed", "url_refused"]
    assert await counted(app, user) == (1, 1, 1)


GOOD = (
    "https://hooks.example.com/a?b=c",
    "https://hooks.example.com:8443/",
    "https://93.184.216.34/",
    "https://[2606:2800:220:1:248:1893:25c8:1946]/",
    "https://xn--bcher-kva.example/",
)
BAD = (
    "http://hooks.example.com/",
    "ftp://hooks.example.com/",
    "//hooks.example.com/",
    "https:///path",
    "https://user:password@hooks.example.com/",
    "https://user@hooks.example.com/",
    "https://hooks.example.com/#part",
    "https://hooks.example.com\\@127.0.0.1/",
    "https://hooks.example.com /",
    "https://bücher.example/",
    "https://intranet/",
    "https://localhost./",
    "https://printer.local/",
    "https://10.0.0.1/",
    "https://192.168.1.1/",
    "https://169.254.169.254/latest/meta-data",
    "https://100.64.0.1/",
    "https://0.0.0.0/",
    "https://224.0.0.1/",
    "https://[::]/",
    "https://[fc00::1]/",
    "https://[fe80::1]/",
    "https://[::ffff:10.0.0.1]/",
    "https://127.1/",
    "https://0x7f.0.0.1/",
    "https://2130706433/",
    "https://0177.0.0.1/",
    "https://hooks.example.com:99999/",
    "https://metadata.google.internal/",
    "https://127.0.0.%31/",
    "https://x.%6cocalhost/",
    "https://1.1.1.1;.example.com/",
    "https://hooks..example.com/",
    "https://xn--a.com/",
)
# IPv4 addresses of this machine and of a cloud's metadata, in what passes for public.
EMBEDDED = (
    "https://[64:ff9b::7f00:1]/",
    "https://[2002:a9fe:a9fe::1]/",
    "https://[::127.0.0.1]/",
    "https://[::ffff:0:7f00:1]/",
    "https://[fec0::1]/",
)
HERE = ("https://127.0.0.1/", "https://localhost/", "https://[::1]/", "https://127.9.9.9/")
HERE_ONLY = ("http://127.0.0.1:8080/hooks", "http://localhost/", "http://[::1]:9/")


@pytest.mark.parametrize("url", GOOD)
def test_a_url_in_public_is_taken(url: str) -> None:
    """
    A name or a public address, with any port and path.
    """
    assert webhook_url(url) == webhook_url(url, loopback=True) == url


@pytest.mark.parametrize("url", BAD)
def test_a_url_of_another_kind_is_refused(url: str) -> None:
    """
    No TLS, a user, what readers of URLs disagree about, addresses that are nobody's in public.
    """
    for loopback in (False, True):
        with pytest.raises(Refusal):
            webhook_url(url, loopback=loopback)


@pytest.mark.parametrize("url", EMBEDDED)
def test_an_address_with_another_in_it_is_refused(url: str) -> None:
    """
    NAT64, 6to4 and their like lead to IPv4: `is_global` alone lets some of them pass.
    """
    with pytest.raises(Refusal):
        webhook_url(url)


def test_is_global_alone_lets_them_pass() -> None:
    """
    The control of the test before: NAT64 is global wherever one asks.
    """
    assert ip_address("64:ff9b::7f00:1").is_global


@pytest.mark.parametrize("url", [*HERE, *HERE_ONLY])
def test_this_machine_is_for_demos(url: str) -> None:
    """
    Loopback is taken where the settings say so, and nowhere else.
    """
    assert webhook_url(url, loopback=True) == url
    with pytest.raises(Refusal):
        webhook_url(url)


# --- secrets


async def test_a_rotation_with_overlap(new_tenant: NewTenant) -> None:
    """
    While the overlap lasts a receiver with either secret verifies; then one with the new alone.
    """
    user = await new_tenant()
    hook = await subscribed(user)
    path = f"/webhooks/{hook['id']}"
    turned = (await user.post(f"{path}/rotate", json={"overlap_seconds": 600})).json()
    old, new = (StandardSecret(one["secret"]).fingerprint for one in (hook, turned))
    both = await tried(user, hook)
    stopped = (await user.post(f"{path}/revoke", json={"fingerprint": old})).json()
    alone = await tried(user, hook)

    assert told(turned) == [(new, "active"), (old, "retiring")]
    assert checked(both, hook["secret"]).key_id == old
    assert checked(both, turned["secret"]).key_id == new
    assert told(stopped) == [(new, "active"), (old, "revoked")]
    assert checked(alone, turned["secret"]).key_id == new
    with pytest.raises(WebhookError):
        checked(alone, hook["secret"])


async def test_a_rotation_without_overlap(new_tenant: NewTenant) -> None:
    """
    The secret of before is over at once, and revoked by the next rotation.
    """
    user = await new_tenant()
    hook = await subscribed(user)
    path = f"/webhooks/{hook['id']}"
    turned = (await user.post(f"{path}/rotate", json={"overlap_seconds": 0})).json()
    sent = await tried(user, hook)
    again = (await user.post(f"{path}/rotate", json={"overlap_seconds": 0})).json()

    with pytest.raises(WebhookError):
        checked(sent, hook["secret"])
    assert checked(sent, turned["secret"]).scheme == "v1"
    assert [state for _, state in told(again)] == ["active", "retiring", "revoked"]
    assert [one["version"] for one in (hook, turned, again)] == [1, 2, 3]


async def test_the_active_secret_is_not_revoked(new_tenant: NewTenant) -> None:
    """
    There would be none to sign with; a fingerprint that is none of its own is not found.
    """
    user = await new_tenant()
    hook = await subscribed(user)
    active = hook["secrets"][0]["fingerprint"]
    bodies = [{"fingerprint": one} for one in (active, "0" * 16, "")]
    answers = [await user.post(f"/webhooks/{hook['id']}/revoke", json=one) for one in bodies]

    codes = [one.json()["code"] for one in answers]
    assert codes == ["secret_in_use", "not_found", "validation_failed"]


async def test_of_a_revoked_secret_nothing_is_left(app: Starlette, new_tenant: NewTenant) -> None:
    """
    Its fingerprint and its time are; the database refuses to keep more, or less of another.
    """
    user = await new_tenant()
    hook = await subscribed(user)
    path, old = f"/webhooks/{hook['id']}", hook["secrets"][0]["fingerprint"]
    await user.post(f"{path}/rotate", json={})
    for _ in range(2):
        stopped = await user.post(f"{path}/revoke", json={"fingerprint": old})
    look = text("SELECT state, secret IS NULL FROM webhook_secrets ORDER BY id DESC")
    with bind_tenant(Tenant(id=user.headers["x-tenant-id"])):
        async with app.state.services.app.begin() as db:
            rows = [tuple(row) for row in await db.execute(look)]
            with pytest.raises(IntegrityError):
                await db.execute(text("UPDATE webhook_secrets SET secret = NULL"))

    assert rows == [("active", False), ("revoked", True)]
    assert told(stopped.json())[1] == (old, "revoked")


async def test_a_secret_that_is_signed_with_is_not_crowded_out(new_tenant: NewTenant) -> None:
    """
    However many were revoked since: those are what is removed.
    """
    user = await new_tenant()
    hook = await subscribed(user)
    path = f"/webhooks/{hook['id']}"
    await user.post(f"{path}/rotate", json={"overlap_seconds": 86_400})
    for _ in range(22):
        last = await user.post(f"{path}/rotate", json={"overlap_seconds": 0})
    sent = await tried(user, hook)

    assert len(last.json()["secrets"]) == 20
    assert checked(sent, hook["secret"]).scheme == "v1"


async def test_secrets_are_bounded(new_tenant: NewTenant) -> None:
    """
    The tenth rotation within one overlap is refused, and so are races beyond it.
    """
    user = await new_tenant()
    hook = await subscribed(user)
    path = f"/webhooks/{hook['id']}"
    answers = await asyncio.gather(*(user.post(f"{path}/rotate", json={}) for _ in range(12)))
    sent = await tried(user, hook)

    assert Counter(one.status_code for one in answers) == {200: 9, 409: 3}
    assert {one.json()["code"] for one in answers if one.status_code == 409} == {"secrets_too_many"}
    made = [one.json()["secret"] for one in answers if one.status_code == 200]
    assert all(checked(sent, secret) for secret in (hook["secret"], *made))


async def test_no_idempotency_key_keeps_a_secret(new_tenant: NewTenant) -> None:
    """
    What is sent twice is two subscriptions: an answer that is kept would have the secret.
    """
    user = await new_tenant()
    key = {"Idempotency-Key": "once"}
    first, second = [await user.post("/webhooks", json=HOOK, headers=key) for _ in range(2)]

    assert first.json()["secret"] != second.json()["secret"]


# --- what is sent


@pytest.fixture
async def receiver() -> AsyncIterator[dict[str, Any]]:
    """
    A server that keeps what it is sent, and answers as it is told.
    """
    state: dict[str, Any] = {"got": [], "answer": b"HTTP/1.1 204 No Content\r\n\r\n", "wait": 0.0}

    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(
            int(line.split(":")[1])
            for line in head.lower().split("\r\n")
            if line.startswith("content-length")
        )
        state["got"].append((head, await reader.readexactly(length)))
        with suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), state["wait"])
        writer.write(state["answer"])
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    state["url"] = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hooks"
    yield state
    over.set()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("profile", ["standard", "twh"])
async def test_the_bytes_that_come_are_those_that_were_signed(
    new_tenant: NewTenant, receiver: dict[str, Any], profile: str
) -> None:
    """
    A receiver verifies what came over the wire, and the answer says what was sent.
    """
    user = await new_tenant()
    hook = await subscribed(user, url=receiver["url"], profile=profile)
    sent = await tried(user, hook)
    [(head, body)] = receiver["got"]
    lines = (line.partition(": ") for line in head.split("\r\n")[1:])
    headers = {name.lower(): value for name, _, value in lines}

    secret = StandardSecret(hook["secret"])
    verified = verify(body, headers, secret, profile=PROFILES[profile])
    assert (sent["outcome"], sent["status"]) == ("answered", 204)
    assert (verified.id, body.decode()) == (sent["event_id"], sent["sent"]["body"])
    assert headers.items() >= headers_of(sent).items()
    assert hook["secret"] not in str(sent)


async def test_a_redirect_is_not_followed(new_tenant: NewTenant, receiver: dict[str, Any]) -> None:
    """
    It is an answer like any other, and nothing is sent anywhere else.
    """
    user = await new_tenant()
    target = f"location: {receiver['url']}/elsewhere\r\ncontent-length: 0\r\n\r\n"
    receiver["answer"] = b"HTTP/1.1 307 Temporary Redirect\r\n" + target.encode()
    sent = await tried(user, await subscribed(user, url=receiver["url"]))

    assert (sent["status"], len(receiver["got"])) == (307, 1)


async def test_where_a_redirect_leads_is_not_read(
    new_tenant: NewTenant, receiver: dict[str, Any]
) -> None:
    """
    A location that is no URL is an answer too; a client that looks at it raises.
    """
    user = await new_tenant()
    target = b"location: https://xn--a.com/\r\ncontent-length: 0\r\n\r\n"
    receiver["answer"] = b"HTTP/1.1 302 Found\r\n" + target
    sent = await tried(user, await subscribed(user, url=receiver["url"]))

    assert (sent["outcome"], sent["status"]) == ("answered", 302)
    async with httpx.AsyncClient(trust_env=False) as client:
        with pytest.raises(UnicodeError):
            await client.post(receiver["url"])


async def test_no_cookie_of_a_receiver_is_kept(
    new_tenant: NewTenant, receiver: dict[str, Any]
) -> None:
    """
    What one tenant's receiver sets is not sent for another; a client keeps it.
    """
    first, second = await new_tenant(), await new_tenant()
    answer = b"HTTP/1.1 200 OK\r\nset-cookie: whose=first\r\ncontent-length: 0\r\n\r\n"
    receiver["answer"] = answer
    for user in (first, second):
        await tried(user, await subscribed(user, url=receiver["url"]))
    async with httpx.AsyncClient(trust_env=False) as client:
        for _ in range(2):
            await client.post(receiver["url"])

    carried = ["whose=first" in head for head, _ in receiver["got"]]
    assert carried == [False, False, False, True]


async def test_a_receiver_that_does_not_answer(
    new_tenant: NewTenant, receiver: dict[str, Any]
) -> None:
    """
    It is given up in time, and one that is not there is said to be so.
    """
    user = await new_tenant()
    receiver["wait"] = 30.0
    slow = await tried(user, await subscribed(user, url=receiver["url"]))
    absent = await tried(user, await subscribed(user))

    assert (slow["outcome"], slow["status"], slow["seconds"] < 20) == ("timeout", None, True)
    assert (absent["outcome"], absent["status"]) == ("unreachable", None)


async def test_a_url_is_looked_at_again_before_it_is_sent_to(
    app: Starlette, new_tenant: NewTenant, receiver: dict[str, Any]
) -> None:
    """
    A subscription from when this machine could be meant is not sent to any more.
    """
    user = await new_tenant()
    hook = await subscribed(user, url=receiver["url"])
    strict = create_app(replace(app.state.services.settings, webhook_loopback=False))
    async with strict.state.services.running():
        visitor = connect(strict, user.headers["authorization"].removeprefix("Bearer "))
        answer = await visitor.post(f"/webhooks/{hook['id']}/test")

    assert (answer.status_code, answer.json()["code"]) == (422, "url_refused")
    assert receiver["got"] == []


async def test_waiting_for_a_receiver_holds_no_connection(
    app: Starlette, new_tenant: NewTenant, receiver: dict[str, Any]
) -> None:
    """
    However slow they are, the database is for others meanwhile.
    """
    user = await new_tenant()
    receiver["wait"] = 2.0
    hook = await subscribed(user, url=receiver["url"])
    waiting = [asyncio.create_task(tried(user, hook)) for _ in range(3)]
    while len(receiver["got"]) < len(waiting):  # noqa: ASYNC110 -- a list has no event
        await asyncio.sleep(0.02)
    held = [engine.pool.checkedout() for engine in app.state.services.engines]
    sent = await asyncio.gather(*waiting)

    assert held == [0, 0, 0]
    assert {one["status"] for one in sent} == {204}


async def test_a_shredded_tenant_signs_nothing(app: Starlette, new_tenant: NewTenant) -> None:
    """
    With its keys the secrets are gone; the subscriptions can still be seen and given up.
    """
    user = await new_tenant()
    hook, tenant_id = await subscribed(user), user.headers["x-tenant-id"]
    boss = connect(app, app.state.services.tokens.for_administrator())
    order = {"reason": "a test", "confirm": tenant_id}
    await boss.post(f"/admin/keys/{tenant_id}/shred", json=order)
    path = f"/webhooks/{hook['id']}"
    answers = [
        await user.post("/webhooks", json=HOOK),
        await user.post(f"{path}/rotate", json={}),
        await user.post(f"{path}/test"),
        await user.get(path),
        await user.delete(path),
    ]

    assert [one.status_code for one in answers] == [410, 410, 410, 200, 200]
    assert await counted(app, user) == (0, 0, 0)
