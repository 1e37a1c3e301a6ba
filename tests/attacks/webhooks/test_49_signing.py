"""
Attacks 49 to 53: what is signed is not what was meant, or not what is sent.
"""

from __future__ import annotations

import datetime as dt
import json

import httpx
import pytest

from tests.attacks.webhooks._hooks import (
    BODY,
    ID,
    NOW,
    SECRET,
    by_hand,
    code,
    foreign,
    holds,
    utc,
)
from twh_platform.errors import WebhookError
from twh_platform.webhooks import Signer

EAST = dt.timezone(dt.timedelta(hours=2))


def signature(moment: object) -> str:
    """What ours signs for that moment."""
    return Signer(SECRET).sign(BODY, event_id=ID, timestamp=moment).headers["webhook-signature"]


@pytest.mark.parametrize("zone", [EAST, dt.timezone(-dt.timedelta(hours=9, minutes=30))], ids=str)
def test_49_has_a_moment_signed_in_another_zone(zone, standardwebhooks, twh_attack):
    """One moment is one signature, wherever it is told."""
    attack = twh_attack(
        number=49, title="has honest deliveries refused by a time zone", form=str(zone)
    )
    naive = standardwebhooks.Webhook(SECRET.reveal())
    moments = [utc(NOW), utc(NOW).astimezone(zone)]
    attack.control(len({naive.sign(ID, one, BODY.decode()) for one in moments}) - 1)

    attack.ours(len({signature(one) for one in (*moments, NOW)}) - 1)
    assert signature(NOW) == by_hand(stamp=NOW)["webhook-signature"]


@pytest.mark.parametrize(
    "moment",
    [dt.datetime(2026, 7, 1, 12), dt.datetime(1960, 1, 1, tzinfo=dt.UTC)],  # noqa: DTZ001
    ids=["without a zone", "before 1970"],
)
def test_50_has_no_moment_signed(moment, standardwebhooks, twh_attack):
    """What is no moment, and what no receiver would take, is refused."""
    attack = twh_attack(number=50, title="has what is no moment signed", form=str(moment))
    naive = standardwebhooks.Webhook(SECRET.reveal())
    attack.control(holds(naive.sign, ID, moment, BODY.decode()))

    attack.ours(holds(signature, moment))
    assert not any(foreign(WebhookError, signature, one) for one in (moment, "now", -1, True))


def test_50_has_a_number_refused(standardwebhooks, twh_attack):
    """Unix seconds are a moment."""
    attack = twh_attack(number=50, title="has seconds end in an error of another kind")
    naive = standardwebhooks.Webhook(SECRET.reveal())
    own = standardwebhooks.WebhookVerificationError
    attack.control(foreign(own, naive.sign, ID, NOW, BODY.decode()))

    attack.ours(not holds(signature, NOW))


def test_51_has_the_name_of_its_bytes_signed(standardwebhooks, twh_attack):
    """Bytes are signed as they are; a text is refused, as it has no one encoding."""
    attack = twh_attack(number=51, title="has the spelling of bytes signed, not the bytes")
    naive = standardwebhooks.Webhook(SECRET.reveal())
    right = by_hand(stamp=NOW)["webhook-signature"]
    attack.control(naive.sign(ID, utc(NOW), BODY) != right)

    given = [BODY, bytearray(BODY), memoryview(BODY)]
    signer = Signer(SECRET)
    made = [signer.sign(one, event_id=ID, timestamp=NOW).headers for one in given]
    attack.ours([one for one in made if one["webhook-signature"] != right])
    attack.ours(holds(signer.sign, BODY.decode()))


@pytest.mark.parametrize(
    "event", ["msg.1", "", "msg 1", "msg\n", "m" * 257], ids=lambda one: repr(one[:6])
)
def test_52_has_an_id_signed_that_is_none(event, standardwebhooks, twh_attack):
    """What a verifier refuses is not signed."""
    attack = twh_attack(number=52, title="has an id signed that is none", form=repr(event[:6]))
    naive = standardwebhooks.Webhook(SECRET.reveal())
    attack.control(holds(naive.sign, event, utc(NOW), BODY.decode()))

    attack.ours(holds(Signer(SECRET).sign, BODY, event_id=event))


def test_53_has_other_bytes_sent_than_were_signed(standardwebhooks, twh_attack):
    """A signed request holds the bytes, and they do not change."""
    attack = twh_attack(number=53, title="has other bytes sent than were signed")
    event = {"type": "order.paid", "customer": "J\u00f6rg"}
    naive = standardwebhooks.Webhook(SECRET.reveal())
    text = json.dumps(event)
    headers = {**by_hand(stamp=NOW), "webhook-signature": naive.sign(ID, utc(NOW), text)}
    sent = httpx.Request("POST", "https://receiver.example", json=event, headers=headers)
    attack.control(code(dict(sent.headers), sent.content, now=NOW) == "signature_mismatch")

    buffer = bytearray(text.encode())
    request = Signer(SECRET).sign(buffer, event_id=ID, timestamp=NOW)
    buffer[:] = b"changed"
    sent = httpx.Request(
        "POST", "https://receiver.example", content=request.body, headers=dict(request.headers)
    )
    attack.ours(code(dict(sent.headers), sent.content, now=NOW) != "")
    attack.ours(holds(setattr, request, "body", b"other"))
    attack.ours(hasattr(request.headers, "__setitem__"))
