"""
Signing: the bytes that were given are the bytes to send, with all headers they need.
"""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta, timezone, tzinfo

import pytest

from twh_platform.errors import WebhookError, WebhookUsageError
from twh_platform.webhooks import (
    CONVOY,
    GITHUB,
    SHOPIFY,
    SLACK,
    STANDARD,
    STRIPE,
    SVIX,
    TWH,
    Key,
    Keyring,
    KeyState,
    RawSecret,
    Signer,
    StandardSecret,
    new_event_id,
    sign,
)

# The vector of the reference libraries of Standard Webhooks.
SECRET = StandardSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
EVENT = "msg_p5jXN8AQM9LWM0D4loKWxJek"
AT = 1_614_265_330
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
RAW = RawSecret("a shared secret")


def test_it_makes_all_headers():
    """Nothing is left to be put together."""
    request = sign(BODY, SECRET, event_id=EVENT, timestamp=AT)

    assert dict(request.headers) == {
        "webhook-id": EVENT,
        "webhook-timestamp": str(AT),
        "webhook-signature": SIGNATURE,
    }
    assert (request.body, request.id, request.timestamp) == (BODY, EVENT, AT)


@pytest.mark.parametrize(
    "moment",
    [
        AT,
        AT + 0.9,
        datetime.fromtimestamp(AT, UTC),
        datetime.fromtimestamp(AT, timezone(timedelta(hours=2))),
        datetime.fromtimestamp(AT, timezone(timedelta(hours=-11, minutes=-30))),
    ],
)
def test_one_instant_has_one_signature(moment):
    """In whatever zone it is written."""
    request = sign(BODY, SECRET, event_id=EVENT, timestamp=moment)

    assert request.headers["webhook-signature"] == SIGNATURE


class Nowhere(tzinfo):
    """
    A zone that does not know where it is.
    """

    def utcoffset(self, moment):
        """
        Nothing.
        """
        return


@pytest.mark.parametrize(
    "moment",
    [
        datetime.fromtimestamp(AT, UTC).replace(tzinfo=None),
        datetime(2021, 2, 25, tzinfo=Nowhere()),
        str(AT),
        True,
        [AT],
        b"1614265330",
        object(),
        1j,
    ],
)
def test_what_is_no_moment_is_refused(moment):
    """A datetime without a zone is a guess."""
    with pytest.raises(WebhookUsageError) as caught:
        sign(BODY, SECRET, timestamp=moment)

    assert caught.value.code == "timestamp_invalid"


@pytest.mark.parametrize(
    "moment",
    [0, -1, 0.5, 10**12, 10**400, float("nan"), float("inf"), datetime.min.replace(tzinfo=UTC)],
)
def test_a_moment_that_no_header_has_is_refused(moment):
    """One to twelve digits, the first of them no zero."""
    with pytest.raises(WebhookError) as caught:
        sign(BODY, SECRET, timestamp=moment)

    assert caught.value.code == "timestamp_malformed"


@pytest.mark.parametrize(
    "event", ["", "a.b", "a b", "\u00e4", "a\n", "x" * 257, 7, b"abc", "\ud800"]
)
def test_an_id_that_no_header_has_is_refused(event):
    """A full stop would let it take over what follows."""
    with pytest.raises(WebhookError) as caught:
        sign(BODY, SECRET, event_id=event)

    assert caught.value.code == "id_malformed"


def test_an_id_is_made_if_none_is_given():
    """Nobody guesses it."""
    first, second = sign(BODY, SECRET), sign(BODY, SECRET)

    assert first.id != second.id
    assert first.id.startswith("msg_")
    assert len({new_event_id() for _ in range(100)}) == 100


@pytest.mark.parametrize("body", ["text", None, {"a": 1}, 7, [1]])
def test_only_bytes_are_signed(body):
    """Their repr would be other bytes."""
    with pytest.raises(WebhookUsageError) as caught:
        sign(body, SECRET)

    assert caught.value.code == "body_not_bytes"


def test_bytes_that_may_change_are_copied():
    """What was signed is what is sent."""
    body = bytearray(BODY)
    request = sign(body, SECRET, event_id=EVENT, timestamp=AT)
    body[:] = b"x" * len(body)

    assert request.body == BODY
    assert type(request.body) is bytes
    assert sign(memoryview(BODY), SECRET, event_id=EVENT, timestamp=AT) == request


def test_a_signed_request_does_not_change():
    """Neither its fields nor its headers."""
    request = sign(BODY, SECRET)
    with pytest.raises(FrozenInstanceError):
        request.body = b""
    with pytest.raises(TypeError):
        request.headers["webhook-id"] = "other"


@pytest.mark.parametrize(
    ("profile", "keys", "expected"),
    [
        (TWH, SECRET, {"x-twh-id", "x-twh-signature"}),
        (STRIPE, RAW, {"stripe-signature"}),
        (GITHUB, RAW, {"x-hub-signature-256"}),
        (SHOPIFY, RAW, {"x-shopify-hmac-sha256"}),
        (SLACK, RAW, {"x-slack-request-timestamp", "x-slack-signature"}),
        (CONVOY, RAW, {"x-convoy-signature"}),
    ],
)
def test_a_profile_has_its_headers(profile, keys, expected):
    """And what it does not sign is empty."""
    request = sign(BODY, keys, profile=profile, timestamp=AT)

    assert set(request.headers) == expected
    assert bool(request.id) is bool(profile.id_header)
    assert bool(request.timestamp) is profile.timed


def keyring(*states):
    """
    A key in each of these states.
    """
    return Keyring(
        Key(secret=StandardSecret.generate(), id=f"{number}-{state.value}", state=state)
        for number, state in enumerate(states)
    )


def test_active_keys_sign_first_and_retiring_ones_too():
    """Pending and revoked ones do not."""
    keys = keyring(KeyState.RETIRING, KeyState.PENDING, KeyState.REVOKED, KeyState.ACTIVE)
    texts = Signer(keys).sign(BODY, event_id=EVENT, timestamp=AT).headers["webhook-signature"]
    alone = [
        sign(BODY, one.secret, event_id=EVENT, timestamp=AT).headers["webhook-signature"]
        for one in (keys.keys[3], keys.keys[0])
    ]

    assert texts.split(" ") == alone


def test_where_one_signature_has_room_the_active_key_signs():
    """GitHub's header has one."""
    other = RawSecret("another secret")
    keys = Keyring([Key(secret=other, state=KeyState.RETIRING), Key(secret=RAW)])
    headers = sign(BODY, keys, profile=GITHUB).headers

    assert headers == sign(BODY, RAW, profile=GITHUB).headers


@pytest.mark.parametrize("states", [(), (KeyState.PENDING,), (KeyState.REVOKED,)])
def test_without_an_active_key_nothing_is_signed(states):
    """It is said, and no webhook goes out unsigned."""
    with pytest.raises(WebhookError) as caught:
        Signer(keyring(*states)).sign(BODY)

    assert caught.value.code == "no_signing_key"


def test_a_signer_that_is_kept_sees_its_keys_time_go_by():
    """The next one takes over at its first second."""
    now = AT
    first = Key(secret=SECRET, not_after=AT)
    second = Key(secret=StandardSecret.generate(), not_before=AT + 1)
    signer = Signer(Keyring([first, second]), clock=lambda: now)
    before = signer.sign(BODY, event_id=EVENT)
    now += 1
    after = signer.sign(BODY, event_id=EVENT)

    assert before.headers["webhook-signature"] == SIGNATURE
    assert after.headers == sign(BODY, second.secret, event_id=EVENT, timestamp=AT + 1).headers


@pytest.mark.parametrize(("keys", "profile"), [(SECRET, STRIPE), (RAW, TWH)])
def test_a_secret_of_another_kind_is_refused(keys, profile):
    """The same text is another key elsewhere."""
    with pytest.raises(WebhookUsageError) as caught:
        Signer(keys, profile=profile)

    assert caught.value.code == "secret_type_invalid"


@pytest.mark.parametrize("profile", [STANDARD, SVIX], ids=lambda one: one.name)
def test_both_ways_sign_the_same(profile):
    """By the clock, and by a time that was given."""
    signer = Signer(SECRET, profile=profile, clock=lambda: AT + 0.9)
    usual = signer.sign(BODY, event_id=EVENT)

    assert usual == signer.sign(BODY, event_id=EVENT, timestamp=AT)
    assert list(usual.headers) == [
        profile.id_header,
        profile.timestamp_header,
        profile.signature_header,
    ]


@pytest.mark.parametrize("event", ["", "a.b", "a b", "é", "\ud800", "m" * 257, b"msg_1", 5])
@pytest.mark.parametrize("timestamp", [None, AT])
def test_both_ways_refuse_the_same_ids(event, timestamp):
    """Whether the time is the clock's or was given."""
    with pytest.raises(WebhookError) as caught:
        Signer(SECRET).sign(BODY, event_id=event, timestamp=timestamp)

    assert caught.value.code == "id_malformed"


@pytest.mark.parametrize("now", [-1.0, 0.5, 1e12, float("inf"), float("nan")])
def test_a_clock_that_is_none_signs_nothing(now):
    """There is no such time in a webhook."""
    with pytest.raises(WebhookError) as caught:
        Signer(SECRET, clock=lambda: now).sign(BODY, event_id=EVENT)

    assert caught.value.code == "timestamp_malformed"
