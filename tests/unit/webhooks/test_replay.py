"""
What names a delivery, how long it is remembered, and what cannot be configured.
"""

from __future__ import annotations

import asyncio
import inspect
import tracemalloc
from collections import OrderedDict
from hashlib import sha256
from os import urandom

import pytest

from tests.support.webhooks import BODY, SECRET, App, BrokenStore, deliver, signed_headers
from twh_platform.errors import BackendUnavailableError, ConfigurationError
from twh_platform.tenancy import Tenant, bind_tenant
from twh_platform.testing import ManualClock
from twh_platform.webhooks import (
    GITHUB,
    STRIPE,
    ClaimState,
    MemoryReplayStore,
    RawSecret,
    Replay,
    Retention,
    WebhookMiddleware,
    delivery_of,
    verify,
)

RAW = RawSecret(b"0123456789abcdef0123456789abcdef")


def verified(body=BODY, *, secret=SECRET, **options):
    """The facts of a webhook."""
    headers = dict(signed_headers(body, secret=secret, **options))
    profile = {"profile": options["profile"]} if "profile" in options else {}
    return verify(body, headers, secret, **profile)


def test_attempts_of_a_delivery_have_one_key():
    """The time of the attempt and the body are no part of it where an id is signed."""
    first = delivery_of(verified(event_id="evt_1"), BODY)
    later = delivery_of(verified(b"other", event_id="evt_1")._replace(timestamp=1), b"other")

    assert first.key == later.key
    assert first.fingerprint == sha256(BODY).digest() != later.fingerprint


def test_tenants_endpoints_profiles_and_ids_are_apart():
    """No two of them share a key, however their names are cut."""
    facts = verified(event_id="evt_1")
    others = [
        delivery_of(facts, BODY),
        delivery_of(facts, BODY, tenant_id="ab", endpoint="c"),
        delivery_of(facts, BODY, tenant_id="a", endpoint="bc"),
        delivery_of(facts, BODY, endpoint="abc"),
        delivery_of(facts._replace(id="evt_2"), BODY),
        delivery_of(facts._replace(profile="svix"), BODY),
    ]

    assert len({one.key for one in others}) == len(others)


def test_the_current_tenant_is_part_of_the_key():
    """As if it had been given."""
    facts = verified(event_id="evt_1")
    with bind_tenant(Tenant(id="acme")):
        bound = delivery_of(facts, BODY)

    assert bound == delivery_of(facts, BODY, tenant_id="acme")
    assert bound != delivery_of(facts, BODY)


@pytest.mark.parametrize("profile", [STRIPE, GITHUB])
def test_without_an_id_the_signed_content_is_the_key(profile):
    """The very same message is known, another body is another delivery."""
    facts = verified(secret=RAW, profile=profile)
    same = delivery_of(facts, BODY)

    assert same == delivery_of(facts, fingerprint=sha256(BODY).digest())
    assert same.key != delivery_of(facts, b"other").key
    assert same.key != delivery_of(facts._replace(timestamp=facts.timestamp + 1), BODY).key


@pytest.mark.parametrize(
    "fields",
    [
        {"ttl": 86_400},
        {"ttl": 600, "horizon": 0},
        {"ttl": 0, "horizon": 0, "window": 0, "skew": 0},
        {"ttl": float("inf")},
        {"ttl": float("nan")},
        {"horizon": -1},
        {"window": float("nan")},
        {"skew": float("inf")},
    ],
)
def test_a_retention_that_forgets_too_soon_is_refused(fields):
    """It has to last for the tolerance with the skew, and for the sender's attempts."""
    with pytest.raises(ConfigurationError) as refused:
        Retention(**fields)

    assert refused.value.code == "retention_too_short"
    assert Retention(ttl=660, horizon=0).ttl == 660


@pytest.mark.parametrize(
    "fields", [{"lease": 0}, {"lease": 1e9}, {"store_down": "maybe"}, {"store": object()}]
)
def test_a_replay_that_makes_no_sense_is_refused(fields):
    """It is noticed when the service starts."""
    with pytest.raises(ConfigurationError):
        Replay(**{"store": BrokenStore(), **fields})


async def test_a_full_memory_is_unavailable():
    """It forgets nothing early; what has ended makes room."""
    clock = ManualClock()
    store = MemoryReplayStore(most=2, clock=clock)
    for number in range(2):
        await store.claim(bytes([number]) * 32, bytes(32), lease=60, ttl=60)
    with pytest.raises(BackendUnavailableError) as full:
        await store.claim(b"x" * 32, bytes(32), lease=60, ttl=60)
    clock.advance(60)
    claim = await store.claim(b"x" * 32, bytes(32), lease=60, ttl=60)

    assert (full.value.code, claim.state, len(store)) == ("replay_store_full", ClaimState.NEW, 1)


@pytest.mark.parametrize(
    ("store_down", "status", "handled"), [("closed", 503, 1), ("open", 200, 3)]
)
async def test_a_full_memory_lets_nothing_in_again(store_down, status, handled):
    """What it knows is known, what it has no room for is refused unless that is open by name."""
    app, first = App(), signed_headers()
    replay = Replay(store=MemoryReplayStore(most=1), store_down=store_down)
    guarded = WebhookMiddleware(app, SECRET, replay=replay)
    await deliver(guarded, headers=first)
    others = [await deliver(guarded) for _ in range(2)]
    again = await deliver(guarded, headers=first)

    assert [one.status for one in others] == [status] * 2
    assert (again.status, len(app.bodies)) == (200, handled)


async def test_a_full_memory_forgets_no_claim():
    """Whoever handles it goes on.  Control: what drops the oldest lets it in a second time."""
    naive = OrderedDict()
    for number in range(3):
        naive[bytes([number]) * 32] = True
        while len(naive) > 2:
            naive.popitem(last=False)
    store = MemoryReplayStore(most=2)
    claims = [await store.claim(bytes([n]) * 32, bytes(32), lease=60, ttl=60) for n in range(2)]
    for _ in range(3):
        with pytest.raises(BackendUnavailableError):
            await store.claim(b"x" * 32, bytes(32), lease=60, ttl=60)
    again = await store.claim(bytes(32), bytes(32), lease=60, ttl=60)

    assert bytes(32) not in naive
    assert again.state is ClaimState.BUSY
    assert [await store.commit(one.token) for one in claims] == [True, True]


def test_the_room_of_a_memory_is_what_its_documentation_says():
    """2.9 deliveries a second for as long as they are remembered."""
    most = inspect.signature(MemoryReplayStore).parameters["most"].default

    assert round(most / Retention().ttl, 1) == 2.9


def traced(steps) -> int:
    """The bytes that steps have left behind."""
    tracemalloc.start()
    try:
        asyncio.run(steps())
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def test_a_delivery_takes_three_hundred_bytes():
    """With its key; what was its lease is gone when that ends."""
    clock, count = ManualClock(), 3_000
    store = MemoryReplayStore(clock=clock)

    async def fill() -> None:
        for _ in range(count):
            claim = await store.claim(urandom(32), urandom(32), lease=1, ttl=345_600)
            await store.commit(claim.token)
            clock.advance(1)

    assert traced(fill) < 300 * count
    assert len(store) == count


def test_what_is_released_leaves_nothing():
    """Also if its lease would last for a day."""
    store, count = MemoryReplayStore(), 10_000

    async def fail() -> None:
        for _ in range(count):
            claim = await store.claim(urandom(32), bytes(32), lease=86_400, ttl=86_400)
            await store.release(claim.token)

    assert traced(fail) < 30 * count
    assert len(store) == 0


async def test_what_has_ended_is_new_before_it_is_cleared_up():
    """Who comes after a long silence clears up a few, and knows that all of them ended."""
    clock = ManualClock()
    store = MemoryReplayStore(clock=clock)
    keys = [urandom(32) for _ in range(300)]
    for key in keys:
        await store.claim(key, bytes(32), lease=60, ttl=60)
    clock.advance(60)
    claims = [await store.claim(key, bytes(32), lease=60, ttl=60) for key in reversed(keys)]

    assert {one.state for one in claims} == {ClaimState.NEW}
    assert len(store) == 300


def test_a_memory_without_room_is_refused():
    """It is noticed when the service starts."""
    with pytest.raises(ConfigurationError):
        MemoryReplayStore(most=0)


async def test_a_token_does_not_show_whose_it_is():
    """Whoever reads a log cannot commit or release."""
    claim = await MemoryReplayStore().claim(bytes(32), bytes(32), lease=60, ttl=60)

    assert claim.token.nonce.hex() not in repr(claim)
    assert repr(claim.token.nonce) not in repr(claim)
