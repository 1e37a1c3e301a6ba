"""
Attacks 79 to 86: secrets that change while deliveries are on their way.
"""

from __future__ import annotations

import base64
import secrets
from datetime import UTC, datetime, timedelta

import pytest

pytest.importorskip("cryptography")

from tests.attacks.webhooks._hooks import BODY, ID, KEY, NOW, SECRET, by_hand, code, holds
from tests.support.tenancy import heard
from tests.support.webhooks import BODY as DELIVERED
from tests.support.webhooks import App, deliver
from twh_platform import Tenant, bind_tenant
from twh_platform.errors import WebhookError
from twh_platform.kms.secrets import MemorySecretStore, Secret
from twh_platform.webhooks import (
    Key,
    Keyring,
    KeyState,
    Signer,
    StandardSecret,
    StoredKeys,
    WebhookMiddleware,
    WebhookVerified,
)

OLD, NEW = StandardSecret.generate(), StandardSecret.generate()
PENDING = Key(secret=NEW, state=KeyState.PENDING)
FIRST = Keyring([Key(secret=OLD)])
BOTH = FIRST.add(PENDING)
TURNED = BOTH.activate(NEW.fingerprint)
LAST = TURNED.revoke(OLD.fingerprint)


def signed(keyring, *, at: float = NOW, event: str = ID) -> dict[str, str]:
    """The headers of one attempt."""
    return dict(Signer(keyring).sign(BODY, event_id=event, timestamp=int(at)).headers)


def refusals(steps, receivers) -> int:
    """How many deliveries are refused, one for each step."""
    pairs = zip(steps, receivers, strict=True)
    return sum(bool(code(signed(one), keys=keys, now=NOW)) for one, keys in pairs)


ORDERS = {
    "the receiver first": ([FIRST, FIRST, BOTH, TURNED, TURNED, LAST], [OLD, 2, 2, 2, NEW, NEW]),
    "the sender first": ([FIRST, BOTH, TURNED, TURNED, TURNED, LAST], [OLD, OLD, OLD, 2, NEW, NEW]),
}


@pytest.mark.parametrize("order", ORDERS)
def test_79_rotates(order, standardwebhooks, twh_attack):
    """Both sides know both secrets for a while; who goes first does not matter."""
    attack = twh_attack(number=79, title="has honest deliveries refused by a rotation", form=order)
    sender, receiver = ORDERS[order]
    if order == "the receiver first":
        naive = [OLD, *[NEW] * 5]  # one secret, put in place of the other
        verifiers = [standardwebhooks.Webhook(one.reveal()) for one in naive]
        headers = [signed_now(one) for one in sender]
    else:
        # One secret signs, the newest one.
        verifiers = [standardwebhooks.Webhook(OLD.reveal())] * 3
        headers = [signed_now(one) for one in (OLD, OLD, NEW)]
    pairs = zip(verifiers, headers, strict=True)
    attack.control(sum(not holds(one.verify, BODY, made) for one, made in pairs))

    attack.ours(refusals(sender, [[NEW, OLD] if one == 2 else one for one in receiver]))


def signed_now(keys) -> dict[str, str]:
    """For the libraries, which have no other clock."""
    return dict(Signer(keys).sign(BODY, event_id=ID).headers)


@pytest.mark.parametrize("skew", [-60, -2, 2, 60])
def test_80_has_another_clock_than_the_receiver(skew, twh_attack):
    """Times of keys that are wider by the skew on the receiver's side refuse nothing."""
    attack = twh_attack(
        number=80, title="has honest deliveries refused in a rotation by a clock", form=f"{skew} s"
    )
    # By its own clock the sender turns from one to the other at NOW.
    sent = [(NOW + at, OLD if at < 0 else NEW) for at in (-61, -1, 0, 1, 61)]

    def refused(wider: int) -> int:
        old = Key(secret=OLD, not_after=NOW + wider)
        new = Key(secret=NEW, not_before=NOW - wider)
        keys = Keyring([new, old])
        return sum(bool(code(signed(by, at=at), keys=keys, now=at + skew)) for at, by in sent)

    attack.control(refused(0))

    attack.ours(refused(60))


async def test_81_goes_on_with_a_revoked_secret(standardwebhooks, twh_attack):
    """What was read is believed for seconds, and for none once it is told to forget."""
    attack = twh_attack(number=81, title="goes on with a secret that was revoked")
    passed = [0.0]
    start = datetime(2026, 1, 1, tzinfo=UTC)
    store = MemorySecretStore(now=lambda: start + timedelta(seconds=passed[0]))
    with bind_tenant(Tenant(id="acme")):
        first = store.put("webhooks/orders", Secret(OLD.reveal()))
        store.put("webhooks/orders", Secret(NEW.reveal()))
    keys = StoredKeys(
        store, max_age=30, clock=lambda: passed[0], now=lambda: start.timestamp() + passed[0]
    )

    async def accepted() -> bool:
        verifier = await keys.verifier("orders", tenant=Tenant(id="acme"))
        made = signed(OLD, at=start.timestamp() + passed[0])
        return verifier is not None and holds(verifier.verify, BODY, made)

    naive = standardwebhooks.Webhook(OLD.reveal())  # made when the process began
    assert await accepted()
    with bind_tenant(Tenant(id="acme")):
        store.revoke("webhooks/orders", first.version)
    attack.control(sum(holds(naive.verify, BODY, signed_now(OLD)) for _ in range(5)))

    passed[0] += 30
    attack.ours(await accepted())
    attack.ours(code(signed(OLD), keys=LAST, now=NOW) == "")


def test_82_rolls_back(twh_attack):
    """The old secret signs again while it is retiring; what was revoked stays so."""
    attack = twh_attack(number=82, title="has honest deliveries refused after rolling back")
    back = TURNED.activate(OLD.fingerprint)
    attack.control(bool(code(signed(OLD), keys=NEW, now=NOW)))

    attack.ours(refusals([back, TURNED, back], [TURNED, back, OLD]))
    with pytest.raises(WebhookError) as refused:
        LAST.activate(OLD.fingerprint)
    assert refused.value.code == "key_revoked"


def test_83_has_more_keys_than_a_header_holds(twh_attack):
    """Ten at most, which is below what a verifier reads."""
    attack = twh_attack(number=83, title="has honest deliveries refused by too many keys")
    keys = [StandardSecret.generate() for _ in range(20)]
    every = [signed(one)["webhook-signature"] for one in keys]
    headers = {**signed(keys[0]), "webhook-signature": " ".join(every)}
    attack.control(code(headers, keys=keys[0], now=NOW) == "malformed_header")

    with pytest.raises(WebhookError) as full:
        Keyring(Key(secret=one) for one in keys[:11])
    ten = Keyring(Key(secret=one) for one in keys[:10])
    attack.ours([one for one in keys[:10] if code(signed(ten), keys=one, now=NOW)])
    assert full.value.code == "keyring_full"


def test_84_rotates_to_the_same_secret(standardwebhooks, twh_attack):
    """A secret that only looks new is refused where it is added."""
    attack = twh_attack(number=84, title="goes on after a rotation to a secret that only looks new")
    looks_new = "whsec_" + base64.b64encode(KEY + b"\0").decode()
    naive = standardwebhooks.Webhook(looks_new)
    attack.control(looks_new != SECRET.reveal() and holds(naive.verify, BODY, by_hand()))

    ring = Keyring([Key(secret=SECRET, id="2025")])
    attack.ours(holds(ring.add, Key(secret=StandardSecret(looks_new), id="2026")))
    with pytest.raises(WebhookError) as refused:
        ring.add(Key(secret=StandardSecret(looks_new), id="2026"))
    assert refused.value.code == "key_duplicate"


async def test_85_keeps_an_old_secret_for_ever(standardwebhooks, twh_attack):
    """Each delivery says which key it was, so it is known when one can go."""
    attack = twh_attack(number=85, title="is kept, as nobody knows whether it is still used")
    naive = [standardwebhooks.Webhook(one.reveal()) for one in (NEW, OLD)]
    used = [naive[0].verify(DELIVERED, made, json_parse=False) for made in delivered(3)]
    attack.control(used.count(None))

    guarded = WebhookMiddleware(App(), TURNED)
    with heard(WebhookVerified) as signals:
        for made in delivered(3):
            await deliver(guarded, headers=list(made.items()))
    attack.ours([one for one in signals if one.key_id != NEW.fingerprint])
    assert len(signals) == 3


def delivered(count: int) -> list[dict[str, str]]:
    """Deliveries that the new secret signs."""
    return [dict(Signer(NEW).sign(DELIVERED).headers) for _ in range(count)]


def test_86_is_rotated_between_two_attempts(standardwebhooks, twh_attack):
    """Each attempt is signed anew, with the keys and the time of then; the id stays."""
    attack = twh_attack(number=86, title="has honest retries refused that were signed before")
    once = signed_now(OLD)  # and kept with the event
    later = standardwebhooks.Webhook(NEW.reveal())
    attack.control(not holds(later.verify, BODY, once))

    event = f"msg_{secrets.token_hex(8)}"
    attempts = [(FIRST, OLD, 0), (TURNED, OLD, 300), (TURNED, NEW, 1_800), (LAST, NEW, 86_400)]
    made = [(signed(ring, at=NOW + at, event=event), keys, NOW + at) for ring, keys, at in attempts]
    attack.ours([one for one, keys, now in made if code(one, keys=keys, now=now)])
    assert {one["webhook-id"] for one, _, _ in made} == {event}
