"""
Attacks 69 to 78: what was sent once comes again.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator

import psycopg
import pytest

from tests.attacks.webhooks._hooks import SECRET, by_hand, holds
from tests.support.postgres_webhooks import APP
from tests.support.webhook_payer import HOW
from tests.support.webhooks import BODY, App, BrokenStore, deliver, signed_headers
from twh_platform import Tenant, bind_tenant
from twh_platform.testing import ManualClock
from twh_platform.webhooks import (
    GITHUB,
    ClaimState,
    Delivery,
    MemoryReplayStore,
    RawSecret,
    Retention,
    WebhookEndpoint,
    WebhookMiddleware,
)

ACME = Tenant(id="acme")
RAW = RawSecret("a secret of GitHub's")


def guarded(app, store) -> WebhookMiddleware:
    """A replica of a service that remembers."""
    return WebhookMiddleware(app, WebhookEndpoint(keys=SECRET, tenant=ACME), replay=store)


def headers_of(body: bytes = BODY, **options) -> list[tuple[str, str]]:
    """Signed headers."""
    return list(by_hand(body, **options).items())


class Remembering:
    """The naive receiver: a set of ids, looked at first and added to afterwards."""

    def __init__(self, check=lambda body, headers: None) -> None:
        self.check = check
        self.seen: set[str] = set()
        self.handled: list[bytes] = []

    async def handle(self, body: bytes, event: str, headers=None) -> None:
        """Verify, look, handle, remember."""
        self.check(body, headers)
        if event and event in self.seen:
            return
        await asyncio.sleep(0)  # whatever a handler awaits
        self.handled.append(body)
        self.seen.add(event)


async def test_69_comes_again(store, standardwebhooks, twh_attack):
    """The second is answered as handled, and is not handled."""
    attack = twh_attack(number=69, title="sends what was sent once more")
    naive, headers = standardwebhooks.Webhook(SECRET.reveal()), by_hand(BODY)
    attack.control(sum(holds(naive.verify, BODY, headers) for _ in range(5)) - 1)

    app = App()
    answers = [await deliver(guarded(app, store), BODY, list(headers.items())) for _ in range(5)]
    attack.ours(len(app.bodies) - 1)
    assert {one.status for one in answers} == {200}


async def test_70_hides_another_body_behind_a_known_id(store, twh_attack):
    """It is a conflict, which its sender hears of and the log has."""
    attack = twh_attack(number=70, title="has an event dropped by giving it a known id")
    naive, other = Remembering(), b'{"type":"order.refunded"}'
    for body in (BODY, other):
        await naive.handle(body, "msg_1")
    attack.control(2 - len(naive.handled))

    app = App()
    service = guarded(app, store)
    answers = [await deliver(service, one, headers_of(one)) for one in (BODY, other)]
    attack.ours(2 - len(app.bodies) - [one.status for one in answers].count(409))
    assert answers[1].json["code"] == "id_conflict"


async def test_71_comes_to_two_replicas_at_once(store, twh_attack):
    """A claim is one step: one of them has it."""
    attack = twh_attack(number=71, title="comes to many at once")
    naive = Remembering()
    await asyncio.gather(*(naive.handle(BODY, "msg_1") for _ in range(8)))
    attack.control(len(naive.handled) - 1)

    app, headers = App(), headers_of()
    replicas = [guarded(app, store) for _ in range(8)]
    answers = await asyncio.gather(*(deliver(one, BODY, headers) for one in replicas))
    attack.ours(len(app.bodies) - 1)
    assert {one.status for one in answers} <= {200, 409}


async def test_72_comes_while_the_store_is_down(twh_attack):
    """No claim, no handling: the sender is asked to come again, unless a policy says otherwise."""
    attack = twh_attack(number=72, title="comes again while the store is down")
    handled = 0
    for _ in range(2):
        try:
            await BrokenStore().claim(b"", b"", lease=1, ttl=1)
        except Exception:  # noqa: BLE001 -- as it is usually written
            handled += 1
    attack.control(handled - 1)

    app = App()
    answers = [await deliver(guarded(app, BrokenStore()), BODY, headers_of()) for _ in range(2)]
    attack.ours(len(app.bodies))
    assert {one.status for one in answers} == {503}


@pytest.fixture
def acme() -> Iterator[None]:
    """The tenant whose turn it is."""
    with bind_tenant(ACME):
        yield


class Died(BaseException):
    """A labelled stand-in for the end of a process; G5's test kills a real one."""


def effects(database, how: str) -> int:
    """How often it is paid, if the first attempt dies between its two steps."""
    delivery = Delivery(key=secrets.token_bytes(32), fingerprint=secrets.token_bytes(32))

    def die() -> None:
        raise Died

    with pytest.raises(Died):
        HOW[how](database.dsn(user=APP), delivery, die)
    for _ in range(2):
        holds(HOW[how], database.dsn(user=APP), delivery, lambda: None)
    with psycopg.connect(database.dsn()) as connection:
        query = "SELECT count(*) FROM twh.payments WHERE event = %s"
        return connection.execute(query, [delivery.key.hex()]).fetchone()[0]


@pytest.mark.parametrize("how", ["before", "after"])
def test_73_dies_between_claim_and_effect(how, database, acme, twh_attack):
    """A claim in the handler's own transaction: both are there, or none."""
    attack = twh_attack(
        number=73, title="has an effect lost or doubled by a crash", form=f"claimed {how}"
    )
    attack.control(abs(effects(database, how) - 1))

    attack.ours(abs(effects(database, "within") - 1))


async def test_74_comes_when_it_is_forgotten(twh_attack):
    """What would forget while the sender still tries is refused when it is set up."""
    attack = twh_attack(number=74, title="comes again when it is forgotten")
    retries = [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400]

    async def again(ttl: float) -> int:
        clock = ManualClock(start=0)
        store = MemoryReplayStore(clock=clock)
        handled = 0
        for wait in (0, *retries):
            clock.advance(wait)
            claim = await store.claim(bytes(32), bytes(32), lease=30, ttl=ttl)
            handled += claim.state is ClaimState.NEW
            assert claim.token is None or await store.commit(claim.token)
        return handled - 1

    attack.control(await again(300))

    attack.ours(await again(Retention().ttl))
    short = [
        {"ttl": 300},
        {"ttl": 700, "horizon": 0, "window": 700},
        {"ttl": 3_600, "horizon": 7_200},
    ]
    attack.ours([one for one in short if holds(Retention, **one)])


def from_github(**headers: str) -> list[tuple[str, str]]:
    """What GitHub sends: only the body is signed."""
    signed = signed_headers(secret=RAW, profile=GITHUB)
    return [*signed, *((name.replace("_", "-"), value) for name, value in headers.items())]


async def test_75_gives_it_an_id_that_nobody_signed(twh_attack):
    """A delivery is named by nothing but what is signed."""
    attack = twh_attack(number=75, title="comes again under an id that nobody signed")
    naive, app = Remembering(), App()
    for number in range(5):
        await naive.handle(BODY, f"guid-{number}")
    attack.control(len(naive.handled) - 1)

    service = WebhookMiddleware(app, RAW, profile=GITHUB, replay=MemoryReplayStore())
    for number in range(5):
        await deliver(service, headers=from_github(x_github_delivery=f"guid-{number}"))
    attack.ours(len(app.bodies) - 1)


@pytest.mark.parametrize("sender", ["github", "standard"])
async def test_76_leaves_the_id_out(sender, twh_attack):
    """An id that is signed has to be there; one that is not was never asked for."""
    attack = twh_attack(number=76, title="comes again without its id", form=sender)
    naive, app = Remembering(), App()
    for event in ("msg_1", "", ""):
        await naive.handle(BODY, event)
    attack.control(len(naive.handled) - 1)

    if sender == "github":
        service = WebhookMiddleware(app, RAW, profile=GITHUB, replay=MemoryReplayStore())
        forms = [from_github(x_github_delivery="guid"), from_github(), from_github()]
    else:
        service = guarded(app, MemoryReplayStore())
        whole = headers_of()
        forms = [whole, [one for one in whole if one[0] != "webhook-id"]]
    for one in forms:
        await deliver(service, headers=one)
    attack.ours(len(app.bodies) - 1)


async def test_77_sends_the_same_under_a_new_id(twh_attack):
    """Advice: that is another event by the standard; a handler may look into the body."""
    attack = twh_attack(number=77, title="sends the same body under a new id", kind="residual")
    app, store = App(), MemoryReplayStore()
    for event in ("msg_1", "msg_2"):
        await deliver(guarded(app, store), BODY, headers_of(event=event))

    attack.ours(len(app.bodies) - 1)


async def test_78_comes_again_after_a_restart_of_one_process(twh_attack):
    """Advice: `MemoryReplayStore` is for tests, and for what may be done twice."""
    attack = twh_attack(
        number=78, title="comes again after a restart, with claims in memory", kind="residual"
    )
    app, headers = App(), headers_of()
    for _ in range(2):
        await deliver(guarded(app, MemoryReplayStore()), BODY, headers)

    attack.ours(len(app.bodies) - 1)


async def test_78_comes_again_after_a_restart(redis_server, twh_attack):
    """Redis, and PostgreSQL likewise, remember for all processes."""
    from redis.asyncio import Redis

    from twh_platform.webhooks.redis import RedisReplayStore

    attack = twh_attack(number=78, title="comes again after a restart, with claims in Redis")
    naive, app, headers = [], App(), headers_of(event=f"msg_{secrets.token_hex(8)}")
    for _ in range(2):
        process = Remembering()
        await process.handle(BODY, "msg_1")
        naive += process.handled
    attack.control(len(naive) - 1)

    for _ in range(2):
        store = RedisReplayStore(lambda: Redis.from_url(redis_server.url), timeout=10)
        await deliver(guarded(app, store), BODY, headers)
        await store.aclose()
    attack.ours(len(app.bodies) - 1)
