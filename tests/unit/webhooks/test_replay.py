"""
What names a delivery, how long it is remembered, and what cannot be configured.
"""

from __future__ import annotations

from hashlib import sha256

import pytest

from tests.support.webhooks import BODY, SECRET, BrokenStore, signed_headers
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


def test_a_memory_without_room_is_refused():
    """It is noticed when the service starts."""
    with pytest.raises(ConfigurationError):
        MemoryReplayStore(most=0)


async def test_a_token_does_not_show_whose_it_is():
    """Whoever reads a log cannot commit or release."""
    claim = await MemoryReplayStore().claim(bytes(32), bytes(32), lease=60, ttl=60)

    assert claim.token.nonce.hex() not in repr(claim)
    assert repr(claim.token.nonce) not in repr(claim)
